"""The demo's photograph ships with the project."""

from __future__ import annotations

import hashlib

from diffpress.commands.demo import photo


def test_the_photo_is_part_of_the_project() -> None:
    picture = photo()
    assert picture.shape == (3, 256, 256)
    # the pixels of skimage.data.astronaut()[:256, 100:356], from which the README's picture was made
    assert hashlib.sha256(picture.numpy().tobytes()).hexdigest().startswith("339be8cb22dd2a86")
