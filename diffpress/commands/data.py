"""Data sets on disk: ``python -m diffpress.commands.data download-kodak``."""

from __future__ import annotations

import sys
from pathlib import Path

from ..data import kodak
from .command_line import CommandLine
from .errors import NothingAsked, UsageError, run
from .options import Option


def main(args: list[str] | None = None) -> int:
    """Exit code: 0, or 2 if nothing could be done."""
    return run(lambda: _command(sys.argv[1:] if args is None else args))


def _command(words: list[str]) -> int:
    p = CommandLine("-m diffpress.commands.data", "Fetch the Kodak images.", [
        "-m diffpress.commands.data download-kodak     # the 24 images into datasets/kodak, checked",
    ])  # fmt: skip
    p.add_argument("what", nargs="?", help="download-kodak")
    p.add_options("options", [
        Option("data_dir", "Path", "datasets", "where kodak/ is"),
        Option("url", "str", kodak.URL, "folder with kodim01.png .., slash at the end"),
    ])  # fmt: skip
    given = p.parse_args(words)
    data_dir = given.data_dir or Path("datasets")
    if given.what == "download-kodak":
        fetched = kodak.download(data_dir, given.url or kodak.URL, progress=print)
        print(f"{data_dir / 'kodak'}: 24 Kodak images, {fetched} fetched, all as in the manifest")
    elif given.what:
        raise UsageError(f"there is no sub-command {given.what}; --help lists them")
    else:
        raise NothingAsked("\n".join(f"python {example}" for example in p.examples))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
