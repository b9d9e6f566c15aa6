"""What is sent: the codec protocol, the file container, and every codec.

>>> from diffpress.codecs import get_codec
>>> codec = get_codec("webp", quality=80)
"""

from .base import Codec, CodecError, Header, Stream
from .registry import codec_names, get_codec

__all__ = ["Codec", "CodecError", "Header", "Stream", "codec_names", "get_codec"]
