"""The shipped prior's denoiser (denoiser.py) as a network for UQDM: eps_hat and, optionally, a scale per sample.

Same calls as score_net.ScoreNet.  It can start from a trained denoiser: what is added to that network changes nothing
at first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..identity import ModelError, read_json
from .denoiser import Denoiser
from .score_net import DATA_STD, detail_features, karras_eps, positive_scale


@dataclass
class DenoiserConfig:
    """Shape of the network; see denoiser.Denoiser.

    widths    channels at 1/2, 1/4, 1/8, ... of the image's resolution
    blocks    residual blocks per resolution, on the way down and again on the way up; one number or one for each
    embedding width of the noise-level features
    refined   channels at full resolution, at least 3
    """

    n_channels: ClassVar[int] = 3
    widths: tuple[int, ...] = (64, 80, 112, 144)
    blocks: int | tuple[int, ...] = 2
    embedding: int = 128
    refined: int = 32

    def __post_init__(self) -> None:
        self.widths = tuple(self.widths)  # a list where it comes from JSON


def noise_features(z: Tensor, log_snr: Tensor) -> Tensor:
    """[B, 15, H, W]: where z [B, 3, H, W] lies within its surroundings, in units of the noise, compressed by asinh.

    A step's noise is almost uniform, so that a flat region's value is known best from the largest and the smallest z
    in it: the error of their mean falls with the number of pixels, not with its root.
    """
    sigma = torch.sigmoid(-log_snr).sqrt()[:, None, None, None]
    features = [detail_features(z, log_snr)]
    high, low = z, -z
    for _ in range(2):  # 3 x 3 and 5 x 5 pixels
        high, low = F.max_pool2d(high, 3, 1, 1), F.max_pool2d(low, 3, 1, 1)
        features += [torch.asinh((z - (high - low) / 2.0) / sigma), torch.asinh((high + low) / (2.0 * sigma))]
    return torch.cat(features, dim=1)


class ScaledDenoiser(nn.Module):
    """(eps_hat, scale) from the trunk of a :class:`Denoiser`, refined at full resolution.

    The trained denoiser takes noise for Gaussian.  UQDM's is almost uniform, hence bounded: |eps| < sqrt(3).  What the
    estimate can gain from that happens at single pixels: the stem also sees `noise_features`, and three convolutions
    at full resolution correct eps_hat, which says how far each pixel lies from its estimate in units of the noise.
    """

    def __init__(self, config: DenoiserConfig, predict_scale: bool) -> None:
        super().__init__()
        self.config = config
        self.predict_scale = predict_scale
        self.denoiser = Denoiser(config.widths, config.blocks, config.embedding)
        width, refined = config.widths[0], config.refined
        stem = nn.Conv2d(72, width, 3, padding=1)
        with torch.no_grad():
            stem.weight[:, :12] = self.denoiser.stem.weight
            stem.weight[:, 12:] = 0.0
        head = nn.Conv2d(width, 4 * (3 + refined), 3, padding=1)
        with torch.no_grad():
            head.weight[:24] = 0.0  # the estimate and the scale
            head.bias.zero_()  # type: ignore[union-attr]
        self.denoiser.stem, self.denoiser.head = stem, head
        self.refine_stem = nn.Conv2d(18 + refined, refined, 3, padding=1)
        self.refine_inner = nn.Conv2d(refined, refined, 3, padding=1)
        self.refine_head = nn.Conv2d(refined, 6 if predict_scale else 3, 3, padding=1)
        nn.init.zeros_(self.refine_head.weight)
        nn.init.zeros_(self.refine_head.bias)  # type: ignore[arg-type]

    @property
    def multiple(self) -> int:
        """Height and width that forward accepts are multiples of this."""
        return 2 ** len(self.config.widths)

    def first_and_last_layers(self) -> list[nn.Module]:
        """The layers that touch pixels, which Muon must not train."""
        return [*self.denoiser.first_and_last_layers(), self.refine_stem, self.refine_head]

    def load_denoiser(self, folder: Path) -> None:
        """Take over the weights of the Denoiser in `folder`; ModelError if its shape differs or they are damaged."""
        theirs, ours = read_json(folder / "config.json"), asdict(self.config)
        del ours["refined"]
        if any(theirs.get(name) != json.loads(json.dumps(value)) for name, value in ours.items()):
            raise ModelError(f"{folder} holds no denoiser of the network's shape ({self.config})")
        own, trained = self.denoiser.state_dict(), Denoiser.load(folder)
        with torch.no_grad():
            for name, value in trained.state_dict().items():
                if name.startswith(("down.", "up.")):
                    continue
                target = own[name]  # the new channels of stem and head come last
                (target[:, : value.shape[1]] if name == "stem.weight" else target[: len(value)]).copy_(value)
        for name, block in trained.blocks().items():
            self.denoiser.get_submodule(name).take_over(block)  # type: ignore[operator]

    def forward(self, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor | None]:
        """(eps_hat, scale) of variance-preserving z [B, 3, H, W] at log_snr [B]; H, W multiples of `multiple`.

        Both have the shape of z; scale > 0, or None for a network that does not predict it.
        """
        # what Denoiser.forward gives its trunk: x + noise n at unit variance
        noise = torch.exp(-0.5 * log_snr)[:, None, None, None]
        unit = z * torch.sqrt((1.0 + noise**2) / (noise**2 + DATA_STD**2))
        features = noise_features(z, log_snr)
        h = self.denoiser.trunk(torch.cat([unit, features], dim=1), log_snr)
        eps = karras_eps(z, h[:, :3], log_snr)
        hidden = F.relu(self.refine_stem(torch.cat([eps, features, h[:, 3:]], dim=1)))
        change = self.refine_head(F.relu(hidden + self.refine_inner(hidden)))
        eps = eps + change[:, :3]
        return eps, positive_scale(h[:, 3:6] + change[:, 3:]) if self.predict_scale else None
