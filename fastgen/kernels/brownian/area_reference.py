"""The virtual Brownian tree with space-time Levy area, in plain PyTorch.

A second family of motions on the nodes of `fastgen.kernels.brownian.reference`: with W its
integral, and so on any interval the increment and the space-time Levy area

    H_{s,t} = 1/(t - s) * (integral of W_u - W_s - (u - s)/(t - s) (W_t - W_s) over [s, t]),

which is N(0, (t - s)/12), independent of W_t - W_s. A node n has two normals, z_n of the draw id n
and z'_n of the draw id n + 2^31. H_{0,1} = z'_0 / sqrt(12); the interval [s, s + h] on level l,
h = 2^-l, is bisected at m (Foster, Lyons and Oberhauser 2020, arXiv 1904.06998; Jelincic, Foster
and Kidger 2024, arXiv 2405.06464):

    Z = sqrt(h)/4 z_n,   N = sqrt(h/48) z'_n,
    W_m = (W_s + W_{s+h}) / 2 + (3/2 H + Z),
    H_{s,m} = H/4 - Z/2 + N,   H_{m,s+h} = H/4 - Z/2 - N.

Within a cell of length h, at the part p of it and with q = 1 - p, c = p^3 + q^3 = 1 - 3 p q,

    W = W_s + p (W_{s+h} - W_s) + (6 p q H + sqrt(h p q c) z),
    H_{s,s+ph} = p^2 H - p^2/2 sqrt(h p q / c) z + q/2 sqrt(h p q / (3 c)) z'.

Integrals grow by (t - s) (H_{s,t} + (W_s + W_t) / 2). The law of (W, integral) at times of which no
two share the inside of a cell is exact. The path is not that of `brownian` with the same keys,
which knows W alone: they are two motions, with W(0) and W(1) in common.
"""

import math

import torch
from torch import Tensor

from fastgen.common.rounding import square_root
from fastgen.kernels.brownian.contract import AREA_NODES, BROWNIAN_STREAM
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH as DEPTH
from fastgen.kernels.normals.reference import normals


def brownian_area(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = DEPTH,
) -> Tensor:
    """W and its integral from 0 at each time, [2, T, rows, elements], float64.

    NaN for times outside [0, 1]; arguments as for `brownian`.
    """
    count, rows = times.shape[0], sample_ids.shape[0]
    time = (times[:, None] if times.ndim == 1 else times).expand(count, rows).reshape(-1)
    seeds, sample_ids = seeds.expand(rows).repeat(count), sample_ids.repeat(count)

    def node(n: Tensor) -> tuple[Tensor, Tensor]:
        stream = BROWNIAN_STREAM + tree
        z, other = (
            normals(elements, seeds, sample_ids, (n + part)[:, None], stream).double()
            for part in (0, AREA_NODES)
        )
        return z, other

    inside = (time >= 0) & (time <= 1)
    scaled = torch.where(inside, time, 0.0) * 2.0**depth
    cell = scaled.long().clamp(max=2**depth - 1)
    end, other = node(torch.zeros_like(cell))
    area = math.sqrt(1.0 / 12) * other
    whole = area + end * 0.5  # the integral up to 1
    left, right, integral = torch.zeros_like(end), end, torch.zeros_like(end)
    for level in range(depth):
        z, other = node(2**level + (cell >> (depth - level)))
        root = math.sqrt(2.0**-level)
        shift, apart = root / 4 * z, root * math.sqrt(1.0 / 48) * other
        w = (left + right) * 0.5 + (1.5 * area + shift)
        middle = area * 0.25 - shift * 0.5
        lower = middle + apart
        up_to = integral + 2.0 ** -(level + 1) * (lower + (left + w) * 0.5)
        upper = (cell >> (depth - 1 - level) & 1).bool()[:, None]
        area = torch.where(upper, middle - apart, lower)
        integral = torch.where(upper, up_to, integral)
        left, right = torch.where(upper, w, left), torch.where(upper, right, w)
    p = (scaled - cell)[:, None]
    length = 2.0**-depth
    root, q = math.sqrt(length), 1 - p
    pq = p * q
    cubes, product = square_root(1 - 3 * pq), square_root(pq)
    scale, ratio = (product * cubes) * root, (product / cubes) * (root * 0.5)
    z, other = node(2**depth + cell)
    w = (left + p * (right - left)) + ((6 * pq) * area + scale * z)
    h = ((p * p) * area - (ratio * (p * p)) * z) + ((ratio * q) * math.sqrt(1.0 / 3)) * other
    up_to = integral + (p * length) * (h + (left + w) * 0.5)
    found = []
    for value, begin, finish in ((w, left, end), (up_to, integral, whole)):
        value = torch.where(p == 0, begin, value)
        value = torch.where(p == 1, finish, value)  # t = 1, which no cell begins with
        found.append(torch.where(inside[:, None], value, math.nan))
    return torch.stack(found).reshape(2, count, rows, elements)
