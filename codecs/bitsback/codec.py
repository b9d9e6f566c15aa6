"""Bits-back coding with ANS (Townsend et al. 2019) over the latents of a diffusion model (Kingma et al. 2021,
appendix C): lossless files as long as the model's negative ELBO.

DiffC pays for samples of the latents; bits-back coding gets them for free.  The sender draws them with bits that the
stack of an ANS coder already holds, which the receiver gets back once it knows the image.  The image is cut into tiles,
coded a few at a time on the same stack; segment.py has the order of things.  One segment; no prefix of it decodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...lightning_modules.priors.interface import Prior
from ...lightning_modules.priors.pixel import PixelPrior
from ..base import CodecError, Header, Stream, check_image, check_model
from ..threads import reproducible
from .gaussians import CountingStack
from .segment import BitsBackParameters, Progress, best_tile, decode_segment, encode_segment, measure, push_tiles

PRESETS = {"fast": (20, 1), "default": (40, 1), "best": (80, 4)}  # timesteps, orientations


class BitsBack:
    """Lossless codec over a pixel-space prior.

    model     a prior that works on pixels, see diffpress.lightning_modules.load_model
    preset    "fast", "default" or "best": 20, 40 or 80 timesteps, each a pass of the network both ways; "best" also
              averages four orientations of the picture, so it takes 16 times as long as "fast"; None: "default"
    tile      side of the tiles in pixels, a multiple of 16 up to 4080, for a picture made of smaller ones of that
              height: the rows sent as WebP are then a multiple of it, too; None: what suits the image's size
    """

    name = "bitsback"
    suffix = ".bb"
    lossless = True  # see codecs.base.Lossless

    def __init__(self, model: Prior, preset: str | None = None, tile: int | None = None) -> None:
        if not isinstance(model, PixelPrior):
            raise CodecError("bits-back coding needs a model that works on pixels, and this one works on latents")
        if preset is not None and preset not in PRESETS:
            raise CodecError(f"unknown preset {preset!r}; bitsback has {', '.join(PRESETS)}")
        if tile is not None and (tile % 16 or not 16 <= tile <= 255 * 16):
            raise CodecError("the side of a tile must be a multiple of 16 between 16 and 4080")
        self.prior, self.tile = model, tile
        self.steps, self.orientations = PRESETS[preset or "default"]
        self.fingerprint = model.fingerprint

    def encode(
        self, image: Tensor, *, lossless: bool = True, bpp: float | None = None, segments: int | None = None,
        progress: Progress | None = None,
    ) -> Stream:
        """The stream of uint8 `image` [3, H, W].

        lossless  there is no other mode
        bpp       refused: the rate is the model's
        segments  only 1: such a file has one segment
        progress  called with (tiles done, tiles in all)
        Raises CodecError.
        """
        check_image(image)
        if bpp is not None or segments not in (None, 1):
            raise CodecError("bitsback has one lossless segment; it takes neither --bpp nor --segments")
        parameters = self._parameters(image)
        header = Header(self.name, image.shape[1], image.shape[2], self.fingerprint, parameters.to_bytes())
        with reproducible(self.prior.device) as workers, torch.inference_mode():
            chain = parameters.chain(self.prior, workers)
            return Stream(header, (encode_segment(image.cpu().numpy(), chain, parameters, self.tile or 1, progress),))

    def nelbo(self, image: Tensor) -> float:
        """Negative ELBO of uint8 `image` [3, H, W] under the model, in bits: an estimate from one draw of the latents.

        What a file would take without header, side information and the rows sent as WebP.  Raises CodecError.
        """
        pixels = check_image(image).cpu().numpy()
        parameters = self._parameters(image)
        with reproducible(self.prior.device) as workers, torch.inference_mode():
            chain = parameters.chain(self.prior, workers)
            tiles = [pixels[:, rows, columns] for rows, columns in parameters.tiles(0, pixels.shape[1:])]
            side, model = measure(chain, tiles)
            stack = CountingStack()
            for begin in range(0, len(tiles), parameters.group):
                push_tiles(stack, chain, side, model, tiles[begin : begin + parameters.group])
            return stack.bits

    def decode(self, stream: Stream, *, segments: int | None = None, progress: Progress | None = None) -> Tensor:
        """uint8 [3, H, W]; raises CodecError: another model's stream, damage, another machine's arithmetic, ...

        segments  only 1: such a file has one segment
        progress  called with (tiles done, tiles in all)
        """
        header = stream.header
        check_model(header, self.name, self.fingerprint)
        if len(stream.segments) != 1 or segments == 0:
            raise CodecError("a bitsback file is one segment and decodes only as a whole")
        parameters = BitsBackParameters.from_bytes(header.params)
        with reproducible(self.prior.device) as workers, torch.inference_mode():
            chain = parameters.chain(self.prior, workers)
            size = (header.height, header.width)
            return torch.from_numpy(decode_segment(stream.segments[0], size, chain, parameters, progress))

    def _parameters(self, image: Tensor) -> BitsBackParameters:
        tile = self.tile or best_tile(image.shape[1] * image.shape[2])
        double = not self.prior.exact and self.prior.double() is not None
        return BitsBackParameters(self.steps, tile, double=double, orientations=self.orientations)
