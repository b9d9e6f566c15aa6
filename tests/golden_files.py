"""The files in tests/golden and how each was written (tests/golden/README.md)."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffpress.codecs import get_codec
from diffpress.lightning_modules import load_model
from helpers import ROOT

GOLDEN = ROOT / "tests" / "golden"
CLOSE = 2  # grey levels by which pictures may differ, because networks round differently from machine to machine


@dataclass(frozen=True)
class Golden:
    """A line of files.json: a file and how it was written.

    model, calibration  folder of the model, and a calibration to put beside it
    options, request    of the codec and of its `encode`
    photo               the picture that was encoded
    pictures            what the file decodes to, by the options of `decode`
    exact               decoding gives the very pixels
    same_bytes          encoding depends on no rounding of the machine, so it gives the very file, or of an older
                        version the very stream
    """

    file: str
    codec: str
    model: str
    options: dict[str, Any]
    request: dict[str, Any]
    pictures: dict[str, dict[str, Any]]
    photo: str = "photo.png"
    calibration: str | None = None
    exact: bool = False
    same_bytes: bool = False

    def build(self, tmp_path: Path, device: str = "cpu", dtype: str = "float32") -> Any:
        """The codec; dtype of a pipeline's networks, which a GPU would otherwise run in half precision."""
        folder, options = GOLDEN / self.model, dict(self.options)
        if self.calibration:
            folder = shutil.copytree(folder, tmp_path / self.model)
            shutil.copyfile(GOLDEN / self.calibration, folder / "calibration.json")
        if "schedule" in options:
            options["schedule"] = str(GOLDEN / options["schedule"])
        if self.codec == "diffc":
            options.setdefault("reconstruction", "mse")
        precision = {"dtype": dtype} if (folder / "model_index.json").is_file() else {}
        return get_codec(self.codec, model=load_model(folder, device=device, **precision), **options)


FILES = [Golden(**entry) for entry in json.loads((GOLDEN / "files.json").read_text(encoding="utf-8"))]
