"""Importance weights of guides whose distance from the posterior is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.diagnostics.importance import log_mean_error, median_k, pareto_k
from pyro_vae.evaluate import chunked
from pyro_vae.programs import recorder
from pyro_vae.programs.backends import has_compiler

N = 200


def model(x):
    """z ~ N(0, 1), x ~ N(z, 1): the posterior is N(x / 2, 1 / 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_of(ratio):
    """The posterior, its scale times `ratio`."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, ratio * math.sqrt(0.5)))

    return guide


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, generator=generator, dtype=torch.float64) * math.sqrt(2)


def test_their_log_mean_is_the_log_likelihood_and_their_law_known():
    x = data()
    log_w = pv.diagnostics.importance_weights(model, guide_of(1.5), x, 40)
    assert log_w.shape == (40, N)
    bound = pv.evaluate.log_likelihood(model, guide_of(1.5), x, 40)
    torch.testing.assert_close(log_w.logsumexp(0) - math.log(40), bound)
    exact = pv.diagnostics.importance_weights(model, guide_of(1.0), x, 3)
    evidence = dist.Normal(x.new_tensor(0.0), math.sqrt(2)).log_prob(x)
    torch.testing.assert_close(exact, evidence.expand(3, N), atol=1e-9, rtol=0)


@pytest.mark.parametrize("ratio", [1.0, 1.5, 3.0])
def test_the_effective_sample_size_of_a_wide_guide(ratio):
    """E[w]^2 / E[w^2] = sqrt(2 r^2 - 1) / r^2 of normals whose scales have the ratio r."""
    actual = pv.diagnostics.importance_diagnostics(model, guide_of(ratio), data(), 2000)["ess"]
    share = math.sqrt(2 * ratio**2 - 1) / ratio**2
    assert actual.mean() / 2000 == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize("ratio", [0.5, 0.7, 0.9])
def test_the_tail_of_a_narrow_guides_weights(ratio):
    """w = exp(z^2 (1 - r^2) / 2r^2), z ~ N(0, r^2): P(w > t) falls as t^(-1 / (1 - r^2))."""
    actual = pv.diagnostics.importance_diagnostics(model, guide_of(ratio), data(), 4000)["pareto_k"]
    assert actual.mean() == pytest.approx(1 - ratio**2, abs=0.12)
    assert actual.shape == (N,)


@pytest.mark.parametrize("num_samples", [100, 500, 5000])
def test_weights_that_differ_by_rounding_alone_are_equal(num_samples):
    """The exact posterior in float32, whose log weights differ in their last digits."""
    w, noise = torch.tensor([[1.0, 0.5, -1.0, 0.3], [0.2, 1.0, 0.7, -0.5]]), 0.7
    covariance = torch.linalg.inv(torch.eye(2) + w @ w.T / noise**2)

    def linear(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w, noise).to_event(1), obs=x)

    def exact(x):
        with pyro.plate("data", len(x)):
            mean = x @ w.T @ covariance / noise**2
            pyro.sample("z", dist.MultivariateNormal(mean, covariance))

    torch.manual_seed(0)
    x = torch.randn(50, 4)
    result = pv.diagnostics.importance_diagnostics(linear, exact, x, num_samples=num_samples)
    assert (result["pareto_k"] == -math.inf).all()
    assert result["ess"].min() > 0.9999 * num_samples


def test_an_exponential_tail_and_ties_have_a_k_hat():
    log_w = torch.tensor([0.0, -1.0, -2.0]).repeat(200).double()[:, None]  # of a discrete guide
    assert not pareto_k(log_w).isnan().any()


@pytest.mark.parametrize("num_samples", [100, 200, 400, 2500])
def test_k_hat_is_that_of_arviz(num_samples):
    """Numbers for which the tail, the largest min(S / 5, 3 sqrt(S)) weights, is a whole number."""
    from arviz_stats.base import array_stats

    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.3, 0.7, 1.0, 1.5, 2.0, 4.0], dtype=torch.float64)
    log_w = spread * torch.randn(num_samples, 6, generator=generator, dtype=torch.float64)
    _, expected = array_stats.psislw(-log_w.T.numpy())  # it takes minus the log weights
    torch.testing.assert_close(pareto_k(log_w), torch.as_tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_samples", [50, 1000])
def test_the_error_of_the_log_mean_is_that_of_repetitions(num_samples):
    """And, of log-normal weights of variance e^s - 1, sqrt((e^s - 1) / S)."""
    generator = torch.Generator().manual_seed(0)
    log_w = 0.6 * torch.randn(num_samples, 4000, generator=generator, dtype=torch.float64)
    error = log_mean_error(log_w)
    assert error.mean() == pytest.approx(math.sqrt(math.expm1(0.36) / num_samples), rel=0.04)
    assert error.mean() == pytest.approx(float(log_w.logsumexp(0).std()), rel=0.05)
    assert log_mean_error(log_w[:1]).isnan().all()


def test_the_median_k_hat_of_an_even_number_of_data_is_the_mean_of_the_middle_two():
    assert median_k(torch.tensor([0.2, 0.9, 0.6, 1.5])) == pytest.approx(0.75)
    assert median_k(torch.tensor([-math.inf, -math.inf])) == -math.inf
    assert median_k(torch.tensor([0.1, 0.3, math.inf])) == pytest.approx(0.3)


def test_ess_and_pareto_k_distinguish_equal_weights_from_a_single_one():
    actual = pv.diagnostics.importance_diagnostics(model, guide_of(1.0), data(), 100)["pareto_k"]
    assert (actual == -math.inf).all()
    actual = pv.diagnostics.importance_diagnostics(model, guide_of(1e-3), data(), 200)
    assert actual["pareto_k"].mean() > 0.7 and actual["ess"].mean() < 60


def test_wrong_uses_raise_one_line():
    with pytest.raises(pv.UserError, match="num_samples must be an integer >= 25"):
        pv.diagnostics.importance_diagnostics(model, guide_of(1.0), data(), 10)
    gray = pv.models.VAE((3,), 2, "gray-bernoulli")
    with pytest.raises(pv.UserError, match="not a log-likelihood"):
        pv.diagnostics.importance_weights(gray, pv.guides.Guide(gray), torch.rand(2, 3))


@pytest.mark.parametrize("backend", ["recorded", "inductor"])
@pytest.mark.parametrize("name", ["vae", "gmvae", "mine"])
def test_weights_of_many_samples_are_those_of_the_plain_pair(name, backend, monkeypatch):
    """A replay to the last bit, compiled code up to rounding; the programs themselves run a few times."""
    if backend == "inductor" and not has_compiler():
        pytest.skip("there is no C++ compiler")
    x, calls = data()[:61, None].expand(61, 3), []
    torch.manual_seed(0)
    if name == "mine":

        def pair_model(x):
            calls.append(len(x))
            model(x[:, 0])

        def pair_guide(x):
            guide_of(1.5)(x[:, 0])

        pair = pair_model, pair_guide
    else:
        pair = pv.method(name, x.numpy(), hidden=[6], likelihood="normal").build()
        pair = tuple(p.double() for p in pair)
        pair[0].register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(chunked, "rows_per_chunk", lambda *args: 100)  # two rows, 50 samples

    def numbers(backend):
        calls.clear()
        monkeypatch.setattr(recorder, "choose_backend", lambda *args, **options: backend)
        weights = pv.diagnostics.importance_weights(*pair, x, 130)
        assert (weights.shape, weights.dtype) == ((130, 61), torch.float64)
        likelihood = pv.evaluate.log_likelihood(*pair, x, 130)
        torch.testing.assert_close(weights.logsumexp(0) - math.log(130), likelihood)
        return len(calls), weights

    (plain, expected), (replayed, actual) = numbers("plain"), numbers(backend)
    tolerance = 0.0 if backend == "recorded" else 1e-9
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    assert plain >= 2 * 93 and replayed < plain - 100
