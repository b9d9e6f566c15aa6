"""Data sets on disk: ``python -m diffpress.commands.data download-kodak`` and ``... find-duplicates``."""

from __future__ import annotations

import sys
from pathlib import Path

from ..data import imagenet64, kodak
from .command_line import CommandLine
from .errors import NothingAsked, UsageError, run
from .options import Option


def main(args: list[str] | None = None) -> int:
    """Exit code: 0, or 2 if nothing could be done."""
    return run(lambda: _command(sys.argv[1:] if args is None else args))


def _command(words: list[str]) -> int:
    p = CommandLine("-m diffpress.commands.data", "Fetch Kodak, or look for duplicates in ImageNet64.", [
        "-m diffpress.commands.data download-kodak     # the 24 images into datasets/kodak, checked",
        "-m diffpress.commands.data find-duplicates    # into datasets/imagenet64/removed.npy",
    ])  # fmt: skip
    p.add_argument("what", nargs="?", help="download-kodak or find-duplicates")
    p.add_options("options", [
        Option("data_dir", "Path", "datasets", "where kodak/ and imagenet64/ are"),
        Option("url", "str", kodak.URL, "folder with kodim01.png .., slash at the end"),
    ])  # fmt: skip
    given = p.parse_args(words)
    data_dir = given.data_dir or Path("datasets")
    if given.what == "download-kodak":
        fetched = kodak.download(data_dir, given.url or kodak.URL, progress=print)
        print(f"{data_dir / 'kodak'}: 24 Kodak images, {fetched} fetched, all as in the manifest")
    elif given.what == "find-duplicates":
        folder = imagenet64.find_folder(data_dir)
        found = imagenet64.find_duplicates(folder, progress=print)
        print(f"{imagenet64.write_removed(folder, found)}: {len(found)} duplicate validation images")
    elif given.what:
        raise UsageError(f"there is no sub-command {given.what}; --help lists them")
    else:
        raise NothingAsked("\n".join(f"python {example}" for example in p.examples))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
