"""A GPU that is not there, so that code for one runs in tests: its tensors lie in main memory and say "cuda:0".

What it finds: operations between tensors of two devices fail, as on a GPU; whatever makes the host wait for a GPU is
counted; and `x / number` is x times the rounded reciprocal, as PyTorch's CUDA kernels compute it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import diffpress

GPU = torch.device("cuda", 0)
OURS = str(Path(diffpress.__file__).parent)
aten = torch.ops.aten
# results of these have a size, or are numbers, that only the data say
WAITS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.bincount,
    aten.equal,
}  # fmt: skip
CROSSES = {aten._to_copy, aten.copy_}  # what may take tensors of two devices


class OnGpu(Tensor):
    """A tensor on the pretended GPU; `stored` has its values."""

    stored: Tensor

    @staticmethod
    def __new__(cls, stored: Tensor) -> OnGpu:
        return Tensor._make_wrapper_subclass(
            cls, stored.size(), strides=stored.stride(), storage_offset=stored.storage_offset(), dtype=stored.dtype,
            device=GPU,
        )

    def __init__(self, stored: Tensor) -> None:
        self.stored = stored

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of pretended_gpu()")


class PretendedGpu(TorchDispatchMode):
    """Runs operations on OnGpu tensors.

    waits  "file:function" of the code for whose operations a host would have waited
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # into what a GPU has kernels for
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        given, wanted = [x for x in tensors if isinstance(x, OnGpu)], kwargs.get("device")
        on_gpu = bool(given) if wanted is None else torch.device(wanted).type == "cuda"
        if not given and not on_gpu:
            return func(*args, **kwargs)
        name = func.overloadpacket
        if given and name not in CROSSES and any(x.ndim and not isinstance(x, OnGpu) for x in tensors):
            raise RuntimeError(f"{func}: tensors on different devices")
        if self._waits(name, tensors, len(given), on_gpu, kwargs):
            self.waits.append(_place())
        real_args, real_kwargs = tree_map(lambda x: x.stored if isinstance(x, OnGpu) else x, (args, kwargs))
        if "device" in kwargs:
            real_kwargs["device"] = torch.device("cpu")
        if name in (aten.div, aten.div_) and isinstance(args[1], float):
            reciprocal = 1 / torch.tensor(args[1], dtype=args[0].dtype)
            result = (aten.mul if name == aten.div else aten.mul_)(real_args[0], reciprocal)
        else:
            result = func(*real_args, **real_kwargs)
        if not on_gpu:
            return result
        known = {id(x.stored): x for x in given}  # operations in place give what they were given

        def wrapped(x: Any) -> Any:
            return known[id(x)] if id(x) in known else OnGpu(x) if isinstance(x, Tensor) else x

        with torch.inference_mode(False):
            return tree_map(wrapped, result)

    @staticmethod
    def _waits(name: Any, tensors: list[Tensor], given: int, on_gpu: bool, kwargs: Any) -> bool:
        if name in CROSSES and not (given == len(tensors) and on_gpu):
            pinned = all(isinstance(x, OnGpu) or hasattr(x, "pinned") for x in tensors)
            return not (kwargs.get("non_blocking") and pinned)
        indexes = name in (aten.index, aten.index_put, aten.index_put_)
        by_mask = indexes and any(x.dtype == torch.bool for x in tensors[1:])
        return name in WAITS or by_mask or (name == aten.repeat_interleave and kwargs.get("output_size") is None)


def _place() -> str:
    """The innermost function of the product that is running, else the outermost of all."""
    frame = sys._getframe(1)
    while frame.f_back and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Within it, the device "cuda:0" exists."""

    def pin_memory(x: Tensor) -> Tensor:
        copy = x.clone()
        copy.pinned = True
        return copy

    def made(*data: Any, device: Any = None, **kind: Any) -> Tensor:
        if device is None or torch.device(device).type != "cuda":
            return tensor(*data, device=device, **kind)
        return tensor(*data, **kind).to(device)

    to_list, tensor = Tensor.tolist, torch.tensor
    _device_constructors()  # which remembers what it finds: torch.tensor before it is replaced
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]  # as FakeTensor: guards that ask no driver
    with pytest.MonkeyPatch.context() as patch, PretendedGpu() as gpu:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        # Module.to then takes the moved tensor itself, not its memory
        patch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
        patch.setattr(Tensor, "pin_memory", pin_memory)
        # what torch lets no subclass do, or does behind the mode's back
        patch.setattr(Tensor, "tolist", lambda x: to_list(x.cpu()))
        patch.setattr(torch, "tensor", made)
        yield gpu
