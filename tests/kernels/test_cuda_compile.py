"""Every kernel compiled to machine code by NVRTC for every GPU generation, with the options CuPy uses.

ptxas reports registers, spills and shared memory; a kernel that asks for more than a block may have would fail at its
first launch ("too many resources requested for launch").  Needs no GPU.
"""

import re
from functools import cache

import pytest
from cuda_emulator import parameters

from diffpress.kernels import launch
from diffpress.kernels.cuda import OPTIONS, source

REGISTERS = 65536  # of a block, on every device below
# Shared memory in bytes that a block may ask for (CUDA C++ Programming Guide, table of compute capabilities)
SHARED = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
TRELLIS = [("trellis.cu", (f"-DK={k}", f"-DCLUSTER={cluster}")) for cluster in (1, 2, 4, 8) for k in (1, 2, 4)]
SOURCES = [("philox.cu", ()), ("pfr.cu", ()), *TRELLIS]
THREADS = {"trellis_search": launch.TRELLIS_THREADS}  # the others: launch.THREADS


@cache
def compiled(name, options, architecture):
    """{kernel: (registers, bytes spilled, bytes of shared memory)}, and the size of the machine code."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda.bindings (comes with torch on Linux)")
    error, program = nvrtc.nvrtcCreateProgram(source(name).encode(), name.encode(), 0, [], [])
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS
    flags = [*OPTIONS, *options, "-ftz=true", f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    # NVRTC writes into this object; one byte longer than needed, because Python shares all bytes objects of length one
    buffer = b" " * (nvrtc.nvrtcGetProgramLogSize(program)[1] + 1)
    nvrtc.nvrtcGetProgramLog(program, buffer)
    log = buffer.decode()
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log
    assert "warning" not in log, log
    found = {}
    for part in log.split("Compiling entry function ")[1:]:
        kernel = re.match(r"'(\w+)'", part)[1]
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        shared = re.search(r"(\d+) bytes smem", part)
        found[kernel] = int(re.search(r"Used (\d+) registers", part)[1]), spills, int(shared[1]) if shared else 0
    return found, nvrtc.nvrtcGetCUBINSize(program)[1]


@pytest.mark.parametrize(("name", "options", "architecture"), [
    (name, options, architecture) for name, options in SOURCES for architecture in SHARED
    if architecture >= 90 or not options or options[1] == "-DCLUSTER=1"
])  # fmt: skip
def test_kernels_fit_every_device(name, options, architecture):
    kernels, size = compiled(name, options, architecture)
    assert size > 1000  # machine code, not PTX for a later compiler
    assert set(kernels) == set(parameters(source(name)))
    for kernel, (registers, spills, shared) in kernels.items():
        per_thread = -(-registers // 8) * 8  # the hardware hands them out in eights
        assert per_thread * THREADS.get(kernel, launch.THREADS) <= REGISTERS
        assert spills == 0
        assert shared <= 48 << 10
        if kernel == "trellis_search":
            assert shared <= launch.TRELLIS_STATIC
            k, cluster = (int(option[-1]) for option in options)
            for length in range(4, 19, k):
                for trellises in (1, 16, 33, 132):
                    shape = launch.trellis(trellises, length, k, SHARED[architecture], 132 if architecture >= 90 else 0)
                    if shape.cluster == cluster:
                        assert shared + shape.shared <= SHARED[architecture]
