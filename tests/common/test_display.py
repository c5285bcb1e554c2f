"""How objects show themselves: texts of a few lines, tables that any page can hold."""

import copy
import functools
import math
import pickle
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from fastgen.common.display import brief, displayed, extent, figure
from tests.support.pages import Table


@displayed
class Facts:
    def __init__(self, **facts):
        self.facts = facts

    def _facts(self):
        return self.facts


@displayed
@dataclass(frozen=True)
class Fields:
    size: int
    hidden: Any = field(default=None, repr=False)


@displayed
class Named(NamedTuple):
    x: Any
    y: Any = None


@displayed
class Attributes:
    def __init__(self):
        self.shape, self._secret = (2, 3), "no"

    def method(self, x):
        return x


class TestText:
    def test_on_one_line_or_several(self):
        assert repr(Facts(a=1, b="two")) == "Facts(a=1, b='two')"
        many = repr(Facts(**{f"number_{k}": k for k in range(20)}))
        lines = many.splitlines()
        assert lines[0] == "Facts("
        assert lines[-1] == ")"
        assert max(map(len, lines)) <= 100
        assert len(lines) < 8
        assert "number_19=19," in many

    def test_where_the_facts_come_from(self):
        assert repr(Fields(3)) == "Fields(size=3)"
        assert repr(Named(torch.zeros(2, 3))) == "Named(x=float32[2, 3], y=None)"
        assert repr(Attributes()) == "Attributes(shape=(2, 3))"

    def test_copies_show_the_same(self):
        for value in (Fields(3), Named(1), Attributes()):
            assert repr(pickle.loads(pickle.dumps(value))) == repr(value)
            assert repr(copy.deepcopy(value)) == repr(value)

    def test_a_half_made_object_is_shown_too(self):
        half = Fields.__new__(Fields)
        assert repr(half) == "<Fields, not to be read: AttributeError>"
        assert Table(half._repr_html_()).cells == ["Fields", "not to be read", "AttributeError"]


class TestBrief:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (3, "3"),
            (0.1, "0.1"),
            (2.0, "2.0"),
            (1 / 3, "0.333333"),
            (1e-300, "1e-300"),
            (math.inf, "inf"),
            (True, "True"),
            (None, "None"),
            ("text", "'text'"),
            (np.float64(0.5), "0.5"),
            (np.int64(7), "7"),
            (np.zeros((2, 3)), "float64[2, 3]"),
            (torch.float16, "float16"),
            (torch.device("cpu"), "cpu"),
            (torch.Size([2, 3]), "[2, 3]"),
            ((1,), "(1,)"),
            ((), "()"),
            ([1, 2.5], "[1, 2.5]"),
            ({"a": 1, 2: "b"}, "{'a': 1, 2: 'b'}"),
            (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, ... 92 more]"),
            (torch.zeros(3, 4), "float32[3, 4]"),
            (torch.tensor(2.5), "2.5"),
            (torch.zeros(3, device="meta"), "float32[3] meta"),
            (torch.zeros((), device="meta"), "float32[] meta"),
            (torch.zeros(2, 2).to_sparse(), "float32 sparse_coo"),
            (nn.Linear(10, 100), "Linear(1,100 parameters)"),
            (nn.LazyLinear(3), "LazyLinear"),
            (nn.Linear, "Linear"),
            (math.sqrt, "sqrt"),
            (functools.partial(math.pow, 2), "partial(pow)"),
            (lambda x: x, "<lambda>"),
            (Attributes().method, "Attributes.method"),
            (Table.__init__, "Table.__init__"),
            (object(), "object"),
            (Fields(2), "Fields(size=2)"),
        ],
        ids=lambda v: v if isinstance(v, str) else type(v).__name__,
    )
    def test_values(self, value, text):
        assert brief(value) == text

    def test_long_texts_are_cut_and_long_objects_on_one_line(self):
        assert len(brief("x" * 10_000)) < 200
        nested = brief(Facts(**{f"n{k}": 2.5 for k in range(14)}))
        assert nested.startswith("Facts(n0=2.5, n1=2.5,")
        assert "\n" not in nested

    def test_no_address_of_anything(self):
        class Bare:
            pass

        for value in (
            Bare(),
            {"f": Bare()},
            [Bare()],
            torch.Generator(),
            functools.partial(Bare),
        ):
            assert "0x" not in brief(value)


class TestFigures:
    def test_numbers_that_are_at_hand(self):
        x = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
        assert figure(x, torch.amax) == 3
        assert brief(extent(x)) == "1.0 to 3.0"
        assert extent(torch.ones(4, dtype=torch.int64)) == 1
        assert math.isnan(extent(torch.tensor([math.nan])))

    def test_those_that_are_not_are_shown_by_their_metadata(self):
        def fake(shape):
            with FakeTensorMode():
                return torch.zeros(shape)

        for x in (torch.zeros(3, device="meta"), torch.zeros(0), fake(3), fake(())):
            assert figure(x, torch.amax) is x
            assert extent(x) is x
            assert brief(x).startswith(f"float32{list(x.shape)}")

    def test_inside_of_what_records_or_maps(self):
        seen = []

        def look(x):
            seen.append(brief(extent(x)) + repr(Facts(x=x, s=x.sum())))
            return x

        torch.func.vmap(look)(torch.ones(3, 2))
        torch.func.grad(lambda x: look(x).sum())(torch.ones(2))
        with FakeTensorMode() as mode:
            look(mode.from_tensor(torch.ones(2)))
            seen.append(repr(Facts(real=torch.zeros(2))))
        assert len(seen) == 4
        assert not any("0x" in text or "not to be read" in text for text in seen)


class TestTables:
    def test_cells(self):
        table = Table(Facts(a=1, b=torch.zeros(2))._repr_html_())
        assert table.cells == ["Facts", "a", "1", "b", "float32[2]"]
        assert table.tags.count("tr") == 2

    def test_everything_is_escaped(self):
        evil = "<script>alert('&amp;')</script>\"'"
        page = Facts(**{"<b>": evil, "f": lambda x: x})._repr_html_()
        assert "<script" not in page
        assert "<b>" not in page
        table = Table(page)
        assert table.cells == ["Facts", "<b>", repr(evil), "f", "<lambda>"]

    def test_colours_are_the_pages_own(self):
        page = Facts(a=1)._repr_html_()
        assert "color: inherit" in page
        assert "#" not in page
