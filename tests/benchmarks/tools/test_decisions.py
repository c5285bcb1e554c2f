"""The page that chooses solvers says what the rows say."""

import pytest

from benchmarks.tools import decisions, figures
from tests.support.rows import example


def test_the_tables_and_the_figure_are_current():
    text = decisions.PAGE.read_text()
    assert text == decisions.page(text), "run `python -m benchmarks.tools.decisions`"
    assert decisions.AUTOMATIC.read_text() == decisions.automatic()
    assert figures.digest_in(decisions.FIGURE) == decisions.digest()
    assert decisions.FIGURE.stat().st_size < 120_000


def test_the_advice_is_among_the_best():
    for nfe, solver in ((5, "dpmpp_3m"), (5, "deis"), (6, "unipc"), (5, "unipc")):
        assert dict(decisions.ranked("rms", nfe))[solver, "uniform"] < 1.5
    for nfe in (8, 10, 15, 20):
        found = dict(decisions.ranked("rms", nfe))
        assert sorted(found.values()).index(found["dpm_solver_3m", "karras"]) < 5
        assert dict(decisions.ranked("sliced_w2", nfe))["dpm_solver_3m", "karras"] < 1.25
    assert all(t < 1.3 for c, t in decisions.ranked("sliced_w2", 50) if c in decisions.USUAL)
    for prediction in ("velocity", "v"):
        for nfe in (5, 10, 20):
            best = [f.choice[0] for f in decisions.of_a_network(prediction, nfe)]
            assert best[0] == "gradient_estimation"
            assert best.index("unipc") < 16
    for nfe in (5, 10, 20, 50):
        found = [f.choice[0] for f in decisions.of_a_network("noise", nfe)]
        assert found[0] == "dpmpp_sde"
        assert found.index("sa_solver") < 6


def rows_of(problem, **errors):
    return [
        example(error, 0.0, suite="quality", provider=solver, metric="rms", unit="",
                case=f"{problem}, {grid}, NFE 5", note="")
        for solver, error in errors.items()
        for grid in decisions.GRIDS
    ]  # fmt: skip


def test_an_error_is_a_multiple_of_the_least_and_its_mean_is_geometric():
    rows = [
        *rows_of("mixture, d = 2", a=1.0, b=2.0),
        *rows_of("mixture, d = 64", a=8.0, b=2.0, only_here=1.0),
        *rows_of("digits, d = 64", a=1.0, b=0.0),
    ]
    found = {f.choice: f.times for f in decisions.ranked("rms", 5, rows)}
    assert set(found) == {(s, g) for s in "ab" for g in decisions.GRIDS}
    assert found["a", "karras"] == pytest.approx((1 * 8 * 100) ** (1 / 3))
    assert found["b", "karras"] == pytest.approx((2 * 2 * 1) ** (1 / 3))


def test_a_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    decisions.draw(tmp_path / "drawn.svg")
    assert figures.digest_in(tmp_path / "drawn.svg") == decisions.digest()
