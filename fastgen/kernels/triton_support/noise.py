"""The noise contract (`fastgen.kernels.normals.reference`) as Triton device functions.

The order of roundings is the reference's. Only steps that cannot change a bit are rearranged, as
in ``csrc/common/normals.h``: powers of two move through products, and -2 goes into the
coefficients of the logarithm. Kernels that call these functions must be compiled with
``enable_fp_fusion=False``.
"""

import triton
import triton.language as tl

from fastgen.kernels.triton_support import geometry

THREADS: tl.constexpr = tl.constexpr(geometry.THREADS)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1, PAIRED: tl.constexpr = False):
    """Philox4x32-10 on uint32 words, scalars or blocks; returns the four output words.

    PAIRED: a thread has two calls with one key. Both halves of a product are one instruction on
    NVIDIA: asked for as halves, ptxas puts them together where there is one call, but not where
    the halves of two calls lie among each other; as a 64-bit product it always adds a zero, which
    is the lesser cost there (`docs/emulation.md` has the counts).
    """
    for _ in tl.static_range(10):
        if PAIRED:
            p0 = c0.to(tl.uint64) * 0xD2511F53
            p1 = c2.to(tl.uint64) * 0xCD9E8D57
            high0, low0 = (p0 >> 32).to(tl.uint32), p0.to(tl.uint32)
            high1, low1 = (p1 >> 32).to(tl.uint32), p1.to(tl.uint32)
        else:
            high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
            high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1 = high1 ^ c1 ^ k0, low1
        c2, c3 = high0 ^ c3 ^ k1, low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def minus_two_log(r):
    """-2 log((r + 1/2) / 2^32) in float32, for uint32 words r."""
    complement = r >= 3037000500
    f = tl.where(complement, r ^ 0xFFFFFFFF, r).to(tl.float32) + 0.5
    # The bits of sqrt(1/2) with the exponent raised by 32, since f is not divided by 2^32 yet.
    offset = f.to(tl.int32, bitcast=True) - (0x3F3504F3 + 0x10000000)
    exponent = tl.where(complement, 0, offset >> 23).to(tl.float32)
    mantissa = ((offset & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    m = tl.where(complement, f * -2.3283064365386963e-10, mantissa)
    z = m * m
    p = m * (-2 * 7.0376836292e-2) + (-2 * -1.1514610310e-1)
    p = p * m + (-2 * 1.1676998740e-1)
    p = p * m + (-2 * -1.2420140846e-1)
    p = p * m + (-2 * 1.4249322787e-1)
    p = p * m + (-2 * -1.6668057665e-1)
    p = p * m + (-2 * 2.0000714765e-1)
    p = p * m + (-2 * -2.4999993993e-1)
    p = p * m + (-2 * 3.3333331174e-1)
    y = (p * m) * z
    y = y + exponent * (-2 * -2.12194440e-4)
    y = y + z
    return (m * -2.0 + y) + exponent * (-2 * 0.693359375)


@triton.jit
def polar(radius, a):
    """Radius times (cos, sin) of 2 pi a / 2^32, for uint32 words a."""
    # The angle in its quadrant, shifted by two bits; 3.66e-10 is pi / 2^33.
    theta = (a << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.657295198167899e-10
    z = theta * theta
    s = ((z * -1.9515295891e-4 + 8.3321608736e-3) * z + -1.6666654611e-1) * z
    sine = s * theta + theta
    c = (z * 2.443315711809948e-5 + -1.388731625493765e-3) * z + 4.166664568298827e-2
    cosine = ((c * z) * z - z * 0.5) + 1.0
    quadrant = a + 0x20000000  # in the two upper bits
    odd = (quadrant & 0x40000000) != 0
    sign_x, sign_y = (quadrant ^ (quadrant << 1)) & 0x80000000, quadrant & 0x80000000
    x = (radius * tl.where(odd, sine, cosine)).to(tl.uint32, bitcast=True) ^ sign_x
    y = (radius * tl.where(odd, cosine, sine)).to(tl.uint32, bitcast=True) ^ sign_y
    return x.to(tl.float32, bitcast=True), y.to(tl.float32, bitcast=True)


@triton.jit
def box_muller(w0, w1, w2, w3):
    """Four standard normals from four words. The square root is the correctly rounded one."""
    z0, z1 = polar(tl.sqrt_rn(minus_two_log(w0)), w1)
    z2, z3 = polar(tl.sqrt_rn(minus_two_log(w2)), w3)
    return z0, z1, z2, z3


@triton.jit
def four_normals(block, sample, seed, draw, stream, PAIRED: tl.constexpr = False):
    """Elements 4 block .. 4 block + 3 of a sample: int64 block, sample and seed, uint32 draw."""
    high = ((block >> 32).to(tl.uint32) & 0xFF) << 8
    last = stream | high | ((sample >> 32).to(tl.uint32) << 16)
    w0, w1, w2, w3 = philox(
        block.to(tl.uint32),
        sample.to(tl.uint32),
        draw,
        last,
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
        PAIRED,
    )
    return box_muller(w0, w1, w2, w3)


@triton.jit
def group_normals(group, sample, seed, draw, stream, WIDTH: tl.constexpr):
    """Elements WIDTH group .. WIDTH (group + 1) - 1 of samples, as a block [len(group), WIDTH].

    WIDTH is 4, or 8 where 16-bit tensors are to be read 128 bits at a time; with 1 and 2 there is
    one group to a sample. Joined this way each thread holds its normals in registers.
    """
    if WIDTH == 8:
        a0, a1, a2, a3 = four_normals(group * 2, sample, seed, draw, stream, True)
        b0, b1, b2, b3 = four_normals(group * 2 + 1, sample, seed, draw, stream, True)
        even = tl.join(tl.join(a0, b0), tl.join(a2, b2))
        odd = tl.join(tl.join(a1, b1), tl.join(a3, b3))
        z = tl.reshape(tl.join(even, odd), (group.shape[0], 8))
    else:
        PAIRED: tl.constexpr = group.shape[0] > THREADS
        z0, z1, z2, z3 = four_normals(group, sample, seed, draw, stream, PAIRED)
        if WIDTH == 4:
            z = tl.reshape(tl.join(tl.join(z0, z2), tl.join(z1, z3)), (group.shape[0], 4))
        elif WIDTH == 2:
            z = tl.join(z0, z1)
        else:
            z = z0[:, None]
    return z
