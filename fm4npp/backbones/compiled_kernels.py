"""The element-wise work of a Mamba-2 mixer in compiled loops; imported only where numba is installed.

Every kernel runs over the blocks `lo` to `hi`, of `size` chunks each, and releases the interpreter, so that threads can
share the blocks; a sum over rows is kept for each block, so that it does not depend on the number of threads.

Axes: S rows, K chunks of Q rows, H heads of P channels, G groups of J = H P / G channels, N states, T taps of the
convolution, F blocks. What enters the matrix products is contiguous: x by head (K, H, Q, P), what is shared by a group
(K, G, Q, J or N), and states (K, G, N, J). Step sizes dt and their sums s = cumsum(dt A) are (K, H, Q).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

Array = NDArray[Any]

Function = TypeVar("Function", bound=Callable[..., Any])


def _compile(function: Function, **options: Any) -> Function:
    compiled: Function = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    return compiled


def kernel(function: Function) -> Function:
    """Compile a function that allocates nothing.

    No flag lets the compiler assume that there is no NaN or infinity; sums may be split over vector lanes. Without
    numba's runtime (`_nrt`) slices are not reference-counted, which would take half the time of short rows.
    """
    return _compile(function, fastmath={"contract", "reassoc", "arcp", "nsz"}, _nrt=False)


def _in_order(function: Function) -> Function:
    """Compile a function whose sums must stay in the order they are written in."""
    return _compile(function, fastmath={"contract"})


ZERO, ONE = np.float32(0), np.float32(1)
ROUND = np.float32(1.5 * 2**23)
"""Added to a number below 2^22 and taken off again it leaves the nearest integer, which its last bits then hold."""
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(math.log2(math.e)), np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP_LOW, EXP_HIGH = np.float32(-87), np.float32(88)
"""Outside, single-precision exp would be subnormal, here 0, or overflow, here exp(88)."""
E2, E3, E4, E5, E6, E7 = (np.float32(1 / math.factorial(n)) for n in range(2, 8))
L3, L5, L7, L9, L11, L13, L15 = (np.float32(1 / n) for n in range(3, 16, 2))


@intrinsic
def _power_of_two(typing_context: Any, value: Any) -> Any:
    """2^n of the integer n in the last bits of n + ROUND."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = ir.IntType(32)
        exponent = builder.shl(builder.bitcast(arguments[0], bits), ir.Constant(bits, 23))
        return builder.bitcast(builder.add(exponent, ir.Constant(bits, 127 << 23)), ir.FloatType())

    return types.float32(types.float32), generate


@_in_order
def _exp_single(value: Any) -> Any:
    """Reduced to |r| <= ln(2) / 2 and a Taylor series."""
    inside = EXP_HIGH if value > EXP_HIGH else (EXP_LOW if value < EXP_LOW else value)
    shifted = inside * LOG2_E + ROUND
    n = shifted - ROUND
    r = (inside - n * LN2_HIGH) - n * LN2_LOW
    series = ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * (E6 + r * E7))))))
    return ZERO if value < EXP_LOW else series * _power_of_two(shifted)  # type: ignore[call-arg]


def exp(value: Any) -> Any:
    """Exponential that a loop in single precision can do on whole vectors, to 1e-7; NaN stays NaN."""
    return math.exp(value)


@overload(exp)
def _exp(value: Any) -> Callable[[Any], Any]:
    def single(value: Any) -> Any:
        return _exp_single(value)

    def double(value: Any) -> Any:
        return math.exp(value)

    return single if value == types.float32 else double


def log1p(value: Any) -> Any:
    """log(1 + x) for x in [0, 1], in single precision by the series of 2 atanh(x / (2 + x))."""
    return math.log1p(value)


@overload(log1p)
def _log1p(value: Any) -> Callable[[Any], Any]:
    def single(value: Any) -> Any:
        t = value / (ONE + ONE + value)
        u = t * t
        return (t + t) * (ONE + u * (L3 + u * (L5 + u * (L7 + u * (L9 + u * (L11 + u * (L13 + u * L15)))))))

    def double(value: Any) -> Any:
        return math.log1p(value)

    return single if value == types.float32 else double


