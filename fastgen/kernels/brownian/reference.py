"""The virtual Brownian tree, in plain PyTorch: the motion at any time from the noise contract.

W(t), 0 <= t <= 1, is standard Brownian motion for each (seed, sample id, tree, element) and a
function of these and t alone: no state, no cache, any times in any order. It is found by
bisection (Levy's construction; Li et al. 2020, arXiv 2001.01328; Jelincic, Foster and Kidger
2024, arXiv 2405.06464). All normals are those of the noise contract, with

    draw id (word 2)    the node, 25 bits; with 2^31 the second normal of `brownian_area`
    stream (word 3)     128 + tree,  0 <= tree < 128: streams 128 to 255 belong to the motions

*Nodes.* W(0) = 0 and W(1) = z_0. The dyadic interval [k, k + 1] 2^-l has node n = 2^l + k and,
with a, b the values at its ends,

    W(midpoint) = (a + b) / 2 + sqrt(2^-l) / 2 * z_n,       l = 0 .. depth - 1.

*Cells.* At l = depth bisection ends; DEPTH = 24 unless said otherwise. With t = (k + u) 2^-depth,
0 < u < 1, the bridge's marginal is drawn from the cell's node (for u = 1/2 it is the formula
above),

    W(t) = (a + u (b - a)) + sqrt(u (1 - u)) * 2^(-depth / 2) * z_n.

*Law.* Bridges of different cells are independent, so the law of W at any times of which no two
share the inside of a cell is that of Brownian motion, without error beyond the normals' own.
Each W(t) alone is N(0, t) everywhere. Within one cell increments are not independent: DEPTH = 24
makes its length 6e-8, the spacing of float32 times just below 1. Paths of different depths have
the multiples of the larger cell in common.

*Arithmetic.* Values are float64; normals are float32 and converted exactly. Each sum, product and
square root is rounded once, in the order written, so all backends agree bit for bit. Increments
over a cell's length are about 2e-4 and carry errors near 1e-15: float32 values would leave three
digits of them.
"""

import math

import torch
from torch import Tensor

from fastgen.common.rounding import square_root
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH as DEPTH
from fastgen.kernels.brownian.contract import BROWNIAN_STREAM
from fastgen.kernels.normals.reference import normals


def brownian(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = DEPTH,
) -> Tensor:
    """W at each time, [T, rows, elements], float64; NaN for times outside [0, 1].

    Args:
        elements: number of elements per sample.
        seeds: int64, [1] or [rows]; the 64-bit keys.
        sample_ids: int64, [rows].
        tree: which of the sample's independent motions, 0 <= tree < 128.
        times: float64, [T], or [T, rows] for times of each sample's own.
        depth: levels of bisection, 1 <= depth <= 24.
    """
    count, rows = times.shape[0], sample_ids.shape[0]
    time = (times[:, None] if times.ndim == 1 else times).expand(count, rows).reshape(-1)
    seeds, sample_ids = seeds.expand(rows).repeat(count), sample_ids.repeat(count)

    def node(n: Tensor | int) -> Tensor:
        draw = n[:, None] if isinstance(n, Tensor) else n
        return normals(elements, seeds, sample_ids, draw, BROWNIAN_STREAM + tree).double()

    inside = (time >= 0) & (time <= 1)
    scaled = torch.where(inside, time, 0.0) * 2.0**depth
    cell = scaled.long().clamp(max=2**depth - 1)
    end = node(0)
    left, right = torch.zeros_like(end), end
    for level in range(depth):
        noise = math.sqrt(2.0**-level) / 2 * node(2**level + (cell >> (depth - level)))
        middle = (left + right) * 0.5 + noise
        upper = (cell >> (depth - 1 - level) & 1).bool()[:, None]
        left, right = torch.where(upper, middle, left), torch.where(upper, right, middle)
    u = (scaled - cell)[:, None]
    scale = square_root(u * (1 - u)) * math.sqrt(2.0**-depth)
    w = (left + u * (right - left)) + scale * node(2**depth + cell)
    w = torch.where(u == 0, left, w)
    w = torch.where(u == 1, end, w)  # t = 1, which no cell begins with
    w = torch.where(inside[:, None], w, math.nan)
    return w.reshape(count, rows, elements)
