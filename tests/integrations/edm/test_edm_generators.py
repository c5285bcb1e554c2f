"""Generators for each sample, and lists of seeds."""

import pytest
import torch

from fastgen.integrations.edm import StackedRandomGenerator, edm_sampler, parse_int_list


def test_a_sample_depends_on_its_seed_alone():
    whole, alone = (
        StackedRandomGenerator("cpu", [3, 7, 2**33 + 1]),
        StackedRandomGenerator("cpu", [7]),
    )
    x = whole.randn([3, 2, 4], dtype=torch.float64)
    assert torch.equal(x[1:2], alone.randn([1, 2, 4], dtype=torch.float64))
    assert torch.equal(whole.randn_like(x)[1:2], alone.randn_like(x[1:2]))
    assert torch.equal(whole.randint(9, size=[3, 5])[1:2], alone.randint(9, size=[1, 5]))
    again = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(x[2], again)  # of 2^33 + 1 the lower 32 bits count
    with pytest.raises(ValueError, match="one for each seed"):
        whole.randn([2, 4])


def test_it_is_the_samplers_noise():
    """As generate.py hands it over: a sample alone is what it is in the batch."""

    class Net(torch.nn.Module):
        sigma_min, sigma_max = 0.002, 80.0

        def forward(self, x, sigma, class_labels=None):
            return x / (1 + sigma.reshape(-1, 1) ** 2)

        def round_sigma(self, sigma):
            return torch.as_tensor(sigma)

    found = []
    for seeds in ([5, 6], [6]):
        rnd = StackedRandomGenerator("cpu", seeds)
        latents = rnd.randn([len(seeds), 3])
        found.append(
            edm_sampler(Net(), latents, randn_like=rnd.randn_like, num_steps=6, S_churn=10)
        )
    assert torch.equal(found[0][1:], found[1])


def test_lists_of_seeds():
    assert parse_int_list("1,2,5-8") == [1, 2, 5, 6, 7, 8]
    assert parse_int_list([3]) == [3]
    with pytest.raises(ValueError, match="expected numbers and ranges"):
        parse_int_list("1,x-3")
