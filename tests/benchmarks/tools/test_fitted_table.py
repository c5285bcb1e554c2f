"""The table of fitted plans is that of the kept rows."""

from benchmarks.tools import fitted, kept


def test_the_table_is_current():
    text = fitted.PAGE.read_text()
    assert text == fitted.page(text), "run `python -m benchmarks.tools.fitted`"


def test_fits_beat_the_best_built_in_of_their_budget():
    found = {(r.case, r.provider, r.metric): r.median for r in kept.read("tuned")}
    cases = {case for case, *_ in found}
    assert len(cases) >= 8

    def share(case: str, metric: str) -> float:
        best = found[case, "best built-in", metric]
        return found[case, fitted.FITS[1], metric] / best if best else 0.0  # nothing to gain

    # Samples that end in another mode carry the one, all others the other.
    assert all(min(share(c, "rms"), share(c, "median")) < 0.85 for c in cases)
