"""Quality as people see it, measured by the programs that define it; one that is not there is absent, with one line.

vmaf         0 (bad) .. 100, Netflix's model vmaf_v0.6.1, and
psnr-hvs     dB, as Daala and AOM's common test conditions have it, with contrast masking (Ponomarenko et al. 2007; luma
             0.8, each chroma 0.1): libvmaf in the ffmpeg that ``pip install 'diffpress[compare]'`` installs, on BT.709
             4:4:4 of 10 bits (codecs/baselines/ffmpeg.py)
ssimulacra2  -inf .. 100, and
butteraugli  distance at 80 nits, 3-norm, lower is better: the JPEG XL project's programs ssimulacra2 and
             butteraugli_main on the PATH (Debian's package libjxl-devtools, 0.11 or newer for the first)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from torch import Tensor

from ...codecs import CodecError
from ...codecs.baselines.ffmpeg import ffmpeg, to_yuv
from ...data import save_image
from .fidelity import MAX_PSNR, ExtraMetric

TIMEOUT_S = 600.0
SMALLEST = 16  # pixels a side that libvmaf needs


def libvmaf(key: str) -> ExtraMetric:
    """libvmaf's score `key` of one picture: "vmaf" or "psnr_hvs".  Raises CodecError where there is no ffmpeg."""
    program = ffmpeg()

    def score(decoded: Tensor, original: Tensor) -> float | None:
        height, width = original.shape[1:]
        if min(height, width) < SMALLEST:
            return None
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            raw = ["-f", "rawvideo", "-pix_fmt", "yuv444p10le", "-s", f"{width}x{height}", "-r", "1"]
            command = [program, "-hide_banner", "-loglevel", "error"]
            for image, file in ((decoded, folder / "decoded"), (original, folder / "original")):
                file.write_bytes(to_yuv(image, halved=False))
                command += [*raw, "-i", str(file)]
            feature = "" if key == "vmaf" else f"feature=name={key}:"
            options = f"{feature}n_threads=1:log_fmt=json:log_path={folder / 'log'}"
            command += ["-lavfi", f"libvmaf={options}", "-f", "null", "-"]
            _run(command)
            (frame,) = json.loads((folder / "log").read_text())["frames"]
            value = frame["metrics"][key]
            return MAX_PSNR if value is None else float(value)  # infinity, of an exact copy

    return score


def libjxl(program: str) -> ExtraMetric:
    """The last number that `program` of the JPEG XL project prints.  Raises CodecError where it is not on the PATH."""
    path = shutil.which(program)
    if path is None:
        raise CodecError(f"{program} is not on the PATH: apt install libjxl-devtools")

    def score(decoded: Tensor, original: Tensor) -> float:
        with tempfile.TemporaryDirectory() as name:
            files = [Path(name) / "original.png", Path(name) / "decoded.png"]
            for image, file in zip((original, decoded), files, strict=True):
                save_image(image, file)
            return float(_run([path, *map(str, files)]).split()[-1])

    return score


def _run(command: list[str]) -> str:
    """What the program writes to its standard output; raises CodecError with the last line of its complaints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CodecError(f"{Path(command[0]).name} took longer than {TIMEOUT_S:.0f} seconds") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise CodecError(f"{Path(command[0]).name} failed ({said[-1] if said else 'no reason given'})")
    return done.stdout
