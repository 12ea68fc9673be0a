"""A linear-Gaussian VAE: its evidence and its posterior are known in closed form."""

import math

import pytest
import torch
from problems import LINEAR, linear_marginal, linear_posterior, set_linear_posterior
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

import pyro_vae as pv
from pyro_vae.conditionals import (
    ConstantCorrelationNormal,
    MultivariateNormal,
    NormalLikelihood,
)
from pyro_vae.evaluate import chunked
from pyro_vae.programs import trace_pair

D, LATENT, SCALE = 5, 2, 0.7


@pytest.fixture
def model():
    """x = W z + b + noise, z ~ N(0, I)."""
    torch.manual_seed(1)
    return pv.models.VAE((D,), LATENT, NormalLikelihood(scale=SCALE), LINEAR).double()


@pytest.fixture
def x(model):
    torch.manual_seed(2)
    return model(size=12).detach()


def guide_of(model):
    torch.manual_seed(3)
    family = {"z": MultivariateNormal()}
    return pv.guides.Guide(model, family=family, network=LINEAR).double()


@pytest.fixture
def exact_guide(model):
    """q(z | x) = p(z | x)."""
    return set_linear_posterior(guide_of(model), model, SCALE)


@pytest.fixture
def wrong_guide(model, exact_guide):
    """The posterior's mean off by noise, its scales half as large again: weights stay bounded."""
    guide = guide_of(model)
    with torch.no_grad():
        for wrong, right in zip(guide.parameters(), exact_guide.parameters(), strict=True):
            wrong.mul_(0.1).add_(right)
        guide.factors["z"].head.bias[LATENT : 2 * LATENT] += 0.4
    return guide


def test_with_the_exact_posterior_every_elbo_is_the_evidence(model, exact_guide, x):
    bound = pv.evaluate.elbo(model, exact_guide, x)
    torch.testing.assert_close(bound, linear_marginal(model, SCALE).log_prob(x), atol=1e-9, rtol=0)


def test_constant_correlations_hold_the_exact_posterior(model, x):
    family = {"z": ConstantCorrelationNormal()}
    guide = pv.guides.Guide(model, family=family, network=LINEAR).double()
    bound = pv.evaluate.elbo(model, set_linear_posterior(guide, model, SCALE), x, num_samples=3)
    torch.testing.assert_close(bound, linear_marginal(model, SCALE).log_prob(x), atol=1e-9, rtol=0)


def test_with_the_exact_posterior_one_importance_sample_is_enough(model, exact_guide, x):
    bound = pv.evaluate.log_likelihood(model, exact_guide, x, num_samples=1)
    torch.testing.assert_close(bound, linear_marginal(model, SCALE).log_prob(x), atol=1e-9, rtol=0)


def test_with_the_exact_posterior_importance_weights_have_no_variance(model, exact_guide, x):
    with torch.no_grad():
        log_w = trace_pair(model, exact_guide, {"x": x}, num_particles=100).log_weight()
    assert log_w.shape == (100, len(x))
    assert log_w.std(0).max() < 1e-9


def test_the_gradient_at_the_exact_posterior_is_zero_on_average(model, exact_guide, x):
    """The ELBO is largest there: its gradient in the guide is noise around zero."""
    gradients = []
    for seed in range(80):
        torch.manual_seed(seed)
        loss = pv.objectives.ELBO().differentiable_loss(model, exact_guide, x)
        gradients.append(torch.autograd.grad(loss, exact_guide.factors["z"].head.bias)[0])
    gradients = torch.stack(gradients)
    error = gradients.std(0) / math.sqrt(len(gradients))
    assert (gradients.mean(0).abs() < 4 * error).all()


def test_terms_sum_to_the_elbo_and_are_named_after_their_sites(model, wrong_guide, x):
    terms = pv.evaluate.elbo_terms(model, wrong_guide, x, num_samples=3)
    assert set(terms) == {"z", "x"}
    bound = pv.evaluate.elbo(model, wrong_guide, x, num_samples=3)
    torch.testing.assert_close(terms["x"] + terms["z"], bound)


