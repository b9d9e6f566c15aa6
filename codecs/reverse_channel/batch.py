"""Many steps at once: how a coder's searches over several steps or images become few large calls.

A coder writes the encoding of one step as a generator that yields what it wants searched and is sent the result; `run`
collects the requests of all steps and answers those of one kind together.  A step alone gets the same answer as in
company, up to the rounding of a larger matrix product, which only moves the encoder's choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

PENDING = 1 << 27  # bytes of requests that wait together, beyond the first one


class Request(Protocol):
    """Something to be searched.

    kind    requests of equal kind may be answered together
    nbytes  memory it holds
    """

    @property
    def kind(self) -> Hashable: ...
    @property
    def nbytes(self) -> int: ...
    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """The answers to several requests of this kind, in order."""
        ...


Work = Generator[Any, Any, T]


def run(works: Sequence[Work[T]]) -> list[T]:
    """The results of `works`, in order; an exception in one ends all."""
    results: dict[int, T] = {}
    waiting: dict[int, Request] = {}
    ready: deque[tuple[int, Any]] = deque((number, None) for number in range(len(works)))
    while ready or waiting:
        while ready and sum(request.nbytes for request in waiting.values()) < PENDING:
            number, answer = ready.popleft()
            try:
                waiting[number] = works[number].send(answer)
            except StopIteration as stop:
                results[number] = stop.value
        if waiting:
            kind = next(iter(waiting.values())).kind
            group = [number for number, request in waiting.items() if request.kind == kind]
            requests = [waiting.pop(number) for number in group]
            # first come, first finished: the memory of a step is free as soon as it is done
            ready.extendleft(reversed(list(zip(group, requests[0].answer(requests), strict=True))))
    return [results[number] for number in range(len(works))]
