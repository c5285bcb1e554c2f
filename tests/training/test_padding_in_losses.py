"""Samples of different lengths: states, targets and losses are those without the padding."""

import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.kernels import Stream
from fastgen.training import losses, paths

F64 = torch.float64
LENGTHS = (5, 1, 3)
CHANNELS = 2
# How a sample of that length lies in memory, and its mask in a batch padded to `size`.
LAYOUTS = {
    "length first": (lambda n: (n, CHANNELS), lambda live: live[:, :, None]),
    "channels first": (lambda n: (CHANNELS, n), lambda live: live[:, None]),
    "images": (lambda n: (CHANNELS, n, 2), lambda live: live[:, None, :, None]),
}
PATHS = {
    "linear": paths.Linear(),
    "linear with noise": paths.Linear(0.3),
    "target": paths.Target(0.1),
    "brownian": paths.Brownian(0.7),
    "scheduled": paths.Scheduled(schedules.CosineVP()),
    "interpolant": paths.Interpolant("trigonometric", "sine_squared"),
    "torus": paths.FlatTorus(),
}


class Ragged:
    """The same samples one by one, and in a batch with rubbish in the padding."""

    def __init__(self, layout, size, dtype=F64):
        shape, mask = LAYOUTS[layout]
        self.samples = [
            fastgen.randn((1, *shape(n)), seed=b, dtype=dtype) for b, n in enumerate(LENGTHS)
        ]
        self.mask = mask(torch.arange(size)[None] < torch.tensor(LENGTHS)[:, None])
        self.data = torch.full((len(LENGTHS), *shape(size)), float("nan"), dtype=dtype)
        self.live = self.mask.expand_as(self.data)
        self.set(self.data, self.samples)

    def set(self, batch, samples):
        for b, sample in enumerate(samples):
            batch[b][self.live[b]] = sample.flatten()

    def alone(self, batch, b):
        return batch[b][self.live[b]].reshape(self.samples[b].shape)


def network(x, t, *more, shift=0.1):
    t = sum((k.reshape(-1, *[1] * (x.ndim - 1)) for k in more), t.reshape(-1, *[1] * (x.ndim - 1)))
    return torch.sin(x + shift) * (0.5 + t.to(x.dtype))


def layouts(test):
    return pytest.mark.parametrize("size", [5, 8])(pytest.mark.parametrize("layout", LAYOUTS)(test))


@layouts
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_paths_give_what_samples_have_alone(path, layout, size):
    ragged = Ragged(layout, size)
    source = None if path.noise_source else ragged.data.flip(1)
    targets = ("velocity", "data", "source")
    targets += ("noise", "score") if path.has_noise or path.noise_source else ()
    key = {"seed": 3, "step": 7}
    found = path.sample(source, ragged.data, targets=targets, mask=ragged.mask, **key)
    assert found.x_t.shape == ragged.data.shape
    for b in range(len(LENGTHS)):
        own = None if source is None else ragged.alone(source, b)
        if own is not None and not own.isfinite().all():
            continue
        alone = path.sample(
            own, ragged.samples[b], found.t[b : b + 1], targets=targets, sample_ids=[b], **key
        )
        for name, x in {"x_t": alone.x_t, **alone.targets}.items():
            assert torch.equal(ragged.alone(getattr(found, name), b), x), name
            assert not getattr(found, name)[b][~ragged.live[b]].any(), name


LOSSES = {
    "flow_matching": lambda s, **o: losses.flow_matching(network(s.x_t, s.t), s, **o),
    "score_and_flow": lambda s, **o: losses.score_and_flow_matching(
        network(s.x_t, s.t), -s.x_t, s, **o
    ),
    "variational": lambda s, **o: losses.variational_flow_matching(
        network(s.x_t, s.t), torch.ones(len(s.t), 2), torch.zeros(len(s.t), 2), s, **o
    ),
    "mean_flow": lambda s, **o: losses.mean_flow(network, s, 0.5 + s.t / 2, **o),
    "shortcut": lambda s, **o: losses.shortcut(network, s, (1 - s.t) / 2, **o),
}


@layouts
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_paths_are_those_of_samples_alone(loss, layout, size):
    ragged, path = Ragged(layout, size), paths.Brownian(0.7)
    options = {"targets": ("velocity", "noise"), "seed": 3, "step": 7}
    x0 = torch.zeros_like(ragged.data)
    found = path.sample(x0, ragged.data, mask=ragged.mask, **options)
    values = LOSSES[loss](found, reduction="none")
    for b, x1 in enumerate(ragged.samples):
        alone = path.sample(torch.zeros_like(x1), x1, found.t[b : b + 1], sample_ids=[b], **options)
        want = LOSSES[loss](alone, reduction="none")
        torch.testing.assert_close(values[b : b + 1], want, rtol=1e-12, atol=1e-12)


def model(predicts):
    schedule = schedules.EDM() if predicts == "edm" else schedules.CosineVP()
    return fastgen.Model(network, schedule, predicts, time_dtype=F64)


