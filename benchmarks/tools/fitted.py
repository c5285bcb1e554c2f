"""The table of docs/howto/fitted.md, from the kept rows: `python -m benchmarks.tools.fitted`."""

from __future__ import annotations

from benchmarks.tools import kept
from benchmarks.tools.cells import three
from benchmarks.tools.decisions import BEGIN, DOCS, END
from benchmarks.tools.tables import markdown

PAGE = DOCS / "howto" / "fitted.md"
FITS = ("fastgen.tune, least squares", "fastgen.tune, gradients")
NAMES = ("best built-in", "best built-in, 2 NFE", *FITS)


def table() -> str:
    """Each problem's rms with the median sample's in brackets, and what the fits took."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    rows = kept.read("tuned")
    for row in rows:
        found.setdefault(row.case, {})[row.provider, row.metric] = row.median
    lines = [
        [case, *(f"{three(v[name, 'rms'])} ({three(v[name, 'median'])})" for name in NAMES)]
        for case, v in sorted(found.items(), key=lambda item: _order(item[0]))
    ]
    closed, gradients = (max(v[name, "fit"] for v in found.values()) for name in FITS)
    devices = ", ".join(sorted({row.device for row in rows}))
    return (
        f"{markdown(['problem', *NAMES], lines)}\n\nOn {devices}, one thread: a fit took at most "
        f"{three(closed)} s of CPU time by least squares, {three(gradients)} s with gradients."
    )


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
