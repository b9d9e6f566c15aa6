"""What is sent: the codec protocol, the file container, and every codec.

>>> from diffpress.codecs import get_codec
>>> codec = get_codec("webp", quality=80)
"""

from .base import Codec, CodecError, Header, Stream, codec_names, get_codec

__all__ = ["Codec", "CodecError", "Header", "Stream", "codec_names", "get_codec"]

# The project's own codecs and the modules that register them, imported on first use: some take seconds to import.
BUILTIN = {
    "bitsback": "bitsback", "diffc": "diffc", "uqdm": "uqdm",
    "avif": "classical", "jpeg": "classical", "jpeg2000": "classical", "jxl": "classical", "png": "classical",
    "webp": "classical",
    "avifenc": "external", "bpg": "external", "hm": "external", "vtm": "external", "vvc": "external",
    "compressai": "learned",
}  # fmt: skip
