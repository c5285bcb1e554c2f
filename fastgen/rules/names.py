"""Rules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgen.common.errors import nearest
from fastgen.rules.known import (
    APG,
    CFG,
    TCFG,
    FrequencyDecoupled,
    MagnitudeAware,
    PerpNeg,
    Rescale,
    Semantic,
    ZeroStar,
)
from fastgen.rules.rule import OfGram, Rule

_BY_NAME: dict[str, Callable[[], Rule]] = {
    "apg": APG,
    "cfg": CFG,
    "frequency_decoupled": FrequencyDecoupled,
    "mambo": MagnitudeAware,
    "perp_neg": PerpNeg,
    "rescale": Rescale,
    "sega": Semantic,
    "tcfg": TCFG,
    "zero_star": ZeroStar,
}
NAMES = tuple(sorted(_BY_NAME))

# What is asked for as a rule and is something else here.
_ELSEWHERE = {
    "cfg++": "it renoises with the unconditional prediction, which is the solver 'ddim_cfgpp'",
    "autoguidance": "pass the weaker network: Guidance(scale, network=weak)",
    "pag": "pass the network with perturbed attention: Guidance(scale, network=perturbed)",
    "slg": "pass the network that skips layers: Guidance(scale, network=skipping)",
    "seg": "pass the network with blurred attention: Guidance(scale, network=blurred)",
    "smoothed energy": "pass the network with blurred attention: Guidance(scale, network=blurred)",
}


def rule_of(rule: Any) -> Rule:
    """A rule from a name, a rule, or a function (gram, t) -> weights.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something else.
    """
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, str):
        if rule in _ELSEWHERE:
            raise ValueError(f"rule={rule!r}: {_ELSEWHERE[rule]}")
        if rule not in _BY_NAME:
            raise ValueError(f"rule={rule!r}: {nearest(rule, NAMES)}")
        return _BY_NAME[rule]()
    if callable(rule) and not isinstance(rule, type):
        return OfGram(rule)
    raise TypeError(
        f"rule={rule!r}: expected a name, an object of fastgen.rules, or a function of (gram, t)"
    )
