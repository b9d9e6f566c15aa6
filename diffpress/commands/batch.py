"""Many files through one setting: a line for each, progress, the manifest, failures at the end, the exit code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .coding import Done, Entry, Job, Settings, Tick
from .manifest import Manifest
from .processes import Result, Task, in_processes, in_this_process

CUT = 3  # exit code: a picture was written, but not all of it was there


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

    processes  one is this process itself
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

        alone = processes == 1
        results = _alone(tasks, settings, tick, len(jobs)) if alone else in_processes(tasks, settings, processes)
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
        name = "" if manifest is None else os.path.relpath(target, manifest.path.parent)
        yield source, target, None if manifest is None else manifest.known.get(name)


def _alone(tasks: Iterator[Task], settings: Settings, tick: Tick, count: int) -> Generator[Result]:
    """In this process; several files by one thread, as every other number of processes does, for the same bytes."""
    import torch

    work, threads = settings.open(), torch.get_num_threads()
    torch.set_num_threads(threads if count == 1 else 1)
    try:
        yield from in_this_process(tasks, work, tick)
    finally:
        torch.set_num_threads(threads)


def _entry(manifest: Manifest, job: Job, what: Done | str) -> Entry:
    source, target = job
    names = {"source": str(source), "file": os.path.relpath(target, manifest.path.parent)}
    return names | (what.entry if isinstance(what, Done) else {"status": "failed", "error": what})


