"""The 2-D tables of the OT-CFM and [SF]2M papers: `python -m benchmarks.suites.two_dimensional`.

Tong et al. 2024 (arXiv 2302.00482, 2307.03672): network [64, 64, 64] with SELU and t concatenated,
AdamW at 1e-3 with weight decay 1e-5, batches of 512, 20 000 steps, Euler with 100 steps, W2 between
10 000 generated and 10 000 test points, and the normalised path energy NPE = |E int |v|^2 dt -
W2^2(q0, q1)| / W2^2(q0, q1). All methods and seeds of a data pair are one stack of networks whose
layers are batched products, so that a step costs what its arithmetic costs. What is evaluated is
the flow: the scores of [SF]2M, learned by a loss and a network of their own, play no part in it and
are learned in `bridge` only. Rows "averaged weights" are of a moving average of
the same training, which also makes the pairs of rectified flow; "exact samples" of points that were
drawn, not generated: the floor of W2.

[SF]2M has sigma = 1, as the paper says. On the two pairs whose points are of unit size its energies
are then far from those published, which are near I-CFM's; with sigma = 0.1 they agree (rows "sigma
0.1"), so that this is what the tables probably have there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.suites.two_dimensional import bridge, flows
from benchmarks.suites.two_dimensional.protocol import SUITE, Protocol, kept
from benchmarks.tools.rows import Row, recorded, show_progress

CASES = (*flows.PAIRS, *bridge.CASES)


def rows_of_case(name: str, protocol: Protocol, folder: Path, compiled: bool) -> list[Row]:
    """Do the work of a pair or a bridge."""
    if name in flows.PAIRS:
        return flows.rows_of(
            name, *kept(flows.run_pair, name, protocol, folder, compiled), protocol
        )
    found = kept(bridge.run, name, protocol, folder, compiled)
    return bridge.rows_of(name, *found, protocol)


def rows(quick: bool) -> Iterator[Row]:
    """The suite, one pair after another; quick: a short training on one pair."""
    protocol = Protocol((0, 1), 200, 500) if quick else Protocol()
    names = ["N->moons"] if quick else list(CASES)
    for done, name in enumerate(names):
        show_progress(done, len(names))
        if recorded(SUITE, name, "fastgen", (protocol.points, 2)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            yield from rows_of_case(name, protocol, Path(folder), not quick)
    show_progress(len(names), len(names))
