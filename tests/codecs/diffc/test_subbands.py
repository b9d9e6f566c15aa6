"""Bands: an orthonormal transform of tensors of any shape, parts of a step, and what DiffC saves by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpress.codecs import CodecError, container
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.diffc.header import Plan
from diffpress.codecs.diffc.schedule import Schedule, load_schedules
from diffpress.codecs.diffc.subbands import BLOCK, PART_PRICE, RADII, Bands, Whole, divide, radius, step_bits
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import ModelError, load_model
from helpers import synthetic_photo

SHAPES = [(3, 64, 96), (3, 37, 91), (3, 300, 2), (3, 1, 1), (4, 40, 32), (16, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_orthonormal(shape: tuple[int, int, int]) -> None:
    bands = Bands(shape)
    x, y = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    a, b = bands.transform(x), bands.transform(y)
    product = sum(float((p.double() * q.double()).sum()) for p, q in zip(a, b, strict=True))
    assert product == pytest.approx(float((x.double() * y.double()).sum()), abs=1e-3)
    assert sum(bands.counts) == x.numel()
    assert sum(bands.energies(a)) == pytest.approx(float(x.double().square().sum()), rel=1e-5)
    groups = [tuple(range(first, len(bands.counts), 5)) for first in range(5)]
    vectors = [(group, bands.gather(a, group)) for group in groups]
    assert [len(v) for _, v in vectors] == [sum(bands.counts[k] for k in group) for group in groups]
    torch.testing.assert_close(bands.join(vectors), x, atol=1e-5, rtol=0)


def test_bands_are_frequencies_and_colours() -> None:
    bands = Bands((3, 64, 64))
    ramp = torch.arange(64.0) / 64

    def busiest(x: torch.Tensor) -> int:
        energies = bands.energies(bands.transform(x))
        return max(range(len(energies)), key=energies.__getitem__)

    grey = torch.ones(1, 3, 64, 64)
    assert busiest(grey) == 0
    assert busiest(grey * torch.cos(torch.pi * 64 * ramp)) == RADII - 2  # as fast as pixels allow, in one direction
    assert busiest(grey * torch.tensor([1.0, 0.0, -1.0])[:, None, None]) == RADII
    assert busiest(grey * torch.tensor([1.0, -2.0, 1.0])[:, None, None]) == 2 * RADII
    assert [radius(0, v, BLOCK, BLOCK) for v in (0, 1, 2, 8, 64, 127)] == [0, 1, 3, 7, 13, 14]
    assert radius(0, 3, 1, 6) == radius(0, BLOCK // 2, BLOCK, BLOCK)  # in a block of any size


def test_parts_hold_every_band_once_and_save_what_they_cost() -> None:
    counts, gain = Bands((3, 96, 96)).counts, 300.0
    errors = tuple(0.1 * 0.7**(band % RADII) for band in range(len(counts)))
    parts = divide(counts, errors, gain)
    assert sorted(band for part in parts for band in part.bands) == [b for b, count in enumerate(counts) if count]
    assert [part.size for part in parts] == [sum(counts[band] for band in part.bands) for part in parts]
    mean = sum(n * e for n, e in zip(counts, errors, strict=True)) / sum(counts)
    whole = step_bits(sum(counts), gain * mean)
    assert len(parts) > 2
    assert sum(part.bits for part in parts) < whole - PART_PRICE * (len(parts) - 1)
    # nothing to gain from parts where all bands are alike, or where the step is tiny
    for alike in (divide(counts, (0.01,) * len(counts), gain), divide(counts, errors, 1e-4)):
        assert len(alike) == 1
        assert alike[0].size == sum(counts)
    assert alike[0].bits == pytest.approx(step_bits(sum(counts), 1e-4 * mean))


def without_bands(codec: DiffC) -> DiffC:
    return DiffC(codec.prior, schedules=[replace(one, bands=None) for one in codec.schedules])


def test_bands_save_bits_at_equal_quality(tiny_prior: Path) -> None:
    banded = DiffC(load_model(tiny_prior, device="cpu"))
    whole = without_bands(banded)
    image = synthetic_photo(64, 80)

    def through_a_file(codec: DiffC, **options: Any) -> tuple[int, float]:
        data = container.write(codec.encode(image, **options), codec)
        stream = container.read(data, codec)
        assert Plan.from_bytes(stream.header.params).budgets  # a code for every part
        return len(data), psnr(codec.decode(stream), image)

    size, quality = through_a_file(banded, segments=2)
    whole_size, whole_quality = through_a_file(whole, segments=2)
    assert size < 0.65 * whole_size
    assert quality == pytest.approx(whole_quality, abs=0.3)
    limited, quality = through_a_file(banded, bpp=2.0)
    assert 0.9 * 2.0 < 8 * limited / image[0].numel() <= 2.0
    assert quality > through_a_file(whole, bpp=2.0)[1] + 0.5


def test_parts_are_sent_where_they_pay_for_their_budgets(tiny_prior: Path) -> None:
    banded = DiffC(load_model(tiny_prior, device="cpu"))
    whole = without_bands(banded)
    chosen = []
    for side in (8, 16, 48):
        image = synthetic_photo(side, side)
        stream, plain = (codec.encode(image, segments=2) for codec in (banded, whole))
        assert stream.payload_bits <= 1.02 * plain.payload_bits + 24
        assert len(container.read(container.write(stream, banded), banded).segments) == 2
        chosen.append(Plan.from_bytes(stream.header.params).budgets)
    assert chosen[0] is False
    assert chosen[-1] is True


def test_another_calibration_is_another_model(tiny_prior: Path) -> None:
    prior = load_model(tiny_prior, device="cpu")
    (schedule,) = load_schedules(tiny_prior)
    assert schedule.bands is not None
    other = replace(schedule, bands=tuple(tuple(1.01 * e for e in row) for row in schedule.bands))
    prints = {DiffC(prior, schedules=[one]).fingerprint for one in (schedule, other, replace(schedule, bands=None))}
    assert len(prints) == 3


def test_unusable_bands_are_refused(tiny_prior: Path) -> None:
    row = (0.1,) * 3 * RADII
    with pytest.raises(ModelError, match="for every level"):
        Schedule("x", (500, 400), (0.1, 0.05), (row,))
    with pytest.raises(ModelError, match="for every level"):
        Schedule("x", (500, 400), (0.1, 0.05), (row, row[1:]))
    with pytest.raises(ModelError, match="positive"):
        Schedule("x", (500,), (0.1,), ((0.0, *row[1:]),))
    with pytest.raises(CodecError, match="32 bands"):
        DiffC(load_model(tiny_prior, device="cpu"), schedules=[Schedule("x", (500,), (0.1,), (row[: 2 * RADII],))])


def test_without_bands_a_step_is_one_part() -> None:
    whole = Whole((3, 4, 5))
    x = torch.randn(1, 3, 4, 5)
    coefficients = whole.transform(x)
    assert whole.counts == (60,)
    assert whole.energies(coefficients) == pytest.approx([float(x.square().sum())])
    assert torch.equal(whole.join([((0,), whole.gather(coefficients, (0,)))]), x)
    assert [part.size for part in divide(whole.counts, (0.1,), 5.0)] == [60]
