"""Options read from source text are those that Python sees once the code is imported, and help says their defaults."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from diffpress.codecs import codec_names
from diffpress.codecs.registry import MODEL_CODECS, codec_class
from diffpress.codecs.targets import CODECS_WITH_TARGETS, encode_to
from diffpress.commands import calibrate, cli_reference, compress, decompress
from diffpress.commands.command_line import CommandLine
from diffpress.commands.errors import UsageError
from diffpress.commands.options import DECODING, Option, codec_options, codec_places, loading_options
from diffpress.lightning_modules import LOADING
from helpers import ROOT

NOT_WORDS = {"self", "image", "model", "schedules", "progress", "options", "focus"}  # what no word can name


def visible(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> default; None for one without."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: None if one.default is one.empty else one.default for one in parameters}


def test_every_codec_has_its_place() -> None:
    assert sorted(codec_places()) == codec_names()


@pytest.mark.parametrize("name", codec_names())
def test_options_are_those_of_the_imported_codec(name: str) -> None:
    read, cls = codec_options(name), codec_class(name)
    assert read.suffix == cls.suffix  # type: ignore[attr-defined]
    assert read.takes_model == ("model" in visible(cls)) == (name in MODEL_CODECS)
    for options, function in ((read.constructor, cls), (read.encode, cls.encode)):  # type: ignore[attr-defined]
        if function is not cls and function.__qualname__.partition(".")[0] != cls.__name__:
            assert not options  # inherited: the classical codecs' encode takes the constructor's options
            continue
        expected = {key: value for key, value in visible(function).items() if key not in NOT_WORDS}
        if name in CODECS_WITH_TARGETS and function is cls.encode:
            expected |= {key: value for key, value in visible(encode_to).items() if key not in {*NOT_WORDS, "codec"}}
        assert {key: one.default for key, one in options.items()} == expected


@pytest.mark.parametrize("name", codec_names())
def test_help_says_each_default_and_each_row_of_the_docstring(name: str) -> None:
    page = cli_reference.section(compress.parser()).replace("\\_", "_")
    for key, one in codec_options(name).constructor.items():
        if key in (*DECODING, "config"):
            continue
        assert one.help, f"{name} does not document {key}"
        assert f"`--{key.replace('_', '-')}`" in page
        if one.default not in (None, True, False):
            shown = f"{one.default:g}" if isinstance(one.default, float) else one.default
            assert f"(default: {shown})" in page


def test_constants_in_docstrings_are_spelled_out() -> None:
    from diffpress.codecs.baselines.compressai import ARCHITECTURES

    assert ", ".join(ARCHITECTURES) in codec_options("compressai").constructor["architecture"].help


def test_loading_options_are_those_of_load_model() -> None:
    assert set(loading_options()) == set(LOADING)
    assert all(one.help for one in loading_options().values())


def test_calibrate_has_the_options_of_its_function() -> None:
    names = set(visible(calibrate.write_calibration)) - {"loading"}
    assert names | set(loading_options()) | {"config"} == set(calibrate.parser().options)


@pytest.mark.parametrize("module", [compress, decompress, calibrate])
def test_help_starts_with_examples_and_common_options(module: Any) -> None:
    parser: CommandLine = module.parser()
    text = parser.format_help()
    assert len(parser.examples) == 3
    assert text.index("examples:") < text.index("common options:") < text.index("loading")
    assert len(parser.groups["common options"]) <= 10


def test_reference_page_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == cli_reference.reference(), "python -m diffpress.commands.cli_reference > docs/cli.md"


@pytest.mark.parametrize("words", [["--help"], [], ["--nonsense"], ["photo.png", "--codec", "webp", "--bpp", "1"]])
@pytest.mark.parametrize("command", ["compress", "decompress", "calibrate", "evaluate"])
def test_help_and_wrong_words_do_not_import_pytorch(command: str, words: list[str]) -> None:
    if command != "compress" and len(words) > 1:
        words = [words[0], "--bpp", "1"]  # an option of the other command
    code = f"""
import sys
from diffpress.commands.{command} import main
try:
    status = main({words})
except SystemExit as end:
    status = end.code or 0
raise SystemExit(status + 10 * ("torch" in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if words == ["--help"] else 2), done.stderr


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int", "7", 7), ("int", 7, 7), ("float", "0.5", 0.5), ("float", 1, 1.0), ("number", "7", 7),
        ("number", "7.5", 7.5), ("str", 54, "54"), ("bool", True, True), ("dict", "{fast: 3}", {"fast": 3}),
        ("dict", {"fast": 3}, {"fast": 3}),
    ],
)  # fmt: skip
def test_words_and_yaml_values_become_parameters(kind: str, value: Any, expected: Any) -> None:
    found = Option("x", kind).convert(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("int", "7.5", "a whole number"), ("int", True, "a whole number"), ("float", "x", "a number"),
        ("number", "x", "a number"), ("bool", "yes", "true or false"), ("str", [1], "a text"),
        ("dict", "{fast: x}", "whole numbers"), ("dict", "[", "whole numbers"),
    ],
)  # fmt: skip
def test_other_values_are_refused_in_a_sentence(kind: str, value: Any, what: str) -> None:
    with pytest.raises(UsageError, match=f"--x takes .*{what}"):
        Option("x", kind).convert(value)
    with pytest.raises(UsageError, match="one of a, b"):
        Option("x", "str", choices=("a", "b")).convert("c")
