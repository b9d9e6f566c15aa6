"""The manifest of a folder of compressed files: a JSON line for each, written as it is done (docs/folders.md)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .coding import Entry
from .errors import UsageError

NAME = "manifest{}.jsonl"


def read_manifests(folder: Path) -> dict[str, Entry]:
    """What the manifests in `folder`, those of shards included, say of each file, by its name; the last line holds."""
    return {name: entry for path in sorted(folder.glob(NAME.format("*"))) for name, entry in _entries(path)}


class Manifest:
    """The manifest that this process writes; nobody else may meanwhile.

    folder  where the files go
    shard   "" or "-1-of-4", in the name
    Raises UsageError where another process is writing it, or nobody can.
    """

    def __init__(self, folder: Path, shard: str) -> None:
        self.path = folder / NAME.format(shard)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.handle = self._open()
            self.known = read_manifests(folder)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _open(self) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                _lock(handle)
            except BlockingIOError:
                os.close(handle)
                raise UsageError(f"{self.path} is being written by another process") from None
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(handle).st_ino == self.path.stat().st_ino:  # else it was replaced before it was locked
                    return handle
            os.close(handle)

    def name_of(self, target: Path) -> str:
        """What a file is called in it: its path from the manifest's folder on."""
        return os.path.relpath(target, self.path.parent)

    def add(self, entry: Entry) -> None:
        """Append a line, unless it is known already; it is on the disk before this returns.  Raises OSError."""
        if self.known.get(entry["file"]) == entry:
            return
        line = json.dumps(entry).encode() + b"\n"
        size = os.fstat(self.handle).st_size
        if size and os.pread(self.handle, 1, size - 1) != b"\n":  # half a line of a process that was killed
            line = b"\n" + line
        if os.write(self.handle, line) < len(line):
            raise OSError(28, os.strerror(28), str(self.path))
        os.fsync(self.handle)

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave one line a file, sorted by name, and let others write; raises ImageError where that fails."""
        from ..data import write_file

        try:
            entries = dict(_entries(self.path))
            lines = (json.dumps(entry) for _, entry in sorted(entries.items()))
            write_file(self.path, "".join(f"{line}\n" for line in lines).encode())
        finally:
            os.close(self.handle)


def _entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """(file, line) of each line; one that is no JSON is what a killed process or a full disk left, and says nothing."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            yield str(entry["file"]), entry


def _lock(handle: int) -> None:
    """Raises BlockingIOError if another process has it; on systems without such locks nothing is locked."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
