"""The CUDA kernels' own source, run on the CPU: CuPy's place is taken by a C++ compiler and a small scheduler.

Blocks run one after the other.  The threads of a block are fibers; each runs until a barrier, which lets go when all
threads of the block have come to it, or a shuffle, which waits for those of the warp.  They run in either order: where
two threads touch the same memory between two barriers, one of the orders computes something else.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import subprocess
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHIM = """
#include <algorithm>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
#define __device__
#define __launch_bounds__(threads)
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
struct Dim { long long x, y; };
enum Wait { NONE, WARP, BLOCK };
struct Fiber { ucontext_t context; std::vector<char> stack; bool done; Wait wait; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
static std::vector<Fiber> block;
static std::function<void()> body;
static ucontext_t scheduler;
static int running, backwards;
static float lanes[1024];
extern "C" void set_order(int last_thread_first) { backwards = last_thread_first; }
static void wait_for(Wait wait) {
    block[running].wait = wait;
    swapcontext(&block[running].context, &scheduler);
}
static void __syncthreads() { wait_for(BLOCK); }
static void run_fiber() { body(); block[running].done = true; }
static float __int_as_float(unsigned i) { float f; std::memcpy(&f, &i, 4); return f; }
static float __shfl_xor_sync(unsigned, float v, int step) {
    lanes[threadIdx.x] = v;
    wait_for(WARP);
    float other = lanes[threadIdx.x ^ step];
    wait_for(WARP);
    return other;
}
static long long min(long long a, long long b) { return std::min(a, b); }
static int max(int a, int b) { return std::max(a, b); }
static void let_go(Wait wait, int first, int last) {  // if all of these threads that are left wait for that
    for (int n = first; n < last; ++n) if (!block[n].done && block[n].wait != wait) return;
    for (int n = first; n < last; ++n) block[n].wait = NONE;
}
template <class F> void launch(int gx, int gy, int threads, F kernel) {
    blockDim = {threads, 1}; gridDim = {gx, gy}; body = kernel;
    block = std::vector<Fiber>(threads);
    for (Fiber& fiber : block) fiber.stack.resize(1 << 14);
    for (int y = 0; y < gy; ++y) for (int x = 0; x < gx; ++x) {
        blockIdx = {x, y};
        for (Fiber& fiber : block) {
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = &scheduler;
            fiber.done = false;
            fiber.wait = NONE;
            makecontext(&fiber.context, run_fiber, 0);
        }
        for (bool alive = true; alive;) {
            alive = false;
            for (int n = 0; n < threads; ++n) {
                running = backwards ? threads - 1 - n : n;
                if (block[running].done || block[running].wait) continue;
                threadIdx = {running, 0};
                swapcontext(&scheduler, &block[running].context);
                alive = true;
            }
            for (int first = 0; first < threads; first += 32) let_go(WARP, first, std::min(first + 32, threads));
            let_go(BLOCK, 0, threads);
        }
    }
}
"""
KERNEL = re.compile(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)")
SHARED = "extern __shared__ short shared_metrics[];"
SHARED_BYTES = 1 << 17


def without_barrier(text: str, number: int) -> str:
    """A kernel without one of its barriers."""
    parts = text.split("__syncthreads();")
    return "__syncthreads();".join(parts[: number + 1]) + ";" + "__syncthreads();".join(parts[number + 1 :])


def parameters(text: str) -> dict[str, list[str]]:
    """The parameters of every kernel in CUDA source."""
    return {name: [" ".join(one.split()) for one in given.split(",")] for name, given in KERNEL.findall(text)}


def kind(parameter: str) -> tuple[str, int]:
    """("f" or "i", bytes) of a parameter: CUDA lays the arguments out by these, and checks nothing."""
    if "*" in parameter or parameter.startswith(("long long", "u64")):
        return "i", 8
    return "f" if parameter.startswith("float") else "i", 4


class EmulatedCupy:
    """What the backend uses of CuPy, over kernels compiled for the CPU.

    sources  version -> CUDA source: "" for what has none, first; else the K of the trellis and what `suffix` adds
    suffix   of the version of the trellis that runs
    """

    def __init__(self, folder: Path, sources: Mapping[str, str]) -> None:
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("needs a C++20 compiler")
        self.suffix = ""
        self.parameters, parts = parameters("".join(sources.values())), [SHIM]
        for version, text in sources.items():
            names = [*parameters(text), *(("turned", "Choices") if version else ())]
            for name, given in parameters(text).items():
                words = ", ".join(one.split()[-1].lstrip("*") for one in given)
                text += f"""extern "C" void launch_{name}(int gx, int gy, int threads, {", ".join(given)}) {{
                    launch(gx, gy, threads, [=] {{ {name}({words}); }}); }}\n"""
            for name in names if version else ():
                text = text.replace(name, f"{name}_{version}")
            define = f"#undef K\n#undef SYMBOLS\n#undef UNREACHED\n#define K {version[0]}\n" if version else ""
            parts.append(define + text.replace(SHARED, f"static short shared_metrics[{SHARED_BYTES // 2}];"))
        path = folder / "all.cpp"
        path.write_text("".join(parts))
        command = [compiler, "-std=c++20", "-O0", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
        subprocess.run([*command, str(path), "-o", str(path.with_suffix(".so"))], check=True)
        self.library = ctypes.CDLL(str(path.with_suffix(".so")))
        self.cuda = types.SimpleNamespace(Stream=types.SimpleNamespace(from_external=self._stream))

    @contextlib.contextmanager
    def _stream(self, stream: Any) -> Iterator[None]:
        yield

    def RawModule(self, code: str, options: tuple[str, ...]) -> Any:
        """See cupy.RawModule; the code has been compiled."""
        ks = [option[-1] for option in options if option.startswith("-DK=")]

        class Function:
            max_dynamic_shared_size_bytes = 0

            def __init__(self, emulated: EmulatedCupy, name: str) -> None:
                self.emulated, self.name = emulated, name

            def __call__(
                self, grid: tuple[int, int], block: tuple[int], values: tuple[Any, ...], shared_mem: int
            ) -> None:
                given = [("f" if value.dtype.kind == "f" else "i", value.dtype.itemsize) for value in values]
                assert given == [kind(parameter) for parameter in self.emulated.parameters[self.name]]
                assert shared_mem <= min(SHARED_BYTES, self.max_dynamic_shared_size_bytes)
                version = f"_{ks[0]}{self.emulated.suffix}" if ks else ""
                kinds = {np.uint64: ctypes.c_uint64, np.int32: ctypes.c_int, np.float32: ctypes.c_float}
                launch = getattr(self.emulated.library, f"launch_{self.name}{version}")
                launch(*grid, block[0], *(kinds[type(value)](value) for value in values))

        return types.SimpleNamespace(get_function=lambda name: Function(self, name))
