"""Of several noisy bounds on log p(x), the reported one has the error that it states."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.comparison.evidence import Bound, _best
from pyro_vae.diagnostics.bounds import MeanBound, choose_bound

TRIALS = 400


def reported(means, errors, num_data, generator):
    """Mean and stated error of the bound that is reported, of bounds with these means and errors."""
    bounds = [
        Bound(
            mean + error * torch.randn(num_data, generator=generator, dtype=torch.float64),
            torch.full((num_data,), error, dtype=torch.float64),
        )
        for mean, error in zip(means, errors, strict=True)
    ]
    best = _best(bounds)
    return best.value.mean().item(), best.error.square().sum().sqrt().item() / num_data


@pytest.mark.parametrize(
    ("errors", "num_data"), [((0.06, 0.001), 10), ((0.06,) * 10, 300), ((0.06, 0.06), 10)]
)
def test_of_equally_good_bounds_the_error_is_the_stated_one(errors, num_data):
    generator = torch.Generator().manual_seed(0)
    results = [reported([0.0] * len(errors), errors, num_data, generator) for _ in range(TRIALS)]
    values, stated = map(torch.tensor, zip(*results, strict=True))
    assert (values.abs() > 2 * stated).double().mean() < 0.08
    assert values.mean() < 3 * stated.mean() / math.sqrt(TRIALS)


def test_a_bound_that_is_larger_beyond_the_noise_is_reported():
    generator = torch.Generator().manual_seed(0)
    values = [reported((0.0, -1.0), (0.06, 0.001), 10, generator)[0] for _ in range(50)]
    assert min(values) > -0.2


def test_an_error_that_cannot_be_trusted_makes_no_bound_the_first():
    assert choose_bound([MeanBound(0.0, 0.1), MeanBound(0.0, 0.001, heavy_tailed=True)]) == 0
    assert choose_bound([MeanBound(0.0, 0.1), MeanBound(2.0, 0.001, heavy_tailed=True)]) == 1


def test_the_best_of_many_noisy_bounds_is_still_a_bound():
    """Ten unbiased estimates of 0: the largest mean of 4 data points would be 0.77 on average."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([reported([0.0] * 10, [1.0] * 10, 4, generator)[0] for _ in range(2000)])
    assert values.mean() < 3 * values.std() / math.sqrt(2000)


def test_an_infinitely_low_bound_is_not_reported():
    assert choose_bound([MeanBound(-math.inf, 0.0), MeanBound(-1.0, 1.0)]) == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_bound_without_an_error_is_the_last_choice(broken):
    assert choose_bound([MeanBound(5.0, broken), MeanBound(0.0, 0.1)]) == 1
    assert choose_bound([MeanBound(5.0, broken)]) == 0
    assert choose_bound([MeanBound(math.nan, 0.1), MeanBound(0.0, 0.2)]) == 1


def exact_model(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def exact_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 1.25, math.sqrt(0.2)).to_event(1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_exact_guide_has_no_gap(seed):
    """Its importance weights have no variance: the noise of AIS is not taken in their place."""
    x = torch.linspace(-2, 2, 16).reshape(8, 2)
    gaps = pv.diagnostics.inference_gaps(
        exact_model,
        exact_guide,
        x,
        num_samples=200,
        importance_samples=200,
        annealing={"num_steps": 50},
        max_steps=20,
        seed=seed,
    )
    exact = dist.Normal(0.0, math.sqrt(1.25)).log_prob(x).sum(-1)
    torch.testing.assert_close(gaps["log_likelihood"], exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(gaps["approximation"], torch.zeros(8), atol=1e-4, rtol=0)
    assert gaps["approximation_se"].max() < 1e-3
