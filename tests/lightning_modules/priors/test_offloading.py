"""Layers that take turns on a device: CUDA's streams are replaced by queues that do nothing until they must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpress.lightning_modules.priors.offloading import LayersInTurn


class Stream:
    """A stream of copies, none of which is made before someone waits for it; `log` has what happened, in order."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.waiting = log, list[Callable[[], Any]]()

    def wait_stream(self, _: Stream) -> None:
        self.log.append("copies wait")

    def record_event(self) -> tuple[Callable[[], Any], ...]:
        event = tuple(self.waiting)
        self.waiting.clear()
        return event

    def wait_event(self, event: tuple[Callable[[], Any], ...]) -> None:
        self.log.append("wait")
        for copy in event:
            copy()


class Network(nn.Module):
    """A bias of its own around three layers, one of which has none of its own but contains another."""

    def __init__(self, log: list[str], fails: bool = False) -> None:
        super().__init__()
        self.bias, self.log, self.fails = nn.Parameter(torch.ones(4)), log, fails
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        for name in ("first", "second", "third"):
            x = self.get_submodule(name)(x)
            self.log.append(f"{name} computes")
            if self.fails:
                raise ValueError("it fails")
        return x + self.bias


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    log = list[str]()
    copies, present = Stream(log), Stream(log)
    copy = Tensor.copy_

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        def later(to: Tensor, home: Tensor, non_blocking: bool) -> Tensor:
            assert non_blocking
            assert hasattr(home, "pinned")
            stream.waiting.append(lambda: copy(to, home))
            return to

        with monkeypatch.context() as patch:
            log.append("copy")
            patch.setattr(Tensor, "copy_", later)
            yield

    def pin_memory(x: Tensor) -> Tensor:
        pinned = x.clone()
        pinned.pinned = True  # type: ignore[attr-defined]
        return pinned

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: present)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch, "empty_like", lambda x, device: torch.full(x.shape, 77, dtype=x.dtype))
    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    return log


def test_the_next_layer_is_copied_while_the_present_one_computes(log: list[str]) -> None:
    torch.manual_seed(0)
    network = Network(log).double().eval()
    x = torch.randn(2, 4, dtype=torch.float64)
    expected = network(x)
    LayersInTurn(network, torch.device("cpu"))
    homes = [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]
    for _ in range(3):
        log.clear()
        assert torch.equal(network(x), expected)
        assert [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())] == homes
    fetch = ["copies wait", "copy"]
    assert log == [
        *fetch, "wait", *fetch, "wait", *fetch, "first computes",  # the bias around all, the first layer, the second
        "wait", *fetch, "second computes", "wait", "third computes",
    ]  # fmt: skip


def test_a_single_layer_is_not_replaced_while_it_computes(log: list[str]) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 4)
    expected = network(torch.ones(4))
    LayersInTurn(network, torch.device("cpu"))
    for _ in range(3):
        assert torch.equal(network(torch.ones(4)), expected)


def test_layers_go_home_when_the_network_fails(log: list[str]) -> None:
    network = Network(log, fails=True)
    LayersInTurn(network, torch.device("cpu"))
    homes = [tensor.data_ptr() for tensor in network.parameters()]
    for _ in range(2):
        with pytest.raises(ValueError, match="it fails"):
            network(torch.ones(2, 4))
        assert [tensor.data_ptr() for tensor in network.parameters()] == homes
