"""The modes in which people run torch, each as a check of one entry point.

A check raises an AssertionError where the entry's result is wrong; any other error is the entry's
own and goes through.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from tests.modes.entries import ENTRIES, WIDTH, Entry
from tests.modes.tensors import Tagged, Wrapped, unwrapped

MODES: dict[str, Callable[[Entry], None]] = {}
# Relative to the largest value: some thousand roundings, but far below any wrong term.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}


def mode(check: Callable[[Entry], None]) -> Callable[[Entry], None]:
    """Decorator: puts a check into the table, by its own name."""
    MODES[check.__name__] = check
    return check


def states(batch: int = 3, dtype: torch.dtype = torch.float32, shift: float = 0.0) -> Tensor:
    values = torch.arange(batch * WIDTH, dtype=torch.float64).reshape(batch, WIDTH)
    return torch.sin(0.7 * values + shift).to(dtype)


def same(found: Tensor, expected: Tensor) -> None:
    """Bit for bit, as the mode does not change what is computed."""
    assert type(found) is Tensor, f"a {type(found).__name__}"
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}"
    assert found.dtype == expected.dtype, f"{found.dtype} instead of {expected.dtype}"
    assert torch.equal(found, expected), f"off by {(found - expected).abs().max():.3g}"


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """To rounding in ``dtype``."""
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}"
    found, expected = found.detach().double(), expected.detach().double()
    assert torch.isfinite(found).all(), "not finite"
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    off = float((found - expected).abs().max()) if found.numel() else 0.0
    assert off <= TOLERANCE[dtype] * max(scale, 1.0), f"off by {off:.3g} of {scale:.3g}"


def plain(entry: Entry, x: Tensor) -> Tensor:
    return entry.run(x.detach().clone()).detach()


def slope(entry: Entry, x: Tensor, direction: Tensor) -> Tensor:
    """The derivative along a direction, by central differences in float64."""
    h = 1e-5
    return (plain(entry, x + h * direction) - plain(entry, x - h * direction)) / (2 * h)


# Autograd.


@mode
def grad(entry: Entry) -> None:
    x = states(dtype=torch.float64).requires_grad_()
    found = entry.run(x)
    same(found.detach(), plain(entry, x))
    if not entry.records:
        return
    weights = torch.cos(torch.arange(found.numel(), dtype=torch.float64)).reshape(found.shape)
    (gradient,) = torch.autograd.grad((found * weights).sum(), x)
    direction = states(dtype=torch.float64, shift=0.4)
    expected = (slope(entry, x.detach(), direction) * weights).sum()
    assert abs(float((gradient * direction).sum() - expected)) < 1e-4 * (1 + abs(float(expected)))


@mode
def no_grad(entry: Entry) -> None:
    x = states()
    expected = plain(entry, x)
    with torch.no_grad():
        same(entry.run(x), expected)


@mode
def inference_mode(entry: Entry) -> None:
    expected = plain(entry, states())
    with torch.inference_mode():
        found = entry.run(states())
    same(found, expected)
    same(plain(entry, states()), expected)  # nothing of inference mode stays behind


@mode
def forward_mode(entry: Entry) -> None:
    x, direction = states(dtype=torch.float64), states(dtype=torch.float64, shift=0.4)
    expected = slope(entry, x, direction)
    with forward_ad.dual_level():
        found, tangent = forward_ad.unpack_dual(entry.run(forward_ad.make_dual(x, direction)))
    same(found, plain(entry, x))
    tangent = torch.zeros_like(found) if tangent is None else tangent
    assert (tangent - expected).abs().max() < 1e-4 * (1 + expected.abs().max()), "wrong tangent"


@mode
def func_jvp(entry: Entry) -> None:
    x, direction = states(dtype=torch.float64), states(dtype=torch.float64, shift=0.4)
    expected = slope(entry, x, direction)
    found, tangent = torch.func.jvp(entry.run, (x,), (direction,))
    same(found, plain(entry, x))
    assert (tangent - expected).abs().max() < 1e-4 * (1 + expected.abs().max()), "wrong tangent"


@mode
def func_grad(entry: Entry) -> None:
    x, direction = states(dtype=torch.float64), states(dtype=torch.float64, shift=0.4)
    expected = slope(entry, x, direction).sum()
    gradient = torch.func.grad(lambda x: entry.run(x).sum())(x)
    assert abs(float((gradient * direction).sum() - expected)) < 1e-4 * (1 + abs(float(expected)))


@mode
def vmap(entry: Entry) -> None:
    batches = torch.stack([states(shift=s) for s in (0.0, 0.5, 1.0)])
    expected = torch.stack([plain(entry, x) for x in batches])
    close(torch.func.vmap(entry.run)(batches), expected, torch.float32)


@mode
def functionalize(entry: Entry) -> None:
    same(torch.func.functionalize(entry.run)(states()), plain(entry, states()))


@mode
def compiled(entry: Entry) -> None:
    torch.compiler.reset()
    found = torch.compile(entry.run, backend="eager")(states())
    close(found, plain(entry, states()), torch.float32)


@mode
def autocast(entry: Entry) -> None:
    expected = plain(entry, states())
    with torch.autocast("cpu", torch.bfloat16):  # the network has no operation that it casts
        close(entry.run(states()), expected, torch.float32)


@mode
def default_device(entry: Entry) -> None:
    """torch.set_default_device(another one): tensors of ours are where theirs are."""
    x = states()
    expected = plain(entry, x)
    with torch.device("meta"):  # on which there are no numbers to be right by chance
        found = entry.run(x)
    same(found, expected)


# Tensors.


@mode
def subclass(entry: Entry) -> None:
    found = entry.run(states().as_subclass(Tagged))
    same(found.as_subclass(Tensor), plain(entry, states()))


@mode
def wrapper_subclass(entry: Entry) -> None:
    same(unwrapped(entry.run(Wrapped(states()))), plain(entry, states()))


@mode
def negative_view(entry: Entry) -> None:
    x = torch._neg_view(-states())
    assert x.is_neg()
    same(entry.run(x).resolve_neg(), plain(entry, states()))


@mode
def strided(entry: Entry) -> None:
    wide = torch.full((WIDTH, 6), 7.0)
    wide[:, ::2] = states().T
    x = wide[:, ::2].T
    assert not x.is_contiguous()
    assert torch.equal(x, states())
    found = entry.run(x)
    close(found, plain(entry, states()), found.dtype)
    assert (wide[:, 1::2] == 7).all()
    assert torch.equal(x, states()), "the caller's tensor was written to"


def _in_dtype(entry: Entry, dtype: torch.dtype) -> None:
    x = states(dtype=dtype)
    close(plain(entry, x), plain(entry, x.double()), dtype)


@mode
def float64(entry: Entry) -> None:
    close(plain(entry, states(dtype=torch.float64)), plain(entry, states()), torch.float32)


@mode
def float16(entry: Entry) -> None:
    _in_dtype(entry, torch.float16)


@mode
def bfloat16(entry: Entry) -> None:
    _in_dtype(entry, torch.bfloat16)


@mode
def no_rows(entry: Entry) -> None:
    found = plain(entry, states(0))
    if entry.by_row:
        assert found.shape == (0, *plain(entry, states()).shape[1:])


@mode
def one_row(entry: Entry) -> None:
    found = plain(entry, states(1))
    if entry.by_row:
        same(found, plain(entry, states())[:1])
    assert torch.isfinite(found).all()


# Threads and processes.


@mode
def threads(entry: Entry) -> None:
    inputs = [states(shift=0.1 * k) for k in range(8)]
    expected = [plain(entry, x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            for found, wanted in zip(pool.map(entry.run, inputs), expected, strict=True):
                same(found.detach(), wanted)


def in_child(name: str) -> list[float]:
    """What an entry gives for the usual states, in a form that travels between processes."""
    torch.set_num_threads(1)
    return plain(ENTRIES[name], states()).double().flatten().tolist()


def _process(entry: Entry, method: str) -> None:
    expected = in_child(entry.name)  # used before the fork, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks beside threads
        with get_context(method).Pool(1) as pool:
            assert pool.apply_async(in_child, (entry.name,)).get(timeout=120) == expected


@mode
def fork(entry: Entry) -> None:
    _process(entry, "fork")
