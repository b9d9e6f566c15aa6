"""Which files a command reads, and where it writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from .coding import Job
from .errors import UsageError
from .manifest import NAME


@dataclass(frozen=True)
class Plan:
    """What is read and where it goes.

    jobs    in the order of the inputs
    folder  into which everything goes; None for one file, and where files go beside their inputs
    """

    jobs: list[Job]
    folder: Path | None


def list_files(entry: str) -> list[Path]:
    """The files that a path, a folder (all below it, sorted) or a glob pattern names; raises UsageError."""
    path = Path(entry)
    matches = [path] if path.is_file() else sorted(path.rglob("*") if path.is_dir() else map(Path, glob(entry)))
    files = [match for match in matches if match.is_file() and not match.match(NAME.format("*"))]
    if not files:
        raise UsageError(f"{entry}: no such file" if not path.is_dir() else f"{entry}: no files in this folder")
    return files


def plan(
    inputs: Sequence[str], listing: Callable[[str], list[Path]], suffix: str, out: Path | None, force: bool,
    shard: tuple[int, int] = (0, 1),
) -> Plan:
    """What is read and where it goes.

    With `out`, everything goes into that folder; a single file goes to `out` itself if `out` has a suffix.  Without,
    PHOTO.jpg becomes PHOTO with `suffix` beside it, and a folder PHOTOS becomes a folder PHOTOS-dfc beside it, say.
    The folders below an input are made below the output, too; hidden ones are left out.  Of files that differ in their
    suffix alone, each keeps its own: PHOTO.jpg.dfc.

    listing  the files that one of the inputs names
    shard    (number from 0, count): of all jobs every count-th
    Raises UsageError before anything is written: for two inputs of one name, for a file that exists without `force`,
    and for one that would replace an input.
    """
    jobs: dict[Path, Path] = {}
    folders = {_beside(Path(entry), suffix) if out is None else out for entry in inputs if Path(entry).is_dir()}
    for entry in inputs:
        given = Path(entry)
        tree = given.is_dir()
        folder = _beside(given, suffix) if out is None and tree else out
        sources = listing(entry)
        if tree:
            inside = [other for other in folders - {given} if other.is_relative_to(given)]  # outputs are no inputs
            sources = [one for one in sources if not any(one.is_relative_to(other) for other in inside)
                       and not any(part[0] == "." for part in one.relative_to(given).parts)]  # fmt: skip
        alike = Counter(source.with_suffix("") for source in sources)
        for source in sources:
            where = source.relative_to(given) if tree else Path(source.name)
            name = where.name if alike[source.with_suffix("")] > 1 else where.stem
            jobs.setdefault(source, (folder / where.parent if folder else source.parent) / (name + suffix))
    if out is not None and not out.is_dir():
        if len(jobs) == 1 and out.suffix and not Path(inputs[0]).is_dir():
            jobs, out = dict.fromkeys(jobs, out), None
        elif out.exists():
            raise UsageError(f"{out} is a file, and this takes a folder")
    if not jobs:
        raise UsageError(f"{', '.join(inputs)}: nothing to read")
    _check(jobs)
    mine = list(jobs.items())[shard[0] :: shard[1]]
    for _, target in mine:
        if target.exists() and not force:
            raise UsageError(f"{target} exists; name another place with -o, or overwrite it with --force")
    many = len(jobs) > 1 or bool(folders)
    single = folders.pop() if len(folders) == 1 and len(inputs) == 1 else None
    return Plan(mine, (out or single) if many else None)


def remove_leftovers(targets: Iterable[Path]) -> None:
    """Remove what write_file (data/images.py) left of `targets` when it was killed; nobody may be writing them."""
    names: dict[Path, set[str]] = {}
    for target in targets:
        names.setdefault(target.parent, set()).add(target.name)
    for folder, mine in names.items():
        for path in folder.glob(".*.tmp"):  # .NAME.RANDOM.tmp
            if path.name[1:].rsplit(".", 2)[0] in mine:
                path.unlink(missing_ok=True)


def _beside(folder: Path, suffix: str) -> Path:
    whole = folder if folder.name not in ("", "..") else folder.resolve()
    return whole.with_name(whole.name + suffix.replace(".", "-"))


def _check(jobs: dict[Path, Path]) -> None:
    inputs = {source.resolve() for source in jobs}
    seen: dict[Path, Path] = {}
    for source, target in jobs.items():
        if target in seen:
            raise UsageError(f"{seen[target]} and {source} would both be written to {target}")
        seen[target] = source
        if target.resolve() in inputs:
            raise UsageError(f"{target} is an input and is never overwritten; name another place with -o")
