"""The tables of docs/howto/fitted.md, from the kept rows: `python -m benchmarks.tools.fitted`."""

from __future__ import annotations

from benchmarks.tools import kept
from benchmarks.tools.cells import three
from benchmarks.tools.decisions import BEGIN, DOCS, END
from benchmarks.tools.tables import markdown

PAGE = DOCS / "howto" / "fitted.md"
Found = dict[str, dict[tuple[str, str], float]]
FITS = ("fastgen.tune, least squares", "fastgen.tune, whole run")
NAMES = ("best built-in", "best built-in, 2 NFE", *FITS)
OTHERS = ("Adam", "AYS grid", "GITS", "OptimalSteps", "BNS's loss", "S4S's objective", "azula")
GRIDS = OTHERS[1:4]


def table() -> str:
    """Each problem's rms with the median sample's in brackets, and what the fits took."""
    found: Found = {}
    rows = kept.read("tuned")
    for row in rows:
        found.setdefault(row.case, {})[row.provider, row.metric] = row.median
    cases = sorted(found, key=_order)
    lines = [[case, *(_pair(found[case], name) for name in NAMES)] for case in cases]
    beside = [
        [case, *(_pair(found[case], name) for name in (FITS[1], *OTHERS))]
        for case in cases
        if ("S4S's objective", "rms") in found[case]
    ]
    judged = [
        [case, *(_one(found[case], name) for name in (*NAMES, *GRIDS))]
        for case in cases
        if (FITS[1], "frechet") in found[case]
    ]
    closed, whole = (max(v[name, "fit"] for v in found.values()) for name in FITS)
    near = [c for c in cases if found[c][FITS[1], "rms"] <= found[c][NAMES[1], "rms"]]
    devices = ", ".join(sorted({row.device for row in rows}))
    return f"""{markdown(["problem", *NAMES], lines)}

On {devices}, one thread: a fit took at most {three(closed)} s of CPU time by least squares,
{three(whole)} s with the whole run, race included. The rms of {len(near)} of {len(cases)} fits is
at most that of the best built-in at twice the evaluations.

Beside what others publish, at the same evaluations: Align Your Steps' table with `dpmpp_2m`; grids
found for this network by the equations of GITS (with `ipndm`) and OptimalSteps (with `ddim`); the
same fit by 300 iterations of Adam; and from `dpmpp_2m` by Adam with the loss of bespoke solvers,
and with S4S's relaxed objective. The last column is the best of azula's six samplers of one
evaluation in each step. diffusers-dmse's scheduler ends at conditional means, not where the flow
ends, so it is not in the table.

{markdown(["problem", FITS[1], *OTHERS], beside)}

The Fréchet distance to held-out digits, which says whether they are good ones: a fit comes nearer
to where the network's flow ends, and that is all it gains.

{markdown(["problem", *NAMES, *GRIDS], judged)}"""


def _pair(values: dict[tuple[str, str], float], name: str) -> str:
    if (name, "rms") not in values:
        return "-"
    return f"{three(values[name, 'rms'])} ({three(values[name, 'median'])})"


def _one(values: dict[tuple[str, str], float], name: str) -> str:
    return three(values[name, "frechet"]) if (name, "frechet") in values else "-"


def page(text: str) -> str:
    """The page with the table of the kept rows."""
    begin = BEGIN.format("fits")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table()}\n{END}{rest.split(END, 1)[1]}"


def _order(case: str) -> tuple[str, int]:
    problem, nfe = case.split(", NFE ")
    return problem, int(nfe)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