def test_a_wrong_guides_elbo_misses_the_evidence_by_its_kl_to_the_posterior(model, wrong_guide, x):
    m, offset, covariance = linear_posterior(model, SCALE)
    truth = TorchMultivariateNormal(x @ m.T + offset, covariance)
    with torch.no_grad():
        q = wrong_guide.factors["z"](x=x)
    q = TorchMultivariateNormal(q.loc, scale_tril=q.scale_tril)
    kl = torch.distributions.kl_divergence(q, truth)
    assert kl.min() > 0.01
    draws = torch.stack([pv.evaluate.elbo(model, wrong_guide, x, 1000, seed=s) for s in range(20)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert (
        (draws.mean(0) - (linear_marginal(model, SCALE).log_prob(x) - kl)).abs() < 5 * error
    ).all()


def test_importance_weighted_bounds_rise_with_k_towards_the_evidence(model, wrong_guide, x):
    many = x[:1].expand(4000, D)  # the same data point, each time with noise of its own
    truth = linear_marginal(model, SCALE).log_prob(x[:1]).item()
    bounds = [pv.evaluate.elbo(model, wrong_guide, many).mean().item()]
    for k in (1, 4, 16, 64):
        bounds.append(pv.evaluate.log_likelihood(model, wrong_guide, many, k, seed=k).mean().item())
    assert bounds[0] < truth - 0.1
    assert bounds[1] == pytest.approx(bounds[0], abs=0.2)  # one sample: the ELBO
    assert bounds[1] < bounds[2] < bounds[3] < bounds[4] < truth + 0.01
    assert truth - bounds[4] < 0.1 * (truth - bounds[0])


def monte_carlo_error(model, guide, x, num_samples, seed=9):
    """Standard error of the log of a mean of weights, by the delta method."""
    torch.manual_seed(seed)
    with torch.no_grad():
        w = trace_pair(model, guide, {"x": x}, num_particles=num_samples).log_weight()
    w = (w - w.max(0).values).exp()
    return w.std(0) / w.mean(0) / math.sqrt(num_samples)


def test_the_log_likelihood_is_the_evidence_within_monte_carlo_error(model, wrong_guide, x):
    bound = pv.evaluate.log_likelihood(model, wrong_guide, x, num_samples=20_000)
    error = monte_carlo_error(model, wrong_guide, x, 20_000)
    assert error.max() < 0.02
    assert ((bound - linear_marginal(model, SCALE).log_prob(x)).abs() < 4 * error).all()


def test_work_in_chunks_gives_the_same_evidence(model, exact_guide, wrong_guide, x, monkeypatch):
    assert chunked.rows_per_chunk(model, wrong_guide, {"x": x}, "cpu") > 1000
    monkeypatch.setattr(chunked, "MEMORY_BUDGET", 32 * 512 * 7)
    assert chunked.rows_per_chunk(model, wrong_guide, {"x": x}, "cpu") == 7
    truth = linear_marginal(model, SCALE).log_prob(x)
    for k in (1, 5, 16):
        bound = pv.evaluate.log_likelihood(model, exact_guide, x, num_samples=k)
        torch.testing.assert_close(bound, truth, atol=1e-9, rtol=0)
    bound = pv.evaluate.elbo(model, exact_guide, x, num_samples=20)
    torch.testing.assert_close(bound, truth, atol=1e-9, rtol=0)
    bound = pv.evaluate.log_likelihood(model, wrong_guide, x[:3], num_samples=500)
    error = monte_carlo_error(model, wrong_guide, x[:3], 500)
    assert ((bound - truth[:3]).abs() < 4 * error).all()


def test_evaluation_repeats_with_its_seed_and_leaves_the_callers_stream_alone(
    model, wrong_guide, x
):
    before = torch.get_rng_state()
    a = pv.evaluate.log_likelihood(model, wrong_guide, x, 10, seed=5)
    b = pv.evaluate.log_likelihood(model, wrong_guide, x, 10, seed=5)
    c = pv.evaluate.log_likelihood(model, wrong_guide, x, 10, seed=6)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_each_data_point_is_evaluated_alone(model, exact_guide, x):
    together = pv.evaluate.log_likelihood(model, exact_guide, x, 4)
    alone = torch.cat([pv.evaluate.log_likelihood(model, exact_guide, d[None], 4) for d in x])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)


def test_fit_reaches_the_evidence_from_random_weights(model, x):
    """Trained on data from a known W, a full-covariance linear pair reaches the true evidence."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(4)
    data = model(size=600).detach()
    learner = pv.models.VAE((D,), LATENT, NormalLikelihood(scale=SCALE), LINEAR).double()
    guide = guide_of(learner)
    options = {"batch_size": 60, "lr": 3e-2, "schedule": "linear", "progress": False}
    pv.fit(learner, guide, data, epochs=80, **options)
    reached = pv.evaluate.elbo(learner, guide, data).mean()
    # its ELBO is its own evidence, and on its training data no less than the truth's, less noise
    assert (linear_marginal(learner, SCALE).log_prob(data).mean() - reached) < 0.02
    assert reached > linear_marginal(model, SCALE).log_prob(data).mean() - 0.05
