"""Subbands: an orthonormal transform of tensors of any shape, groups of a step, and what DiffC saves by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpress.codecs import CodecError, container
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.diffc.header import HeaderParams, Schedule, load_schedules
from diffpress.codecs.diffc.subbands import (
    BLOCK,
    GROUP_PRICE,
    RADII,
    SingleBand,
    Subbands,
    group_subbands,
    radius,
    step_bits,
    subbands_of,
)
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import ModelError, load_model
from helpers import synthetic_photo

SHAPES = [(3, 64, 96), (3, 37, 91), (3, 300, 2), (3, 1, 1), (4, 40, 32), (16, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_orthonormal(shape: tuple[int, int, int]) -> None:
    bands = Subbands(shape)
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


@pytest.mark.parametrize("shape", [(3, 200, 150), (3, 128, 128), (3, 1, 37), (4, 64, 72)])
def test_exact_inverse_is_the_inverse(shape: tuple[int, int, int]) -> None:
    subbands = subbands_of(shape)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    everything = range(len(subbands.counts))
    vector = subbands.gather(subbands.transform(x), everything)
    exact = subbands.join([(everything, vector)], exact=True)
    torch.testing.assert_close(exact, x, atol=4e-4, rtol=0)
    scaled = exact.double() * 2**16  # channels are mixed last, of multiples of 2^-16
    if shape[0] != 3:
        assert torch.equal(scaled, scaled.round())


def test_subbands_are_frequencies_and_colours() -> None:
    bands = Subbands((3, 64, 64))
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


def test_groups_hold_every_subband_once_and_save_what_they_cost() -> None:
    counts, gain = Subbands((3, 96, 96)).counts, 300.0
    errors = tuple(0.1 * 0.7**(k % RADII) for k in range(len(counts)))
    groups = group_subbands(counts, errors, gain)
    assert sorted(k for group in groups for k in group.subbands) == [k for k, count in enumerate(counts) if count]
    assert [group.size for group in groups] == [sum(counts[k] for k in group.subbands) for group in groups]
    mean = sum(n * e for n, e in zip(counts, errors, strict=True)) / sum(counts)
    whole = step_bits(sum(counts), gain * mean)
    assert len(groups) > 2
    assert sum(group.bits for group in groups) < whole - GROUP_PRICE * (len(groups) - 1)
    # nothing to gain from groups where all subbands are alike, or where the step is tiny
    for alike in (group_subbands(counts, (0.01,) * len(counts), gain), group_subbands(counts, errors, 1e-4)):
        assert len(alike) == 1
        assert alike[0].size == sum(counts)
    assert alike[0].bits == pytest.approx(step_bits(sum(counts), 1e-4 * mean))


def without_subbands(codec: DiffC) -> DiffC:
    return DiffC(codec.prior, schedules=[replace(one, subband_mse=None) for one in codec.schedules])


def test_subbands_save_bits_at_equal_quality(tiny_prior: Path) -> None:
    grouped = DiffC(load_model(tiny_prior, device="cpu"))
    whole = without_subbands(grouped)
    image = synthetic_photo(64, 80)

    def through_a_file(codec: DiffC, **options: Any) -> tuple[int, float]:
        data = container.write(codec.encode(image, **options), codec)
        stream = container.read(data, codec)
        assert HeaderParams.from_bytes(stream.header.params).group_budgets  # a code for every group
        return len(data), psnr(codec.decode(stream), image)

    size, quality = through_a_file(grouped, segments=2)
    whole_size, whole_quality = through_a_file(whole, segments=2)
    assert size < 0.65 * whole_size
    assert quality == pytest.approx(whole_quality, abs=0.3)
    limited, quality = through_a_file(grouped, bpp=2.0)
    assert 0.9 * 2.0 < 8 * limited / image[0].numel() <= 2.0
    assert quality > through_a_file(whole, bpp=2.0)[1] + 0.5


def test_groups_are_sent_where_they_pay_for_their_budgets(tiny_prior: Path) -> None:
    grouped = DiffC(load_model(tiny_prior, device="cpu"))
    whole = without_subbands(grouped)
    chosen = []
    for side in (8, 16, 48):
        image = synthetic_photo(side, side)
        stream, plain = (codec.encode(image, segments=2) for codec in (grouped, whole))
        assert stream.payload_bits <= 1.02 * plain.payload_bits + 24
        assert len(container.read(container.write(stream, grouped), grouped).segments) == 2
        chosen.append(HeaderParams.from_bytes(stream.header.params).group_budgets)
    assert chosen[0] is False
    assert chosen[-1] is True


def test_another_calibration_is_another_model(tiny_prior: Path) -> None:
    prior = load_model(tiny_prior, device="cpu")
    (schedule,) = load_schedules(tiny_prior)
    assert schedule.subband_mse is not None
    other = replace(schedule, subband_mse=tuple(tuple(1.01 * e for e in row) for row in schedule.subband_mse))
    variants = (schedule, other, replace(schedule, subband_mse=None))
    prints = {DiffC(prior, schedules=[one]).fingerprint for one in variants}
    assert len(prints) == 3


def test_unusable_subband_errors_are_refused(tiny_prior: Path) -> None:
    row = (0.1,) * 3 * RADII
    with pytest.raises(ModelError, match="for every timestep"):
        Schedule("x", (500, 400), (0.1, 0.05), (row,))
    with pytest.raises(ModelError, match="for every timestep"):
        Schedule("x", (500, 400), (0.1, 0.05), (row, row[1:]))
    with pytest.raises(ModelError, match="positive"):
        Schedule("x", (500,), (0.1,), ((0.0, *row[1:]),))
    with pytest.raises(CodecError, match="32 subbands"):
        DiffC(load_model(tiny_prior, device="cpu"), schedules=[Schedule("x", (500,), (0.1,), (row[: 2 * RADII],))])


def test_without_subbands_a_step_is_one_group() -> None:
    whole = SingleBand((3, 4, 5))
    x = torch.randn(1, 3, 4, 5)
    coefficients = whole.transform(x)
    assert whole.counts == (60,)
    assert whole.energies(coefficients) == pytest.approx([float(x.square().sum())])
    assert torch.equal(whole.join([((0,), whole.gather(coefficients, (0,)))]), x)
    assert [group.size for group in group_subbands(whole.counts, (0.1,), 5.0)] == [60]


def test_places_are_found_once_for_a_device_and_stay_on_it() -> None:
    """A group's rows come from what lies on the device; nothing is looked up on the CPU and copied again."""
    subbands = Subbands((3, 40, 24), 16)
    assert subbands._places_on(torch.device("cpu")) is subbands._places_on(torch.device("cpu"))
    for wanted in [(3,), (20, 0, 7)]:
        for rows, bands in zip(subbands._rows(wanted, torch.device("cpu")), subbands._subbands, strict=True):
            assert torch.equal(rows, torch.isin(bands, torch.tensor(wanted)).nonzero()[:, 0])
    assert all(part.device.type == "meta" for part in subbands.transform(torch.zeros(1, 3, 40, 24, device="meta")))
