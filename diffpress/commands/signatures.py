"""Options of the command line, read from the signatures and docstrings of the functions that take them.

Signatures are read from the source text.  Importing every codec to ask Python for them would bring PyTorch, Lightning
and more into each ``--help`` and each wrong word; reading the text takes a hundredth of that time.  A test compares
the result with the imported signatures.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Any

from .. import resource
from .option import KINDS, Option, shown

ENTRY = re.compile(r"^( *)(\w+(?:, \w+)*)  +(\S.*)$")  # "name  what it does", a row of an option table


@cache
def codec_places() -> dict[str, tuple[str, str]]:
    """Codec name -> (source file, class), from the table CODECS of codecs/registry.py."""
    places: dict[str, tuple[str, str]] = {}
    for name, entry in ast.literal_eval(_assigned(_source("codecs/registry.py"), "CODECS")).items():
        module, _, cls = entry.partition(":")
        places[name] = (f"codecs/{module.strip('.').replace('.', '/')}.py", cls)
    return places


def class_options(file: str, name: str) -> dict[str, Option]:
    """Options of a class's constructor, or of a dataclass's fields; `file` is relative to the project."""
    module, found = _source(file), _class(file, name)
    documents = _table(ast.get_docstring(found) or "")
    for base in found.bases:  # a base of the same file may document the fields
        if isinstance(base, ast.Name) and any(isinstance(n, ast.ClassDef) and n.name == base.id for n in module.body):
            documents = _table(ast.get_docstring(_class(file, base.id)) or "") | documents
    if found.decorator_list:
        fields = [(n.target.id, n.annotation, n.value) for n in found.body
                  if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]  # fmt: skip
        return _options(module, fields, documents)
    constructor = _function(found, "__init__")
    return _options(module, _parameters(constructor)[1:], documents) if constructor else {}


def method_options(file: str, name: str, method: str) -> dict[str, Option]:
    """Options of one method of a class; none where the class itself does not define it."""
    function = _function(_class(file, name), method)
    if function is None:
        return {}
    return _options(_source(file), _parameters(function)[1:], _table(ast.get_docstring(function) or ""))


def function_options(file: str, name: str) -> dict[str, Option]:
    """Options of a function at the top of a file."""
    function = _function(_source(file), name)
    assert function is not None
    return _options(_source(file), _parameters(function), _table(ast.get_docstring(function) or ""))


def class_constant(file: str, name: str, constant: str) -> Any:
    """Value of a constant in the body of a class, e.g. a codec's suffix."""
    return ast.literal_eval(_assigned(_class(file, name), constant))


def constant(file: str, name: str) -> Any:
    """Value of a constant at the top of a file."""
    return _value(_assigned(_source(file), name), _source(file))


def takes_model(file: str, name: str) -> bool:
    """Whether a codec's constructor takes a model."""
    constructor = _function(_class(file, name), "__init__")
    return constructor is not None and any(argument.arg == "model" for argument in constructor.args.args)


@cache
def _source(file: str) -> ast.Module:
    return ast.parse(resource(file).read_text(encoding="utf-8"))


def _class(file: str, name: str) -> ast.ClassDef:
    (found,) = (node for node in _source(file).body if isinstance(node, ast.ClassDef) and node.name == name)
    return found


def _function(owner: ast.Module | ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _parameters(function: ast.FunctionDef) -> list[tuple[str, Any, Any]]:
    """(name, annotation, default or None) of every parameter."""
    args = function.args
    defaults = [*[None] * (len(args.args) - len(args.defaults)), *args.defaults, *args.kw_defaults]
    both = zip([*args.args, *args.kwonlyargs], defaults, strict=True)
    return [(one.arg, one.annotation, default) for one, default in both]


def _options(module: ast.Module, found: list[tuple[str, Any, Any]], documents: dict[str, str]) -> dict[str, Option]:
    """Those parameters that a word can set; a model, say, or a callback cannot be named on a command line."""
    options = {}
    for name, annotation, default in found:
        value = None if default is None else _value(default, module)
        kinds = _kinds(annotation)
        if not kinds and isinstance(value, str):
            kinds = ["str"]  # an alias of a Literal
        if kinds:
            kind = "str" if "str" in kinds else kinds[0]
            text = re.sub(r"\b[A-Z][A-Z_]+\b", lambda word: _spelled_out(word[0], module), documents.get(name, ""))
            options[name] = Option(name, kind, value, text, _choices(annotation))
    return options


def _spelled_out(word: str, module: ast.Module) -> str:
    """The value of a constant that a docstring names; other words in capitals as they are."""
    try:
        value = _value(_assigned(module, word), module)
    except KeyError:
        return word
    return ", ".join(map(str, value)) if isinstance(value, tuple) else shown(value)


def _kinds(node: Any) -> list[str]:
    if isinstance(node, ast.BinOp):
        return _kinds(node.left) + _kinds(node.right)
    if isinstance(node, ast.Name):
        return [node.id] if node.id in KINDS else []
    if isinstance(node, ast.Subscript):
        text = ast.unparse(node)
        return ["str"] if text.startswith("Literal[") else ["dict"] if text == "dict[str, int]" else []
    return []


def _choices(node: Any) -> tuple[str, ...]:
    literals = (n for n in ast.walk(node) if isinstance(n, ast.Subscript) and ast.unparse(n.value) == "Literal")
    return tuple(str(c.value) for literal in literals for c in ast.walk(literal.slice) if isinstance(c, ast.Constant))


def _value(node: ast.expr, module: ast.Module) -> Any:
    """What a default evaluates to, constants of the same file included; its text where it needs more than these."""
    try:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        scope = {name: _value(_assigned(module, name), module) for name in names}
        return eval(compile(ast.Expression(node), "<default>", "eval"), {"__builtins__": {}}, scope)
    except (KeyError, NameError, TypeError):
        return ast.unparse(node)


def _assigned(owner: ast.Module | ast.ClassDef, name: str) -> ast.expr:
    for node in owner.body:
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if node.value is not None and any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return node.value
    raise KeyError(name)


def _table(document: str) -> dict[str, str]:
    """Name -> text of the rows ``name  text`` in a docstring; lines that are indented further go on with a row."""
    rows: dict[str, str] = {}
    names: list[str] = []
    indent = 0
    for line in document.splitlines():
        row = ENTRY.match(line)
        if row and not (names and len(row[1]) > indent):
            indent, names = len(row[1]), row[2].split(", ")
            rows |= dict.fromkeys(names, row[3])
        elif names and line.strip() and len(line) - len(line.lstrip()) > indent:
            rows |= {name: f"{rows[name]} {line.strip()}" for name in names}
        else:
            names = []
    return rows