DENOISING = {
    **{
        predicts: lambda data, predicts=predicts, **o: losses.denoising(
            model(predicts), data, times=fastgen.training.times.uniform(0.1, 0.9), **o
        )
        for predicts in ("noise", "data", "v", "edm")
    },
    "annealed": lambda data, **o: losses.annealed(
        network, data, torch.tensor([1.0, 0.5, 0.1], dtype=F64), **o
    ),
    "consistency": lambda data, **o: losses.consistency(
        network, data, torch.full((len(data),), 0.2), torch.full((len(data),), 0.3), **o
    ),
    "consistency, squares": lambda data, **o: losses.consistency(
        network,
        data,
        torch.full((len(data),), 0.2),
        torch.full((len(data),), 0.3),
        metric="square",
        **o,
    ),
}


@layouts
@pytest.mark.parametrize("loss", DENOISING)
def test_denoising_is_that_of_samples_alone(loss, layout, size):
    ragged = Ragged(layout, size)
    options = {"seed": 5, "step": 2, "reduction": "none"}
    values = DENOISING[loss](ragged.data, mask=ragged.mask, **options)
    for b, data in enumerate(ragged.samples):
        want = DENOISING[loss](data, sample_ids=[b], **options)
        torch.testing.assert_close(values[b : b + 1], want, rtol=1e-12, atol=1e-12)


def test_given_noise_couplings_and_gradients():
    """Padding has no gradient, whatever is in it, and pairs take their lengths along."""
    ragged = Ragged("channels first", 8)
    data = ragged.data.nan_to_num(7.0).requires_grad_()
    noise = fastgen.randn(data.shape, seed=4, dtype=F64, mask=ragged.mask)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    value = losses.denoising(model("v"), data, t, noise=noise, mask=ragged.mask)
    (gradient,) = torch.autograd.grad(value, data)
    assert not gradient[~ragged.live].any()
    assert gradient[ragged.live].all()
    want = [
        losses.denoising(model("v"), x, t[b : b + 1], noise=ragged.alone(noise, b))
        for b, x in enumerate(ragged.samples)
    ]
    torch.testing.assert_close(value.detach(), torch.stack(want).mean(), rtol=1e-12, atol=0)

    pairs = torch.tensor([1, 0, 2]), torch.tensor([2, 2, 0])
    sample = paths.Linear().sample(noise, ragged.data, pairs=pairs, mask=ragged.mask)
    assert sample.padding.count[:, 0].tolist() == [6, 6, 10]
    live = ragged.live[pairs[1]]
    assert torch.equal(sample.velocity, torch.where(live, data[pairs[1]] - noise[pairs[0]], 0.0))
    assert not sample.x_t[~live].any()


def test_samples_without_elements_count_as_zero():
    data = torch.ones(2, 3, dtype=F64)
    mask = torch.tensor([[True] * 3, [False] * 3])
    found = losses.denoising(model("noise"), data, mask=mask, reduction="none")
    assert found[1] == 0 < found[0]


@layouts
def test_noise_of_live_elements(layout, size):
    ragged = Ragged(layout, size, torch.float32)
    z = fastgen.randn(ragged.data.shape, seed=9, draw=2, stream=Stream.SOLVER, mask=ragged.mask)
    for b, sample in enumerate(ragged.samples):
        key = {"seed": 9, "draw": 2, "stream": Stream.SOLVER, "sample_ids": [b]}
        assert torch.equal(ragged.alone(z, b), fastgen.randn(sample.shape, **key))
    assert not z[~ragged.live].any()


@pytest.mark.parametrize("solver", ["dopri5", "dpm_adaptive"])
def test_samples_drawn_with_a_mask_are_those_drawn_alone(solver):
    ragged = Ragged("channels first", 8)
    options = {"seed": 4, "dtype": F64, "rtol": 1e-4, "atol": 1e-4, "start": 0.9, "end": 0.1}
    shape, mask = ragged.data.shape, ragged.mask
    if solver == "dpm_adaptive":
        del options["start"], options["end"]
    found = fastgen.sample(model("noise"), shape, solver, mask=mask, **options)
    for b, sample in enumerate(ragged.samples):
        alone = fastgen.sample(model("noise"), sample.shape, solver, sample_ids=[b], **options)
        torch.testing.assert_close(ragged.alone(found, b)[None], alone[None], rtol=1e-9, atol=1e-9)


def test_masks_that_do_not_fit():
    x = torch.ones(2, 3)
    bad = torch.ones(2, 4, dtype=torch.bool)
    for call in (
        lambda: losses.denoising(model("noise"), x, mask=bad),
        lambda: paths.Linear().sample(x, x, mask=bad),
        lambda: fastgen.randn((2, 3), mask=bad),
    ):
        with pytest.raises(ValueError, match=r"mask: expected a shape that broadcasts"):
            call()
    with pytest.raises(TypeError, match="mask: expected a tensor of booleans"):
        fastgen.randn((2, 3), mask=torch.ones(2, 3))
    for path in (paths.Sphere(), paths.Encoded(torch.nn.Identity(), torch.nn.Identity())):
        with pytest.raises(ValueError, match=r"mask: on .* depend on each other"):
            path.sample(x, x, mask=bad[:, :3])
