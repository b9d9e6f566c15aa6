"""Which model a folder holds, in 4 bytes: what a file remembers of the model that wrote it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class ModelError(ValueError):
    """A model folder that cannot be used; the message is one sentence meant for the user."""


def fingerprint(folder: Path) -> bytes:
    """First 4 bytes of the SHA-256 over every configuration, weight and calibration file of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".pt") and path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()[:4]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ModelError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value
