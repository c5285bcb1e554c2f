"""`python -m tests.modes`: writes docs/modes.md, what works in which mode of torch."""

from pathlib import Path

from tests.modes.entries import ENTRIES
from tests.modes.listed import LISTED
from tests.modes.modes import MODES

PAGE = Path(__file__).parents[2] / "docs" / "modes.md"
HEAD = """# What works in which mode of torch

Every public entry point was run in every mode below; a test holds this page against the runs
(`tests/modes`). **yes**: the result is the right one, bit for bit where the mode changes nothing,
and derivatives agree with differences. **refused**: an error says why, and what to do instead.

* How the call is made: `grad`, `no_grad`, `inference_mode`, `forward_mode`
  (`torch.autograd.forward_ad`), `func_jvp`, `func_grad`, `vmap`, `functionalize` (`torch.func`),
  `autocast`, and within `torch.device` or `torch.set_default_device` of another device than the
  tensors' (`default_device`). Under `torch.compile` (with graph breaks) they are run by the slow
  tests alone, and so is what compiles by itself.
* What the state is: `subclass`, `wrapper_subclass` (a tensor that wraps another, as DTensor does),
  `negative_view`, `strided` (not contiguous), `float64`, `float16`, `bfloat16`, `no_rows` (an empty
  batch), `one_row`.
* Where it is made: `threads` (8 at once), `fork`. Spawned processes, and copies of objects that
  have run (`copy`, `deepcopy`, `pickle`, `torch.save`), give the same bits as well.

A plain `Sampler` runs in buffers of its own and records nothing; with `differentiable=True` it has
gradients and tangents. Likelihoods have gradients with `differentiable=True`.

In forward mode networks and fields that `torch.compile` made run as they were written, since
compiled code has no tangents. One whose value depends on its input and yet has no tangent (detach,
NumPy or JAX inside) is an error that names it; a constant is called once more to see that it is
one. Whoever means to count a value as constant adds `0 * x` to it.

Sinkhorn's `value` and `sinkhorn_divergence` have first derivatives; the potentials f and g are
constants to autograd, and a second derivative is an error. What is kept for later calls is plain
memory, whatever mode the first call was made in; in a mode of dispatch (`FakeTensorMode`, tracing)
nothing is kept.

"""


def page() -> str:
    """The page's text."""
    modes = [mode for mode in MODES if mode != "compiled"]
    rows = [f"| entry | {' | '.join(modes)} |", f"|---{'|---' * len(modes)}|"]
    for name in ENTRIES:
        cells = ["refused" if (name, mode) in LISTED else "yes" for mode in modes]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
