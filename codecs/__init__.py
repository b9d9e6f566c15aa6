"""What is sent: the codec protocol, the file container, and every codec.

>>> from diffpress.codecs import get_codec
>>> codec = get_codec("webp", quality=80)
"""

from importlib import import_module

from .base import Codec, CodecError, Header, Stream, codec_names, get_codec

__all__ = ["Codec", "CodecError", "Header", "Stream", "codec_names", "get_codec"]

_BUILTIN = ("bitsback", "classical", "diffc", "external", "uqdm")


def load_builtin() -> None:
    """Import the modules that register the project's own codecs (on first use, so that importing stays cheap)."""
    for module in _BUILTIN:
        import_module(f".{module}", __name__)
