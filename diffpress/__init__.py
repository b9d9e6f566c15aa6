"""The qualified name of everything in this repository.

A folder called ``codecs`` cannot be imported at top level: the interpreter has loaded the standard library's
``codecs`` before any of our code runs.  In a checkout this package therefore adds the repository root to its own
search path, so that ``diffpress.codecs`` is the folder ``codecs/`` beside it; once installed, setuptools'
``package-dir`` mapping has put the same folders below this one and nothing needs adding.
See docs/decisions/0001-import-name.md.
"""

from pathlib import Path

__version__ = "0.1.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "codecs" / "base.py").is_file():
    __path__.append(str(_checkout))


def resource(relative: str) -> Path:
    """Path of a folder or file that ships with the project, e.g. ``resource("checkpoints/diffc-pixel")``.

    Raises FileNotFoundError, naming the resource, when it is not part of this installation.
    """
    for root in __path__:
        path = Path(root) / relative
        if path.exists():
            return path
    raise FileNotFoundError(f"{relative} does not ship with this installation of diffpress")