@kernel
def sigmoid(value: Any) -> Any:
    """1 / (1 + exp(-x)), never 0."""
    return ONE / (ONE + exp(-value))


@kernel
def _softplus(value: Any) -> Any:
    return max(value, value * ZERO) + log1p(exp(-abs(value)))


@kernel
def copy(values: Array, out: Array) -> None:
    """A loop is several times faster than an assignment to a slice."""
    for p in range(len(out)):
        out[p] = values[p]


@kernel
def convolve(values: Array, first: int, row: int, start: int, taps: Array, bias: Array, out: Array) -> None:
    """Set out to bias + sum over t of taps[-1 - t] values[row - t, first:], without the rows before `start`.

    taps is (T, channels), bias and out (channels,).
    """
    copy(bias, out)
    for back in range(min(len(taps), row - start + 1)):
        multiply_add(taps[len(taps) - 1 - back], values[row - back][first : first + len(out)], out)


@kernel
def multiply_add(left: Array, right: Array, out: Array) -> None:
    """Add left right to out."""
    for c in range(len(out)):
        out[c] += left[c] * right[c]


@kernel
def multiply(values: Array, out: Array) -> None:
    """Multiply out by values."""
    for c in range(len(values)):
        out[c] *= values[c]


@kernel
def decay(end: float, s: Array, out: Array) -> None:
    """Set out to exp(end - s), both (Q,)."""
    for i in range(len(s)):
        out[i] = exp(end - s[i])


@kernel
def _silu(row: Array) -> None:
    for c in range(len(row)):
        row[c] = row[c] * sigmoid(row[c])


@kernel
def _add_softplus(values: Array, bias: Array, out: Array) -> None:
    for h in range(len(out)):
        out[h] = _softplus(values[h] + bias[h])


@kernel
def scale_to(values: Array, factor: float, out: Array) -> None:
    """Set out to factor values."""
    for p in range(len(out)):
        out[p] = values[p] * factor


