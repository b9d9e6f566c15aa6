"""Files written once and kept: what decoded yesterday must decode today, on every machine (tests/golden/README.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import CLOSE, FILES, GOLDEN, Golden

from diffpress.codecs import container, get_codec
from diffpress.codecs.base import CodecError
from diffpress.data import read_image, save_image
from diffpress.lightning_modules import load_model


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return request.param


@pytest.mark.skipif(not os.environ.get("DIFFPRESS_GOLDEN"), reason="writes files that are missing: DIFFPRESS_GOLDEN=1")
@pytest.mark.parametrize("golden", FILES, ids=lambda golden: golden.file)
def test_write_missing(golden: Golden, tmp_path: Path) -> None:
    codec = golden.build(tmp_path)
    if not (GOLDEN / golden.file).is_file():
        stream = codec.encode(read_image(GOLDEN / golden.photo), **golden.request)
        (GOLDEN / golden.file).parent.mkdir(exist_ok=True)
        (GOLDEN / golden.file).write_bytes(container.write(stream, codec))
    stream = container.read((GOLDEN / golden.file).read_bytes(), codec)
    for name, options in golden.pictures.items():
        if not (GOLDEN / name).is_file():
            save_image(codec.decode(stream, **options), GOLDEN / name)


@pytest.mark.parametrize("golden", FILES, ids=lambda golden: golden.file)
def test_decodes_and_encodes(golden: Golden, device: str, tmp_path: Path) -> None:
    codec = golden.build(tmp_path, device)
    data = (GOLDEN / golden.file).read_bytes()
    stream = container.read(data, codec)
    for name, options in golden.pictures.items():
        difference = codec.decode(stream, **options).cpu().int() - read_image(GOLDEN / name).int()
        assert int(difference.abs().max()) <= (0 if golden.exact else CLOSE), name
    again = container.write(codec.encode(read_image(GOLDEN / golden.photo), **golden.request), codec)
    if golden.same_bytes and data[2] >> 4 == container.VERSION:
        assert again == data
    elif golden.same_bytes:
        assert container.read(again, codec) == stream
    else:  # where floating-point sums are compared, the last bits of another machine may choose another sample
        assert len(again) <= len(data) + 8


def test_files_cover_every_coder_preset_and_reconstruction() -> None:
    """No mode can be added without a file that keeps it decodable."""
    prior = load_model(GOLDEN / "diffc-model", device="cpu")

    def known(codec: str, option: str) -> set[str]:
        with pytest.raises(CodecError, match=f"unknown {option}") as refused:  # the sentence ends with what there is
            get_codec(codec, model=prior, **{option: "none"})
        return {word.strip(",") for word in str(refused.value).split(":" if codec == "diffc" else " has ")[-1].split()}

    def covered(codec: str, option: str) -> set[Any]:
        return {golden.options.get(option) for golden in FILES if golden.codec == codec}

    decoded = {how.get("reconstruction", "mse") for golden in FILES for how in golden.pictures.values()}
    assert {"trellis"} < known("diffc", "coder") <= covered("diffc", "coder")
    assert {"fast"} < known("bitsback", "preset") <= covered("bitsback", "preset")
    assert {"mse"} < known("diffc", "reconstruction") <= decoded
