"""The shape of the code: imports run one way, none in circles, and no file is longer than 400 lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from helpers import ROOT

# What each folder may import of the project; "commands" is diffpress/commands.
MAY_IMPORT: dict[str, set[str]] = {
    "data": set(),
    "kernels": set(),
    "lightning_modules": {"data", "kernels"},
    "codecs": {"data", "kernels", "lightning_modules"},
    "evaluation": {"data", "kernels", "lightning_modules", "codecs"},
    "commands": {"data", "kernels", "lightning_modules", "codecs", "evaluation"},
}
EXCEPTIONS = {  # file -> folders above its own that it may import all the same
    "lightning_modules/diffc.py": {"codecs", "evaluation"},  # a codec that a Trainer runs and tests on many devices
}
LONGEST = 400


def folder_of(name: str) -> Path:
    return ROOT / "diffpress" / "commands" if name == "commands" else ROOT / name


@cache
def modules() -> dict[str, Path]:
    """Module name, "codecs.diffc.codec" or "commands.compress" (without "diffpress."), to its file."""
    found = {}
    for name in MAY_IMPORT:
        for path in sorted(folder_of(name).rglob("*.py")):
            inside = path.relative_to(folder_of(name)).with_suffix("").parts
            found[".".join((name, *inside)).removesuffix(".__init__")] = path
    return found


def imported(module: str, *, top_level_only: bool) -> Iterator[str]:
    """Names of project modules, or of what is in them, that `module` imports."""
    path = modules()[module]
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
                base = ["diffpress", *package][: len(package) + 2 - node.level]
                start = ".".join([*base, *filter(None, [start])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("diffpress."):
                yield name.removeprefix("diffpress.")


def module_of(name: str) -> str | None:
    """The module that holds what is imported as `name`."""
    parts = name.split(".")
    candidates = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((one for one in candidates if one in modules()), None)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_run_one_way() -> None:
    wrong = []
    for module, path in modules().items():
        own = module.split(".")[0]
        allowed = MAY_IMPORT[own] | {own} | EXCEPTIONS.get(relative(path), set())
        targets = {name.split(".")[0] for name in imported(module, top_level_only=False)} & set(MAY_IMPORT)
        wrong += [f"{relative(path)} imports {target}" for target in sorted(targets - allowed)]
    assert not wrong


def test_every_exception_is_used() -> None:
    by_file = {relative(path): module for module, path in modules().items()}
    for file, targets in EXCEPTIONS.items():
        assert targets <= {name.split(".")[0] for name in imported(by_file[file], top_level_only=False)}


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module in modules():
        targets = {module_of(name) for name in imported(module, top_level_only=True)}
        graph[module] = {one for one in targets if one is not None and one != module}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "benchmarks", "tests"])
def test_files_are_short(folder: str) -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in folder_of(folder).rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_only_the_entropy_coder_imports_constriction() -> None:
    pattern = re.compile(r"(import|from) constriction")
    users = {relative(path) for path in modules().values() if pattern.search(path.read_text())}
    assert users == {"codecs/entropy.py"}
