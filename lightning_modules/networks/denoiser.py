"""A small noise-conditional denoiser for whole photos on a laptop: the network behind the shipped DiffC prior.

Fully convolutional U-Net on a 2 x 2 space-to-depth stem: nearly all work happens at half resolution and below, where a
3 x 3 convolution costs a quarter and reaches twice as far.  No attention and no normalisation, so that a photo can be
denoised whole or in overlapping tiles with the same result.  What is learned about the training of it lives in
lightning_modules/denoiser.py; why it looks like this is in docs/decisions/0003-denoiser.md.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..identity import ModelError, read_json

Network = TypeVar("Network")
WEIGHTS = "diffusion_pytorch_model.safetensors"
SIGMA_DATA = 0.5  # standard deviation of natural images in [-1, 1], for the preconditioning of Karras et al. 2022
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "silu": F.silu, "gelu": F.gelu}


def save_network(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write configuration and weights as diffusers does into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {name: value.cpu().contiguous() for name, value in tensors.items()}
    save_file(state, folder / WEIGHTS, {"format": "pt"})


def load_network(folder: Path, build: Callable[[Any, dict[str, Tensor]], Network]) -> Network:
    """What `build` makes of the configuration and the weights in `folder`; raises ModelError."""
    config = read_json(folder / "config.json")
    try:
        # not load_file, whose tensors change with the file while they are used
        return build(config, load((folder / WEIGHTS).read_bytes()))
    except FileNotFoundError:
        raise ModelError(f"{folder} has no weights ({WEIGHTS})") from None
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder}: configuration or weights are damaged ({reason})") from error


class NoiseEmbedding(nn.Module):
    """log-SNR [B] -> features [B, width]: Fourier features of the log-SNR, then two layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * torch.arange(1, 9) / 32, persistent=False)
        self.layers = nn.Sequential(nn.Linear(17, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, log_snr: Tensor) -> Tensor:
        """Features [B, width] of log_snr [B]."""
        phase = log_snr[:, None] * self.frequencies.to(log_snr)
        return self.layers(torch.cat([log_snr[:, None] / 8, phase.sin(), phase.cos()], dim=1))


class Block(nn.Module):
    """Residual pair of 3 x 3 convolutions, (conv, scale and shift, activation, conv) beside the identity.

    The noise level scales and shifts the `width` channels between them (FiLM, Perez et al. 2018).
    """

    def __init__(self, channels: int, embedding: int, width: int, activation: str = "relu") -> None:
        super().__init__()
        self.activation = activation
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.normal_(self.conv_out.weight, std=0.1 / math.sqrt(9 * width))
        self.conv_out.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """[B, channels, H, W] from h of that shape and the features of the noise level, embedding [B, width]."""
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = ACTIVATIONS[self.activation](torch.addcmul(shift, self.conv_in(h), 1 + scale))
        return self.conv_out(hidden).add_(h)

    def narrowed(self, keep: Tensor) -> Block:
        """A block with only those channels between the convolutions of which `keep` [width] is true."""
        block = Block(self.conv_in.in_channels, self.film.in_features, int(keep.sum()), self.activation)
        block.conv_in.load_state_dict({name: value[keep] for name, value in self.conv_in.state_dict().items()})
        twice = torch.cat([keep, keep])
        block.film.load_state_dict({name: value[twice] for name, value in self.film.state_dict().items()})
        block.conv_out.load_state_dict(self.conv_out.state_dict() | {"weight": self.conv_out.weight[:, keep]})
        return block

    @torch.no_grad()
    def take_over(self, other: Block) -> None:
        """Compute what `other` does, which is as wide or narrower; channels it has not act on nothing until trained."""
        count = other.conv_in.out_channels
        ours, theirs = self.state_dict(), other.state_dict()  # whose tensors are the parameters' own
        for name in ("conv_in.weight", "conv_in.bias"):
            ours[name][:count] = theirs[name]
        for name in ("film.weight", "film.bias"):
            for own, part in zip(ours[name].chunk(2), theirs[name].chunk(2), strict=True):
                own[:count] = part
        ours["conv_out.weight"][:, :count], ours["conv_out.weight"][:, count:] = theirs["conv_out.weight"], 0.0
        ours["conv_out.bias"].copy_(theirs["conv_out.bias"])


class Denoiser(nn.Module):
    """x0_hat = denoiser(z, log_snr) for variance-preserving z, preconditioned as by Karras et al. 2022.

    Saved as diffusers saves its models, by our own few lines: importing diffusers takes longer than decoding a photo.

    widths     channels at 1/2, 1/4, 1/8, ... of the image's resolution
    blocks     residual blocks per resolution, on the way down and again on the way up; one number or one for each
    embedding  width of the noise-level features
    activation relu, silu or gelu between the two convolutions of a block
    A trained network may have lost channels inside its blocks (`narrowed`); how many are left, its weights tell.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 96, 128, 160),
        blocks: int | Sequence[int] = 2,
        embedding: int = 128,
        activation: str = "relu",
    ) -> None:
        """Raises ModelError if `blocks` has another length than `widths`, or for an unknown activation."""
        super().__init__()
        counts = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
        if len(counts) != len(widths):
            raise ModelError(f"{len(counts)} numbers of blocks for {len(widths)} resolutions")
        if activation not in ACTIVATIONS:
            raise ModelError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        shape = {"blocks": blocks if isinstance(blocks, int) else counts, "embedding": embedding}
        self.config: dict[str, Any] = {"_class_name": "Denoiser", **shape, "widths": list(widths)}
        if activation != "relu":  # absent means relu: the configurations of older models stay as they are
            self.config["activation"] = activation
        self.embed = NoiseEmbedding(embedding)
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        levels = list(zip(widths, counts, strict=True))

        def stack(width: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, embedding, width, activation) for _ in range(count))

        self.down = nn.ModuleList(stack(width, count) for width, count in levels)
        self.up = nn.ModuleList(stack(width, count) for width, count in levels[:-1])
        pairs = list(itertools.pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.head = nn.Conv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        self.head.bias.data.zero_()  # type: ignore[union-attr]

    @property
    def multiple(self) -> int:
        """Height and width that forward accepts are multiples of this."""
        return 2 ** len(self.down)

    @property
    def activation(self) -> str:
        """What stands between the two convolutions of a block."""
        return self.config.get("activation", "relu")

    def first_and_last_layers(self) -> list[nn.Module]:
        """The layers that touch pixels, which Muon must not train."""
        return [self.stem, self.head]

    def blocks(self) -> dict[str, Block]:
        """The residual blocks by name."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Block)}

    def narrowed(self, keep: Mapping[str, Tensor]) -> Denoiser:
        """A network whose blocks have only the channels that `keep` names, as Block.narrowed."""
        network = copy.deepcopy(self)
        for name, block in self.blocks().items():
            network.set_submodule(name, block.narrowed(keep[name]))
        return network

    def deepened(self, blocks: int | Sequence[int]) -> Denoiser:
        """A network with `blocks` per resolution, no fewer than here, that computes the same until it is trained.

        Raises ModelError where there would be fewer.
        """
        deeper = Denoiser(self.config["widths"], blocks, self.config["embedding"], self.activation)
        own, blocks_there = self.blocks(), deeper.blocks()
        if not own.keys() <= blocks_there.keys():
            raise ModelError(f"a network of {self.config['blocks']} blocks cannot become one of {blocks}")
        for name, block in blocks_there.items():
            if name in own:
                deeper.set_submodule(name, copy.deepcopy(own[name]))
            else:
                nn.init.zeros_(block.conv_out.weight)
        deeper.load_state_dict(self.state_dict(), strict=False)
        return deeper

    def save(self, folder: Path) -> None:
        """Write configuration and weights into `folder`, which is made."""
        save_network(folder, self.config, self.state_dict())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The network that was saved into `folder`; raises ModelError."""
        return load_network(folder, cls.of_state)

    @classmethod
    def of_state(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """The network of the weights `state`, by name; raises what torch does where they are of another shape."""
        network = cls(config["widths"], config["blocks"], config["embedding"], config.get("activation", "relu"))
        for name, block in network.blocks().items():
            channels, width = state[f"{name}.conv_out.weight"].shape[:2]
            if width != channels:
                narrow = Block(block.conv_in.in_channels, config["embedding"], width, network.activation)
                network.set_submodule(name, narrow)
        network.load_state_dict(state)
        return network

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """x0_hat [B, 3, H, W] in about [-1, 1] from z [B, 3, H, W] and log_snr [B]; H, W multiples of `multiple`."""
        # c_skip, c_out and c_in of Karras et al. 2022, table 1, for their sigma = exp(-log_snr / 2)
        noise = torch.exp(-0.5 * log_snr)[:, None, None, None]
        y = z * torch.sqrt(1 + noise**2)  # x + noise * n
        variance = noise**2 + SIGMA_DATA**2
        residual = self.trunk(y / variance.sqrt(), log_snr)
        return SIGMA_DATA**2 / variance * y + noise * SIGMA_DATA / variance.sqrt() * residual

    def trunk(self, h: Tensor, log_snr: Tensor) -> Tensor:
        """F_theta of Karras et al. 2022, eq. 7: [B, 3, H, W] from h [B, 3, H, W] of unit variance and log_snr [B]."""
        embedding = self.embed(log_snr)
        h = self.stem(F.pixel_unshuffle(h, 2))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(h)
                h = self.shrink[level - 1](h)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
        for level in reversed(range(len(self.up))):
            h = self.grow[level](h) + skips[level]
            for block in self.up[level]:  # type: ignore[attr-defined]
                h = block(h, embedding)
        return F.pixel_shuffle(self.head(h), 2)
