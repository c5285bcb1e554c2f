"""The harness: right times, wrong providers refused, runs that resume, honest comparison."""

import dataclasses
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import compare, harness, pages, report
from benchmarks.harness import Case, Journal, Provider, Row, measure


@pytest.fixture
def journal(tmp_path, monkeypatch):
    made = Journal(tmp_path / "rows.csv")
    monkeypatch.setattr(harness, "journal", made)
    return made


def case(*providers, **options):
    return Case("suite", "case", (3,), torch.float32, list(providers), **options)


def example(median=10.0, spread=0.5, **changes):
    made = harness.row("suite", "case", "fastgen", "fastgen-torch", (3,), torch.float32, "time",
                       "us", [median - spread, median, median + spread])  # fmt: skip
    return dataclasses.replace(made, **changes)


def soon(attempt, tries=5):
    """An attempt's findings once they are good: (good, findings).

    What else the machine does may spoil a few attempts; a wrong harness spoils all of them.
    """
    found = []
    for _ in range(tries):
        good, findings = attempt()
        if good:
            return findings
        found.append(findings)
    pytest.fail(f"none of {tries} attempts was good: {found}")


def test_a_known_sleep_is_timed_right():
    def attempt():
        (row,) = measure(case(Provider("sleep", lambda: time.sleep(0.004), units=2)), 1.0, 5, 0.1)
        assert 2000 <= row.p20 <= row.median <= row.p80  # it never wakes early
        return row.median < 4000, row

    row = soon(attempt)
    assert (row.unit, row.repeats) == ("us", 5)


def test_copies_take_twice_the_time_for_twice_the_bytes_and_the_floor_is_that_of_a_copy():
    source, target = torch.ones(2, 2**23), torch.empty(2, 2**23)

    def one():
        target[0].copy_(source[0])

    def two():
        target.copy_(source)

    def attempt():
        bandwidth = harness.copy_bandwidth(2**23)
        work = case(Provider("one", one), Provider("two", two), floor_bytes=8 * 2**23)
        rows = {row.provider: row for row in measure(work, bandwidth, 9, 0.3)}
        ratio = rows["two"].median / rows["one"].median
        share = rows["one"].floor / rows["one"].median
        return 1.4 < ratio < 2.8 and 0.4 < share < 1.6, (ratio, share)

    soon(attempt)


def test_a_provider_with_a_wrong_result_is_refused_before_it_is_timed():
    calls = []

    def wrong():
        calls.append(1)
        return torch.full((3,), 1.1)

    work = case(Provider("right", lambda: torch.ones(3)), Provider("wrong", wrong), tolerance=1e-3)
    with pytest.raises(AssertionError, match=r"wrong is off by 0\.1"):
        measure(work, 1.0)
    assert len(calls) == 1
    silent = case(Provider("right", lambda: torch.ones(3)), Provider("silent", lambda: None),
                  tolerance=1e-3)  # fmt: skip
    with pytest.raises(AssertionError, match="silent returns nothing"):
        measure(silent, 1.0)


def test_threads_are_restored_after_a_wrong_provider():
    before = torch.get_num_threads()
    work = case(Provider("a", lambda: torch.ones(3)), Provider("b", lambda: torch.zeros(3)),
                tolerance=0.1, threads=before + 1)  # fmt: skip
    with pytest.raises(AssertionError):
        measure(work, 1.0)
    assert torch.get_num_threads() == before


def test_rows_survive_the_csv(tmp_path):
    rows = [example(), harness.skipped("suite", "case", "peer", (2, 3), "peer is not installed")]
    harness.write(rows, tmp_path / "a.csv")
    again = harness.read(tmp_path / "a.csv")
    assert again[0] == rows[0]
    assert again[1].note == "peer is not installed"
    assert again[1].repeats == 0
    (tmp_path / "bad.csv").write_text("suite,case\nkernels,three terms,extra\n")
    with pytest.raises(ValueError, match=r"bad\.csv, line 2"):
        harness.read(tmp_path / "bad.csv")


def test_an_interrupted_run_keeps_its_rows_and_resumes(journal, monkeypatch):
    ran = []

    def provider(name):
        def run():
            ran.append(name)
            if name == "second" and len(journal.rows) == 1:
                raise InterruptedError

        return Provider(name, run)

    def cases():
        return [
            Case("suite", name, (3,), torch.float32, [provider(name)])
            for name in ("first", "second", "third")
        ]

    def go_on():
        for row in harness.measured(cases(), quick=True):
            harness.journal.add(row)

    with pytest.raises(InterruptedError):
        go_on()
    assert [row.case for row in harness.read(journal.path)] == ["first"]
    ran.clear()
    resumed = Journal(journal.path, resume=True)
    # So that the provider no longer stops the run.
    resumed.add(example(case="second", provider="second"))
    monkeypatch.setattr(harness, "journal", resumed)
    go_on()
    assert set(ran) == {"third"}
    assert [row.case for row in harness.read(journal.path)] == ["first", "second", "third"]


def test_progress_counts_the_cases(tmp_path, monkeypatch):
    seen = []
    made = Journal(progress=lambda done, total: seen.append((done, total)))
    monkeypatch.setattr(harness, "journal", made)
    list(harness.measured([case(Provider("nothing", lambda: None))], quick=True))
    assert seen == [(0, 1), (1, 1)]


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
    ((header, lines),) = report.rankings(rows)
    assert header == ["toy: rms", "mean place", "NFE 5", "NFE 10"]
    assert [line[:2] for line in lines] == [["b", "1.5"], ["c", "2.0"], ["a", "2.5"]]
    assert lines[1][2:] == ["", "0.05"]


def test_the_report_is_one_file_with_tables_figures_and_losses(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        example(10.0),
        example(5.0, provider="faster <peer>"),
        harness.skipped("suite", "case", "absent", (3,), "absent is not installed"),
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


def test_the_page_in_the_docs_is_current():
    assert pages.PAGE.read_text() == pages.markdown(), "run `python -m benchmarks --docs`"


def test_committed_rows_are_whole():
    found = [row for path in pages.FOLDER.glob("*.csv") for row in harness.read(path)]
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


def test_every_suite_is_a_module_with_rows():
    import importlib

    for name in command.SUITES:
        assert callable(importlib.import_module(f"benchmarks.{name}").rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["kernel"], "unknown suite 'kernel'"), (["--quik"], "unrecognized arguments")],
)
def test_the_command_line_refuses(arguments, message):
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert message in run.stderr


@pytest.mark.slow
def test_the_command_line_writes_rows_and_report(tmp_path):
    out = tmp_path / "rows.csv"
    command_line = [sys.executable, "-m", "benchmarks", "startup", "--quick", "--out", str(out)]
    run = subprocess.run(command_line, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (row,) = harness.read(out)
    assert row.suite == "startup"
    assert (tmp_path / "report.html").exists()
    again = subprocess.run(
        [*command_line, "--resume", "--compare", str(out)], capture_output=True, text=True
    )
    assert "rows changed beyond noise" in again.stdout
