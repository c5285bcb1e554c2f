"""Quality charts: points of the lines, from rows of several kinds."""

import csv
import io
from typing import NamedTuple

import pytest

from fastgen.plots import quality

ROWS = [
    {"solver": s, "nfe": n, "frechet": f / n}
    for s, f in (("euler", 9), ("heun", 4))
    for n in (10, 5)
]
FLOOR = {"solver": "real digits", "nfe": 0, "frechet": 0.1}


class Row(NamedTuple):
    solver: str
    nfe: int
    frechet: float


class Kept:
    def __init__(self, **values):
        self.__dict__.update(values)


def as_csv(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return csv.DictReader(io.StringIO(file.getvalue()))


@pytest.mark.parametrize(
    "kind",
    [iter, as_csv, lambda rows: [Row(**r) for r in rows], lambda rows: [Kept(**r) for r in rows]],
    ids=["dictionaries", "csv", "tuples", "objects"],
)
def test_points_in_order_of_evaluations(kind):
    axes = quality(kind([*ROWS, FLOOR]))
    euler, heun, floor = axes.lines
    assert euler.get_xydata().tolist() == [[5, 9 / 5], [10, 9 / 10]]
    assert heun.get_xydata().tolist() == [[5, 4 / 5], [10, 4 / 10]]
    assert list(floor.get_ydata()) == [0.1, 0.1]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["euler", "heun", "real digits"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_ylabel() == "Fréchet distance"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["5", "10"]


def test_other_columns():
    rows = [{"grid": "karras", "steps": 4, "kid": 2.0}]
    axes = quality(rows, y="kid", x="steps", by="grid", title="grids")
    assert axes.lines[0].get_xydata().tolist() == [[4, 2]]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("steps", "kid", "grids")


def test_many_solvers_are_told_apart():
    rows = [{"solver": f"s{k}", "nfe": n, "error": 1.0} for k in range(23) for n in (1, 2)]
    drawn = quality(rows).lines
    kinds = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn}
    assert len(kinds) == 23


def test_numbers_that_are_not_finite_and_no_rows():
    rows = [{"solver": "a", "nfe": 1, "error": "inf"}, {"solver": "a", "nfe": 2, "error": 1}]
    quality(rows).figure.canvas.draw()
    quality([]).figure.canvas.draw()


def test_refusals():
    with pytest.raises(ValueError, match=r"y: none of frechet, .*name one"):
        quality([{"solver": "a", "nfe": 1}])
    with pytest.raises(ValueError, match=r"rows: row 1 has no 'nfe'; did you mean"):
        quality([ROWS[0], {"solver": "a", "nfes": 1, "frechet": 1}])
    with pytest.raises(ValueError, match=r"rows: row 0: frechet='x'"):
        quality([{"solver": "a", "nfe": 1, "frechet": "x"}])
    with pytest.raises(TypeError, match="rows: expected dictionaries"):
        quality([3])
