"""Losses of flow matching: velocities, [SF]2M, latents, average velocities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_shape, per_row
from fastgen.common.derivatives import directional, outside_inference_mode
from fastgen.model.model import merged
from fastgen.model.output import called, check_output
from fastgen.training.losses.evidence import standard_divergence
from fastgen.training.losses.reduction import check_prediction, mean_square, reduced, sum_square
from fastgen.training.paths import Brownian, Linear, PathSample, drift_weight


def flow_matching(
    output: Tensor, sample: PathSample, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """|v(x_t, t) - dx_t/dt|^2, the mean over elements.

    Its minimiser is E[dx_t/dt | x_t], the velocity that carries the marginals of the path: Lipman
    et al. 2023 (arXiv 2210.02747), Tong et al. 2024 (2302.00482).

    Args:
        output: the network's velocity [B, ...].
        sample: with the target "velocity".
        weight: [B], such as 1 / density of drawn times.
        reduction: "mean", or "none" for [B].
    """
    check_prediction("output", output, sample.velocity)
    return reduced(mean_square(output - sample.velocity, sample.padding), weight, reduction)


def score_and_flow_matching(
    velocity: Tensor,
    score: Tensor,
    sample: PathSample,
    *,
    weight: Tensor | None = None,
    score_weight: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """[SF]2M: |v - dx_t/dt|^2 + score_weight |lambda(t) u + z|^2, means over elements.

    lambda(t) = 2 s(t) / sigma^2, so that u learns sigma^2 / 2 times the score of the marginal. The
    stochastic process dx = (v + u) dt + sigma dW then has the marginals of the flow v.
    Tong et al. 2024 (arXiv 2307.03672), with v the velocity of the probability flow.

    Args:
        velocity, score: outputs [B, ...] of one or two networks.
        sample: on a path with sigma > 0, with the targets "velocity" and "noise".
        weight: [B].
        score_weight: of the second term.
        reduction: "mean", or "none" for [B].
    """
    if not isinstance(sample.path, Linear | Brownian):
        raise ValueError(f"sample: expected one on Linear or Brownian, got {sample.path!r}")
    check_prediction("velocity", velocity, sample.velocity)
    check_prediction("score", score, sample.noise)
    factor = drift_weight(sample.path, sample.t)
    factor = per_row(factor.to(score.dtype), score)
    padding = sample.padding
    loss = mean_square(velocity - sample.velocity, padding)
    loss = loss + score_weight * mean_square(factor * score + sample.noise, padding)
    return reduced(loss, weight, reduction)


def variational_flow_matching(
    output: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    sample: PathSample,
    *,
    kl_weight: float = 1e-2,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """|v(x_t, t, z) - dx_t/dt|^2 + kl_weight KL(N(mean, exp log_variance) | N(0, 1)).

    z ~ N(mean, exp log_variance), an encoder's posterior given the pair (and x_t, t): a velocity
    that depends on a latent can be many-valued where paths cross. Sampling draws z ~ N(0, 1) once.
    Variational rectified flow matching, Guo and Schwing 2025 (arXiv 2502.09616).

    Args:
        output: velocity [B, ...] at the drawn latent.
        mean, log_variance: [B, L], of the posterior.
        sample: with the target "velocity".
        kl_weight: of the divergence (summed over L) against the mean square.
        weight: [B].
        reduction: "mean", or "none" for [B].
    """
    check_prediction("output", output, sample.velocity)
    divergence = standard_divergence(mean, log_variance)
    loss = mean_square(output - sample.velocity, sample.padding) + kl_weight * divergence
    return reduced(loss, weight, reduction)


def interval_ends(t: Tensor, u: Tensor, share: float, data_at: int = 1) -> Tensor:
    """Second times r [B], uniform between t and the data for a share of the rows, else t.

    The share is taken from the front of the batch, whose times are as random as any.

    Args:
        t: times [B].
        u: uniform numbers [B], such as the times of another path sample.
        share: of rows with r != t (0.25 in Geng et al. 2025).
        data_at: the time at which the data are.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share!r}: expected 0 to 1")
    chosen = torch.arange(len(t), device=t.device) < round(share * len(t))
    return torch.where(chosen, t + (data_at - t) * u.to(t.dtype), t)


