"""Guidance rules: how the outputs of guidance's branches become one.

Each is a combination of the outputs whose weights follow from their inner products in every sample,
so one reduction and one linear combination do the work of all: ``fastgen.Guidance(rule=...)`` takes
a name of `NAMES`, one of these objects with its options, or a function of the Gram matrix.
"""

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
from fastgen.rules.names import NAMES, rule_of
from fastgen.rules.rule import Branches, Combined, OfGram, Pair, Rule, Space, rescaled

__all__ = [
    "APG",
    "CFG",
    "NAMES",
    "TCFG",
    "Branches",
    "Combined",
    "FrequencyDecoupled",
    "MagnitudeAware",
    "OfGram",
    "Pair",
    "PerpNeg",
    "Rescale",
    "Rule",
    "Semantic",
    "Space",
    "ZeroStar",
    "rescaled",
    "rule_of",
]
