"""Data sets on disk: ``python -m diffpress.commands.data download-kodak`` and ``... find-duplicates``."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from diffpress.data import ImageError, imagenet64, kodak


def download_kodak(data_dir: Path, url: str) -> None:
    """Fetch the 24 Kodak images into `data_dir`/kodak and check them; what is there already is kept."""
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total or None)

        fetched = kodak.download(data_dir, url, show)
    print(f"{data_dir / 'kodak'}: 24 Kodak images, {fetched} fetched, all as in the manifest")


def find_duplicates(data_dir: Path) -> None:
    """Write removed.npy: ImageNet64 validation images equal to a training image or an earlier validation image."""
    folder = imagenet64.find_folder(data_dir)
    found = imagenet64.find_duplicates(folder, progress=print)
    path = imagenet64.write_removed(folder, found)
    print(f"{path}: {len(found)} duplicate validation images")


def main(args: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit status: 1 with a sentence on stderr for bad input, 2 for wrong words."""
    parser = ArgumentParser(exit_on_error=False, prog="python -m diffpress.commands.data", description=__doc__)
    commands = parser.add_subcommands()
    kodak_parser = ArgumentParser(exit_on_error=False, description=download_kodak.__doc__)
    kodak_parser.add_argument("--data-dir", type=Path, default=Path("datasets"), help="gets (or has) a folder kodak")
    kodak_parser.add_argument("--url", default=kodak.URL, help="folder with kodim01.png .., slash at the end")
    commands.add_subcommand("download-kodak", kodak_parser, help="fetch and check the Kodak images")
    duplicates_parser = ArgumentParser(exit_on_error=False, description=find_duplicates.__doc__)
    duplicates_parser.add_argument("--data-dir", type=Path, default=Path("datasets"), help="has a folder imagenet64")
    commands.add_subcommand("find-duplicates", duplicates_parser, help="write removed.npy for ImageNet64")
    try:
        chosen = parser.parse_args(args)
        if chosen.subcommand == "download-kodak":
            options = chosen["download-kodak"]
            download_kodak(options.data_dir, options.url)
        else:
            find_duplicates(chosen["find-duplicates"].data_dir)
    except (ImageError, OSError, ArgumentError) as error:
        print(f"data: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
