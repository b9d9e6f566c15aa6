"""Sixteen rows of an image at a time: vector operations for numba, whose own loops over them stay scalar.

Each works on flat float32 arrays, on LANES numbers from a place on, in the order written here and without fused
multiply-adds, so that every machine gets the same numbers; a processor without such wide registers gets several
narrower instructions for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

intrinsic: Any = numba_intrinsic  # its callers leave out the first argument, which numba's types do not know

LANES = 16
GROUP = 8  # outputs of `affine`
LEAST_PIVOT = 1e-3
_INT, _SHORT = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


class _Emitter:
    """Writes the instructions of one operation; its array arguments go by their position."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self.data = {
            k: context.make_array(kind)(context, builder, arguments[k]).data
            for k, kind in enumerate(signature.args)
            if isinstance(kind, types.Array)
        }

    def load(self, array: int, place: Any) -> Any:
        pointer = self.builder.bitcast(self.builder.gep(self.data[array], [place]), _VECTOR.as_pointer())
        value = self.builder.load(pointer)
        value.align = 4
        return value

    def store(self, value: Any, array: int, place: Any) -> None:
        pointer = self.builder.bitcast(self.builder.gep(self.data[array], [place]), _VECTOR.as_pointer())
        self.builder.store(value, pointer).align = 4

    def load_one(self, array: int, place: Any) -> Any:
        return self.builder.load(self.builder.gep(self.data[array], [place]))

    def store_one(self, value: Any, array: int, place: Any) -> None:
        self.builder.store(value, self.builder.gep(self.data[array], [place]))

    def repeated(self, value: Any) -> Any:
        """A vector of one number."""
        one = self.builder.insert_element(_UNDEFINED, value, _SHORT(0))
        return self.builder.shuffle_vector(one, _UNDEFINED, self._places([0] * LANES))

    def shifted(self, value: Any, fronts: list[Any]) -> Any:
        """The numbers `fronts`, then the first lanes of `value`."""
        front, count = _UNDEFINED, len(fronts)
        for k, one in enumerate(fronts):
            front = self.builder.insert_element(front, one, _SHORT(k))
        places = self._places([*range(count), *range(LANES, 2 * LANES - count)])
        return self.builder.shuffle_vector(front, value, places)

    def _places(self, numbers: list[int]) -> Any:
        return ir.Constant(ir.VectorType(_SHORT, LANES), numbers)

    def lane(self, place: Any, number: Any) -> Any:
        """place + LANES * number."""
        return self.builder.add(place, self.builder.mul(number, _INT(LANES)))


