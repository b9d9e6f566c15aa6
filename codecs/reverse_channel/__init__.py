"""Reverse-channel coders: how one sample of N(mu, I) is sent in about KL bits.

``get_coder("pfr")`` is the Poisson functional representation, chunk by chunk; ``get_coder("trellis")`` codes a whole
step as one codeword.  Both are described in design order by docs/decisions/0010-trellis-coder.md and its neighbours.
"""

from __future__ import annotations

from typing import Any

from .interface import CoderError, InputError, PayloadError, ReverseChannelCoder

__all__ = ["CoderError", "InputError", "PayloadError", "ReverseChannelCoder", "coder_names", "get_coder"]


def coder_names() -> list[str]:
    """Names that get_coder knows."""
    return ["pfr", "trellis"]


def get_coder(name: str, **options: Any) -> ReverseChannelCoder:
    """The coder called `name`; options are those of PfrCoder and TrellisCoder.  Raises InputError."""
    if name == "pfr":
        from . import pfr

        return pfr.make(**options)
    if name == "trellis":
        from . import trellis

        return trellis.make(**options)
    raise InputError(f"unknown reverse-channel coder {name!r}; available: {', '.join(coder_names())}")
