"""The fuzz suite at the size of a test run, and at that of a quarter of an hour."""

import pytest

from tests.fuzz.children import in_child, judged
from tests.fuzz.engine import KINDS, counts, failures, run, unclear

pytestmark = pytest.mark.filterwarnings("ignore")


def _checked(report):
    assert not failures(report), "\n".join(failures(report))
    found = counts(report)
    assert found["clear"] > 0
    assert found["returned"] > 0
    assert found["unclear"] <= 0.01 * len(report), "\n".join(unclear(report))


@pytest.mark.parametrize(("kind", "examples"), [("api", 400), ("operators", 150), ("plans", 150)])
def test_no_crash_no_hang_no_wrong_number_and_clear_errors(kind, examples):
    _checked(run(kind, examples))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_for_a_quarter_of_an_hour(kind):
    _checked(run(kind, 100_000, start=1, minutes=15 / len(KINDS)))


def test_what_a_child_ends_in_is_told_apart():
    def crash():
        import ctypes

        ctypes.string_at(0)

    def hang():
        while True:
            pass

    def deep():
        return {}["missing"]

    assert in_child(lambda: None).kind == "returned"
    assert in_child(lambda: "off by 1").kind == "wrong"
    assert in_child(crash).kind == "crash"
    assert in_child(hang, seconds=0.5).kind == "hang"
    assert in_child(deep).kind == "unclear"
    assert judged(MemoryError()).kind == "clear"
