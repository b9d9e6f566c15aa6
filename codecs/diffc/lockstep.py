"""Several images through one network: chains written as generators, and one loop that answers many of them together.

A chain yields a :class:`Denoise` request and is sent the estimate; it knows nothing of its neighbours.  `run` answers
requests of the same noise level and shape by one call of the network, so that a batch of images costs one pass per
step.  One chain alone gets exactly what it asks for.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...lightning_modules.priors.interface import Prior

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Denoise:
    """Asks for x0_hat [1, C, h, w] of z at a level.

    condition  what prior.condition made of a prompt; None for priors that take none
    """

    z: Tensor
    level: int
    condition: Any = None

    @property
    def kind(self) -> tuple[int, torch.Size, bool]:
        """Requests that are equal in this may be answered together."""
        return self.level, self.z.shape, self.condition is None


Chain = Generator[Denoise, Tensor, T]


def run(prior: Prior, chains: Sequence[Chain[T]]) -> list[T]:
    """The results of `chains`, in order; an exception in one ends all."""
    results: dict[int, T] = {}
    waiting: dict[int, Denoise] = {}

    def resume(number: int, estimate: Tensor | None) -> None:
        try:
            waiting[number] = chains[number].send(estimate)  # type: ignore[arg-type]
        except StopIteration as stop:
            results[number] = stop.value

    for number in range(len(chains)):
        resume(number, None)
    while waiting:
        kind = max((request.kind for request in waiting.values()), key=lambda kind: kind[0])  # laggards catch up first
        group = [number for number, request in waiting.items() if request.kind == kind]
        requests = [waiting.pop(number) for number in group]
        z = requests[0].z if len(group) == 1 else torch.cat([request.z for request in requests])
        if requests[0].condition is None:
            estimates = prior.denoise(z, kind[0])
        else:
            estimates = prior.denoise(z, kind[0], [request.condition for request in requests])  # type: ignore[call-arg]
        for number, estimate in zip(group, estimates.split(1), strict=True):
            resume(number, estimate)
    return [results[number] for number in range(len(chains))]
