"""Which exceptions are a sentence for the user, and which are bugs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffpress.commands.errors import run
from diffpress.kernels import KernelError


def failing(error: Exception) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize(("error", "said"), [
    (KernelError("random_words cannot run on cuda:0:\ntoo many resources"),
     "error: random_words cannot run on cuda:0: too many resources\n"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nGPU 0 has"),
     "error: there is not enough memory on the GPU\n"),
    (MemoryError(), "error: there is not enough memory\n"),
])  # fmt: skip
def test_what_a_gpu_lacks_is_one_sentence(error: Exception, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(error)) == 2
    assert capsys.readouterr().err == said


def test_other_errors_are_bugs_and_go_on() -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(failing(RuntimeError("CUDA error: an illegal memory access was encountered")))