def _typed(emit: Callable[..., None], kinds: tuple[Any, ...]) -> Any:
    """What numba asks an intrinsic for: its types, and who writes its instructions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit(_Emitter(context, builder, signature, arguments), builder, *arguments)
        return context.get_dummy_value()

    return types.void(*kinds), generate


def _statistics(stride: int) -> Any:
    def emit(
        e: _Emitter, b: Any, left: Any, above: Any, sums: Any, edge_left: Any, edge_in: Any, edge_out: Any,
        vectors: Any, at: Any, sums_at: Any, edge_at: Any, size: Any, weighted_at: Any, vectors_at: Any,
        left_decay: Any, above_decay: Any, count: Any,
    ) -> None:  # fmt: skip
        along, down, weighted = e.repeated(left_decay), e.repeated(above_decay), e.load(6, weighted_at)
        with cgutils.for_range(b, count) as loop:
            place = e.lane(at, loop.index)
            edges = [b.add(b.add(edge_at, loop.index), b.mul(size, _INT(k))) for k in range(stride)]
            product = b.fmul(weighted, e.load(6, e.lane(vectors_at, loop.index)))
            own = b.fadd(b.fmul(along, e.load(0, place)), product)
            e.store(own, 0, place)
            higher = b.fmul(down, e.shifted(e.load(1, place), [e.load_one(4, edge) for edge in edges]))
            higher = b.fadd(higher, e.shifted(own, [e.load_one(3, edge) for edge in edges]))
            e.store(higher, 1, place)
            for k, edge in enumerate(edges):
                e.store_one(b.extract_element(higher, _SHORT(LANES - stride + k)), 5, edge)
            e.store(b.fadd(b.fmul(down, higher), own), 2, e.lane(sums_at, loop.index))

    @intrinsic
    def statistics(  # type: ignore[no-untyped-def]
        context, left, above, sums, edge_left, edge_in, edge_out, vectors, at, sums_at, edge_at, size, weighted_at,
        vectors_at, left_decay, above_decay, count,
    ):  # fmt: skip
        """For count rows i of a column of the statistics, `at` in left and above, and every lane l,

            left[i, l] = left_decay left[i, l] + weighted[l] vectors[i, l]
            above[i, l] = above_decay above[i, l - stride] + left[i, l - stride]
            sums[i, l] = above_decay above[i, l] + left[i, l]

        where lanes -stride ... -1 are numbers edge_at + i, edge_at + size + i ... of edge_left and edge_in; above's
        last lanes go to edge_out.
        """
        kinds = (left, above, sums, edge_left, edge_in, edge_out, vectors, at, sums_at, edge_at, size, weighted_at,
                 vectors_at, left_decay, above_decay, count)  # fmt: skip
        return _typed(emit, kinds)

    return statistics


statistics_of_all, statistics_of_phase = _statistics(1), _statistics(2)


@intrinsic
def subtract4(context, sums, at, first, second, third, fourth, count):  # type: ignore[no-untyped-def]
    """sums[at + i] -= sums[j] * sums[j + i] for rows i < count and, one after the other, the four places j."""

    def emit(e: _Emitter, b: Any, sums: Any, at: Any, *rest: Any) -> None:
        scales = [e.load(0, place) for place in rest[:4]]
        with cgutils.for_range(b, rest[4]) as loop:
            value = e.load(0, e.lane(at, loop.index))
            for place, scale in zip(rest[:4], scales, strict=True):
                value = b.fsub(value, b.fmul(scale, e.load(0, e.lane(place, loop.index))))
            e.store(value, 0, e.lane(at, loop.index))

    return _typed(emit, (sums, at, first, second, third, fourth, count))


@intrinsic
def subtract(context, sums, at, first, count):  # type: ignore[no-untyped-def]
    """sums[at + i] -= sums[first] * sums[first + i] for rows i < count."""

    def emit(e: _Emitter, b: Any, sums: Any, at: Any, first: Any, count: Any) -> None:
        scale = e.load(0, first)
        with cgutils.for_range(b, count) as loop:
            product = b.fmul(scale, e.load(0, e.lane(first, loop.index)))
            e.store(b.fsub(e.load(0, e.lane(at, loop.index)), product), 0, e.lane(at, loop.index))

    return _typed(emit, (sums, at, first, count))


@intrinsic
def divide_by_root(context, sums, at, count):  # type: ignore[no-untyped-def]
    """Rows `at` ... at + count - 1 of sums over the root of the first, which is at least LEAST_PIVOT."""

    def emit(e: _Emitter, b: Any, sums: Any, at: Any, count: Any) -> None:
        value, least = e.load(0, at), ir.Constant(_VECTOR, [LEAST_PIVOT] * LANES)
        value = b.select(b.fcmp_ordered("<", value, least), least, value)
        root = cgutils.get_or_insert_function(b.module, ir.FunctionType(_VECTOR, [_VECTOR]), f"llvm.sqrt.v{LANES}f32")
        inverse = b.fdiv(ir.Constant(_VECTOR, [1.0] * LANES), b.call(root, [value]))
        with cgutils.for_range(b, count) as loop:
            place = e.lane(at, loop.index)
            e.store(b.fmul(inverse, e.load(0, place)), 0, place)

    return _typed(emit, (sums, at, count))


@intrinsic
def add_product(context, out, at, factors, first, second):  # type: ignore[no-untyped-def]
    """out[at] += factors[first] * factors[second], one row."""

    def emit(e: _Emitter, b: Any, out: Any, at: Any, factors: Any, first: Any, second: Any) -> None:
        e.store(b.fadd(e.load(0, at), b.fmul(e.load(2, first), e.load(2, second))), 0, at)

    return _typed(emit, (out, at, factors, first, second))


@intrinsic
def affine(context, inputs, weights, start, out, out_at, count, width):  # type: ignore[no-untyped-def]
    """Rows out_at + k of out, k = 0 ... GROUP - 1: an affine function of `count` rows of inputs,

    weights[start + k] + sum over i of inputs[i] weights[start + (1 + i) width + k].
    """

    def emit(
        e: _Emitter, b: Any, inputs: Any, weights: Any, start: Any, out: Any, out_at: Any, count: Any, width: Any
    ) -> None:
        cells = [cgutils.alloca_once(b, _VECTOR) for _ in range(GROUP)]
        for k, cell in enumerate(cells):
            b.store(e.repeated(e.load_one(1, b.add(start, _INT(k)))), cell)
        with cgutils.for_range(b, count) as loop:
            value = e.load(0, e.lane(_INT(0), loop.index))
            row = b.add(start, b.mul(b.add(loop.index, _INT(1)), width))
            for k, cell in enumerate(cells):
                weight = e.repeated(e.load_one(1, b.add(row, _INT(k))))
                b.store(b.fadd(b.load(cell), b.fmul(weight, value)), cell)
        for k, cell in enumerate(cells):
            e.store(b.load(cell), 3, e.lane(out_at, _INT(k)))

    return _typed(emit, (inputs, weights, start, out, out_at, count, width))


@intrinsic
def add_outer(context, total, at, left, first, right, right_at, width, size):  # type: ignore[no-untyped-def]
    """total[at + k width + j] += sum over lanes l of left[(first + k) LANES + l] right[right_at + l size + j],

    k = 0 ... GROUP - 1, j = 0 ... LANES - 1: a piece of the outer products of two vectors, summed over LANES rows.
    """

    def emit(
        e: _Emitter, b: Any, total: Any, at: Any, left: Any, first: Any, right: Any, right_at: Any, width: Any,
        size: Any,
    ) -> None:  # fmt: skip
        places = [b.add(at, b.mul(width, _INT(k))) for k in range(GROUP)]
        sums = [e.load(0, place) for place in places]
        for lane in range(LANES):
            value = e.load(4, b.add(right_at, b.mul(size, _INT(lane))))
            for k in range(GROUP):
                factor = e.repeated(e.load_one(2, b.add(e.lane(_INT(lane), first), _INT(k * LANES))))
                sums[k] = b.fadd(sums[k], b.fmul(factor, value))
        for place, value in zip(places, sums, strict=True):
            e.store(value, 0, place)

    return _typed(emit, (total, at, left, first, right, right_at, width, size))
