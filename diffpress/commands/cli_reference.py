"""docs/cli.md from the parsers: ``python -m diffpress.commands.cli_reference > docs/cli.md``."""

from __future__ import annotations

import sys

from . import calibrate, compress, decompress, evaluate
from .command_line import CommandLine

INTRODUCTION = """# Command lines

Every option of `compress.py`, `decompress.py`, `calibrate.py` and `evaluate.py`, written from the code by
`python -m diffpress.commands.cli_reference`; change the code, not this page.
`train.py` has those of its configuration: `python train.py fit -c configs/denoiser/pixel.yaml --print_config`.

- An option may also stand in a YAML file given with `--config`, as `option: value`. Options on the command line
  override the file, wherever `--config` stands.
- Exit codes: 0; 1 if some files failed, each with its sentence; 2 if nothing could be done.
- Without `-o`, `photo.jpg` becomes `photo.dfc` beside it, and a folder `photos` a folder `photos-dfc` beside it.
  Sub-folders are made again in the output. Nothing is overwritten without `--force`, and an input never.
"""


def section(command: CommandLine) -> str:
    """One command in Markdown: its examples, then a table of options for each group of its help."""
    lines = [f"## {command.prog}", "", command.summary, "", *(f"    python {one}" for one in command.examples)]
    for title, options in command.groups.items():
        lines += ["", f"### {command.prog}: {title}", "", "| option | meaning |", "|---|---|"]
        for names, text in options:
            lines.append(f"| `{', '.join(names)}` | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")
    return "<br>".join(escaped.splitlines())


def reference() -> str:
    """The whole page."""
    modules = (compress, decompress, calibrate, evaluate)
    return "\n".join([INTRODUCTION, *(section(module.parser()) for module in modules)])


if __name__ == "__main__":
    sys.stdout.write(reference())
