"""Noise schedules: end points, direction, and the parameters that published checkpoints expect."""

import pytest
import torch

from diffpress.lightning_modules.diffusion.noise_schedule import LinearSchedule, ScheduleConfig


@pytest.mark.parametrize(("learned", "fixed_end"), [(False, True), (True, True), (True, False)])
def test_schedule_runs_linearly_between_its_ends(learned: bool, fixed_end: bool) -> None:
    schedule = LinearSchedule(ScheduleConfig(-10.0, 5.0, learned, fixed_end))
    t = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(schedule(t), torch.tensor([10.0, 6.25, -5.0]))
    assert float(schedule.log_snr_range.detach()) == 15.0
    names = {name for name, _ in schedule.named_parameters()}
    assert names == (set() if not learned else {"w"} if fixed_end else {"w", "b"})


def test_fixed_end_stays_while_the_other_is_learned() -> None:
    schedule = LinearSchedule(ScheduleConfig(-10.0, 5.0, True, True))
    with torch.no_grad():
        schedule.w.sub_(1.0)
    torch.testing.assert_close(schedule(torch.tensor([0.0, 1.0])), torch.tensor([9.0, -5.0]))


def test_schedule_must_lose_signal_over_time() -> None:
    with pytest.raises(ValueError, match="must exceed"):
        LinearSchedule(ScheduleConfig(5.0, -5.0))
