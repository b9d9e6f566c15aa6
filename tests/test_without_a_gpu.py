"""The codecs on a pretended GPU: the same pixels as on the CPU, and how often the host waits."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pretend_gpu import GPU, OnGpu, pretended_gpu

from diffpress.codecs import container, get_codec
from diffpress.lightning_modules import load_model
from helpers import synthetic_photo

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, and caches are kept for it")


def test_the_pretended_gpu_is_one() -> None:
    with pretended_gpu() as gpu:
        x = torch.arange(6.0, device=GPU).view(2, 3)
        assert isinstance(x, OnGpu)
        x[0] *= 2
        assert (x + torch.tensor(1.0)).device == GPU
        assert not gpu.waits
        with pytest.raises(RuntimeError, match="different devices"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        torch.ones(3).pin_memory().to(GPU, non_blocking=True)
        assert not gpu.waits
        assert x.tolist() == [[0, 2, 4], [3, 4, 5]]
        assert float(x[1, 2]) == 5
        assert len(x[x > 2]) == 4
        torch.ones(3).to(GPU)
        assert len(gpu.waits) == 4
        tenth = torch.full((1,), 0.3, device=GPU) / 0.7
        assert float(tenth) != float(torch.full((1,), 0.3) / 0.7)


def test_files_of_the_shipped_prior_decode_alike_and_nothing_waits() -> None:
    image = synthetic_photo(40, 56)
    cpu = get_codec("diffc", model=load_model("diffc-pixel-2", device="cpu"), preset="fast")
    stream = cpu.encode(image, bpp=1.0)
    with pretended_gpu() as gpu:
        codec = get_codec("diffc", model=load_model("diffc-pixel-2", device="cuda:0"), preset="fast")
        codec.decode(codec.encode(image, segments=2))  # what is made once for a device
        decoded = codec.decode(stream)
        assert torch.equal(decoded, cpu.decode(stream))
        gpu.waits.clear()
        codec.decode(stream)
        print(Counter(gpu.waits))
        gpu.waits.clear()
        again = codec.encode(image, bpp=1.0)
        print(Counter(gpu.waits), len(stream.segments))
        print(container.write(again, codec) == container.write(stream, cpu))
