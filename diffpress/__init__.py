"""The qualified name of everything in this repository.

A folder called ``codecs`` cannot be imported at top level: the interpreter has loaded the standard library's
``codecs`` before any of our code runs.  So ``diffpress/codecs`` is a link to the folder ``codecs/`` beside this
package, which Python, pytest, mypy and editors all follow; once installed, a copy of it lies below this folder.
Where git makes no links (Windows without developer mode), the repository's root is added to the search path instead.
See docs/decisions/0001-import-name.md.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import compress, decompress

__all__ = ["compress", "decompress", "resource"]
__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "codecs").is_dir():
    __path__.append(str(_here.parent))


def resource(relative: str) -> Path:
    """Path of a folder or file that ships with the project, e.g. ``resource("checkpoints/diffc-pixel")``.

    Raises FileNotFoundError, naming the resource, when it is not part of this installation.
    """
    for root in __path__:
        path = Path(root) / relative
        if path.exists():
            return path.resolve()
    raise FileNotFoundError(f"{relative} does not ship with this installation of diffpress")


def __getattr__(name: str) -> Any:
    """`compress` and `decompress` on first use, because they bring PyTorch."""
    if name in ("compress", "decompress"):
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
