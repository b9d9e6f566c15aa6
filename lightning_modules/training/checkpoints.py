"""Checkpoints that are whole under their name, whenever a run is killed."""

from __future__ import annotations

import io
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ...data import write_file


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the checkpoint and renames.

    Lightning's own writes to the system's temporary folder and moves the file, which copies it over the last good
    checkpoint where that folder is another file system, as /tmp often is.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_file(path, buffer.getvalue())
