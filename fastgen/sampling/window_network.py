"""The network's calls on many evaluations of a run at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.model.model import Model
from fastgen.sampling.network_calls import NetworkCalls


class WindowNetwork:
    """The network's calls on many evaluations at once, guided and not guided apart.

    Args:
        model: the network and what it means.
        calls: the ordinary calls of the run.
        times: what the network is fed as times, [1 or 2, evaluations, B].
        replicas: further copies of the network, see `Parallel`.

    Raises:
        ValueError: for arguments of which it is not known whether they have rows.
    """

    def __init__(
        self,
        model: Model,
        calls: NetworkCalls,
        times: Tensor,
        replicas: Sequence[torch.nn.Module],
    ) -> None:
        self.model, self.calls = model, calls
        self.times = times
        self.batch, self.guidance = calls.shape[0], calls.guidance
        _check_rows(model, "net_kwargs", calls.net_kwargs, self.batch)
        if self.guidance is not None:
            for branch in self.guidance.branches.values():
                _check_rows(model, "guidance", branch.arguments, self.batch)
                if branch.network is not None and replicas:
                    raise ValueError("replicas: guidance has a network of its own, which has none")
            self.guidance.check_forgets("a run parallel in time")
        self.nets = [(model, calls.device)]
        for net in replicas:
            device = next(net.parameters()).device
            self.nets.append((_with_net(model, net), device))

    def __call__(
        self, first: int, inputs: list[Tensor]
    ) -> dict[int, tuple[tuple[Tensor, ...], Tensor | None]]:
        """For each evaluation from the first on its outputs, and the variance if there is one."""
        guided = self.calls.guided
        numbers = range(first, first + len(inputs))
        found = {}
        parts = []
        for flag in (True, False):
            chosen = [k for k in numbers if (bool(guided) and guided[k]) == flag]
            share = -(-len(chosen) // len(self.nets))
            for n, (model, device) in enumerate(self.nets):
                own = chosen[n * share : (n + 1) * share]
                if own:
                    x = torch.cat([inputs[k - first] for k in own])
                    parts.append((own, self._call(model, device, own, x, flag)))
        batch, device = self.batch, self.calls.device
        for own, (outputs, variance) in parts:
            for i, k in enumerate(own):
                part = slice(i * batch, (i + 1) * batch)
                own_variance = None if variance is None else variance[part].to(device)
                found[k] = tuple([y[part].to(device) for y in outputs]), own_variance
        return found

    def _call(
        self, model: Model, device: torch.device, numbers: list[int], x: Tensor, guided: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        calls, count = self.calls, len(numbers)
        x = x.to(device=device, dtype=model.input_dtype(x.dtype))
        times = tuple([column[numbers].reshape(-1).to(device) for column in self.times])
        guidance = self.guidance
        if guidance is not None:
            guidance = guidance.with_arguments(
                lambda arguments: self._repeated(arguments, count, device)
            )
        joint = 1 if guidance is None else guidance.joint
        evaluate = NetworkCalls(
            model,
            calls.plan,
            x,
            calls.seeds,
            calls.sample_ids,
            [times],
            [tuple([t.repeat(joint) for t in times])],
            guidance,
            None,
            self._repeated(calls.net_kwargs, count, device),
            False,
            lambda: None,
            guided=[guided],
        )
        if guidance is None:
            return evaluate(0, x, None), evaluate.variance
        return evaluate.branches(0, x), evaluate.variance  # merged apart, at their own times

    def _repeated(
        self, arguments: Mapping[str, Any], count: int, device: torch.device
    ) -> dict[str, Any]:
        declared, batch = self.model.declared, self.batch

        def rows(leaf: Tensor) -> Tensor:
            repeats = [count, *[1] * (leaf.ndim - 1)]
            return (leaf.repeat(repeats) if leaf.ndim and leaf.shape[0] == batch else leaf).to(
                device
            )

        def there(leaf: Tensor) -> Tensor:
            return leaf.to(device)

        return {
            name: pytree.tree_map_only(
                Tensor, rows if name in declared.per_sample else there, value
            )
            for name, value in arguments.items()
        }


def _check_rows(model: Model, name: str, arguments: Mapping[str, Any], batch: int) -> None:
    """Raise a ValueError for arguments of which it is not known whether they have rows."""
    unknown = [n for n, v in arguments.items() if model.declared.undeclared({n: v}, batch)]
    if unknown:
        raise ValueError(
            f"parallel: {name} has {', '.join(unknown)}, which may have a row for each of the "
            f"{batch} samples or be shared by them; say so with Model(..., per_sample="
            f"{tuple(unknown)}) or Model(..., shared={tuple(unknown)})"
        )


def _with_net(model: Model, net: torch.nn.Module) -> Model:
    """The model with a copy of its network."""
    other = copy.copy(model)
    other.net = net
    return other
