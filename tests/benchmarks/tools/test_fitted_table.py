"""The table of fitted plans is that of the kept rows."""

from benchmarks.tools import fitted, kept


def test_the_table_is_current():
    text = fitted.PAGE.read_text()
    assert text == fitted.page(text), "run `python -m benchmarks.tools.fitted`"


def test_fits_beat_the_best_built_in_of_their_budget():
    found = {(r.case, r.provider): r.median for r in kept.read("tuned") if r.metric == "median"}
    cases = {case for case, _ in found}
    assert len(cases) >= 8
    assert all(found[c, fitted.FITS[1]] < 0.6 * found[c, "best built-in"] for c in cases)
