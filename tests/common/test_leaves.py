"""What a value depends on, as autograd has recorded it."""

import torch

from fastgen.common.leaves import leaves_behind, leaves_of


def test_leaves_behind_a_value_stop_at_what_is_known():
    a, b = (torch.ones((), requires_grad=True) for _ in range(2))
    inner = a.exp()
    value = inner * b + 1
    assert {id(x) for x in leaves_behind([value], [])} == {id(a), id(b)}
    assert [id(x) for x in leaves_behind([value], [inner])] == [id(b)]
    assert leaves_behind([value], [inner, b]) == []
    assert leaves_behind([value.detach()], []) == []


def test_outputs_of_one_operation_are_told_apart():
    a = torch.ones(2, requires_grad=True)
    first, second = (2 * a).chunk(2)
    assert leaves_behind([first + 1], [first]) == []
    assert [id(x) for x in leaves_behind([first + second], [first])] == [id(a)]


def test_what_was_computed_before_a_function_is_no_leaf_of_it():
    a = torch.ones((), requires_grad=True)
    before = a.exp()
    assert [id(x) for x in leaves_of(lambda: [a.exp()], [])] == [id(a)]
    assert leaves_of(lambda: [before + a], []) is None
    assert [id(x) for x in leaves_of(lambda: [before + a], [before])] == [id(a)]
    assert leaves_of(lambda: [before + 1], [before, a]) is None  # a gradient of a would count twice
    with torch.no_grad():
        assert [id(x) for x in leaves_of(lambda: [2 * a], [])] == [id(a)]
