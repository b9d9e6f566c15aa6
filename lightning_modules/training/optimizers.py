"""Muon for convolutions: torch's Muon takes matrices only, and a convolution is one in disguise.

Orthogonalised momentum (Jordan et al. 2024) denoises about a decibel better than Adam after the same few thousand steps
on a CPU (docs/decisions/0003-denoiser.md).  Biases, linear layers, the first and the last layer stay with Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


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


def split_parameters(
    module: nn.Module, first_and_last: Iterable[nn.Module]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(for Muon, for Adam): the kernels of all convolutions of `module` but `first_and_last`, and everything else.

    Both in the order of module.parameters(), which optimizer checkpoints rely on.
    """
    excluded = {parameter for layer in first_and_last for parameter in layer.parameters()}
    muon = [p for p in module.parameters() if p.ndim == 4 and p not in excluded]
    chosen = set(muon)
    return muon, [p for p in module.parameters() if p not in chosen]


class MuonAdam(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on the convolution kernels `muon`, Adam on the parameters `adam`; no weight decay.

    One optimizer rather than two, so that Lightning's automatic optimisation, schedules and checkpoints just work.

    muon, adam  lists of parameters; kernels [out, in, kh, kw] are orthogonalised as matrices [out, in kh kw]
    lr          learning rate of Muon, `adam_lr` of Adam; a schedule multiplies both
    betas, eps  of Adam, as in torch.optim.Adam
    """

    def __init__(
        self,
        muon: Sequence[nn.Parameter],
        adam: Sequence[nn.Parameter],
        lr: float = 0.02,
        adam_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        self.betas, self.eps = betas, eps
        groups = [{"params": list(muon), "lr": lr, "muon": True}, {"params": list(adam), "lr": adam_lr, "muon": False}]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["muon"]:
                for parameter in trained:
                    self._muon(parameter, group["lr"])
            else:
                self._adam(trained, group["lr"])
        return loss

    def _muon(self, parameter: Tensor, lr: float) -> None:
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 0.05)
        matrix = gradient.lerp(momentum, 0.95).flatten(1)  # Nesterov momentum
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.add_(orthogonalise(matrix).view_as(parameter), alpha=-lr * scale)

    def _adam(self, parameters: list[Tensor], lr: float) -> None:
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter] = {"step": 0, "mean": torch.zeros_like(parameter),
                                         "square": torch.zeros_like(parameter)}  # fmt: skip
        states = [self.state[parameter] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # Steps are counted in plain integers: a counter on a GPU would be waited for.  adam() wants tensors and adds 1.
        steps = [torch.tensor(float(state["step"])) for state in states]
        adam(parameters, gradients, [state["mean"] for state in states], [state["square"] for state in states], [],
             steps, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=lr, weight_decay=0.0, eps=self.eps,
             maximize=False)  # fmt: skip
        for state in states:
            state["step"] = int(state["step"]) + 1  # checkpoints of earlier versions hold a tensor
