"""The noise contract, in plain PyTorch: counter-based standard normals.

Element ``e`` of sample ``i`` in draw ``d`` is a function of (seed, i, d, e, stream) and of
nothing else: not of the batch, the device, the memory layout or the number of threads.

*Bits.* Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy
as 1, 2, 3"). Key: the 64-bit seed, low word first. Counter:

    word 0   bits 0..31 of e // 4
    word 1   bits 0..31 of the sample id
    word 2   the draw id
    word 3   stream (bits 0..7), bits 32..39 of e // 4 (bits 8..15),
             bits 32..47 of the sample id (bits 16..31)

*Normals.* Words (0, 1) and (2, 3) of the output give two Box-Muller pairs; element e takes
number e % 4 of the four. With r, a the two words of a pair and u = (r + 1/2) / 2^32,

    radius = sqrt(-2 log u),     angle = 2 pi a / 2^32,     z = radius (cos angle, sin angle).

Everything is float32 add, multiply, square root and integer arithmetic, each rounded once and
never contracted into a fused multiply-add, so all backends agree bit for bit. The logarithm
and sine/cosine polynomials are those of the Cephes library (Moshier 1989). For u above
sqrt(1/2) the mantissa offset u - 1 = -(2^32 - 1 - r + 1/2) / 2^32 is taken from the complement
of r, so that small radii keep full relative accuracy; the angle is reduced to
[-pi/4, pi/4] exactly, in integers.
"""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

# Cephes logf: log(1 + m) = m - m^2/2 + m^3 P(m) for 1 + m in [sqrt(1/2), sqrt(2)).
LOG_COEFFICIENTS = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
SIN_COEFFICIENTS = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS_COEFFICIENTS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
TURN = 1.4629180792671596e-09  # pi / 2^31, rounded to float32 where it is used
SQRT_HALF_BITS = 0x3F3504F3
# r at and above which u = (r + 1/2) 2^-32 is taken from the complement, ceil(sqrt(1/2) 2^32).
COMPLEMENT_FROM = 3037000500


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox4x32-10 on int64 tensors that hold 32-bit words; broadcasts."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64; masking after the shift leaves the true high word.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & MASK) ^ c1 ^ k0,
            p1 & MASK,
            ((p0 >> 32) & MASK) ^ c3 ^ k1,
            p0 & MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def _minus_two_log(r: Tensor) -> Tensor:
    """-2 log((r + 1/2) / 2^32) in float32, for 32-bit words r held in int64."""
    u = (r.to(torch.float32) + 0.5) * 2.0**-32
    bits = u.view(torch.int32)
    # Mantissa in [sqrt(1/2), sqrt(2)) and its exponent, by integer arithmetic on the bits.
    offset = bits - SQRT_HALF_BITS
    exponent = (offset >> 23).to(torch.float32)
    m = ((offset & 0x7FFFFF) + SQRT_HALF_BITS).view(torch.float32) - 1.0
    high = r >= COMPLEMENT_FROM
    m = torch.where(high, ((MASK - r).to(torch.float32) + 0.5) * -(2.0**-32), m)
    exponent = torch.where(high, torch.zeros_like(exponent), exponent)
    z = m * m
    p = torch.full_like(m, LOG_COEFFICIENTS[0])
    for c in LOG_COEFFICIENTS[1:]:
        p = p * m + c
    y = (p * m) * z
    y = y + exponent * LN2_LOW
    y = y - z * 0.5
    log = (m + y) + exponent * LN2_HIGH
    return log * -2.0


def _cos_sin(a: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) of 2 pi a / 2^32 in float32, for 32-bit words a held in int64."""
    quadrant = ((a + 0x20000000) >> 30) & 3
    remainder = ((a + 0x20000000) & 0x3FFFFFFF) - 0x20000000
    theta = remainder.to(torch.float32) * TURN
    z = theta * theta
    s = ((SIN_COEFFICIENTS[0] * z + SIN_COEFFICIENTS[1]) * z + SIN_COEFFICIENTS[2]) * z
    sin = s * theta + theta
    c = (COS_COEFFICIENTS[0] * z + COS_COEFFICIENTS[1]) * z + COS_COEFFICIENTS[2]
    cos = ((c * z) * z - 0.5 * z) + 1.0
    odd = (quadrant & 1).bool()
    cosine, sine = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    cosine = torch.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
    sine = torch.where(quadrant >= 2, -sine, sine)
    return cosine, sine


def normals_from_words(words: tuple[Tensor, ...]) -> Tensor:
    """Four standard normals, stacked in a last axis, from the four output words."""
    pairs = []
    for r, a in (words[:2], words[2:]):
        # torch's float32 sqrt is off by an ulp on CPUs where MKL computes it; rounding a float64
        # root to float32 is exact.
        radius = torch.sqrt(_minus_two_log(r).double()).float()
        cosine, sine = _cos_sin(a)
        pairs += [radius * cosine, radius * sine]
    return torch.stack(pairs, dim=-1)


def normals(
    elements: int, seeds: Tensor, sample_ids: Tensor, draw: Tensor | int, stream: int
) -> Tensor:
    """Standard normals of shape [rows, elements], float32.

    Args:
        elements: number of elements per sample.
        seeds: int64, [1] or [rows]; the 64-bit keys.
        sample_ids: int64, [rows].
        draw: which draw of the run, 0 <= draw < 2^32; [rows, 1] gives each row its own.
        stream: which family of draws, 0 <= stream < 256 (see ``fastgen.noise``).
    """
    device = sample_ids.device
    block = torch.arange((elements + 3) // 4, dtype=torch.int64, device=device)[None, :]
    sample, seed = sample_ids[:, None], seeds[:, None]
    counter = (
        block & MASK,
        sample & MASK,
        torch.as_tensor(draw, dtype=torch.int64, device=device) & MASK,
        stream | ((block >> 32) & 0xFF) << 8 | ((sample >> 32) & 0xFFFF) << 16,
    )
    words = philox(counter, (seed & MASK, (seed >> 32) & MASK))
    z = normals_from_words(words)
    return z.flatten(1)[:, :elements].contiguous()
