"""The denoiser in integers: every engine the same, close to the network it was made of, no sum beyond float32."""

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffpress.data.tiling import apply_tiled
from diffpress.lightning_modules import ModelError
from diffpress.lightning_modules.diffusion.gaussian import diffuse
from diffpress.lightning_modules.diffusion.pixels import to_signed
from diffpress.lightning_modules.networks.denoiser import Denoiser
from diffpress.lightning_modules.networks.integer_denoiser import (
    SUM_LIMIT,
    Engine,
    FloatEngine,
    Int8Engine,
    IntegerDenoiser,
)
from diffpress.lightning_modules.networks.integer_matmul import MatmulEngine
from diffpress.lightning_modules.training.integers import integer_denoiser
from helpers import synthetic_photo

ENGINES: list[Callable[[], Engine]] = [
    lambda: FloatEngine(torch.float64), FloatEngine, lambda: MatmulEngine(torch.device("cpu")),
    pytest.param(Int8Engine, marks=pytest.mark.skipif(not Int8Engine.works(), reason="no exact 8-bit sums here")),
]  # fmt: skip


def tensors(channels: int = 8, width: int = 16, blocks: int = 2, nodes: int = 5) -> dict[str, Tensor]:
    """Weights and tables from integers alone, so that every machine draws the same."""
    rng = torch.Generator().manual_seed(7)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=rng)

    found = {
        "stem.weight": draw(-64, 64, channels, 12, 3, 3).half() / 256, "stem.bias": draw(-9, 9, channels) / 16,
        "head.weight": draw(-64, 64, 12, channels, 3, 3).half() / 1024, "head.bias": draw(-9, 9, 12) / 64,
        "head.mean": draw(-9, 9, nodes, channels).half() / 32,
        "head.columns": draw(0, 3, channels).to(torch.int8), "head.exponent": draw(5, 7, nodes).to(torch.int8),
    }  # fmt: skip
    for k in range(blocks):
        found |= {
            f"{k}.columns": draw(0, 3, channels).to(torch.int8), f"{k}.exponent": draw(3, 5, nodes).to(torch.int8),
            f"{k}.conv_in.weight": draw(-127, 128, width, channels, 3, 3).to(torch.int8),
            f"{k}.conv_in.scale": draw(1, 9, width) / 4096, f"{k}.conv_in.bias": draw(-9, 9, width) / 16,
            f"{k}.film": draw(-300, 300, nodes, 2, width).half() / 256,
            f"{k}.top": draw(1, 40, nodes, width).half() / 8, f"{k}.mean": draw(0, 9, nodes, width).half() / 32,
            f"{k}.conv_out.weight": draw(-64, 64, channels, width, 3, 3).half() / 512,
            f"{k}.conv_out.bias": draw(-9, 9, channels) / 16,
        }  # fmt: skip
    return found


def network(width: int = 16) -> IntegerDenoiser:
    """A small network, `width` channels between the convolutions of a block."""
    nodes = [-4.0, -1.0, 2.0, 5.0, 8.0]
    return IntegerDenoiser({"blocks": 2, "widths": [8], "nodes": nodes}, tensors(width=width))


def noisy(height: int = 40, width: int = 56) -> Tensor:
    """Noise as integers would give it, the same everywhere."""
    whole = torch.randint(-2000, 2000, (1, 3, height, width), generator=torch.Generator().manual_seed(3))
    return whole / 1024


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_estimate_on_record(engine: Callable[[], Engine]) -> None:
    model, digest = network(), hashlib.sha256()
    model.engine = engine()
    for log_snr in (-9.0, -2.3, 0.0, 3.7, 8.0):
        digest.update((model(noisy(), log_snr) * 2**20).round().to(torch.int64).numpy().tobytes())
    assert digest.hexdigest()[:16] == "c36625b2fec93a8c"


def test_a_gpu_takes_matrix_products_where_the_channels_allow_them() -> None:
    for width, name in ((16, "int8 products"), (12, "float32")):
        assert network(width).to(torch.device("cuda")).engine.name == name


@pytest.mark.parametrize("size", [(2, 2), (2, 10), (8, 8)])
def test_matrix_products_take_the_smallest_images(size: tuple[int, int]) -> None:
    model = network()
    expected = model(noisy(*size), 1.5)
    model.engine = MatmulEngine(torch.device("cpu"))
    assert torch.equal(model(noisy(*size), 1.5), expected)
    assert torch.equal(model(noisy(*size), 1.5), expected)  # from tables that are kept


def test_the_estimate_does_not_depend_on_tiles_or_threads() -> None:
    model, z = network(), noisy(64, 96)
    whole = model(z, 1.5)
    assert torch.equal(apply_tiled(lambda piece: model(piece, 1.5), z, 32, model.reach), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(model(z, 1.5), whole)
    finally:
        torch.set_num_threads(threads)


def test_it_stays_close_to_the_network_it_is_made_of() -> None:
    torch.manual_seed(0)
    float_network = Denoiser((16,), 3)
    for parameter in float_network.parameters():
        if parameter.ndim == 4:
            parameter.data.normal_(0, 0.7 / parameter[0].numel() ** 0.5)
        else:
            parameter.data.normal_(0, 0.1)
    photos = torch.stack([to_signed(synthetic_photo(64, 64, seed)) for seed in range(3)])
    model = integer_denoiser(float_network, photos, (-2.0, 6.0))
    for log_snr in (-2.0, 0.3, 2.9, 5.95):
        z = diffuse(photos, log_snr, torch.randn(photos.shape, generator=torch.Generator().manual_seed(1)))
        exact = float_network(z, torch.full((len(z),), log_snr)).detach()
        change = (model(z, log_snr) - exact).square().mean() / (z - exact).square().mean()
        assert change < 0.002


def test_no_sum_of_the_shipped_weights_can_overflow() -> None:
    from diffpress.lightning_modules import load_model

    model = load_model("diffc-pixel-2", device="cpu").integers
    middles = [(a + b) / 2 for a, b in zip(model.nodes, model.nodes[1:], strict=False)]
    largest = max(model.at(log_snr).largest_sum() for log_snr in [*model.nodes, *middles])
    assert 0 < largest < SUM_LIMIT


def test_weights_whose_sums_could_overflow_are_refused() -> None:
    assert network(64).at(0.0).largest_sum() < SUM_LIMIT
    with pytest.raises(ModelError, match="2\\^24"):
        network(2000).at(0.0)


def test_other_networks_have_no_form_in_integers() -> None:
    for other in (Denoiser((8, 8), 1), Denoiser((8,), 1, activation="silu")):
        with pytest.raises(ModelError, match="one resolution"):
            integer_denoiser(other, torch.zeros(1, 3, 32, 32), (0.0, 1.0))
