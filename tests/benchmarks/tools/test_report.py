"""Rows in files and side by side: what changed, which solver ranks first, the HTML report."""

import dataclasses

import pytest

from benchmarks.tools import compare, report, tables
from benchmarks.tools.rows import read, skipped, write
from tests.support.rows import example


def test_rows_survive_the_csv(tmp_path):
    rows = [example(), skipped("suite", "case", "peer", (2, 3), "peer is not installed")]
    write(rows, tmp_path / "a.csv")
    again = read(tmp_path / "a.csv")
    assert again[0] == rows[0]
    assert again[1].note == "peer is not installed"
    assert again[1].repeats == 0
    (tmp_path / "bad.csv").write_text("suite,case\nkernels,three terms,extra\n")
    with pytest.raises(ValueError, match=r"bad\.csv, line 2"):
        read(tmp_path / "bad.csv")


def test_comparison_reports_what_is_beyond_noise_and_nothing_else():
    old = [example(10.0), example(10.0, case="steady"), example(10.0, case="gone")]
    new = [example(13.0), example(10.3, case="steady"), example(5.0, case="new")]
    text = compare.changes(old, new)
    first, last = text.splitlines()
    assert first.startswith("  1.30 x  suite | case | 3 | fastgen: 10 -> 13")
    assert last == "1 of 2 rows changed beyond noise; 1 only in the old, 1 only in the new run"
    assert not compare.changed(example(10.0, 4.0), example(13.0, 4.0))  # ranges overlap
    other = [dataclasses.replace(row, device="another") for row in new]
    assert "different devices" in compare.changes(old, other)


def test_ranking_is_by_mean_place_and_an_absent_budget_is_last():
    def quality(provider, nfe, value):
        return example(value, 0.0, suite="quality", case=f"toy, NFE {nfe}", provider=provider,
                       metric="rms", unit="")  # fmt: skip

    rows = [quality("a", 5, 1.0), quality("a", 10, 0.2), quality("b", 5, 0.5),
            quality("b", 10, 0.1), quality("c", 10, 0.05)]  # fmt: skip
    ((header, lines),) = tables.rankings(rows)
    assert header == ["toy: rms", "mean place", "NFE 5", "NFE 10"]
    assert [line[:2] for line in lines] == [["b", "1.5"], ["c", "2.0"], ["a", "2.5"]]
    assert lines[1][2:] == ["", "0.05"]


def test_the_report_is_one_file_with_tables_figures_and_losses(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        example(10.0),
        example(5.0, provider="faster <peer>"),
        skipped("suite", "case", "absent", (3,), "absent is not installed"),
        *(example(1.0 / n, 0.01, suite="quality", case=f"toy, NFE {n}", provider=p, metric="rms")
          for n in (5, 10) for p in ("ddim", "heun")),
    ]  # fmt: skip
    page = report.write(rows, tmp_path).read_text()
    assert "<td class=lost>5 (0.50 x)</td>" in page
    assert "faster &lt;peer&gt;" in page
    assert "absent is not installed" in page
    assert page.count("data:image/png;base64,") == 2
    assert "src=" in page
    assert "http" not in page
    assert {path.name for path in tmp_path.glob("*.png")} == {"suite.png", "quality-toy-rms.png"}
