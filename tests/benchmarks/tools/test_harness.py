"""The harness: right times, wrong providers refused, runs that resume."""

import time

import pytest
import torch

from benchmarks.tools import harness, rows
from benchmarks.tools.harness import Case, Provider, measure
from benchmarks.tools.rows import Journal
from tests.support.rows import example


@pytest.fixture
def journal(tmp_path, monkeypatch):
    made = Journal(tmp_path / "rows.csv")
    monkeypatch.setattr(rows, "journal", made)
    return made


def case(*providers, **options):
    return Case("suite", "case", (3,), torch.float32, list(providers), **options)


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
        found = {row.provider: row for row in measure(work, bandwidth, 9, 0.3)}
        ratio = found["two"].median / found["one"].median
        share = found["one"].floor / found["one"].median
        # Beside other work a copy takes some times what it takes alone.
        return 1.4 < ratio < 2.8 and 0.1 < share < 1.6, (ratio, share)

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
            rows.journal.add(row)

    with pytest.raises(InterruptedError):
        go_on()
    assert [row.case for row in rows.read(journal.path)] == ["first"]
    ran.clear()
    resumed = Journal(journal.path, resume=True)
    # So that the provider no longer stops the run.
    resumed.add(example(case="second", provider="second"))
    monkeypatch.setattr(rows, "journal", resumed)
    go_on()
    assert set(ran) == {"third"}
    assert [row.case for row in rows.read(journal.path)] == ["first", "second", "third"]


def test_progress_counts_the_cases(tmp_path, monkeypatch):
    seen = []
    made = Journal(progress=lambda done, total: seen.append((done, total)))
    monkeypatch.setattr(rows, "journal", made)
    list(harness.measured([case(Provider("nothing", lambda: None))], quick=True))
    assert seen == [(0, 1), (1, 1)]