@kernel
def prepare(
    lo: int, hi: int, size: int, room: Array, at: int, projected: Array, start: Array, taps: Array, bias: Array,
    dt_bias: Array, A: Array, x: Array, B: Array, C: Array, inflow: Array, dt: Array, s: Array, whole: Array,
) -> None:  # fmt: skip
    """Convolution, SiLU and step sizes.

    Reads projected (S, [z | x | B | C | dt]) from chunk `at` on, and start, the first row of each chunk's event.
    Writes x, B and C; inflow = x dt exp(s_end - s), (K, G, Q, J); dt = softplus; s; and whole = exp(s_end) by channel,
    (K, H P).
    """
    num_heads, num_rows, width = x.shape[1:]
    num_groups, states = B.shape[1], B.shape[3]
    inner, heads, last = num_heads * width, num_heads // num_groups, num_rows - 1
    to_end, row, steps = room[:num_heads], room[num_heads][: len(bias)], room[num_heads + 1][:num_heads]
    for k in range(lo * size, min(hi * size, len(x))):
        for i in range(num_rows):
            _add_softplus(projected[(at + k) * num_rows + i][inner + len(bias) :], dt_bias, steps)
            for h in range(num_heads):
                dt[k, h, i] = steps[h]
        for h in range(num_heads):
            total = 0.0
            for i in range(num_rows):
                total += dt[k, h, i] * A[h]
                s[k, h, i] = total
            decay(s[k, h, last], s[k, h], to_end[h])
            multiply(dt[k, h], to_end[h])
            whole[k, h * width : (h + 1) * width] = exp(s[k, h, last])
        for i in range(num_rows):
            convolve(projected, inner, (at + k) * num_rows + i, start[at + k], taps, bias, row)
            _silu(row)
            for h in range(num_heads):
                values, place = row[h * width : (h + 1) * width], h % heads * width
                copy(values, x[k, h, i])
                scale_to(values, to_end[h, i], inflow[k, h // heads, i, place : place + width])
            for g in range(num_groups):
                first = inner + g * states
                copy(row[first : first + states], B[k, g, i])
                first += num_groups * states
                copy(row[first : first + states], C[k, g, i])


@kernel
def carry(
    lo: int, hi: int, size: int, room: Array, at: int, states: Array, whole: Array, is_first: Array, carried: Array
) -> None:
    """Turn what each chunk adds, (K, G N, J), into the state that enters it; whole (K, G, J); blocks of `size` states.

    state(k + 1) = whole(k) state(k) + added(k), and zero where an event begins; carried (G N, J) is the state that
    enters the first chunk, `at`, and then the one that leaves the last.
    """
    num_chunks, rows = states.shape[:2]
    per_group = rows // whole.shape[1]
    for n in range(lo * size, min(hi * size, rows)):
        state = carried[n]
        for k in range(num_chunks):
            if is_first[at + k]:
                state[:] = 0
            move_on(whole[k, n // per_group], states[k, n], state)


@kernel
def move_on(decay: Array, added: Array, state: Array) -> None:
    """Set state to decay state + added; added becomes what state was."""
    for j in range(len(state)):
        before = state[j]
        state[j] = decay[j] * before + added[j]
        added[j] = before


@kernel
def mask(lo: int, hi: int, size: int, room: Array, scores: Array, s: Array, dt: Array, result: Array) -> None:
    """Set result (K, H, Q, Q) to exp(s_i - s_j) scores (K, G, Q, Q) dt_j for j <= i, 0 above."""
    num_heads, num_rows = s.shape[1:]
    heads = num_heads // scores.shape[1]
    for k in range(lo * size, min(hi * size, len(s))):
        for h in range(num_heads):
            s_row, dt_row = s[k, h], dt[k, h]
            for i in range(num_rows):
                _mask_row(s_row[i], s_row, dt_row, scores[k, h // heads, i], result[k, h, i])
                result[k, h, i, i + 1 :] = 0


@kernel
def _mask_row(s_i: float, s: Array, dt: Array, scores: Array, out: Array) -> None:
    """All columns, also those above the diagonal: the loop is faster for it."""
    for j in range(len(out)):
        out[j] = exp(s_i - s[j]) * scores[j] * dt[j]


@kernel
def finish(
    lo: int, hi: int, size: int, room: Array, projected: Array, x: Array, inside: Array, s: Array, D: Array,
    weight: Array, eps: float, y: Array, normed: Array,
) -> None:  # fmt: skip
    """Set y to exp(s) y + D x + inside, in place in what was read of the states, (K, G, Q, J); normed (S, H P).

    normed = RMSNorm(y silu(z)) weight, by group; inside is (K, H, Q, P).
    """
    num_chunks, num_groups, num_rows, channels = y.shape
    num_heads, width = x.shape[1], x.shape[3]
    from_start = room[:num_heads]
    for k in range(lo * size, min(hi * size, num_chunks)):
        for h in range(num_heads):
            exponentials(s[k, h], from_start[h])
        for i in range(num_rows):
            for h in range(num_heads):
                first = h * width % channels
                read, direct, near = y[k, h * width // channels, i, first : first + width], x[k, h, i], inside[k, h, i]
                _combine(from_start[h, i], read, D[h], direct, near)
            for g in range(num_groups):
                part = slice(g * channels, (g + 1) * channels)
                row = k * num_rows + i
                values, z, scales, out = y[k, g, i], projected[row][part], weight[part], normed[row][part]
                squares = _gate(values, z, out)
                scale = ONE / np.sqrt(squares / out.dtype.type(channels) + eps)
                _scale_by(scale, scales, out)


@kernel
def exponentials(values: Array, out: Array) -> None:
    """Set out to exp(values)."""
    for i in range(len(values)):
        out[i] = exp(values[i])


@kernel
def _combine(decay: float, y: Array, direct: float, x: Array, inside: Array) -> None:
    for p in range(len(y)):
        y[p] = decay * y[p] + direct * x[p] + inside[p]


@kernel
def _gate(values: Array, z: Array, out: Array) -> Any:
    """Set out to values silu(z); its sum of squares is returned."""
    squares = values[0] * ZERO
    for j in range(len(out)):
        out[j] = values[j] * (z[j] * sigmoid(z[j]))
    for j in range(len(out)):
        squares += out[j] * out[j]
    return squares


@kernel
def _scale_by(factor: float, factors: Array, out: Array) -> None:
    for j in range(len(out)):
        out[j] *= factor * factors[j]
