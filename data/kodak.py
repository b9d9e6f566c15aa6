"""The Kodak set: 24 photos of 768 x 512 or 512 x 768 pixels, which files they are, and fetching them.

Evaluation only: nothing here is ever trained on.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .images import ImageError, write_file

URL = "https://r0k.us/graphics/kodak/kodak/"

# names and SHA-256 of the files, as the program sha256sum writes and checks them
_MANIFEST = Path(__file__).with_name("kodak.sha256").read_text().split()
SHA256 = dict(zip(_MANIFEST[1::2], _MANIFEST[::2], strict=True))


def find_images(data_dir: str | Path) -> list[Path]:
    """The 24 files in order, in `data_dir`/kodak or `data_dir` itself.  Raises ImageError naming what is missing.

    Only presence is checked here; :func:`verify` compares contents.
    """
    data_dir = Path(data_dir)
    for folder in (data_dir / "kodak", data_dir):
        if any((folder / name).is_file() for name in SHA256):
            missing = [name for name in SHA256 if not (folder / name).is_file()]
            if missing:
                raise ImageError(f"{folder}: {len(missing)} of the 24 Kodak images are missing, first {missing[0]}")
            return [folder / name for name in SHA256]
    raise ImageError(
        f"{data_dir}: no Kodak images here; fetch them with "
        f"'python -m diffpress.commands.data download-kodak --data-dir {data_dir}' or name another --data-dir"
    )


def verify(folder: Path) -> list[str]:
    """Names of the files in `folder` that are missing or differ from the manifest."""
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("kodim*.png")}
    return [name for name, known in SHA256.items() if there.get(name) != known]


def download(
    data_dir: str | Path, url: str = URL, progress: Callable[[str], None] = lambda line: None, timeout: float = 30.0
) -> int:
    """Fetch the missing or damaged files into `data_dir`/kodak; returns how many were fetched.

    Raises ImageError when the network is closed or a file is not the one of the manifest.
    """
    folder = Path(data_dir) / "kodak"
    wanted = verify(folder)
    for number, name in enumerate(wanted, 1):
        try:
            with urllib.request.urlopen(url + name, timeout=timeout) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ImageError(
                f"{url + name} cannot be fetched ({getattr(error, 'reason', None) or error}); where the network is "
                f"closed, copy kodim01.png .. kodim24.png into {folder} by hand"
            ) from None
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise ImageError(f"{url + name} is not the Kodak image of the manifest (SHA-256 differs)")
        write_file(folder / name, content)
        progress(f"{name}, {number} of {len(wanted)}")
    return len(wanted)