@outside_inference_mode
def mean_flow(
    net: Callable[..., Tensor],
    sample: PathSample,
    r: Tensor,
    *,
    power: float = 1.0,
    offset: float = 1e-3,
    weight: Tensor | None = None,
    reduction: str = "mean",
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """MeanFlow: net(x_t, t, r) learns the average velocity u over [t, r].

    (r - t) u = int_t^r v implies u = v + (r - t) du/dt along the flow, du/dt = v . grad_x u + d_t u
    (one forward-mode product); that with v = dx_t/dt of the path, held constant, is the target. The
    squared error e (summed over elements) is divided by (e + offset)^power, held constant.
    Geng et al. 2025 (arXiv 2505.13447).

    Args:
        net: called as net(x, t, r, **net_kwargs), as `Model(predicts="average_velocity")` does.
        sample: with the target "velocity".
        r: second times [B], between t and the data.
        power: 0 for the plain squared error.
        offset: keeps the division finite.
        weight: [B].
        reduction: "mean", or "none" for [B].
        net_kwargs, **kwargs: handed to the network; net_kwargs is a dictionary for names that
            mean something else here, such as seed.
    """
    check_shape("r", r, sample.t.shape, like="t")
    x, t, v = sample.x_t, sample.t, sample.velocity
    r, arguments = r.to(t.dtype), merged(net_kwargs, kwargs)

    def average(x: Tensor, t: Tensor) -> Tensor:
        return check_output(called(net, x, (t, r), arguments), v.shape, v.device)

    output, slope = directional(average, (x, t), (v, torch.ones_like(t)), "net")
    span = per_row((r - t).to(v.dtype), v)
    error = sum_square(output - (v + span * slope).detach(), sample.padding)
    loss = error / (error.detach() + offset) ** power if power else error
    return reduced(loss, weight, reduction)


def shortcut(
    net: Callable[..., Tensor],
    sample: PathSample,
    step: Tensor,
    *,
    teacher: Callable[..., Tensor] | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Shortcut models: a step of size d agrees with two steps of size d / 2 in a row.

    net(x_t, t, d) is compared with [s(x_t, t, d/2) + s(x', t', d/2)] / 2, held constant. The point
    x' = x_t + d/2 s(x_t, t, d/2) and the time t' are half a step nearer to the data. Rows with
    d = 0 learn the velocity. Frans et al. 2024 (arXiv 2410.12557).

    Args:
        net: called as net(x, t, d, **net_kwargs), as a Model with second_time="step" does.
        sample: with the target "velocity".
        step: d [B], 0 <= d <= the time left to the data.
        teacher: what takes the two half steps (an average of weights); ``net`` if None.
        weight: [B].
        reduction: "mean", or "none" for [B].
        net_kwargs, **kwargs: handed to both networks; see `denoising`.
    """
    check_shape("step", step, sample.t.shape, like="t")
    x, t, v = sample.x_t, sample.t, sample.velocity
    d = step.to(t.dtype)
    half, arguments = d / 2, merged(net_kwargs, kwargs)

    def output_of(net: Callable[..., Tensor], x: Tensor, *times: Tensor) -> Tensor:
        return check_output(called(net, x, times, arguments), v.shape, v.device)

    sign = 1.0 if sample.path.data_at == 1 else -1.0
    with torch.no_grad():
        two = teacher if teacher is not None else net
        first = output_of(two, x, t, half).clone()  # the next call may write over it
        first = first if sample.padding is None else sample.padding.clear(first)
        moved = sign * per_row(half.to(x.dtype), x)
        second = output_of(two, x + moved * first, t + sign * half, half)
        still = per_row(d == 0, x)
        target = torch.where(still, v, (first + second) / 2)
    output = output_of(net, x, t, d)
    return reduced(mean_square(output - target, sample.padding), weight, reduction)
