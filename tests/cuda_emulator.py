"""The CUDA kernels' own source, run on the CPU: CuPy's place is taken by a C++ compiler and a small scheduler.

Clusters of blocks, most of them of one block, run one after the other.  Threads are fibers; each runs until a barrier,
which lets go when all threads of the block, or of the cluster, have come to it, or a shuffle, which waits for those of
the warp.  A block runs as far as it can before another one of its cluster does.  Threads and blocks run in either
order: where two threads touch the same memory between two barriers, one of the orders computes something else.  Shared
memory holds garbage before its block begins and after it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import re
import shutil
import subprocess
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STATIC, DYNAMIC = 1 << 14, 1 << 17  # bytes of shared memory that a block has
SHIM = f"""
#include <algorithm>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
#define __device__
#define __launch_bounds__(threads)
#define __cluster_dims__(blocks)
#define __global__ static
#define __forceinline__ inline
#define __restrict__
#define __clz __builtin_clz
struct Dim {{ long long x, y; }};
enum Wait {{ NONE, WARP, BLOCK, CLUSTERED }};
struct Fiber {{ ucontext_t context; std::vector<char> stack; bool done; Wait wait; }};
static Dim threadIdx, blockIdx, blockDim, gridDim;
static std::vector<Fiber> fibers;  // of a cluster, block after block
static std::function<void()> body;
static ucontext_t scheduler;
static int running, backwards;
static float lanes[8 << 10];
alignas(8) static char shared[8][{STATIC + DYNAMIC}];
""" + """
extern "C" void set_order(int last_first) { backwards = last_first; }
static int block_of(int n) { return n / blockDim.x; }
static void wait_for(Wait wait) {
    fibers[running].wait = wait;
    swapcontext(&fibers[running].context, &scheduler);
}
static void __syncthreads() { wait_for(BLOCK); }
static void __cluster_barrier_arrive() {}
static void __cluster_barrier_wait() { wait_for(CLUSTERED); }
static void* __cluster_map_shared_rank(const void* pointer, unsigned rank) {
    return shared[rank] + ((const char*)pointer - shared[block_of(running)]);
}
static void spoil(int block) {  // a large key, of which no address can be made that does not exist
    std::fill_n((unsigned long long*)shared[block], sizeof shared[0] / 8, 0x5A5A000000000000ull);
}
static void run_fiber() { body(); fibers[running].done = true; }
static float __int_as_float(unsigned i) { float f; std::memcpy(&f, &i, 4); return f; }
static float __shfl_xor_sync(unsigned, float v, int step) {
    lanes[running] = v;
    wait_for(WARP);
    float other = lanes[running ^ step];
    wait_for(WARP);
    return other;
}
template <class T> T min(T a, T b) { return std::min(a, b); }
template <class T> T max(T a, T b) { return std::max(a, b); }
static void let_go(Wait wait, int first, int last) {  // if all of these threads that are left wait for that
    for (int n = first; n < last; ++n) if (!fibers[n].done && fibers[n].wait != wait) return;
    for (int n = first; n < last; ++n) fibers[n].wait = NONE;
}
static bool run_block(int block) {  // as far as it can; whether it has ended
    int first = block * blockDim.x, last = first + blockDim.x;
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = first; i < last; ++i) {
            running = backwards ? first + last - 1 - i : i;
            if (fibers[running].done || fibers[running].wait) continue;
            threadIdx = {running - first, 0};
            swapcontext(&scheduler, &fibers[running].context);
            moved = true;
        }
        for (int n = first; n < last; n += 32) let_go(WARP, n, std::min(n + 32, last));
        let_go(BLOCK, first, last);
    }
    return std::all_of(fibers.begin() + first, fibers.begin() + last, [](Fiber& fiber) { return fiber.done; });
}
template <class F> void launch(int gx, int gy, int threads, int cluster, F kernel) {
    blockDim = {threads, 1}; gridDim = {gx, gy}; body = kernel;
    fibers = std::vector<Fiber>(cluster * threads);
    for (Fiber& fiber : fibers) fiber.stack.resize(1 << 14);
    for (int y = 0; y < gy; ++y) for (int x = 0; x < gx; x += cluster) {
        for (int block = 0; block < cluster; ++block) spoil(block);
        for (Fiber& fiber : fibers) {
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
            for (int i = 0; i < cluster; ++i) {
                int block = backwards ? cluster - 1 - i : i;
                blockIdx = {x + block, y};
                if (run_block(block)) spoil(block);
                else alive = true;
            }
            let_go(CLUSTERED, 0, fibers.size());
        }
    }
}
"""
KERNEL = re.compile(r'extern "C" __global__ void (?:[\w()]+ )*(\w+)\(([^)]*)\)')


def without_barrier(text: str, number: int, instead: str = "") -> str:
    """A kernel with `instead` in place of one of its barriers."""
    place = list(re.finditer(r"(?<= )(?:__syncthreads|barrier)\(\)(?=;(?:  //|\n))", text))[number]
    return text[: place.start()] + instead + text[place.end() :]


def parameters(text: str) -> dict[str, list[str]]:
    """The parameters of every kernel in CUDA source."""
    return {name: [" ".join(one.split()) for one in given.split(",")] for name, given in KERNEL.findall(text)}


def kind(parameter: str) -> tuple[str, int]:
    """("f" or "i", bytes) of a parameter: CUDA lays the arguments out by these, and checks nothing."""
    if "*" in parameter or parameter.startswith(("long long", "u64")):
        return "i", 8
    return "f" if parameter.startswith("float") else "i", 4


def as_cpp(text: str) -> str:
    """CUDA source with its shared memory in that of the running block."""
    slots, memory = itertools.cycle((0, STATIC // 2)), "shared[block_of(running)]"
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", rf"\1* \2 = (\1*)({memory} + {STATIC});", text)
    return re.sub(
        r"__shared__ ([\w ]+) (\w+)\[\d+\];",
        lambda found: f"{found[1]}* {found[2]} = ({found[1]}*)({memory} + {next(slots)});",
        text,
    ).replace('extern "C" __global__', "__global__")


class EmulatedCupy:
    """What the backend uses of CuPy, over kernels compiled for the CPU.

    sources  options and a suffix -> CUDA source, the first one for no options
    suffix   of the source that runs
    """

    def __init__(self, folder: Path, sources: Mapping[tuple[Sequence[str], str], str]) -> None:
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("needs a C++20 compiler")
        self.suffix = ""
        self.parameters, parts, self.versions = parameters("".join(sources.values())), [SHIM], list(sources)
        for number, ((options, _), text) in enumerate(sources.items()):
            parts += ["\n#define " + option.removeprefix("-D").replace("=", " ") for option in options]
            parts.append(f"\nnamespace version_{number} {{ {as_cpp(text)}" if options else as_cpp(text))
            for name, given in parameters(text).items():
                words = ", ".join(one.split()[-1].lstrip("*") for one in given)
                parts.append(f"""extern "C" void launch_{name}_{number}(int gx, int gy, int threads, int cluster,
                    {", ".join(given)}) {{ launch(gx, gy, threads, cluster, [=] {{ {name}({words}); }}); }}\n""")
            if options:
                parts.append("}\n")
                parts += [f"#undef {name}\n" for name in dict.fromkeys(re.findall(r"#define (\w+)", text))]
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
        defined = tuple(option for option in options if option.startswith("-D"))
        cluster = int(dict(option.split("=") for option in defined).get("-DCLUSTER", 1))

        class Function:
            max_dynamic_shared_size_bytes = 0

            def __init__(self, emulated: EmulatedCupy, name: str) -> None:
                self.emulated, self.name = emulated, name

            def __call__(
                self, grid: tuple[int, int], block: tuple[int], values: tuple[Any, ...], shared_mem: int
            ) -> None:
                given = [("f" if value.dtype.kind == "f" else "i", value.dtype.itemsize) for value in values]
                assert given == [kind(parameter) for parameter in self.emulated.parameters[self.name]]
                assert shared_mem <= min(DYNAMIC, self.max_dynamic_shared_size_bytes)
                assert grid[0] % cluster == 0
                number = self.emulated.versions.index((defined, self.emulated.suffix if defined else ""))
                kinds = {np.uint64: ctypes.c_uint64, np.int32: ctypes.c_int, np.float32: ctypes.c_float}
                launch = getattr(self.emulated.library, f"launch_{self.name}_{number}")
                launch(*grid, block[0], cluster, *(kinds[type(value)](value) for value in values))

        return types.SimpleNamespace(get_function=lambda name: Function(self, name))
