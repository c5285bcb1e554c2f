"""One training batch: times, pairing, noise, the state on the path and its targets, in one pass."""

import torch
from torch import Tensor

from fastgen.kernels.bridge.contract import FEATURES, TERMS, Clock, Sampling
from fastgen.kernels.contract import Noise, Stream, compute_dtype
from fastgen.kernels.normals.reference import MASK, normals, philox


def times(seeds: Tensor, sample_ids: Tensor, draw: Tensor, clock: Clock) -> Tensor:
    """t_b = Q(u_b), float64 [rows].

    v_b = (n + 1/2) / 2^52, with n the first 52 bits that Philox gives for (seed, sample id, draw)
    in the stream of times; u_b = v_b, or (b + v_b) / B (stratified), or in odd rows 1 - v_{b-1}
    (antithetic). Q is piecewise linear through the quantiles Q(k / K): with k = floor(K u),
    t = Q_k + (K u - k) (Q_{k+1} - Q_k), each operation rounded once.
    """
    rows, device = sample_ids.shape[0], sample_ids.device
    seeds = seeds.expand(rows)
    row = torch.arange(rows, dtype=torch.int64, device=device)
    if clock.sampling == Sampling.ANTITHETIC:
        seeds, sample_ids = seeds[row & ~1], sample_ids[row & ~1]
    counter = (
        torch.zeros_like(sample_ids),
        sample_ids & MASK,
        draw.expand(rows) & MASK,
        Stream.TIME | ((sample_ids >> 32) & 0xFFFF) << 16,
    )
    words = philox(counter, (seeds & MASK, (seeds >> 32) & MASK))
    u = ((words[0] << 20 | words[1] >> 12).double() + 0.5) * 2.0**-52
    if clock.sampling == Sampling.STRATIFIED:
        u = (row.double() + u) / rows
    elif clock.sampling == Sampling.ANTITHETIC:
        u = torch.where(row % 2 == 1, 1.0 - u, u)
    quantiles = clock.quantiles
    cells = quantiles.shape[0] - 1
    p = u * cells
    k = p.long().clamp(max=cells - 1)
    low = quantiles[k]
    return low + (p - k.double()) * (quantiles[k + 1] - low)


def features(t: Tensor) -> Tensor:
    """1, t, r = sqrt(t (1 - t)), (1 - 2 t) / (2 r) and 1 / r, float64 [5, rows].

    NaN outside [0, 1]: to raise an error there, a GPU would have to be waited for.
    """
    t = torch.where((t >= 0) & (t <= 1), t, torch.nan)
    r = square_root(t * (1.0 - t))
    return torch.stack([torch.ones_like(t), t, r, (1.0 - 2.0 * t) / (2.0 * r), 1.0 / r])


def square_root(x: Tensor) -> Tensor:
    """The correctly rounded root of x >= 0, float64, normal or 0.

    torch's is off by an ulp in one of 70 values where MKL computes it. A Newton step with the exact
    remainder x - s^2 (Dekker's product) mends that.
    """
    s = torch.sqrt(x)
    c = s * 134217729.0
    high = c - (c - s)
    low = s - high
    square = s * s
    error = ((high * high - square) + 2.0 * high * low) + low * low
    mended = s + ((x - square) - error) / (2.0 * s)
    return torch.where(s == 0, s, mended)


def row_coefficients(coefficients: Tensor, t: Tensor) -> Tensor:
    """The coefficients [rows, M, 3] at the times t of recipes [M, 3, 5].

    The sum over the features goes from left to right; a zero means that its feature is absent.
    """
    values = features(t)[:, :, None, None]
    total = torch.zeros((t.shape[0], *coefficients.shape[:2]), dtype=torch.float64, device=t.device)
    for f in range(FEATURES):
        c = coefficients[None, :, :, f]
        total = torch.where(c == 0, total, total + c * values[f])
    return total


def bridge(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times_or_clock: Tensor | Clock,
    noise: Noise,
    noisy: bool,
    dtypes: list[torch.dtype],
    time_dtype: torch.dtype,
) -> list[Tensor]:
    """t and out_j[b] = C[b, j, 0] x0[i_b] + C[b, j, 1] x1[k_b] + C[b, j, 2] z_b.

    z are the normals that ``noise`` names. C is given for every row, or as a recipe: then
    C[b, j, k] = sum_f R[j, k, f] phi_f(t_b) with the functions of time phi of `features`. t_b is
    given, or drawn (`times`) from the same seeds, sample ids and draw, in another stream.

    As in `combine` a zero coefficient means that its term is absent, terms are added from left to
    right in float32 (float64 if any tensor is float64), each product and sum rounded once, and
    coefficients are rounded to that dtype first.

    Args:
        x0: tensor [N, ...] or None where there is no such term.
        x1: tensor [N', ...].
        index0, index1: int64 [rows], i_b and k_b; None: b itself.
        coefficients: float64, recipes [M, 3, 5], or [rows, M, 3] (for given times).
        times_or_clock: float64 [rows], or the distribution they are drawn from.
        noise: seeds, sample ids [rows] and one draw id.
        noisy: whether there is a third term.
        dtypes: dtypes of the M outputs.
        time_dtype: dtype in which t is returned, float32 or float64.

    Returns:
        t [rows] and M tensors [rows, ...].

    Raises:
        ValueError: on CPU tensors, for an index out of range; on others such a row is NaN.
    """
    rows, shape = noise.sample_ids.shape[0], x1.shape[1:]
    if isinstance(times_or_clock, Clock):
        t = times(noise.seeds, noise.sample_ids, noise.draws, times_or_clock)
    else:
        t = times_or_clock
    table = (
        row_coefficients(coefficients, t)
        if coefficients.shape[1:] == (TERMS, FEATURES)
        else coefficients
    )
    given = [x for x in (x0, x1) if x is not None]
    dtype = compute_dtype([x.dtype for x in given] + dtypes)
    table = table.to(dtype)
    terms: list[Tensor | None] = []
    for x, index in ((x0, index0), (x1, index1)):
        terms.append(None if x is None else _rows(x, index).to(dtype))
    z = None
    if noisy:
        elements = shape.numel()
        z = normals(elements, noise.seeds, noise.sample_ids, noise.draws, noise.stream)
        z = z.reshape(rows, *shape).to(dtype)
    terms.append(z)
    results = [t.to(time_dtype)]
    for j, kind in enumerate(dtypes):
        total = torch.zeros((rows, *shape), dtype=dtype, device=x1.device)
        for k, term in enumerate(terms):
            if term is not None:
                c = table[:, j, k].reshape(-1, *[1] * len(shape))
                total = torch.where(c == 0, total, total + c * term)
        results.append(total.to(kind))
    return results


def _rows(x: Tensor, index: Tensor | None) -> Tensor:
    if index is None:
        return x
    inside = (index >= 0) & (index < x.shape[0])
    if x.device.type == "cpu" and not bool(inside.all()):
        raise ValueError(f"index: {int(index[~inside][0])} is outside 0 .. {x.shape[0] - 1}")
    taken = x[torch.where(inside, index, 0)]
    return torch.where(inside.reshape(-1, *[1] * (x.ndim - 1)), taken, torch.nan)
