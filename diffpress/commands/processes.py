"""Work on many files in several processes, one thread each; a process that dies costs the file it was at."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from .coding import Done, Entry, Job, Settings, Tick, Work
from .errors import UsageError, sentence, user_errors

Task = tuple[Path, Path, Entry | None]  # and what the manifest knows of that
Result = tuple[Job, Done | str]  # a job, and what became of it or why nothing


@dataclass(frozen=True)
class _Ready:
    """What a process says once its settings are open: the fingerprint of its model."""

    model: bytes


@dataclass
class _Process:
    """A process, and the job it is at; `ready` once its settings are open."""

    connection: Connection
    process: multiprocessing.process.BaseProcess
    ready: bool = False
    job: Job | None = field(default=None)

    def end(self) -> int | None:
        """Exit code, negative for a signal."""
        self.connection.close()
        self.process.join()
        return self.process.exitcode


def in_processes(tasks: Iterable[Task], settings: Settings, count: int) -> Generator[Result]:
    """The result of each task, as they come.

    Raises UsageError if the settings cannot be opened, or open another model in one process than in another: its
    folder was replaced meanwhile.
    """
    waiting = iter(tasks)
    first: _Ready | None = None
    running = [_start(settings) for _ in range(count)]
    try:
        while running:
            for connection in wait([one.connection for one in running]):
                (one,) = (one for one in running if one.connection is connection)
                try:
                    answer = one.connection.recv()
                except (EOFError, ConnectionResetError):
                    running.remove(one)
                    code = one.end()
                    if not one.ready:
                        raise UsageError(f"a process could not start (exit code {code})") from None
                    if one.job is not None:
                        why = f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"
                        yield one.job, f"its process ended while it worked on it ({why}); out of memory?"
                    running.append(_start(settings))
                    continue
                if isinstance(answer, _Ready):
                    one.ready, first = True, first or answer
                    if answer != first:
                        raise UsageError("the model was replaced while this ran; --resume makes all files with the new")
                elif not one.ready:
                    raise UsageError(answer)
                elif one.job is not None:
                    yield one.job, answer
                task = next(waiting, None)
                one.job = None if task is None else task[:2]
                with suppress(OSError):  # it has just died, and the end of what it says will tell
                    one.connection.send(task)
                if task is None:
                    running.remove(one)
                    one.end()
    finally:
        for one in running:
            one.process.terminate()
            one.end()


def _start(settings: Settings) -> _Process:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, settings))
    process.start()
    there.close()
    return _Process(here, process)


def _serve(connection: Connection, settings: Settings) -> None:
    """What a process does: says that it is ready, then works on one task after the other until it gets none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)
    from .errors import keep_freed_memory

    keep_freed_memory()
    with suppress(EOFError, OSError):  # the parent is gone
        try:
            work = settings.open()
        except user_errors() as error:
            connection.send(sentence(error))
            return
        connection.send(_Ready(work.model))
        while (task := connection.recv()) is not None:
            connection.send(_result(work, task))


def _result(work: Work, task: Task) -> Done | str:
    source, target, known = task
    try:
        return work(source, target, known, lambda done, total: None)
    except user_errors() as error:
        return sentence(error)


def in_this_process(tasks: Iterable[Task], work: Work, tick: Tick) -> Iterator[Result]:
    """The result of each task, one after the other."""
    for source, target, known in tasks:
        try:
            yield (source, target), work(source, target, known, tick)
        except user_errors() as error:
            yield (source, target), sentence(error)
