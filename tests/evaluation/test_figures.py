"""Figures in README and docs are those of the JSON files in docs/results, which say by which command they were made.

A table is held to them by a comment before it, on a line of its own: ``<!-- figures: docs/results/kodak.json -->``, a
path from the root or from the page's own folder, with wildcards where several files are meant.  It holds up to the next
such comment; ``<!-- figures: none -->`` ends it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT

NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d[\d,]*)?\.?\d+(?![\w])")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def marked_rows(page: Path) -> Iterator[tuple[str, str]]:
    """(pattern of the marker, line) of every body row of a table under a marker."""
    pattern, header = "none", True
    for line in page.read_text().splitlines():
        found = re.fullmatch(r"<!-- figures: (.+?) -->", line.strip())
        if found:
            pattern = found[1]
        if not line.startswith("|"):
            header = True
        elif re.fullmatch(r"[|\s:-]+", line):
            header = False
        elif not header and pattern != "none":
            yield pattern, line


def rows_of(data: Any) -> Iterator[list[float]]:
    """The numbers of every object in `data` that names a codec, in their order."""
    if isinstance(data, dict) and "codec" in data:
        yield list(numbers_of(data))
    elif isinstance(data, (dict, list)):
        for value in data.values() if isinstance(data, dict) else data:
            yield from rows_of(value)


def numbers_of(data: Any) -> Iterator[float]:
    if isinstance(data, (dict, list)):
        for value in data.values() if isinstance(data, dict) else data:
            yield from numbers_of(value)
    elif isinstance(data, (int, float)) and not isinstance(data, bool):
        yield float(data)


def written(line: str) -> list[str]:
    """The figures of a row: of the cells that begin with one; "(22 of 24 images)" counts as 22."""
    cells = [cell.strip(" *").replace("−", "-") for cell in line.strip().strip("|").split("|")[1:]]
    figures = [re.sub(r" of [\d,]+", "", cell) for cell in cells if re.match(r"[+-]?[.\d]", cell)]
    return [text.replace(",", "") for cell in figures for text in NUMBER.findall(cell)]


def agrees(line: str, numbers: list[float]) -> bool:
    """Whether the row's numbers are among `numbers`, in their order, to the digits that are written."""
    rest = iter(numbers)
    for text in written(line):
        digits = len(text.partition(".")[2])
        allowed = 0.5001 * 10.0**-digits  # a figure rounded twice may end on a tie
        if not any(abs(float(text) - value) <= allowed for value in rest):
            return False
    return True


def files_of(page: Path, pattern: str) -> list[Path]:
    return sorted(ROOT.glob(pattern)) or sorted(page.parent.glob(pattern))


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- figures: " in page.read_text()], ids=lambda p: p.name)
def test_tables_are_those_of_the_results(page: Path) -> None:
    wrong = []
    for pattern, line in marked_rows(page):
        files = files_of(page, pattern)
        assert files, f"{page.name}: there is no {pattern}"
        rows = [row for file in files for row in rows_of(json.loads(file.read_text()))]
        if not any(agrees(line, row) for row in rows):
            wrong.append(line)
    assert wrong == []


def test_result_pages_are_held_to_their_figures_which_name_their_command() -> None:
    pages = [page for page in (ROOT / "docs" / "results").glob("*.md") if "<!-- figures: " in page.read_text()]
    assert len(pages) >= 4
    for page in pages:
        patterns = {pattern for pattern, _ in marked_rows(page)}
        assert patterns, page.name
        for file in [file for pattern in patterns for file in files_of(page, pattern)]:
            assert "evaluate.py" in json.loads(file.read_text())["command"], file.name


def test_a_wrong_figure_is_found() -> None:
    row = {"codec": "x", "rates": [{"bpp": 0.1, "psnr-rgb": 28.054}, {"bpp": 0.25, "psnr-rgb": 30.672}]}
    (numbers,) = rows_of({"per_image": [row]})
    assert agrees("| x | 28.05 | 30.7 |", numbers)
    assert not agrees("| x | 28.06 | 30.7 |", numbers)
    assert not agrees("| x | 30.7 | 28.05 |", numbers)  # columns exchanged
    assert written("| a 4:4:4 | quality=5 | **-12.6 %** (22 of 24 images) | 1,234 |") == ["-12.6", "22", "1234"]
