"""Optional: an editor resolves its imports where the package is not installed, too."""

from typing import Any

def __getattr__(name: str) -> Any: ...
