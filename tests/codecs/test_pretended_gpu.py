"""The codecs on a pretended GPU: the pixels that a CPU decodes, and where the host waits for a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from golden_files import CLOSE, FILES, GOLDEN
from pretend_gpu import GPU, OnGpu, pretended_gpu

from diffpress import kernels
from diffpress.codecs import container
from diffpress.data import read_image
from diffpress.kernels import Backend

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, and tables are kept for it")


def test_the_pretended_gpu_behaves_like_one() -> None:
    with pretended_gpu() as gpu:
        x = torch.arange(6.0, device=GPU).view(2, 3)
        x[0] *= 2
        assert isinstance(x, OnGpu)
        assert (x + torch.tensor(1.0)).device == GPU
        with pytest.raises(RuntimeError, match="different devices"):
            _ = x + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        torch.ones(3).pin_memory().to(GPU, non_blocking=True)
        assert not gpu.waits
        assert x.tolist() == [[0, 2, 4], [3, 4, 5]]
        assert float(x[1, 2]) == 5
        assert len(x[x > 2]) == 4
        torch.ones(3).to(GPU)
        assert len(gpu.waits) == 4
        numbers = torch.arange(1.0, 50.0)
        assert not torch.equal((numbers.to(GPU) / 49.0).cpu(), numbers / 49.0)


class Searching(Backend):
    """The torch operations, and a search on the device in place of the kernel's."""

    def trellis_search(
        self, scores: torch.Tensor, lengths: torch.Tensor, constraint_length: int, k: int, flush: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(scores, OnGpu)
        path, total = Backend().trellis_search(scores.stored, lengths, constraint_length, k, flush)
        return OnGpu(path), OnGpu(total)


@pytest.mark.parametrize("name", [
    "pfr.dfc", "bands-rate.dfc", "lossless.dfc", "version-2/integers-fast.dfc", "prefix.uqdm", "bitsback-fast.bb",
    "latent-calibrated.dfc", "prompt.dfc", "version-2/pixels.uqdm",
])  # fmt: skip
def test_a_gpu_decodes_what_a_cpu_wrote(name: str, tmp_path: Path) -> None:
    entry = next(entry for entry in FILES if entry.file == name)
    picture, options = next(iter(entry.pictures.items()))
    with pretended_gpu() as gpu:
        codec = entry.build(tmp_path, "cuda:0")
        stream = container.read((GOLDEN / name).read_bytes(), codec)
        if entry.codec == "diffc":
            codec.decode(stream, segments=1, **options)  # makes what is kept for a device
            gpu.waits.clear()
        decoded = codec.decode(stream, **options)
    difference = (decoded.int() - read_image(GOLDEN / picture).int()).abs().max()
    assert difference <= (0 if entry.exact else CLOSE)
    if entry.codec == "diffc":
        assert len(gpu.waits) == 1, gpu.waits  # for the picture


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("float16", 0.01)])
@pytest.mark.parametrize("name", ["latent-calibrated.dfc", "prompt.dfc"])
def test_a_gpu_decodes_the_latents_that_a_cpu_wrote(name: str, dtype: str, error: float, tmp_path: Path) -> None:
    """For a Stable-Diffusion-shaped network; the error is relative to the latents' deviation.

    Shared randomness, samples and the states between steps are float32 whatever the network's precision.
    """
    entry = next(entry for entry in FILES if entry.file == name)

    def latents(device: str, dtype: str) -> torch.Tensor:
        codec, found = entry.build(tmp_path / device, device, dtype), list[torch.Tensor]()
        decode = codec.prior.decode
        codec.prior.decode = lambda x0, size: (found.append(x0.cpu()), decode(x0, size))[1]
        codec.decode(container.read((GOLDEN / name).read_bytes(), codec), **next(iter(entry.pictures.values())))
        return found[0]

    expected = latents("cpu", "float32")
    with pretended_gpu():
        decoded = latents("cuda:0", dtype)
    assert decoded.dtype == torch.float32
    assert (decoded - expected).square().mean().sqrt() < error * expected.std()


def test_an_encoder_waits_three_times_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_best_on_gpu", lambda index: Searching(GPU))
    entry = next(entry for entry in FILES if entry.file == "bands.dfc")
    image = read_image(GOLDEN / entry.photo)
    with pretended_gpu() as gpu:
        codec = entry.build(tmp_path, "cuda:0")
        codec.encode(image, segments=1)
        gpu.waits.clear()
        stream = codec.encode(image)
    waits, steps = Counter(gpu.waits), len(stream.segments)
    assert waits.pop("pixel.py:encode") == 1  # the picture on its way there
    assert waits.pop("trellis.py:_run") == steps + 2  # two steps have a second layer, which follows from the first
    assert waits == {"subbands.py:energies": steps, "interface.py:as_tensors": steps}
