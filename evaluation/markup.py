"""Paragraphs and tables as Markdown, and as LaTeX for papers."""

from __future__ import annotations

from collections.abc import Iterable

Row = list[str]
Part = str | list[Row]  # a paragraph, or a table with its head


def markdown(found: Iterable[Part]) -> str:
    """The parts with an empty line between them."""
    lines = []
    for part in found:
        if not isinstance(part, str):
            ruled = [part[0], ["---", *["---:"] * (len(part[0]) - 1)], *part[1:]]
            part = "\n".join("| " + " | ".join(row) + " |" for row in ruled)
        lines.append(part)
    return "\n\n".join(lines) + "\n"


def latex(found: Iterable[Part]) -> str:
    """The same, tables with the rules of the package booktabs."""
    lines = []
    for part in found:
        if not isinstance(part, str):
            head, *rows = [" & ".join(map(_escaped, row)) + " \\\\" for row in part]
            columns = "l" + "r" * (len(part[0]) - 1)
            table = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", head, "\\midrule", *rows]
            lines.append("\n".join([*table, "\\bottomrule", "\\end{tabular}"]))
        else:
            lines.append(_escaped(part))
    return "\n\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join({"\\": "\\textbackslash{}"}.get(c, "\\" + c if c in "%&_#${}" else c) for c in text)
