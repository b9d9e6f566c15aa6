"""Schedules as files are tied to them: the text and the bytes must never change, whatever the code calls its fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffpress.codecs.diffc.header import Schedule, find_schedules, schedule_identity
from diffpress.lightning_modules import ModelError, load_model

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def test_identity_of_a_golden_schedule() -> None:
    """bands.dfc begins with it: magic, version and codec, then the fingerprint."""
    prior = load_model(GOLDEN / "diffc-model", device="cpu")
    schedules, covered = find_schedules(prior, str(GOLDEN / "bands.json"))
    assert not covered
    assert schedule_identity(prior.fingerprint, schedules) == (GOLDEN / "bands.dfc").read_bytes()[3:7]


@pytest.mark.parametrize(("timesteps", "mse", "message"), [
    ((), (), "as many errors"), ((5, 4), (0.1,), "as many errors"), ((5, 5), (0.1, 0.1), "must descend"),
    ((5, 0), (0.1, 0.1), "stay above 0"), ((5,), (0.0,), "positive"), ((5,), (float("inf"),), "positive"),
])  # fmt: skip
def test_unusable_schedules_are_refused(timesteps: tuple[int, ...], mse: tuple[float, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Schedule("x", timesteps, mse)
