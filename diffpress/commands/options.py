"""Options of the command lines, read from the signatures and docstrings of the functions that take them.

Signatures are read from the source text.  Importing every codec to ask Python for them would bring PyTorch, Lightning
and more into each ``--help`` and each wrong word; reading the text takes a hundredth of that time.  A test compares
the result with the imported signatures.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .. import resource
from .errors import UsageError

ROW = re.compile(r"^( *)(\w+(?:, \w+)*)  +(\S.*)$")  # "name  what it does", a row of an option table

# What only a decoder uses of a constructor's options, and what both sides use.
RECONSTRUCTING = ("reconstruction", "flow_steps")
DECODING = (*RECONSTRUCTING, "schedule", "denoising_guidance")


@dataclass(frozen=True)
class Option:
    """One parameter that a command line can set.

    name     of the parameter; on the command line with dashes
    kind     "str", "int", "float", "number" (either), "bool" (a flag), "Path" or "dict" (of integers, in YAML)
    default  of the parameter; None also where there is none
    help     its row of the docstring's table
    choices  of a Literal; empty: any value
    words    how many words follow: None for one, "+" for one or more, or a number; more than one make a list
    aliases  further spellings
    least    smallest number allowed
    """

    name: str
    kind: str
    default: Any = None
    help: str = ""
    choices: tuple[str, ...] = ()
    words: int | Literal["+"] | None = None
    aliases: tuple[str, ...] = ()
    least: float | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def description(self) -> str:
        """Help and default; what the docstring says of None, the command line says of an option left out."""
        text = re.sub(r"\bNone: ", "if not given: ", self.help)
        if self.default in (None, "", []) or isinstance(self.default, bool):
            return text
        return f"{text} (default: {_shown(self.default)})".strip()

    def convert(self, value: Any) -> Any:
        """`value`, a word of the command line or a value of a YAML file, as the parameter takes it.

        Raises UsageError.
        """
        if self.words is not None:
            return [replace(self, words=None).convert(word) for word in (value if isinstance(value, list) else [value])]
        function, wanted = KINDS[self.kind]
        try:
            if (self.kind == "bool") != isinstance(value, bool):
                raise ValueError
            if isinstance(value, (dict, list)) and self.kind != "dict":
                raise ValueError
            value = function(value)
        except ValueError:
            raise UsageError(f"{self.flag} takes {wanted}, not {value!r}") from None
        if self.choices and value not in self.choices:
            raise UsageError(f"{self.flag} must be one of {', '.join(self.choices)}, not {value!r}")
        if self.least is not None and value < self.least:
            raise UsageError(f"{self.flag} must be at least {self.least:g}")
        return value


def _whole(value: Any) -> int:
    return int(str(value))


def _number(value: Any) -> int | float:
    return int(value) if re.fullmatch(r"[+-]?\d+", str(value)) else float(value)


def _numbers_by_name(value: Any) -> dict[str, int]:
    import yaml

    try:
        table = yaml.safe_load(value) if isinstance(value, str) else value
        return {str(name): _whole(number) for name, number in table.items()}
    except (yaml.YAMLError, AttributeError):
        raise ValueError from None


KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "str": (str, "a text"), "int": (_whole, "a whole number"), "float": (float, "a number"), "Path": (Path, "a text"),
    "bool": (bool, "true or false"), "number": (_number, "a number"),
    "dict": (_numbers_by_name, "names with whole numbers, e.g. '{fast: 10}'"),
}  # fmt: skip


def _shown(default: Any) -> str:
    """A default as help prints it."""
    if isinstance(default, dict):
        return "{" + ", ".join(f"{name}: {value}" for name, value in default.items()) + "}"
    if isinstance(default, list):
        return " ".join(map(_shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


@dataclass(frozen=True)
class CodecOptions:
    """What a codec takes, by the call that takes it.

    suffix       of the files it writes, dot included
    takes_model  whether a model must be loaded for it
    """

    suffix: str
    takes_model: bool
    constructor: dict[str, Option]
    encode: dict[str, Option]


@cache
def codec_places() -> dict[str, tuple[str, str]]:
    """Codec name -> (source file, class), from the table CODECS of codecs/registry.py."""
    places = {}
    for name, entry in constant("codecs/registry.py", "CODECS").items():
        module, _, cls = entry.partition(":")
        places[name] = (f"codecs/{module.strip('.').replace('.', '/')}.py", cls)
    return places


@cache
def codec_options(name: str) -> CodecOptions:
    """Options of the codec called `name`; raises UsageError for an unknown one."""
    if name not in codec_places():
        raise UsageError(f"unknown codec {name!r}; available: {', '.join(sorted(codec_places()))}")
    file, cls = codec_places()[name]
    takes_model = any(parameter == "model" for parameter, *_ in _parameters(_find(_source(file), cls)))
    encode = options_of(file, cls, "encode")
    if name in constant("codecs/targets.py", "CODECS_WITH_TARGETS"):
        encode |= options_of("codecs/targets.py", "encode_to")
    return CodecOptions(constant(file, f"{cls}.suffix"), takes_model, options_of(file, cls), encode)


@cache
def loading_options() -> dict[str, Option]:
    """Options of load_model beside the device: those of its pipelines, and where hub ids are looked up."""
    options = options_of("lightning_modules/priors/latent.py", "LatentPrior")
    refiner = options_of("lightning_modules/priors/stable_diffusion.py", "SDXLPrior")["refiner"]
    del options["folder"], options["device"]
    options["refiner"] = replace(refiner, kind="str", help=f"SDXL: {refiner.help}")
    options["local_files_only"] = Option(
        "local_files_only", "bool", help="look hub ids up in the local cache alone (as HF_HUB_OFFLINE=1)"
    )
    return options


def model_options(help_text: str) -> list[Option]:
    """--model and --device, the same for every command."""
    return [
        Option("model", "str", help=help_text),
        Option("device", "str", help="cpu, cuda, cuda:1, ...; a GPU where there is one, if not given"),
    ]


def merged(sources: dict[str, dict[str, Option]]) -> list[Option]:
    """One option for each name in the options of several codecs; its help has a line per codec, or codecs alike."""
    result = []
    for name in dict.fromkeys(name for options in sources.values() for name in options):
        ones = {codec: options[name] for codec, options in sources.items() if name in options}
        alike: dict[str, list[str]] = {}
        for codec, one in ones.items():
            alike.setdefault(one.description, []).append(codec)
        lines = [f"{', '.join(codecs)}: {text}" for text, codecs in alike.items() if text]
        kinds, choices = {one.kind for one in ones.values()}, {one.choices for one in ones.values()}
        kind = kinds.pop() if len(kinds) == 1 else "number" if kinds == {"int", "float"} else "str"
        result.append(Option(name, kind, None, "\n".join(lines), choices.pop() if len(choices) == 1 else ()))
    return result


@dataclass
class Routed:
    """Options of one command line, by the call that takes them."""

    constructor: dict[str, Any] = field(default_factory=dict)
    encode: dict[str, Any] = field(default_factory=dict)
    loading: dict[str, Any] = field(default_factory=dict)


def route(codec: str, given: dict[str, Any], names: Iterable[str]) -> Routed:
    """The options `names` that were given, for `codec`; raises UsageError for one that it does not take."""
    own, routed = codec_options(codec), Routed()
    loading = loading_options() if own.takes_model else {}
    takers = (own.encode, routed.encode), (own.constructor, routed.constructor), (loading, routed.loading)
    for name in (name for name in names if given.get(name) is not None):
        call = next((values for options, values in takers if name in options), None)
        if call is None:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to --codec {codec}")
        call[name] = given[name]
    return routed


# ---- reading source text -------------------------------------------------------------------------------------------


def constant(file: str, name: str) -> Any:
    """Value of a constant of a file, or of a class in it: "CLASS.NAME"; `file` is relative to the project."""
    owner, _, last = name.rpartition(".")
    module = _source(file)
    return _value(_find(_find(module, owner) if owner else module, last), module)


def options_of(file: str, name: str, method: str | None = None) -> dict[str, Option]:
    """Options of a function, of a class's constructor or fields, or of one of its own methods.

    Only parameters that a word can set; a model, say, or a callback cannot be named on a command line.
    """
    module = _source(file)
    found = _find(module, name) if method is None else _find(_find(module, name), method)
    # a base of the same file may document the fields
    bases = [_find(module, ast.unparse(base)) for base in getattr(found, "bases", ())]
    table: dict[str, str] = {}
    for one in (*bases, found):
        table |= _table((one and ast.get_docstring(one)) or "")
    options = {}
    for parameter, annotation, default in _parameters(found):
        value = None if default is None else _value(default, module)
        kinds, choices = _kinds(annotation)
        if not kinds and isinstance(value, str):
            kinds = ["str"]  # an alias of a Literal
        if kinds:
            kind = "str" if "str" in kinds else kinds[0]
            text = re.sub(r"\b[A-Z][A-Z_]+\b", lambda word: _spelled_out(word[0], module), table.get(parameter, ""))
            options[parameter] = Option(parameter, kind, value, text, choices)
    return options


@cache
def _source(file: str) -> ast.Module:
    return ast.parse(resource(file).read_text(encoding="utf-8"))


def _find(owner: Any, name: str) -> Any:
    """The class, function or assigned value called `name` in a module or class; None where there is none."""
    for node in owner.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node.value
    return None


def _parameters(found: Any) -> list[tuple[str, Any, Any]]:
    """(name, annotation, default or None) of what a function or a class takes."""
    if isinstance(found, ast.ClassDef):
        if found.decorator_list:  # a dataclass
            return [(ast.unparse(n.target), n.annotation, n.value) for n in found.body if isinstance(n, ast.AnnAssign)]
        found = _find(found, "__init__")
    if found is None:
        return []
    args = found.args
    defaults = [*[None] * (len(args.args) - len(args.defaults)), *args.defaults, *args.kw_defaults]
    both = zip([*args.args, *args.kwonlyargs], defaults, strict=True)
    return [(one.arg, one.annotation, default) for one, default in both if one.arg != "self"]


def _kinds(annotation: ast.expr) -> tuple[list[str], tuple[str, ...]]:
    """The kinds of option that an annotation allows, and the choices of a Literal."""
    kinds, choices = [], ()
    for part in ast.unparse(annotation).split(" | "):
        if part.startswith("Literal["):
            choices = ast.literal_eval(f"({part[len('Literal[') : -1]},)")
        kind = "str" if part.startswith("Literal[") else "dict" if part == "dict[str, int]" else part
        kinds += [kind] if kind in KINDS else []
    return kinds, choices


def _value(node: ast.expr, module: ast.Module) -> Any:
    """What a default evaluates to, constants of the same file included; its text where it needs more than these."""
    names = {n.id: _find(module, n.id) for n in ast.walk(node) if isinstance(n, ast.Name)}
    try:
        scope = {name: _value(value, module) for name, value in names.items() if value is not None}
        return eval(compile(ast.Expression(node), "<default>", "eval"), {"__builtins__": {}}, scope)
    except (NameError, TypeError):
        return ast.unparse(node)


def _spelled_out(word: str, module: ast.Module) -> str:
    """The value of a constant that a docstring names; other words in capitals as they are."""
    node = _find(module, word)
    value = word if node is None else _value(node, module)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else _shown(value)


def _table(document: str) -> dict[str, str]:
    """Name -> text of the rows ``name  text`` in a docstring; lines that are indented further go on with a row."""
    rows: dict[str, str] = {}
    names: list[str] = []
    indent = 0
    for line in document.splitlines():
        row = ROW.match(line)
        if row and not (names and len(row[1]) > indent):
            indent, names = len(row[1]), row[2].split(", ")
            rows |= dict.fromkeys(names, row[3])
        elif names and line.strip() and len(line) - len(line.lstrip()) > indent:
            rows |= {name: f"{rows[name]} {line.strip()}" for name in names}
        else:
            names = []
    return rows
