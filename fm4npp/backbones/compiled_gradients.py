"""The gradients of `compiled_kernels`, in the same axes and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from fm4npp.backbones.compiled_kernels import (
    ONE,
    ZERO,
    Array,
    convolve,
    copy,
    decay,
    exp,
    exponentials,
    kernel,
    move_on,
    multiply,
    multiply_add,
    scale_to,
    sigmoid,
)


@kernel
def norm_backward(
    lo: int, hi: int, size: int, room: Array, gradient: Array, projected: Array, x: Array, dt: Array, s: Array,
    y: Array, D: Array, weight: Array, eps: float, dprojected: Array, dy: Array, outflow: Array, inflow: Array,
    ds: Array, dD: Array, dweight: Array,
) -> None:  # fmt: skip
    """Gradients through the gated norm, from gradient (S, H P).

    Writes dz into dprojected; dy by head; outflow = dy exp(s) and inflow = x dt exp(s_end - s), (K, G, Q, J);
    ds = <dy, y> - D <dy, x>, (K, H, Q); dD (F, H), the sums of <dy, x>; and dweight (F, H P).
    """
    num_chunks, num_groups, num_rows, channels = y.shape
    num_heads, width = x.shape[1], x.shape[3]
    heads = num_heads // num_groups
    opened, slope, inner = (
        room[2 * num_heads][:channels], room[2 * num_heads + 1][:channels], room[2 * num_heads + 2][:channels]
    )  # fmt: skip
    from_start, into_end = room[:num_heads], room[num_heads : 2 * num_heads]
    count = weight.dtype.type(channels)
    for block in range(lo, hi):
        dD[block], dweight[block] = 0, 0
        for k in range(block * size, min((block + 1) * size, num_chunks)):
            for h in range(num_heads):
                exponentials(s[k, h], from_start[h])
                decay(s[k, h, num_rows - 1], s[k, h], into_end[h])
                multiply(dt[k, h], into_end[h])
            for i in range(num_rows):
                row = k * num_rows + i
                for g in range(num_groups):
                    part = slice(g * channels, (g + 1) * channels)
                    values, z, dz = y[k, g, i], projected[row][part], dprojected[row][part]
                    above, scales, total = gradient[row][part], weight[part], dweight[block][part]
                    _open(z, opened, slope)
                    squares, projection = _sums(values, opened, above, scales)
                    scale = ONE / np.sqrt(squares / count + eps)
                    _norm_gradient(
                        above, scales, values, opened, scale, scale * scale * scale * projection / count, inner
                    )
                    _add_products(above, values, opened, scale, total)
                    _split_gradient(inner, values, opened, slope, dz)
                    for head in range(heads):
                        h = g * heads + head
                        here = slice(head * width, (head + 1) * width)
                        dy_y, dy_x = _spread(
                            inner[here], values[here], x[k, h, i], from_start[h, i], dy[k, h, i], outflow[k, g, i, here]
                        )
                        scale_to(x[k, h, i], into_end[h, i], inflow[k, g, i, here])
                        ds[k, h, i] = dy_y - D[h] * dy_x
                        dD[block, h] += dy_x


@kernel
def _open(z: Array, opened: Array, slope: Array) -> None:
    """Set opened to silu(z) and slope to its derivative."""
    for j in range(len(z)):
        gate = sigmoid(z[j])
        opened[j] = z[j] * gate
        slope[j] = gate + z[j] * gate * (ONE - gate)


@kernel
def _sums(values: Array, opened: Array, above: Array, scales: Array) -> tuple[Any, Any]:
    """Sums of gated^2 and of above scales gated, with gated = values opened."""
    squares, projection = values[0] * ZERO, values[0] * ZERO
    for j in range(len(values)):
        gated = values[j] * opened[j]
        squares += gated * gated
        projection += above[j] * scales[j] * gated
    return squares, projection


@kernel
def _norm_gradient(
    above: Array, scales: Array, values: Array, opened: Array, scale: float, pull: float, out: Array
) -> None:
    for j in range(len(out)):
        out[j] = above[j] * scales[j] * scale - values[j] * opened[j] * pull


@kernel
def _add_products(above: Array, values: Array, opened: Array, scale: float, total: Array) -> None:
    for j in range(len(total)):
        total[j] += above[j] * values[j] * opened[j] * scale


@kernel
def _split_gradient(inner: Array, values: Array, opened: Array, slope: Array, dz: Array) -> None:
    """The gradient of values opened becomes that of values, in place, and that of z."""
    for j in range(len(dz)):
        dz[j] = inner[j] * values[j] * slope[j]
        inner[j] *= opened[j]


@kernel
def _spread(values: Array, y: Array, x: Array, factor: float, dy: Array, outflow: Array) -> tuple[Any, Any]:
    """Set dy to values and outflow to factor values; return <values, y> and <values, x>; all (P,)."""
    dy_y, dy_x = factor * ZERO, factor * ZERO
    for p in range(len(dy)):
        dy[p] = values[p]
        outflow[p] = values[p] * factor
        dy_y += values[p] * y[p]
        dy_x += values[p] * x[p]
    return dy_y, dy_x


@kernel
def carry_back(
    lo: int, hi: int, size: int, room: Array, at: int, gradients: Array, states: Array, whole: Array, is_first: Array,
    carried: Array, overlap: Array,
) -> None:  # fmt: skip
    """Turn gradients of what chunks read of entering states into those of the states that leave; in place, (K, G N, J).

    leaving(k) = direct(k + 1) + whole(k + 1) leaving(k + 1), and zero at the end of an event. carried (G N, J) is the
    gradient of the state that leaves the last chunk, then of the one before the first, `at`. overlap (F, K, G, J) is
    the sum over a block's states of leaving(k) entering(k + 1): what exp(s) at the end of chunk k acts upon.
    """
    num_chunks, rows = gradients.shape[:2]
    per_group = rows // whole.shape[1]
    for block in range(lo, hi):
        overlap[block] = 0
        for n in range(block * size, min((block + 1) * size, rows)):
            g, state = n // per_group, carried[n]
            for k in range(num_chunks - 1, -1, -1):
                direct, following = gradients[k, n], at + k + 1
                if following < len(states) and not is_first[following]:
                    multiply_add(state, states[following, n], overlap[block, k, g])
                if is_first[at + k]:
                    copy(state, direct)
                    state[:] = 0
                else:
                    move_on(whole[k, g], direct, state)


@kernel
def mask_backward(
    lo: int, hi: int, size: int, room: Array, scores: Array, s: Array, dt: Array, products: Array, dscores: Array
) -> None:
    """Gradients of the scores, from products (K, H, Q, Q) of dy and x, which become exp(s_i - s_j) scores.

    dscores (K, G, Q, Q) = sum over heads of exp(s_i - s_j) dt_j products; both are 0 above the diagonal.
    """
    num_heads, num_rows = s.shape[1:]
    heads = num_heads // scores.shape[1]
    for k in range(lo * size, min(hi * size, len(s))):
        dscores[k] = 0
        for h in range(num_heads):
            s_row, dt_row = s[k, h], dt[k, h]
            for i in range(num_rows):
                g = h // heads
                _mask_row_backward(s_row[i], s_row, dt_row, scores[k, g, i], products[k, h, i], dscores[k, g, i])
                products[k, h, i, i + 1 :] = 0
        for g in range(num_heads // heads):
            for i in range(num_rows):
                dscores[k, g, i, i + 1 :] = 0


@kernel
def _mask_row_backward(s_i: float, s: Array, dt: Array, scores: Array, values: Array, total: Array) -> None:
    for j in range(len(values)):
        factor = exp(s_i - s[j])
        total[j] += values[j] * factor * dt[j]
        values[j] = scores[j] * factor


@kernel
def finish_backward(
    lo: int, hi: int, size: int, room: Array, at: int, projected: Array, start: Array, taps: Array, bias: Array,
    dt_bias: Array, A: Array, D: Array, x: Array, dt: Array, s: Array, dy: Array, inside: Array, read: Array,
    dB: Array, dC: Array, ds: Array, overlap: Array, dprojected: Array, dmixed: Array, dtaps: Array, dbias: Array,
    ddt_bias: Array, dA: Array,
) -> None:  # fmt: skip
    """Gradients up to the convolution's result before SiLU, dmixed (S, H P + 2 G N), and of the step sizes.

    With dx_dt = read (K, G, Q, J) exp(s_end - s) + inside (K, H, Q, P): dx = dx_dt dt + D dy, ddt = <x, dx_dt> and
    ds -= ddt dt; overlap (K, H) is added at the end of a chunk. The sums dtaps, dbias, ddt_bias and dA are (F, ...).
    """
    num_chunks, num_heads, num_rows, width = x.shape
    num_groups, channels, states = read.shape[1], read.shape[3], dB.shape[3]
    inner = num_heads * width
    to_end, ddt, row = room[:num_heads], room[num_heads : 2 * num_heads], room[2 * num_heads][: len(bias)]
    for block in range(lo, hi):
        dtaps[block], dbias[block], ddt_bias[block], dA[block] = 0, 0, 0, 0
        for k in range(block * size, min((block + 1) * size, num_chunks)):
            for h in range(num_heads):
                decay(s[k, h, num_rows - 1], s[k, h], to_end[h])
            for i in range(num_rows):
                place = (at + k) * num_rows + i
                out = dmixed[place]
                for h in range(num_heads):
                    first = h * width % channels
                    ddt[h, i] = _step(
                        x[k, h, i], dy[k, h, i], inside[k, h, i],
                        read[k, h * width // channels, i, first : first + width],
                        to_end[h, i], dt[k, h, i], D[h], out[h * width : (h + 1) * width],
                    )  # fmt: skip
                for g in range(num_groups):
                    first = inner + g * states
                    copy(dB[k, g, i], out[first : first + states])
                    first += num_groups * states
                    copy(dC[k, g, i], out[first : first + states])
                convolve(projected, inner, place, start[at + k], taps, bias, row)
                _activation_backward(row, out, dbias[block])
                for back in range(min(len(taps), place - start[at + k] + 1)):
                    source = projected[place - back][inner : inner + len(bias)]
                    multiply_add(out, source, dtaps[block, len(taps) - 1 - back])
            for h in range(num_heads):
                tail, column = overlap[k, h], inner + len(bias) + h
                for i in range(num_rows - 1, -1, -1):
                    step = dt[k, h, i]
                    tail += ds[k, h, i] - ddt[h, i] * step
                    dA[block, h] += tail * step
                    row_at = (at + k) * num_rows + i
                    raw = projected[row_at, column] + dt_bias[h]
                    gradient = (ddt[h, i] + tail * A[h]) * sigmoid(raw)
                    dprojected[row_at, column] = gradient
                    ddt_bias[block, h] += gradient


@kernel
def _step(x: Array, dy: Array, inside: Array, read: Array, to_end: float, dt: float, D: float, dx: Array) -> Any:
    """dx_dt = read to_end + inside; dx = dx_dt dt + D dy is written, <x, dx_dt> returned; all (P,)."""
    ddt = dt * ZERO
    for p in range(len(dx)):
        dx_dt = read[p] * to_end + inside[p]
        ddt += x[p] * dx_dt
        dx[p] = dx_dt * dt + D * dy[p]
    return ddt


@kernel
def _activation_backward(values: Array, gradient: Array, total: Array) -> None:
    """Multiply gradient by the derivative of SiLU at values, and add it to total; all (channels,)."""
    for c in range(len(values)):
        gate = sigmoid(values[c])
        gradient[c] *= gate + values[c] * gate * (ONE - gate)
        total[c] += gradient[c]


@kernel
def convolution_backward(
    lo: int, hi: int, size: int, room: Array, at: int, count: int, first: int, dmixed: Array, stop: Array, taps: Array,
    dprojected: Array,
) -> None:  # fmt: skip
    """Write sum over t of taps[-1 - t] dmixed[row + t] into columns of dprojected from `first` on.

    Does `count` chunks from `at` on; dmixed is (S, channels), stop the row after the end of each chunk's event.
    """
    channels = dmixed.shape[1]
    num_rows = len(dmixed) // len(stop)
    for k in range(at + lo * size, at + min(hi * size, count)):
        for row in range(k * num_rows, (k + 1) * num_rows):
            out = dprojected[row][first : first + channels]
            out[:] = 0
            for ahead in range(min(len(taps), stop[k] - row)):
                multiply_add(taps[len(taps) - 1 - ahead], dmixed[row + ahead], out)
