"""What a value depends on, as autograd has recorded it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

# A node, and which of its inputs.
Edge: TypeAlias = "tuple[Node | None, int]"


def leaves_behind(values: Iterable[Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    """Leaves that the values depend on otherwise than through the known tensors."""
    return _walk(values, known, 0)[0]


def leaves_of(
    function: Callable[[], Iterable[Tensor]], known: Iterable[Tensor]
) -> list[Tensor] | None:
    """The same of a function's values; None where they depend on what was computed before.

    Such a tensor has a graph of its own, which cannot be gone through once more at every call.
    None too where a known tensor was computed from another: a gradient of both counts twice.
    """
    known = [x for x in known if x.requires_grad]
    if not _apart(known):
        return None
    with torch.enable_grad():
        # autograd counts its nodes: what comes after this one is the function's own
        mark = torch.ones((), requires_grad=True).clone().grad_fn
        assert mark is not None
        leaves, older = _walk(function(), known, mark._sequence_nr())
    return None if older else leaves


def _edge(x: Tensor) -> Edge:
    edge = get_gradient_edge(x)
    return edge.node, edge.output_nr


def _apart(tensors: list[Tensor]) -> bool:
    edges: set[Edge] = {_edge(x) for x in tensors}
    nodes = [x.grad_fn for x in tensors]
    gone: set[Node] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in gone:
            continue
        gone.add(node)
        if not edges.isdisjoint(node.next_functions):
            return False
        nodes += [after for after, _ in node.next_functions]
    return True


def _walk(
    values: Iterable[Tensor], known: Iterable[Tensor], since: int
) -> tuple[list[Tensor], bool]:
    """Leaves, and whether a node is older than `since`."""
    seen = {_edge(x) for x in known if x.requires_grad}
    edges: list[Edge] = [_edge(x) for x in values if x.requires_grad]
    found: dict[int, Tensor] = {}
    gone: set[Node] = set()
    while edges:
        edge = edges.pop()
        node = edge[0]
        if node is None or edge in seen or node in gone:
            continue
        gone.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        elif node._sequence_nr() < since:
            return list(found.values()), True
        edges += node.next_functions
    return list(found.values()), False
