"""argparse as our commands use it: options from signatures, a configuration file, errors of one line."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import resource
from .errors import UsageError
from .options import Option

CONFIG = Option("config", "Path", help="YAML file with any of these options; options on the command line override it")
JOBS = Option("jobs", "int", help="processes, one thread each; with several files, if not given, as many as pay",
              least=1)  # fmt: skip


class CommandLine(argparse.ArgumentParser):
    """A parser whose options are :class:`Option`, in groups; an option that is not given is None.

    command   script that a user runs, e.g. "compress.py"
    summary   one sentence
    examples  command lines for the top of the help
    """

    def __init__(self, command: str, summary: str, examples: Sequence[str]) -> None:
        shown = "".join(f"\n  python {example}" for example in examples)
        super().__init__(
            prog=command, usage="%(prog)s [options] ...",
            description=f"{summary}\n\nexamples:{shown}" if shown else summary,
            formatter_class=_Help, allow_abbrev=False, add_help=False,
        )
        self.summary, self.examples = summary, tuple(examples)
        self.options: dict[str, Option] = {}
        self.groups: dict[str, list[tuple[list[str], str]]] = {}  # title -> (spellings, help) of its options

    def add_options(self, title: str, options: Iterable[Option]) -> None:
        """A group of the help; what an earlier group has is left out."""
        group = self.add_argument_group(title)
        if not self.options:
            group.add_argument("-h", "--help", action="help", help="show this text and exit")
        for option in options:
            if option.name in self.options:
                continue
            self.options[option.name] = option
            names = sorted([*option.aliases, option.flag], key=len)
            text = option.description if "\n" in option.description else option.description.removeprefix(f"{title}: ")
            self.groups.setdefault(title, []).append((names, text))
            how: dict[str, Any] = {"dest": option.name, "help": text.replace("%", "%%")}
            if option.kind == "bool":
                group.add_argument(*names, action="store_const", const=True, **how)
            else:
                metavar = option.name.rpartition("_")[2].upper()
                group.add_argument(*names, metavar=metavar, nargs=option.words, **how)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The namespace of all options; the file that --config names gives those that the words do not.

        Underscores in option names are read as dashes, as in the published commands.  Raises UsageError.
        """
        words = [_dashes(word) for word in (sys.argv[1:] if args is None else args)]
        given, unknown = self.parse_known_intermixed_args(words, namespace)
        if unknown:
            what = "there is no option" if unknown[0].startswith("-") else "no option takes the word"
            raise UsageError(f"{what} {unknown[0]}; --help lists them")
        values = {name: value for name, value in vars(given).items() if value is not None}
        if values.get("config"):
            values = self._configuration(Path(values["config"])) | values
        for name, option in self.options.items():
            setattr(given, name, option.convert(values[name]) if name in values else None)
        return given

    def error(self, message: str) -> NoReturn:
        """argparse's own complaint, without the usage block it prints in front."""
        raise UsageError(message)

    def _configuration(self, file: Path) -> dict[str, Any]:
        import yaml

        try:
            shipped = not file.exists() and file.parts[:1] == ("configs",)
            table = yaml.safe_load((resource(str(file)) if shipped else file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"the configuration file {file} cannot be read: {error}") from None
        if not isinstance(table, dict):
            raise UsageError(f"the configuration file {file} must hold lines OPTION: VALUE")
        names = {word.lstrip("-"): action.dest for action in self._actions for word in action.option_strings}
        values = {}
        for key, value in table.items():
            name = names.get(str(key).replace("_", "-"))
            if name not in self.options or name == "config":
                raise UsageError(f"the configuration file {file} has {key!r}, which is no option of {self.prog}")
            if value is not None:
                values[name] = value
        return values


class _Help(argparse.HelpFormatter):
    """Keeps the line breaks of descriptions and help texts."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]


def _dashes(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
