"""Networks larger than a GPU: layers wait in main memory, and the next one is copied while the present one computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LayersInTurn:
    """Keeps a network's parameters and buffers in main memory, and those of a module on `device` while it runs.

    They wait in pinned memory: from there a copy runs at the full speed of the bus and beside the host.  Copies have a
    CUDA stream of their own.  Which module follows which is seen when the network runs, and from then on the next one
    is fetched before the present one computes: two are on the device together, and the host waits for neither.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._device, self._copies = device, torch.cuda.Stream(device)
        self._homes: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self._next: dict[nn.Module, nn.Module] = {}
        self._fetched: dict[nn.Module, torch.cuda.Event] = {}  # when the copies of modules that have not begun are done
        self._running: set[nn.Module] = set()
        self._last: nn.Module | None = None
        for module in network.modules():
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if tensors:
                self._homes[module] = [(tensor, tensor.data.pin_memory()) for tensor in tensors]
                self._put_back(module)  # what the tensors were before is freed
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end, always_call=True)

    def _begin(self, module: nn.Module, _: Any) -> None:
        self._fetch(module)
        torch.cuda.current_stream(self._device).wait_event(self._fetched.pop(module))
        self._running.add(module)
        if self._last is not None:
            self._next[self._last] = module
        self._last = module
        following = self._next.get(module)
        if following is not None and following not in self._running:
            self._fetch(following)

    def _end(self, module: nn.Module, *_: Any) -> None:
        self._running.discard(module)
        self._put_back(module)

    def _fetch(self, module: nn.Module) -> None:
        if module in self._fetched:
            return
        # The memory is the present stream's, where that of modules that have ended is free once they have been computed
        there = [(tensor, home, torch.empty_like(home, device=self._device)) for tensor, home in self._homes[module]]
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            for tensor, home, copy in there:
                tensor.data = copy.copy_(home, non_blocking=True)
        self._fetched[module] = self._copies.record_event()

    def _put_back(self, module: nn.Module) -> None:
        for tensor, home in self._homes[module]:
            tensor.data = home
