"""Noise schedules: log-SNR as a function of time, t = 0 clean, t = 1 noise.

Linear in gamma(t) = -log_snr(t), fixed or learned, with the parameters of the published UQDM checkpoints: `w`, by how
much gamma rises, and `b`, its clean end (absent where the noisy end is fixed).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class ScheduleConfig:
    """A linear noise schedule.

    gamma_min      -log_snr at t = 0 (of the start of training, if learned)
    gamma_max      -log_snr at t = 1
    learned        train the end points together with the network
    fix_gamma_max  if learned: keep gamma_max and learn gamma_min alone
    """

    gamma_min: float = -12.3
    gamma_max: float = 6.0
    learned: bool = True
    fix_gamma_max: bool = True


class LinearSchedule(nn.Module):
    """log_snr(t) = -(gamma_min + (gamma_max - gamma_min) t) (VDM, appendix H); raises ValueError for an empty range.

    Where it is learned, its parameters are w = gamma_max - gamma_min and, unless gamma_max is fixed, b = gamma_min.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__()
        if config.gamma_max <= config.gamma_min:
            raise ValueError(f"gamma_max {config.gamma_max} must exceed gamma_min {config.gamma_min}")
        self.config = config
        if config.learned:
            if not config.fix_gamma_max:
                self.b = nn.Parameter(torch.tensor(config.gamma_min))
            self.w = nn.Parameter(torch.tensor(config.gamma_max - config.gamma_min))

    def forward(self, t: Tensor) -> Tensor:
        """log_snr (same shape and dtype as t) at times t in [0, 1]."""
        c = self.config
        if not c.learned:
            return -(c.gamma_min + (c.gamma_max - c.gamma_min) * t)
        fall = self.w.abs().to(t)
        if c.fix_gamma_max:
            return -(c.gamma_max + fall * (t - 1.0))
        return -(self.b.to(t) + fall * t)

    @property
    def log_snr_range(self) -> Tensor:
        """-d log_snr / dt, shape []: the fall of the log-SNR from t = 0 to t = 1; differentiable where learned."""
        return self.w.abs() if self.config.learned else torch.tensor(self.config.gamma_max - self.config.gamma_min)
