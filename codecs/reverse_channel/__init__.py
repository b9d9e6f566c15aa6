"""Reverse-channel coders: how one sample of N(mu, I) is sent in about KL bits.

``get_coder("pfr")`` is the Poisson functional representation, chunk by chunk; ``get_coder("trellis")`` codes a whole
step as one codeword.  Equations: docs/method/reverse-channel.md.  Reading order: interface.py, pfr.py or trellis.py,
then what they use: codebook.py and, for PFR, index_code.py.
"""

from __future__ import annotations

from typing import Any

from .interface import CoderError, InputError, PayloadError, ReverseChannelCoder
from .pfr import PfrCoder
from .trellis import TrellisCoder

__all__ = ["CoderError", "InputError", "PayloadError", "ReverseChannelCoder", "coder_names", "get_coder"]

CODERS: dict[str, type[PfrCoder] | type[TrellisCoder]] = {"pfr": PfrCoder, "trellis": TrellisCoder}


def coder_names() -> list[str]:
    """Names that get_coder knows."""
    return list(CODERS)


def get_coder(name: str, **options: Any) -> ReverseChannelCoder:
    """The coder called `name`; options are those of PfrCoder and TrellisCoder.  Raises InputError."""
    if name not in CODERS:
        raise InputError(f"unknown reverse-channel coder {name!r}; available: {', '.join(coder_names())}")
    unknown = sorted(set(options) - set(CODERS[name].__dataclass_fields__))
    if unknown:
        raise InputError(f"the {name} coder has no option {unknown[0]!r}")
    return CODERS[name](**options)
