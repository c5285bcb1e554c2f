"""What is committed: whole rows in small files, and a page and figures that follow from them."""

import dataclasses

import pytest

from benchmarks.suites import SUITES
from benchmarks.tools import condensed, figures, kept, multiples, pages
from benchmarks.tools.rows import Row, skipped
from tests.support.rows import example


def test_the_page_in_the_docs_is_current():
    assert pages.PAGE.read_text() == pages.page(), "run `python -m benchmarks --docs`"


def test_committed_rows_are_whole():
    found = [row for suite in kept.suites() for row in kept.read(suite)]
    assert found
    for row in found:
        if row.provider == "published":  # in a paper, which is its version
            assert row.version.startswith("arXiv")
            assert row.device + row.date + row.commit == ""
        elif row.repeats:
            assert isinstance(row, Row)
            assert row.device
            assert row.version
            assert row.date
            assert row.commit
        else:
            assert row.note


def test_every_file_is_a_suite_s_and_small():
    files = list(kept.FOLDER.glob("*.csv"))
    for suite in kept.suites():
        assert suite in SUITES
        assert {row.suite for row in kept.read(suite)} == {suite}
        files.remove(kept.path_of(suite))
    assert files == [condensed.runs_of(kept.path_of("quality"))]
    assert all(path.stat().st_size < 700_000 for path in kept.FOLDER.rglob("*"))


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figures_are_current_and_small(name):
    path = figures.FOLDER / f"{name}.svg"
    assert figures.digest_in(path) == figures.digest(name), "run `python -m benchmarks --docs`"
    assert path.stat().st_size < 130_000
    assert f"figures/{name}.svg" in pages.page()


def test_figures_are_drawn_from_the_rows(tmp_path):
    pytest.importorskip("matplotlib")
    for path in figures.write(tmp_path):
        assert figures.digest_in(path) == figures.digest_in(figures.FOLDER / path.name)


def test_the_page_is_short_and_names_every_row_that_loses():
    page = pages.page()
    assert len(page.splitlines()) <= 345
    assert "No GPU has run any of this." in page
    lost = [p for s in kept.suites() for p in multiples.multiples(kept.read(s)) if p.value < 1]
    assert lost
    section = page.split("## Where a peer is faster")[1].split("\n## ")[0]
    for pair in lost:
        assert any(
            f"| {pair.ours.case}, " in line and f"| {pair.theirs.provider} |" in line
            for line in section.splitlines()
        )


def quality(nfe, value, *, note="s.e. 0.02", **changes):
    changes = {"suite": "quality", "provider": "heun", "metric": "rms", "unit": ""} | changes
    return example(value, 0.0, case=f"toy, grid, NFE {nfe}", note=note, **changes)


def test_condensed_rows_are_the_rows_but_for_their_quantiles(tmp_path):
    rows = [
        quality(5, 0.5, note="4 evaluations; s.e. 0.1"),
        quality(5, 0.7, metric="w2", floor=0.2, note="4 evaluations; s.e. 0.3"),
        quality(10, 0.25),
        quality(5, 0.125, provider="ddim", note=""),
        quality(5, 0.1, provider="peer", version="diffusers 1.0", commit="abc"),
    ]
    absent = skipped("quality", "toy, grid, NFE 5", "peer two", (3,), "no start; pass start < 1")
    left_out = skipped("quality", "toy", "peer three", (3,), "peer three is not installed")
    path = tmp_path / "rows.csv"
    condensed.write([*rows, absent, left_out], path)
    found = condensed.read(path)
    assert len(found) == 6
    by = {row.key: row for row in found}
    for row in rows:
        again = by[row.key]
        assert dataclasses.replace(again, p20=row.p20, p80=row.p80) == row
        assert again.p20 <= again.median <= again.p80
    # A standard error of 0.1 over three seeds is a deviation of 0.173, of which 0.84 is a quintile.
    first = by[rows[0].key]
    assert (first.p20, first.p80) == pytest.approx((0.5 - 0.1458, 0.5 + 0.1458), abs=1e-4)
    again = by[absent.key]
    assert again.note == absent.note
    assert again.repeats == 0
    before = path.read_bytes(), condensed.runs_of(path).read_bytes()
    condensed.write(found, path)
    assert (path.read_bytes(), condensed.runs_of(path).read_bytes()) == before


def test_condensed_rows_refuse_what_they_would_lose(tmp_path):
    with pytest.raises(ValueError, match="no room for the note 'why'"):
        condensed.write([quality(5, 0.5, note="why")], tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="budget of evaluations"):
        condensed.write([example()], tmp_path / "rows.csv")


def test_new_rows_take_the_place_of_the_old(tmp_path):
    old = [example(10.0, suite="loops"), example(20.0, suite="loops", case="other")]
    kept.keep([*old, quality(5, 0.5)], tmp_path)
    new = example(11.0, suite="loops")
    written = kept.keep([new, quality(5, 0.4), quality(10, 0.3)], tmp_path)
    assert [path.name for path in written] == ["cpu-loops.csv", "cpu-quality.csv"]
    assert kept.read("loops", tmp_path) == [new, old[1]]
    assert [row.median for row in kept.read("quality", tmp_path)] == [0.4, 0.3]
    assert list(kept.suites(tmp_path)) == ["loops", "quality"]
    assert isinstance(kept.read("quality", tmp_path)[0], Row)
