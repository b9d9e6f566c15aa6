"""One codec on one image: prefixes of a file are files, and what they cost is what decoding them alone would."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffpress.codecs import CodecError
from diffpress.evaluation.measure import decode_again, decode_prefixes, measure_image, read_file
from diffpress.evaluation.points import parse_specs
from helpers import synthetic_photo


def test_prefixes_of_a_diffc_file_are_files_that_decode_to_their_points(tmp_path: Path, tiny_prior: Path) -> None:
    image = synthetic_photo(24, 40)
    spec = parse_specs([f"diffc:model={tiny_prior}"])[0]
    codec = spec.build("cpu")
    seen: dict[str, torch.Tensor] = {}
    record = measure_image(codec, spec, image, "photo", tmp_path, lambda p, decoded: seen.update({p.point: decoded}))
    names = [point.point for point in record.points]
    assert len(names) >= 3  # steps are sent as long as they pay
    assert names == [*[f"segments={k}" for k in range(1, len(names))], "lossless"]
    for point in record.points:
        assert not point.error
        data = (tmp_path / point.file).read_bytes()
        assert len(data) == point.num_bytes
        decoded = codec.decode(read_file(codec, data, 24, 40))
        assert torch.equal(decoded, seen[point.point])
        assert torch.equal(decoded, image) == point.lossless
        assert 0 < point.first_bytes <= len(data)
    whole = tmp_path / record.points[-2].file
    first, enough = whole.read_bytes(), record.points[-2].first_bytes
    assert 1 <= len(read_file(codec, first[:enough], 24, 40).segments) < record.points[-2].segments
    with pytest.raises(CodecError):
        read_file(codec, first[: enough - 1], 24, 40)
    again = list(decode_again(codec, record.points, image, tmp_path))
    assert len(again) == len(record.points)
    assert all(torch.equal(decoded, seen[point.point]) for point, decoded in again)
    assert [point.bpp for point in record.points] == sorted(point.bpp for point in record.points)


def test_an_image_whose_file_ends_early_has_the_points_of_the_others(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffpress.evaluation.measure.PREFIXES", 3)
    spec = parse_specs([f"diffc:model={tiny_prior}"])[0]
    codec = spec.build("cpu")
    assert codec.max_segments == 7  # type: ignore[attr-defined]
    for flat in (False, True):
        image = torch.full((3, 24, 40), 77, dtype=torch.uint8) if flat else synthetic_photo(24, 40)
        record = measure_image(codec, spec, image, "photo", tmp_path)
        counts = [point.segments for point in record.points if not point.lossless]
        assert counts == [3, 6]


def test_seconds_of_a_prefix_leave_out_the_images_of_the_others() -> None:
    """Two segments of 20 ms each; an image takes 50 ms, 10 of them on a device that the copy to the CPU waits for."""

    class Slow:
        def cpu(self) -> torch.Tensor:
            time.sleep(0.01)
            return torch.zeros(1)

    def decode(stream: Any, counts: list[int], progress: Any) -> Any:
        for done in counts:
            time.sleep(0.02)
            progress(done, 2)
            time.sleep(0.04)
            yield Slow()

    found = decode_prefixes(SimpleNamespace(decode_prefixes=decode), None, [1, 2])  # type: ignore[arg-type]
    assert found[1][1] >= 0.07
    assert 0.09 <= found[2][1] < found[1][1] + 0.05
