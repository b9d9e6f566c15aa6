"""Leave out channels of a denoiser that training has let die.

    python -m diffpress.lightning_modules.training.pruning checkpoints/diffc-pixel pruned PHOTOS

A channel between the two convolutions of a residual block that is zero everywhere, on photos at any noise level, costs
time and does nothing.  The pruned folder holds the same model in fewer multiply-adds (docs/decisions/0056-pruning.md);
calibration.json and prior.json are taken along.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from ...data import list_images, read_image
from ..diffusion.gaussian import diffuse
from ..diffusion.pixels import to_signed
from ..identity import ModelError
from ..networks.denoiser import Denoiser

LOG_SNRS = torch.linspace(-7.0, 12.0, 10).tolist()


def activity(network: Denoiser, images: Sequence[Tensor]) -> dict[str, Tensor]:
    """For each block the largest share of places, over noise levels, at which each of its channels [width] is not zero.

    images  uint8 [3, H, W], H and W multiples of the network's `multiple`
    """
    shares = {name: torch.zeros(block.conv_in.out_channels) for name, block in network.blocks().items()}
    level_shares: dict[str, Tensor] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
            level_shares[name] = level_shares.get(name, 0) + (inputs[0] > 0).float().mean((0, 2, 3)) / len(images)

        return network.blocks()[name].conv_out.register_forward_pre_hook(look)

    handles = [watch(name) for name in shares]
    with torch.inference_mode():
        for log_snr in LOG_SNRS:
            level_shares.clear()
            for number, image in enumerate(images):
                x0 = to_signed(image[None])
                noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(number))
                network(diffuse(x0, log_snr, noise), torch.tensor([log_snr]))
            shares = {name: torch.maximum(share, level_shares[name]) for name, share in shares.items()}
    for handle in handles:
        handle.remove()
    return shares


def main(folder: Path, out: Path, data: Path, images: int = 24, size: int = 256, share: float = 1e-3) -> None:
    """Write the denoiser in `folder` to `out` without the channels that act at less than `share` of the places.

    A block keeps the channel that acts most in any case.

    data    folder of photos, of which `images` are looked at, `size` x `size` pixels of each
    """
    network = Denoiser.load(folder).eval()
    if network.activation != "relu":
        raise ModelError(f"{folder} was trained with {network.activation}, which leaves no channel at zero")
    files = list_images(str(data))
    crops = [read_image(file)[:, :size, :size] for file in files[:: max(1, len(files) // images)][:images]]
    crops = [crop[:, : crop.shape[1] // network.multiple * network.multiple,
                  : crop.shape[2] // network.multiple * network.multiple] for crop in crops]  # fmt: skip
    if out.resolve() == folder.resolve():
        raise ModelError("the pruned model needs a folder of its own")
    keep = {name: part >= part.max().clamp(max=share) for name, part in activity(network, crops).items()}
    network.narrowed(keep).half().save(out)
    for name in ("prior.json", "calibration.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    for name, part in keep.items():
        print(f"{name}: {int(part.sum())} of {len(part)} channels")


if __name__ == "__main__":
    try:
        auto_cli(main)
    except (ModelError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
