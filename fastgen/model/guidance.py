"""Guidance: further network outputs that enter the same fused stage."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgen.common.checks import check_number, check_pair
from fastgen.common.display import displayed
from fastgen.common.kept import kept
from fastgen.common.transforms import transforming
from fastgen.common.typed import typed_fields
from fastgen.kernels import dispatch
from fastgen.kernels.combine import reference
from fastgen.kernels.combine.operator import combine
from fastgen.kernels.derivatives import differentiated
from fastgen.model.arguments import Declared
from fastgen.model.branch import Branch, Network, check_arguments
from fastgen.model.scales import Scale, at_time, at_times, check_scale, column
from fastgen.model.weighing import combinations
from fastgen.rules import Rule, rule_of
from fastgen.rules.rule import Time


class Merged(NamedTuple):
    """One output made of several, and what the rule remembers until the next evaluation."""

    output: Tensor
    memory: Tensor | None = None


@displayed
@dataclass(frozen=True, eq=False)
class Guidance:
    """Guidance: output = u + scale (c - u), or another rule, inside an interval of times.

    c is the network's output for the call's own keyword arguments, u that for ``unconditional``
    ones (Ho and Salimans 2022, arXiv 2207.12598), or that of a weaker or perturbed ``network``
    (autoguidance, Karras et al. 2024, arXiv 2406.02507). Any number of branches have names: then
    ``scale`` and ``unconditional`` are dictionaries by name, and the output is
    c + sum_j (scale_j - 1) (a_j - u_j), a_j the output that branch j is compared with.

    Fixed scales without a further rule are linear: all outputs are read by the one kernel of the
    stage, so guidance adds no pass over memory. Other rules, scales per sample of several branches,
    and ``rescale`` take one pass for the inner products of each sample's outputs, and their weights
    are the stage's; one more merges them first in runs that are watched, recorded or served, and
    where a rule remembers. Outside the interval the network is called once, for c (Kynkäänniemi et
    al. 2024, arXiv 2404.07724).

    Args:
        scale: one number, one per sample [B], or a function of the time t; 1 switches it off. Or a
            dictionary of these by the names of the branches.
        unconditional: keyword arguments that replace the call's for u. With a dictionary of scales
            for each name these arguments, or a `Branch`.
        interval: (low, high), times t with low <= t <= high are guided.
        network: the network for u, if it is another one.
        rule: how outputs become one: a name of ``fastgen.rules.NAMES``, an object of
            `fastgen.rules` with the options of its paper, or a function (gram, t) -> weights of the
            outputs (`fastgen.rules.OfGram`).
        rescale: phi in [0, 1]: how far the guided output is brought back to c's standard deviation
            in every sample (Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16), after the rule.
        batched: evaluate branches of the same network in one call on as many times B rows where
            one call can have the arguments of all: tensors [B, ...] or [1, ...] that differ are
            joined along their first axis, also in dictionaries, lists and tuples, and what all
            samples share is handed over once. Otherwise there are several calls: where a name is
            given for u alone, where numbers or None differ, and for a tensor [B, ...] that is the
            same for all and that ``Model(shared=..., per_sample=...)`` says nothing of.

    Example:
        >>> def net(x, t, labels):
        ...     return labels[:, None] + 0 * x
        >>> model = fastgen.Model(net, fastgen.schedules.CosineVP(), predicts="data")
        >>> none, wanted = torch.zeros(4), torch.ones(4)
        >>> guidance = fastgen.Guidance(2.0, unconditional={"labels": none})
        >>> x = fastgen.sample(
        ...     model, (4, 1), "ddim", 10, guidance=guidance, net_kwargs={"labels": wanted}
        ... )
        >>> x[:, 0].tolist()  # u + 2 (c - u)
        [2.0, 2.0, 2.0, 2.0]
    """

    scale: Scale | Mapping[str, Scale]
    unconditional: Mapping[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] = (0.0, 1.0)
    network: Network | None = None
    rule: str | Rule | Callable[[Tensor, Time], Tensor] = "cfg"
    rescale: float = 0.0
    batched: bool = True
    # What the fields mean: branches after the network's own output, by name.
    branches: dict[str, Branch] = field(init=False, repr=False)
    against: tuple[int, ...] = field(init=False, repr=False)
    _rule: Rule = field(init=False, repr=False)
    _scales: dict[tuple[torch.device, Time | None], list[Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        typed_fields(self)
        check_scale("scale", self.scale)
        low, high = check_pair("interval", self.interval)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval={self.interval!r}: expected 0 <= low <= high <= 1")
        if not 0 <= check_number("rescale", self.rescale) <= 1:
            raise ValueError(f"rescale={self.rescale!r}: expected a number in [0, 1]")
        branches = self._named()
        names = list(branches)
        for name, branch in branches.items():
            earlier = names[: names.index(name)]
            if branch.against is not None and branch.against not in earlier:
                raise ValueError(
                    f"unconditional[{name!r}]: against={branch.against!r} is none of the branches "
                    f"before it, {earlier}"
                )
        rule = rule_of(self.rule)
        rule.check(names, [s if isinstance(s, (int, float)) else None for s in self.scales])
        places = [0 if b.against is None else 1 + names.index(b.against) for b in branches.values()]
        found = {"branches": branches, "against": tuple(places), "_rule": rule}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def _named(self) -> dict[str, Branch]:
        """The branches, whichever way they were given."""
        if not isinstance(self.scale, Mapping):
            check_arguments("unconditional", self.unconditional)
            return {"unconditional": Branch(self.unconditional, self.network)}
        if self.network is not None:
            raise ValueError(
                "network: with a dictionary of scales each branch has its own, "
                "unconditional={name: fastgen.model.Branch({...}, network=...)}"
            )
        if self.scale.keys() != self.unconditional.keys():
            raise ValueError(
                f"unconditional: expected arguments for each of the scales {list(self.scale)}, "
                f"got {list(self.unconditional)}"
            )
        named = {name: self.unconditional[name] for name in self.scale}
        return {n: b if isinstance(b, Branch) else Branch(b) for n, b in named.items()}

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"scale": self.scale}
        facts |= {"unconditional": self.unconditional} if self.unconditional else {}
        facts |= {"network": self.network} if self.network is not None else {}
        facts |= {"rule": self.rule} if self.rule != "cfg" else {}
        facts["interval"] = self.interval
        facts |= {"rescale": self.rescale} if self.rescale else {}
        return {**facts, "batched": self.batched}

    @cached_property
    def scales(self) -> list[Scale]:
        """The scale of each branch."""
        if isinstance(self.scale, Mapping):
            return list(self.scale.values())
        return [self.scale]

    @cached_property
    def joint(self) -> int:
        """Outputs of the model's own network, which one call on so many times B rows may give."""
        return 1 + sum(b.network is None for b in self.branches.values()) if self.batched else 1

    @cached_property
    def merges(self) -> bool:
        """Whether outputs are merged before the stage: their weights are no numbers of the plan."""
        several = len(self.branches) > 1 and self.per_sample
        return not self._rule.linear or self.rescale > 0 or several

    @property
    def remembers(self) -> bool:
        """Whether the rule is given what it made at the evaluation before."""
        return self._rule.remembers

    @property
    def per_sample(self) -> bool:
        """Whether a scale differs between samples."""
        return any(isinstance(s, Tensor) for s in self.scales)

    @property
    def by_row(self) -> Tensor | None:
        """Scales [B] that make the stages' coefficients differ between samples."""
        (scale, *_) = self.scales
        return scale if isinstance(scale, Tensor) and not self.merges else None

    def check_forgets(self, name: str) -> None:
        """Raise a ValueError for a rule that remembers, where evaluations have no order."""
        if self.remembers:
            raise ValueError(
                f"guidance: momentum is of a run's evaluations in order, which {name} does not "
                "have; choose momentum=0"
            )

    def check_batch(self, shape: Sequence[int]) -> None:
        """Raise a ValueError where scales per sample do not fit a batch."""
        for scale in self.scales:
            if isinstance(scale, Tensor) and tuple(shape[:1]) != scale.shape:
                raise ValueError(
                    f"guidance: there are {len(scale)} scales for a batch of shape {shape}; give "
                    "one number, or one per sample"
                )

    def active(self, t: float) -> bool:
        """Whether the branches are evaluated at time t."""
        alone = self._rule.linear and all(
            not isinstance(s, Tensor) and at_time(s, t) == 1 for s in self.scales
        )
        return self.interval[0] <= t <= self.interval[1] and not alone

    def weights(self, t: float, scale: float = 2.0) -> tuple[float, ...]:
        """The factors that the stage gives to the outputs, or to the one output it reads.

        scale: what stands for a scale per sample.
        """
        if self.merges or not self.active(t):
            return (1.0,)
        return self._linear(
            [scale if isinstance(s, Tensor) else at_time(s, t) for s in self.scales]
        )

    def _linear(self, scales: list[float]) -> tuple[float, ...]:
        found = [sum(scales) - (len(scales) - 1), *[1 - s for s in scales]]
        for i, s in zip(self.against, scales, strict=True):
            if i:
                found[0] -= s - 1
                found[i] += s - 1
        return tuple(found)

    def merge(self, outputs: Sequence[Tensor], t: Time, memory: Tensor | None = None) -> Merged:
        """The guided output [B, ...] of the network's own and those of all branches.

        Args:
            outputs: the network's own first, then those of the branches.
            t: the time, or that of each sample, [B].
            memory: what it made at the evaluation before, if it `remembers`.
        """
        if not self.merges and not self.per_sample and not isinstance(t, Tensor):
            weights = self._linear([at_time(s, t) for s in self.scales])
            parts = [w * x for w, x in zip(weights, outputs, strict=True)]
            return Merged(sum(parts[1:], parts[0]))
        return self.merge_rows(outputs, t, self._scales_at(t, outputs[0]), None, memory)

    def merge_rows(
        self,
        outputs: Sequence[Tensor],
        t: Time,
        scales: Sequence[Tensor],
        active: Tensor | None,
        memory: Tensor | None,
    ) -> Merged:
        """The same with the scales [B, 1] or [1, 1] of the branches on the device.

        active: samples [B] that are guided; None for all.
        """
        first = outputs[0]
        plain = not (
            torch.is_grad_enabled() or transforming() or torch._C._len_torch_dispatch_stack()
        )
        given = outputs, self.against, scales, t, memory
        tensors, rows = combinations(self._rule, self.rescale, *given, active=active, plain=plain)
        batch = 1 if all(len(row) == 1 for row in rows) else len(first)
        table = torch.stack([row.expand(batch, -1) for row in rows], 1)
        kinds = [torch.promote_types(first.dtype, torch.float32)] * len(rows)
        if plain:  # without torch's dispatch of operators, which takes longer than small kernels
            return Merged(*dispatch.find("combine", first.device)(tensors, table, kinds))
        # The kernels' own derivatives are those in the tensors; here weights have some too.
        run = reference.combine if differentiated(table) else combine
        return Merged(*run(tensors, table, kinds))

    @property
    def weighs(self) -> bool:
        """Whether it merges outputs by weights of each sample alone, which a stage may have."""
        return self.merges and not self.remembers and type(self._rule).derive is Rule.derive

    def row_weights(self, outputs: Sequence[Tensor], t: float) -> Tensor:
        """The weights of all outputs, float64 [B, N] or [1, N], where it `weighs` them."""
        given = outputs, self.against, self._scales_at(t, outputs[0]), t, None
        plain = not torch._C._len_torch_dispatch_stack()
        return combinations(self._rule, self.rescale, *given, plain=plain)[1][0]

    def _scales_at(self, t: Time, x: Tensor) -> list[Tensor]:
        """The scale of each branch, float64 [B, 1] or [1, 1], on x's device.

        What is kept is there before a graph of the run is captured.
        """
        schedule = any(callable(s) and not isinstance(s, Tensor) for s in self.scales)
        if schedule and isinstance(t, Tensor):
            return [column(at_times(s, t), x.device) for s in self.scales]
        key = x.device, t if schedule else None
        return kept(
            self._scales, key, lambda: [column(at_times(s, t), x.device) for s in self.scales]
        )

    def around(
        self,
        own: Tensor,
        net_kwargs: Mapping[str, Any],
        call: Callable[[Mapping[str, Any], Network | None], Tensor],
        t: Time,
    ) -> Tensor:
        """The guided output from the network's own and one call for each branch.

        call: (keyword arguments, the network if it is another one) to an output.
        """
        outputs = [own]
        for kwargs, net in self.separate(net_kwargs):
            outputs[-1] = outputs[-1].clone()  # the next call may write its output there
            outputs.append(call(kwargs, net))
        return self.merge(outputs, t).output

    def of_rows(self, rows: Tensor) -> Guidance:
        """The guidance of some samples [A] of the batch."""
        if not self.per_sample:
            return self
        return self.with_scales(
            [s.to(rows.device)[rows] if isinstance(s, Tensor) else s for s in self.scales]
        )

    def with_scales(self, scales: Sequence[Scale]) -> Guidance:
        """The same with another scale for each branch."""
        if not isinstance(self.scale, Mapping):
            return replace(self, scale=scales[0])
        return replace(self, scale=dict(zip(self.branches, scales, strict=True)))

    def with_arguments(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Guidance:
        """The same with other arguments of each branch."""
        if not isinstance(self.scale, Mapping):
            return replace(self, unconditional=change(self.unconditional))
        changed = {
            name: replace(branch, arguments=change(branch.arguments))
            for name, branch in self.branches.items()
        }
        return replace(self, unconditional=changed)

    def joined(
        self, batch: int, net_kwargs: Mapping[str, Any], declared: Declared
    ) -> dict[str, Any] | None:
        """Keyword arguments for one call on the rows of all branches of the model's own network.

        None where there must be several calls.
        """
        if self.joint == 1:
            return None
        calls = [kw for kw, net in self.separate(net_kwargs) if net is None]
        return declared.joined([net_kwargs, *calls], batch)

    def separate(
        self, net_kwargs: Mapping[str, Any]
    ) -> list[tuple[dict[str, Any], Network | None]]:
        """Keyword arguments and network of each branch's own call."""
        return [({**net_kwargs, **b.arguments}, b.network) for b in self.branches.values()]


def check_guidance(guidance: Any) -> None:
    """Raise a TypeError for something else than a `Guidance` or None; warn of an idle one."""
    if guidance is None:
        return
    if not isinstance(guidance, Guidance):
        expected = "fastgen.Guidance(scale, unconditional={...}), or None"
        raise TypeError(f"guidance={guidance!r}: expected {expected}")
    for name, branch in guidance.branches.items():
        if not branch.arguments and branch.network is None:
            warnings.warn(
                f"guidance: the branch {name!r} is the call itself, so it guides nothing; pass "
                "unconditional={'labels': null}, or whatever the network takes, or network=",
                stacklevel=3,
            )


def check_pair_alone(outputs: int, guidance: Any, transform: Any = None) -> None:
    """Raise a ValueError where a network of two outputs is given what takes one."""
    given = {"guidance": guidance, "transform": transform}
    names = [name for name, value in given.items() if value is not None]
    if outputs == 2 and names:
        raise ValueError(
            f"{', '.join(names)}: a network of velocity and score is run as it is; combine "
            "conditional and unconditional outputs in net"
        )
