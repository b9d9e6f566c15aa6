"""Points for which no file exists: what an ideal coder would need, what a model estimates, what an autoencoder allows.

They are marked in every table and figure, and belong to no rate-distortion curve of files.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..codecs import Codec
from ..codecs.base import Estimating, IdealCoding
from ..codecs.diffc.ideal import autoencoder_bound
from ..lightning_modules.priors.interface import Prior
from .metrics import ExtraMetric, score
from .records import BOUND, Measurement, sentence


@runtime_checkable
class OnPrior(Protocol):
    """A codec on a diffusion model."""

    @property
    def prior(self) -> Prior: ...


def hypothetical_points(
    codec: Codec, image: Tensor, measured: Sequence[Measurement], extra: Mapping[str, ExtraMetric]
) -> list[Measurement]:
    """The points that `codec` allows beside the `measured` ones of uint8 `image` [3, H, W]; a failure is one of them.

    IdealCoding          what an ideal coder would need for the measured prefixes, and their quality then
    Estimating           the bits that the model's estimate gives each segment, at the measured prefixes' quality
    OnPrior, on latents  the quality of its autoencoder alone, which no rate exceeds
    """
    points: list[Measurement] = []
    good = [point for point in measured if not point.error]
    try:
        if isinstance(codec, Estimating):
            points += _estimates(codec, image, good)
        if isinstance(codec, IdealCoding):
            points += _ideal_coder(codec, image, good, extra)
        if isinstance(codec, OnPrior) and not codec.prior.lossless:
            points.append(Measurement(BOUND, scores=score(autoencoder_bound(codec.prior, image), image, extra)))
    except Exception as error:  # whatever fails here, the measured points stand
        points.append(Measurement("hypothetical", error=sentence(error)))
    return [
        Measurement(p.point, "", p.num_bytes, p.bpp, p.scores, segments=p.segments, lossless=p.lossless,
                    hypothetical=True, error=p.error) for p in points
    ]  # fmt: skip


def _estimates(codec: Estimating, image: Tensor, measured: Sequence[Measurement]) -> list[Measurement]:
    bits = list(itertools.accumulate(codec.measure(image)[1]))
    pixels = image.shape[1] * image.shape[2]
    points = []
    for point in measured:
        count = len(bits) if point.lossless else point.segments  # a file may have fewer
        if 1 <= count <= len(bits):
            needed, point = bits[count - 1], replace(point, point=f"estimate for {point.point}", segments=count)
            points.append(replace(point, file="", num_bytes=needed / 8, bpp=needed / pixels))
    return points


def _ideal_coder(
    codec: IdealCoding, image: Tensor, measured: Sequence[Measurement], extra: Mapping[str, ExtraMetric]
) -> list[Measurement]:
    lossy = {point.segments for point in measured if not point.lossless}
    counts = sorted(k for k in lossy if k >= 1)
    if not counts:
        return []
    points, pixels = [], image.shape[1] * image.shape[2]
    for ideal in codec.ideal_curve(image, counts, lossless=any(point.lossless for point in measured)):
        name, scores = f"ideal coder, {ideal.segments} steps", score(ideal.image, image, extra)
        points.append(Measurement(name, "", ideal.bits / 8, ideal.bits / pixels, scores, segments=ideal.segments))
    return points
