"""Many files through one setting: a line for each, progress, the manifest, failures at the end, the exit code.

Files are worked on in this process or in several, which compute with one thread each, so that any number of them writes
the same files; one that dies costs the file it was at.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .coding import Done, Entry, Job, Settings, Tick, Work
from .errors import UsageError, keep_freed_memory, sentence, user_errors
from .manifest import Manifest

CUT = 3  # exit code: a picture was written, but not all of it was there

Task = tuple[Path, Path, Entry | None]  # a job, and what the manifest knows of its file
Result = tuple[Job, Done | str]  # a job, and what became of it or why nothing


def default_processes(files: int, slow: bool, device: str | None) -> int:
    """As many processes as pay: where a model computes on the CPU, one for each core that has a file; else one.

    Cores are those that PyTorch would use, so OMP_NUM_THREADS limits them.

    slow  whether a model takes seconds for a file, so that starting a process pays
    """
    import torch

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return max(1, min(files, torch.get_num_threads())) if slow and where == "cpu" else 1


def run_batch(
    jobs: Sequence[Job], settings: Settings, processes: int, manifest: Manifest | None = None, resume: bool = False
) -> int:
    """Work on all `jobs`; returns the exit code: 0, 1 if some failed, CUT if some pictures are not whole.

    processes  no more than there are files; one is this process itself
    manifest   gets a line for each file
    resume     tell the work what the manifest knows of its file
    """
    tasks = _tasks(jobs, manifest if resume else None)
    failures: list[str] = []
    count = size = pixels = 0
    cut = False
    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[speed]}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        files = bar.add_task(jobs[0][0].name if len(jobs) == 1 else "files", total=len(jobs), speed="")

        def tick(done: int, total: int) -> None:
            if len(jobs) == 1:
                bar.update(files, completed=done, total=total)

        processes = min(processes, len(jobs))
        alone = processes == 1
        results = _alone(tasks, settings, tick, len(jobs)) if alone else _in_processes(tasks, settings, processes)
        try:
            for job, what in results:
                bar.advance(files)
                if isinstance(what, Done):
                    print(what.line, flush=True)
                    count, size, pixels, cut = count + 1, size + what.bytes, pixels + what.pixels, cut or what.cut
                    speed = pixels / 1e6 / (time.perf_counter() - start)
                    bar.update(files, speed=f"{speed:.3f} megapixels a second")
                else:
                    failures.append(what if what.startswith(f"{job[0]}: ") else f"{job[0]}: {what}")
                if manifest is not None:
                    manifest.add(_entry(manifest, job, what))  # which leaves out what it knows
        finally:
            results.close()
            for line in failures:
                print(line, file=sys.stderr)
    if len(jobs) > 1:
        seconds = time.perf_counter() - start
        rate = f"{8 * size / pixels:.4f} bpp, " if pixels else ""
        print(f"{count} of {len(jobs)} files, {size} bytes, {rate}{pixels / 1e6:.2f} megapixels in {seconds:.1f} s"
              f" ({pixels / 1e6 / seconds:.3f} a second), {len(failures)} failed")  # fmt: skip
    return 1 if failures else CUT if cut else 0


def _tasks(jobs: Sequence[Job], manifest: Manifest | None) -> Iterator[Task]:
    for source, target in jobs:
        yield source, target, None if manifest is None else manifest.known.get(manifest.name_of(target))


def _entry(manifest: Manifest, job: Job, what: Done | str) -> Entry:
    source, target = job
    names = {"source": str(source), "file": manifest.name_of(target)}
    return names | (what.entry if isinstance(what, Done) else {"status": "failed", "error": what})


# ---- the processes ---------------------------------------------------------------------------------------------------


@dataclass
class _Process:
    """A process, and the job it is at; `ready` once its settings are open."""

    connection: Connection
    process: multiprocessing.process.BaseProcess
    ready: bool = False
    job: Job | None = None

    def end(self) -> int | None:
        """Exit code, negative for a signal."""
        self.connection.close()
        self.process.join()
        return self.process.exitcode


def _alone(tasks: Iterable[Task], settings: Settings, tick: Tick, count: int) -> Generator[Result]:
    """In this process; several files by one thread, as every other number of processes does, for the same bytes."""
    import torch

    work, threads = settings.open(), torch.get_num_threads()
    torch.set_num_threads(threads if count == 1 else 1)
    try:
        for task in tasks:
            yield task[:2], _result(work, task, tick)
    finally:
        torch.set_num_threads(threads)


def _in_processes(tasks: Iterable[Task], settings: Settings, count: int) -> Generator[Result]:
    """The result of each task, as they come, by `count` processes with one thread each.

    Raises UsageError if the settings cannot be opened, or open another model in one process than in another: its
    folder was replaced meanwhile.
    """
    waiting = iter(tasks)
    model: bytes | None = None
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
                if isinstance(answer, bytes):
                    one.ready = True
                    model = answer if model is None else model
                    if answer != model:
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
    """What a process does: says its model's fingerprint, then works on one task after the other until it gets none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)
    keep_freed_memory()
    with suppress(EOFError, OSError):  # the parent is gone
        try:
            work = settings.open()
        except user_errors() as error:
            connection.send(sentence(error))
            return
        connection.send(work.model)
        while (task := connection.recv()) is not None:
            connection.send(_result(work, task, lambda done, total: None))


def _result(work: Work, task: Task, tick: Tick) -> Done | str:
    """What became of a task, or why nothing did."""
    try:
        return work(*task, tick)
    except user_errors() as error:
        return sentence(error)
