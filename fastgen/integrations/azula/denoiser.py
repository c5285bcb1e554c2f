"""azula's denoisers as models that predict data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.common.display import brief
from fastgen.integrations.azula.schedule import AzulaSchedule
from fastgen.model import Model

TIMES = ("one", "each")


class PosteriorMean:
    """``net(x, t, **kwargs)``: the mean of q(X | x_t), ``denoiser(x, t, **kwargs).mean``.

    It is no module, so that it is fed the state's dtype: denoisers themselves cast what they give
    to their backbone.

    Args:
        denoiser: an azula Denoiser.
        times: "one" calls it with a time of shape (), which every denoiser takes; "each" with
            one per sample [B], which denoisers around a backbone take.
    """

    def __init__(self, denoiser: torch.nn.Module, times: str) -> None:
        check_choice("times", times, TIMES)
        self.denoiser, self.times = denoiser, times

    def __repr__(self) -> str:
        return f"PosteriorMean({brief(self.denoiser)}, times={self.times!r})"

    def __call__(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """The mean at states x [B, ...] and times t [B].

        Raises:
            ValueError: with times="one", for a batch whose samples are at several times.
        """
        t = t.to(torch.promote_types(x.dtype, torch.float32))
        if self.times == "one":
            if not bool((t == t[0]).all()):
                raise ValueError(
                    f"times='one': the batch has samples at t={t.min().item():.6g} and "
                    f"t={t.max().item():.6g}; use as_model(denoiser, times='each') if the "
                    "denoiser takes t of shape [B], or sample one plan for the whole batch"
                )
            t = t[0]
        mean: Tensor = self.denoiser(x, t, **kwargs).mean
        return mean


def as_model(
    denoiser: torch.nn.Module, *, times: str | None = None, t_min: float = 1e-3, **options: Any
) -> Model:
    """A `fastgen.Model` of an azula denoiser: it predicts data on the denoiser's own schedule.

    Args:
        denoiser: an azula Denoiser, of its plugins or of its guidance too, with ``schedule`` and a
            posterior that has a ``mean``. Its further arguments go in as ``net_kwargs``.
        times: how it is told the time, see `PosteriorMean`; None is "each" for azula's
            SimpleDenoiser and KarrasDenoiser, else "one". With "one" the times of a batch are
            compared in every call, so such a model is for no CUDA graph.
        t_min: smallest time of interior points of grids.
        **options: of `fastgen.Model`, such as ``shared`` and ``per_sample``.

    Returns:
        The model. ``model.net.denoiser`` is the denoiser.

    Raises:
        TypeError: for something without a schedule.
        ValueError: naming the argument that is out of range.

    Source:
        azula 0.11, ``azula.denoise``.
    """
    schedule: Any = getattr(denoiser, "schedule", None)
    if not (isinstance(denoiser, torch.nn.Module) and callable(schedule)):
        raise TypeError(
            f"denoiser: expected an azula Denoiser with a schedule, got {type(denoiser).__name__}; "
            "make one of a network: azula.denoise.KarrasDenoiser(backbone, schedule)"
        )
    if times is None:
        from azula.denoise import KarrasDenoiser, SimpleDenoiser

        times = "each" if isinstance(denoiser, KarrasDenoiser | SimpleDenoiser) else "one"
    net = PosteriorMean(denoiser, times)
    options = {"time_dtype": torch.float64, **options}
    return Model(net, AzulaSchedule(schedule, t_min), "data", **options)
