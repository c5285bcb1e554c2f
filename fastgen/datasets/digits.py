"""Handwritten digits: the 1797 scans of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.display import displayed

CLASSES = 10
SPLIT_SEED = 0  # one split for every run, so that no run is judged on digits it was trained on


@displayed
class Part(NamedTuple):
    """images [N, 1, 8, 8] in [-1, 1], float32; labels [N] in 0 .. 9, int64."""

    images: Tensor
    labels: Tensor


@displayed
class Digits(NamedTuple):
    """Training digits and two held-out parts of equal size with the same labels in one order."""

    train: Part
    held_out_a: Part
    held_out_b: Part


def load_digits() -> Digits:
    """The digits of Alpaydin and Kaynak 1998 (UCI "Optical Recognition of Handwritten Digits").

    Of every class a random quarter goes to each held-out part and the rest to training. The two
    held-out parts thus differ by sampling alone: their distance is the floor that a perfect
    generator of as many digits would show. The file is read without importing scikit-learn, so that
    neither its seconds nor its requirements (SciPy) are needed.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    pixels, targets = _scans()
    generator = np.random.default_rng(SPLIT_SEED)
    parts: tuple[list[int], list[int], list[int]] = [], [], []
    for label in range(CLASSES):
        members = generator.permutation(np.flatnonzero(targets == label)).tolist()
        quarter = len(members) // 4
        cuts = members[2 * quarter :], members[:quarter], members[quarter : 2 * quarter]
        for part, cut in zip(parts, cuts, strict=True):
            part.extend(cut)
    images = torch.from_numpy(pixels / 8 - 1).to(torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(targets).to(torch.int64)
    return Digits(*(Part(images[part], labels[part]) for part in parts))


def _scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels [1797, 64] from 0 to 16 and classes [1797], as scikit-learn's `load_digits`."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the digits come with scikit-learn: pip install scikit-learn")
    folder = Path(next(iter(found.submodule_search_locations)))
    table = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)
