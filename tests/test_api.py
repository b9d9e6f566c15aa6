"""diffpress.compress and decompress, and our files in Pillow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffpress
import diffpress.pillow
from diffpress.codecs import CodecError
from diffpress.data.images import to_pil
from diffpress.evaluation.metrics import psnr
from helpers import ROOT, synthetic_photo

SMALL = synthetic_photo(16, 24)


def test_pillow_numpy_and_torch_there_and_back(one_thread: None) -> None:
    files = {
        diffpress.compress(image, "diffc", preset="fast", lossless=True)
        for image in (to_pil(SMALL), SMALL.permute(1, 2, 0).numpy(), SMALL)
    }
    assert len(files) == 1
    data = files.pop()
    assert torch.equal(diffpress.decompress(data, "torch"), SMALL)
    assert np.array_equal(diffpress.decompress(data, "numpy"), SMALL.permute(1, 2, 0).numpy())
    assert np.array_equal(np.array(diffpress.decompress(data)), SMALL.permute(1, 2, 0).numpy())
    grey = diffpress.compress(np.full((8, 8), 7, np.uint8), "bitsback", preset="fast")
    assert diffpress.decompress(grey, "torch").unique().tolist() == [7]
    for wrong in (SMALL.float(), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(CodecError, match="uint8"):
            diffpress.compress(wrong)


@pytest.mark.parametrize(("suffix", "codec"), [("dfc", "diffc"), ("uqdm", "uqdm"), ("bb", "bitsback")])
def test_image_open_and_save(suffix: str, codec: str, tmp_path: Path, one_thread: None) -> None:
    image = to_pil(SMALL)
    image.save(tmp_path / f"a.{suffix}", lossless=True)
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        assert (opened.format, opened.size, opened.info["codec"]) == ("DIFFPRESS", (24, 16), codec)
        assert np.array_equal(np.array(opened), np.array(image))
        assert np.array_equal(np.array(opened.crop((2, 3, 9, 9))), np.array(image)[3:9, 2:9])


def test_the_first_segments_are_a_coarser_image(tmp_path: Path, one_thread: None) -> None:
    to_pil(SMALL).save(tmp_path / "a.dfc", preset="fast", segments=4)
    found = []
    for segments in (1, None):
        opened = Image.open(tmp_path / "a.dfc")
        assert opened.info["segments"] == 4
        opened.segments = segments
        found.append(psnr(torch.from_numpy(np.array(opened)).permute(2, 0, 1), SMALL))
    assert found[1] > found[0] + 1


def test_errors_are_sentences_of_pillow(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="exclude each other"):
        to_pil(SMALL).save(tmp_path / "a.dfc", bpp=1.0, psnr=30.0)
    (tmp_path / "b.dfc").write_bytes(b"\xd1\xf5\xff")
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(tmp_path / "b.dfc")


def test_opening_in_a_fresh_interpreter_reads_the_header_alone(tmp_path: Path, one_thread: None) -> None:
    to_pil(SMALL).save(tmp_path / "a.uqdm", lossless=True)
    code = (
        "import sys; from PIL import Image; import diffpress.pillow; assert 'torch' not in sys.modules; "
        "image = Image.open('a.uqdm'); print(image.size, image.convert('RGB').getpixel((3, 5)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"(24, 16) {tuple(SMALL[:, 5, 3].tolist())}"
