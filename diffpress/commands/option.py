"""One option of a command line: what it is called, what it takes, what help says of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError


@dataclass(frozen=True)
class Option:
    """One parameter that a command line can set.

    name     of the parameter; on the command line with dashes
    kind     "str", "int", "float", "number" (either), "bool" (a flag), "Path" or "dict" (of integers, in YAML)
    default  of the parameter; None also where there is none
    help     its row of the docstring's table
    choices  of a Literal; empty: any value
    words    how many words follow: None for one, "+" for one or more, or a number; more than one make a list
    """

    name: str
    kind: str
    default: Any = None
    help: str = ""
    choices: tuple[str, ...] = ()
    words: int | Literal["+"] | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def description(self) -> str:
        """Help and default; what the docstring says of None, the command line says of an option left out."""
        text = re.sub(r"\bNone: ", "if not given: ", self.help)
        if self.default in (None, "", []) or isinstance(self.default, bool):
            return text
        return f"{text} (default: {shown(self.default)})".strip()

    def convert(self, value: Any) -> Any:
        """`value`, a word of the command line or a value of a YAML file, as the parameter takes it.

        Raises UsageError.
        """
        wanted = {"int": "a whole number", "float": "a number", "number": "a number", "bool": "true or false",
                  "dict": "names with whole numbers, e.g. '{fast: 10}'"}  # fmt: skip
        if self.words is not None:
            return [replace(self, words=None).convert(word) for word in (value if isinstance(value, list) else [value])]
        try:
            if (self.kind == "bool") != isinstance(value, bool):
                raise ValueError
            if self.kind == "dict":
                return _numbers_by_name(value)
            if isinstance(value, (dict, list)):
                raise ValueError
            if self.kind == "number":
                return int(value) if re.fullmatch(r"[+-]?\d+", str(value)) else float(value)
            value = KINDS[self.kind](value)
        except ValueError:
            raise UsageError(f"{self.flag} takes {wanted.get(self.kind, 'a text')}, not {value!r}") from None
        if self.choices and value not in self.choices:
            raise UsageError(f"{self.flag} must be one of {', '.join(self.choices)}, not {value!r}")
        return value


def shown(default: Any) -> str:
    """A default as help prints it."""
    if isinstance(default, dict):
        return "{" + ", ".join(f"{name}: {value}" for name, value in default.items()) + "}"
    if isinstance(default, list):
        return " ".join(map(shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _whole(value: Any) -> int:
    return int(str(value))


def _numbers_by_name(value: Any) -> dict[str, int]:
    import yaml

    try:
        table = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        raise ValueError from None
    if not isinstance(table, dict):
        raise ValueError
    return {str(name): _whole(number) for name, number in table.items()}


KINDS: dict[str, Callable[[Any], Any]] = {"str": str, "int": _whole, "float": float, "bool": bool, "Path": Path}
