"""Muon for convolutions: torch's Muon takes matrices only, and a convolution is one in disguise.

Orthogonalised momentum (Jordan et al. 2024) denoises about a decibel better than AdamW after the same few thousand
steps on a CPU (docs/decisions/0003-denoiser.md).  Vectors, the first and the last layer stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix of `matrix` [rows, columns], to about 30 %, by a quintic Newton-Schulz iteration.

    The coefficients trade accuracy for speed: singular values end between about 0.7 and 1.2 (Jordan et al. 2024).
    """
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the inner convolutions of `module`, AdamW (betas 0.9, 0.99) on everything else.

    One optimizer rather than two, so that Lightning's automatic optimisation, schedules and checkpoints just work.
    `lr` is Muon's learning rate, `adam_lr` AdamW's; both follow the same schedule.
    """

    def __init__(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float = 0.02, adam_lr: float = 1e-3
    ) -> None:
        named = list(named_parameters)
        edges = {name for name, _ in named if name.split(".")[-2] in ("stem", "head")}
        muon = [p for name, p in named if p.ndim == 4 and name not in edges]
        adam = [p for name, p in named if p.ndim != 4 or name in edges]
        super().__init__([{"params": muon, "lr": lr, "muon": True}, {"params": adam, "lr": adam_lr, "muon": False}], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group["lr"])
        return loss

    def _muon(self, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 0.05)
        matrix = gradient.lerp(momentum, 0.95).flatten(1)  # Nesterov momentum
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.add_(orthogonalise(matrix).view_as(parameter), alpha=-lr * scale)

    def _adamw(self, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=torch.zeros(()), mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["step"] += 1
        count = float(state["step"])
        mean = state["mean"].lerp_(gradient, 0.1)
        square = state["square"].lerp_(gradient.square(), 0.01)
        deviation = (square / (1 - 0.99**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(mean, deviation, value=-lr / (1 - 0.9**count))
