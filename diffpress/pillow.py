"""Our files in Pillow: after ``import diffpress.pillow``, Image.open reads and Image.save writes .dfc, .uqdm and .bb.

>>> import diffpress.pillow
>>> image.save("photo.dfc", bpp=0.5)        # doctest: +SKIP
>>> Image.open("photo.dfc").show()          # doctest: +SKIP

Opening reads the header alone: size, ``info["codec"]`` and ``info["segments"]``.  Pixels are decoded on first use, of
as many segments as the attribute `segments` then says, which is the counterpart of draft(): fewer are coarser and
sooner.  Pillow knows no entry points (its pull request 6070 was closed) and imports plug-ins of its own package only:
the import is what registers, as with pillow-heif and pillow-jxl-plugin.  It costs milliseconds, since PyTorch is
imported when the first file is read or written.
"""

from __future__ import annotations

from typing import IO, Any

from PIL import Image, ImageFile

MAGIC = b"\xd1\xf5"
CODECS = {".dfc": "diffc", ".uqdm": "uqdm", ".bb": "bitsback"}


class DiffpressImageFile(ImageFile.ImageFile):
    """A file of ours; `segments`, None for all, may be set before the pixels are first used."""

    format, format_description = "DIFFPRESS", "diffusion model as codec"
    segments: int | None = None

    def _open(self) -> None:
        from .codecs import CodecError, container

        assert self.fp is not None  # Pillow opens before it asks
        self._data = self.fp.read()
        try:
            header, count, _ = container.peek(self._data)
        except CodecError as error:
            raise SyntaxError(str(error)) from error  # Pillow's word for a file that is not of this format
        self._size, self._mode = (header.width, header.height), "RGB"
        self.info |= {"codec": header.codec, "segments": count}

    def load(self) -> Any:
        """Decode, unless that has been done; raises OSError in one sentence where the file cannot be decoded."""
        from .api import decompress
        from .codecs import CodecError
        from .lightning_modules import ModelError

        if self._data:
            try:
                decoded = decompress(self._data, segments=self.segments)
            except (CodecError, ModelError) as error:
                raise OSError(str(error)) from error
            self._data, self.im = b"", decoded.im
            if self._exclusive_fp and self.fp:
                self.fp.close()
        return Image.Image.load(self)


def _save(image: Image.Image, file: IO[bytes], name: str | bytes) -> None:
    from .api import compress
    from .codecs import CodecError
    from .lightning_modules import ModelError

    suffix = "." + (name.decode() if isinstance(name, bytes) else str(name)).rpartition(".")[2].lower()
    try:
        file.write(compress(image, **{"codec": CODECS.get(suffix, "diffc")} | image.encoderinfo))
    except (CodecError, ModelError) as error:
        raise OSError(str(error)) from error


Image.register_open(DiffpressImageFile.format, DiffpressImageFile, lambda start: start.startswith(MAGIC))
Image.register_save(DiffpressImageFile.format, _save)
Image.register_extensions(DiffpressImageFile.format, list(CODECS))
