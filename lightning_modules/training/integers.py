"""From a trained denoiser to one in integers (networks/integer_denoiser.py); photos choose the exponents."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.images import list_images, read_image
from ...data.tiling import pad_to
from ..diffusion.gaussian import diffuse
from ..diffusion.pixels import to_signed
from ..identity import ModelError
from ..networks.denoiser import SIGMA_DATA, Denoiser
from ..networks.integer_denoiser import HEAD_MAX, IntegerDenoiser, power_of_two

SLACK = 1.0  # octaves by which a channel may leave the range of 8 bits at some noise level
NODES_PER_UNIT = 4  # of log-SNR; the noise level's features turn once in 8


def photos(folder: Path, count: int = 8, side: int = 96) -> Tensor:
    """float32 [count, 3, side, side] in [-1, 1]: the middle of the first photos of `folder`; raises ImageError."""
    crops = []
    for path in list_images(folder)[:count]:
        image = read_image(path)
        image = pad_to(image, max(side, image.shape[1]), max(side, image.shape[2]))
        top, left = ((length - side) // 2 for length in image.shape[1:])
        crops.append(image[:, top : top + side, left : left + side])
    return to_signed(torch.stack(crops))


@torch.no_grad()
def integer_denoiser(network: Denoiser, photos: Tensor, log_snr_range: tuple[float, float]) -> IntegerDenoiser:
    """`network` in integers.

    network        of one resolution, with ReLU; raises ModelError for others
    photos         float32 [N, 3, H, W] in [-1, 1], crops on which exponents are chosen
    log_snr_range  (lowest, highest) log-SNR of the tables
    """
    if len(network.down) != 1 or network.activation != "relu":
        raise ModelError("only a denoiser of one resolution with ReLU has a form in integers")
    network = network.float().eval()
    low, high = log_snr_range
    nodes = torch.linspace(low, high, round((high - low) * NODES_PER_UNIT) + 1, dtype=torch.float64)
    tables, generator = Tables(), torch.Generator().manual_seed(0)
    for log_snr in nodes.tolist():
        tables.add(network, diffuse(photos, log_snr, torch.randn(photos.shape, generator=generator)), log_snr)
    tensors = tables.tensors()
    for name, layer in (("stem", network.stem), ("head", network.head)):
        tensors |= {f"{name}.weight": layer.weight.half(), f"{name}.bias": _bias(layer)}
    embedding = network.embed(nodes.float())
    blocks = list(network.blocks().values())
    for k, block in enumerate(blocks):
        weight = block.conv_in.weight.double() * power_of_two(-tensors[f"{k}.columns"])[:, None, None]
        scale = (weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127).float()
        whole = (weight / scale.double()[:, None, None, None]).round().to(torch.int8)
        factor, summand = block.film(embedding).chunk(2, dim=1)
        # what rounding the weights changes at the mean of the input, level by level
        lost = (weight - whole * scale.double()[:, None, None, None]).sum((2, 3))
        lost *= power_of_two(tensors[f"{k}.columns"])
        summand = summand + (1 + factor) * (tables.input_means(k) @ lost.T.float())
        tensors |= {
            f"{k}.conv_in.weight": whole, f"{k}.conv_in.scale": scale, f"{k}.conv_in.bias": _bias(block.conv_in),
            f"{k}.film": torch.stack([1 + factor, summand], dim=1).half(),
            f"{k}.conv_out.weight": block.conv_out.weight.half(), f"{k}.conv_out.bias": _bias(block.conv_out),
        }  # fmt: skip
    config = {"_class_name": "IntegerDenoiser", "widths": network.config["widths"], "blocks": len(blocks)}
    return IntegerDenoiser(
        config | {"nodes": nodes.tolist()}, {name: value.contiguous() for name, value in tensors.items()}
    )


class Tables:
    """What noisy photos tell about the activations of a denoiser, level by level."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {}

    def add(self, network: Denoiser, z: Tensor, log_snr: float) -> None:
        """Look at noisy photos z [N, 3, H, W] at log-SNR `log_snr`."""
        noise = math.exp(-0.5 * log_snr)
        y = z * math.sqrt((1 + noise**2) / (noise**2 + SIGMA_DATA**2))
        embedding = network.embed(torch.tensor([log_snr]))
        h = network.stem(F.pixel_unshuffle(y, 2))
        for k, block in enumerate(network.blocks().values()):
            self._note(f"{k}.range", largest(h))
            self._note(f"{k}.input", h.mean((0, 2, 3)))
            scale, shift = block.film(embedding)[:, :, None, None].chunk(2, dim=1)
            hidden = torch.addcmul(shift, block.conv_in(h), 1 + scale).relu_()
            self._note(f"{k}.top", largest(hidden, 1000))
            self._note(f"{k}.mean", hidden.mean((0, 2, 3)))
            h = block.conv_out(hidden).add_(h)
        self._note("head.range", largest(h))
        self._note("head.mean", h.mean((0, 2, 3)))

    def _note(self, name: str, value: Tensor) -> None:
        self.seen.setdefault(name, []).append(value)

    def input_means(self, block: int) -> Tensor:
        """Mean of every channel of a block's input, float32 [nodes, C]."""
        return torch.stack(self.seen[f"{block}.input"])

    def tensors(self) -> dict[str, Tensor]:
        """Exponents of inputs, largest and mean hidden activations, by IntegerDenoiser's names."""
        found = {}
        for name, values in self.seen.items():
            table = torch.stack(values)
            if name.endswith((".mean", ".top")):
                found[name] = table.half()
            elif name.endswith(".range"):
                top = HEAD_MAX if name == "head.range" else 127
                safe = torch.log2(top / table.clamp(min=1e-6))  # [nodes, C]
                level = safe.mean(1, keepdim=True)
                columns = torch.floor((safe - level).amin(0).clamp(-8, 8) + SLACK)
                found[name.replace("range", "columns")] = columns.to(torch.int8)
                found[name.replace("range", "exponent")] = torch.round((safe - columns).amin(1)).to(torch.int8)
        return found


def largest(x: Tensor, among: int = 10000) -> Tensor:
    """[C]: the magnitude of x [N, C, h, w] that one value `among` so many exceeds."""
    flat = x.transpose(0, 1).flatten(1).abs()
    return flat.topk(max(1, flat.shape[1] // among), dim=1).values[:, -1]


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias.detach()
