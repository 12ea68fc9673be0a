"""STL and DReG: the same mean gradients as ELBO and IWAE, and none where the guide is exact."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from objectives import (
    GUIDES,
    PARTICLES,
    assert_mean_is,
    datum,
    flat_gradient,
    gradients,
    parameters_of,
    quadrature,
    tiny_pair,
)
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from sampling import covering
from test_objectives_elbo import assert_same, batch, pair, value_and_gradients

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.distributions import GumbelSoftmax, LinearOneHotCategorical
from pyro_vae.objectives import ELBO, IWAE, STL, DReG, Renyi
from pyro_vae.train.steps.recorded import leaf_parameters

STRUCTURED = {  # what makes each of them a case of its own
    "hierarchical-vae": {},  # z2 <- z1
    "gmvae-v1": {},  # y summed in the guide, beside
    "auxiliary-dgm": {},  # a <- x; y <- a, summed; z <- a, y
    "m1-m2": {},
    "vampprior": {},  # parameters that are guide's and model's
    "mixture-posterior": {"num_components": 2},  # stratified
    "semi-amortized": {"refine.steps": 1},  # the guide reads the model's parameters
    "iaf-vae": {},
}


def compare(kinds, name, options, runs=30, **overrides):
    """Gradients of two objectives in the same runs; one image, many times."""
    model, guide = pair(name, **overrides)
    data = {k: v[:1].expand(60, *v.shape[1:]) for k, v in batch().items()}
    parameters = parameters_of(model, guide)
    actual = []
    for kind in kinds:
        objective = kind(**options)
        actual.append(gradients(objective, (model, guide), data, parameters, runs, projected=True))
    return actual


def assert_same_mean(one, other):
    assert_mean_is(one - other + other.mean(0), other.mean(0))


# ------------------------------------------------------------------------------ the mean


@pytest.mark.parametrize("case, kind", covering(list(GUIDES), ["elbo", "stl", "renyi"], every=3))
def test_the_elbos_mean_gradient_is_quadratures(case, kind):
    model, guide = tiny_pair(case)
    particles = PARTICLES[case]
    objective = {
        "elbo": ELBO(beta=1 + 1e-14, num_particles=particles),
        "stl": STL(num_particles=particles),
        "renyi": Renyi(1, particles),
    }[kind]
    weights, log_w, _, log_pi = quadrature(case, model, guide)
    elbo = (log_pi.exp() * (log_w - log_pi)).sum(0) / particles
    parameters = parameters_of(model, guide)
    exact = flat_gradient(-(weights * elbo).sum(), parameters)
    data = {"x": datum().expand(500, -1)}
    assert_mean_is(gradients(objective, (model, guide), data, parameters), exact)


@pytest.mark.parametrize("name", covering(list(STRUCTURED), every=2))
def test_stls_mean_gradient_is_the_elbos(name):
    elbo, stl = compare((ELBO, STL), name, {"num_particles": 2}, **STRUCTURED[name])
    assert not torch.allclose(elbo, stl)
    assert_same_mean(stl, elbo)


@pytest.mark.parametrize(
    "name",
    covering([n for n in STRUCTURED if n not in ("m1-m2", "mixture-posterior")], every=2, first=1),
)
def test_dregs_mean_gradient_is_the_iwaes(name):
    """Both are also compared with quadrature, in test_objectives_weighted."""
    iwae, dreg = compare((IWAE, DReG), name, {"num_particles": 3}, **STRUCTURED[name])
    assert not torch.allclose(iwae, dreg)
    assert_same_mean(dreg, iwae)


def test_of_a_stratified_mixture_dreg_is_the_iwae():
    iwae, dreg = compare((IWAE, DReG), "mixture-posterior", {"num_particles": 3}, 2)
    torch.testing.assert_close(iwae, dreg, rtol=1e-9, atol=1e-12)


def test_of_a_mixture_drawn_from_dregs_mean_gradient_is_the_iwaes():
    mixture = {"num_components": 2, "family.training": "pathwise"}
    iwae, dreg = compare((IWAE, DReG), "mixture-posterior", {"num_particles": 3}, **mixture)
    assert_same_mean(dreg, iwae)


def test_with_weights_and_constraints_stls_mean_gradient_is_the_elbos():
    options = {"beta": {"w": 0.5}, "free_bits": {"y": 5.0, "z": 1e-3}}
    elbo, stl = compare((ELBO, STL), "gmvae-v1", options)
    assert_same_mean(stl, elbo)


def test_beneath_a_sampled_latent_stls_mean_gradient_is_the_elbos():
    options = {"num_particles": 3, "leave_one_out_baseline": True}
    elbo, stl = compare((ELBO, STL), "auxiliary-dgm", options, runs=60, discrete="score_function")
    assert_same_mean(stl, elbo)


def test_of_a_relaxed_latent_stl_drops_nothing():
    torch.set_default_dtype(torch.float64)
    mean = torch.tensor([-1.0, 0.5, 2.0])
    logits = torch.tensor([0.4, 0.2, -0.5], requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", LinearOneHotCategorical(logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(y @ mean, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", GumbelSoftmax(torch.tensor(0.5), logits=logits))

    x = {"x": torch.full((5,), 1.2)}
    elbo, stl = (
        gradients(o, (model, guide), x, [logits], 3) for o in (ELBO(beta=1 + 1e-15), STL())
    )
    torch.testing.assert_close(elbo, stl)


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=3))
def test_the_losses_are_the_bounds_themselves_and_so_is_the_models_gradient(name):
    model, guide = pair(name)
    own = {id(p) for p in guide.parameters()}
    own |= {id(p) for p in model.parameters()} if name == "semi-amortized" else set()
    for path, bound in ((STL(num_particles=2), ELBO(num_particles=2)), (DReG(2), IWAE(2))):
        actual = value_and_gradients(path, model, guide)
        expected = value_and_gradients(bound, model, guide)
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-12, atol=0)
        if name == "gsnn":  # the guide is made of the model's conditionals
            continue
        for p, a, b in zip(parameters_of(model, guide), actual[1], expected[1], strict=True):
            if id(p) not in own:
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_of_one_particle_dreg_is_stl():
    for name in ("vae", "vade", "hierarchical-vae"):
        model, guide = pair(name)
        stl = value_and_gradients(STL(), model, guide)
        assert_same(value_and_gradients(DReG(1), model, guide), stl)


# -------------------------------------------------------------------------- the variance


class Exact(nn.Module):
    """Two Gaussian components in one dimension, observed with noise; and their exact posterior.

    y ~ Categorical(pi); u ~ Normal(mu_y, s_y); z ~ Normal(u, t); x ~ Normal(z, r). The guide is
    y <- nothing; z <- y; u <- z, y, right for one x, its parameters free numbers.
    """

    def __init__(self, x):
        super().__init__()
        pi, mu = torch.tensor([0.3, 0.7]), torch.tensor([-1.0, 1.5])
        s, t, r = torch.tensor([0.5, 0.8]), 0.6, 0.9
        prior = (s**2 + t**2).sqrt()  # of z given y
        log_y = pi.log() + dist.Normal(mu, (prior**2 + r**2).sqrt()).log_prob(x)
        gain = prior**2 / (prior**2 + r**2)
        back = s**2 / prior**2  # of u on z
        self.pi, self.mu, self.s, self.t, self.r = pi, mu, s, t, r
        self.evidence = log_y.logsumexp(0)
        numbers = {
            "y": log_y.log_softmax(0), "z_loc": mu + gain * (x - mu),
            "z_scale": ((1 - gain) * prior**2).sqrt(), "slope": back, "offset": mu * (1 - back),
            "u_scale": ((1 - back) * s**2).sqrt(),
        }  # fmt: skip
        self.numbers = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in numbers.items()})
        self.center = nn.Parameter(mu.clone())  # the model's

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(self.pi), infer={"enumerate": "parallel"})
            u = pyro.sample("u", dist.Normal(self.center[y], self.s[y]))
            z = pyro.sample("z", dist.Normal(u, self.t))
            pyro.sample("x", dist.Normal(z, self.r), obs=x)

    def guide(self, x):
        n = self.numbers
        with pyro.plate("data", len(x)):
            distribution = dist.Categorical(logits=n["y"])
            y = pyro.sample("y", distribution, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(n["z_loc"][y], n["z_scale"][y]))
            u = n["slope"][y] * z + n["offset"][y]
            pyro.sample("u", dist.Normal(u, n["u_scale"][y]))


@pytest.mark.parametrize("objective", [STL(), STL(num_particles=3), STL(beta=1 + 1e-15)])
def test_at_the_posterior_stl_has_no_gradient_for_the_guide_in_any_draw(objective):
    """A structured one, its y summed; by a user's own functions."""
    torch.set_default_dtype(torch.float64)
    exact = Exact(torch.tensor(0.8))
    x = torch.full((5,), 0.8)
    guides = [*exact.numbers.values()]
    actual = gradients(objective, (exact.model, exact.guide), {"x": x}, guides, runs=3)
    assert actual.abs().max() < 1e-10
    elbo = gradients(ELBO(), (exact.model, exact.guide), {"x": x}, guides, runs=3)
    assert elbo.abs().max() > 0.1
    loss = objective.differentiable_loss(exact.model, exact.guide, x)
    torch.testing.assert_close(loss.detach(), -5 * exact.evidence)


def test_at_the_posterior_dreg_has_no_gradient_for_the_draws():
    """What is summed is fitted by the weights, which are q's probabilities: on average nothing."""
    torch.set_default_dtype(torch.float64)
    exact = Exact(torch.tensor(0.8))
    draws = [p for k, p in exact.numbers.items() if k != "y"]
    x = {"x": torch.full((5,), 0.8)}
    assert gradients(DReG(4), (exact.model, exact.guide), x, draws, 3).abs().max() < 1e-10
    assert gradients(IWAE(4), (exact.model, exact.guide), x, draws, 3).abs().max() > 0.01


def test_dreg_is_less_noisy_than_the_iwae_the_more_so_with_more_particles():
    model, guide = tiny_pair("vae")
    data, q = {"x": datum().expand(20, -1)}, parameters_of(guide)
    ratios = []
    for particles in (2, 32):
        noise = [
            gradients(kind(particles), (model, guide), data, q, 60).var(0).sum()
            for kind in (IWAE, DReG)
        ]
        ratios.append(noise[0] / noise[1])
    assert ratios[0] > 1.2 and ratios[1] > 2 * ratios[0]


# ------------------------------------------------------------------------- other programs


def test_an_auto_guides_gradient_goes_through_its_unconstrained_draw():
    torch.set_default_dtype(torch.float64)
    model, _ = tiny_pair("vae")
    x = datum().expand(4, -1)
    guide = pv.guides.PerDatumAutoGuide(AutoNormal, model, num_data=4)
    data = {"x": x.repeat(30, 1), "index": torch.arange(4).repeat(30)}
    parameters = parameters_of(guide)
    for one, other in ((ELBO(), STL()), (IWAE(3), DReG(3))):
        actual = [gradients(o, (model, guide), data, parameters) for o in (one, other)]
        assert_same_mean(*actual)


def test_dreg_refuses_what_it_cannot_reparameterize():
    model, guide = pair("shu-gmvae", discrete="score_function")
    with pytest.raises(pv.UserError, match="'y' is sampled without .* which DReG needs"):
        value_and_gradients(DReG(), model, guide)


def test_stl_refuses_a_kl_without_draws():
    with pytest.raises(pv.UserError, match="analytic_kl has none"):
        STL(analytic_kl=True)


@pytest.mark.parametrize("objective", [STL(), DReG(2)])
def test_the_optimizer_is_given_parameters_alone(objective):
    """Draws that are taken off the graph are no leaves of it."""
    torch.set_default_dtype(torch.float64)
    model, guide = pair("vae")
    run = pv.fit(model, guide, batch()["x"], 1, objective=objective, progress=False)
    assert math.isfinite(run.history[0]["loss"])
    actual = leaf_parameters(lambda: objective.differentiable_loss(model, guide, batch()["x"]))
    assert {id(p) for p in actual} == {id(p) for p in parameters_of(model, guide)}


def test_their_settings_are_described_for_the_record():
    assert STL(beta=0.5).describe() == {**ELBO(beta=0.5).describe(), "name": "stl"}
    assert DReG(7).describe() == {"name": "dreg", "num_particles": 7}


@pytest.mark.parametrize("particles", ["plate", "rows"])
@pytest.mark.parametrize("by_distribution", [False, True])
def test_a_masked_draw_keeps_its_whole_gradient(by_distribution, particles):
    """Its log q is no part of a weight, so that there is no score to put the gradient in place of."""
    x, w = torch.tensor(2.0).double(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def latent(loc, rows):
        mask = torch.tensor([False]).expand(rows)
        if by_distribution:
            return pyro.sample("z", dist.Normal(loc, 1.0).mask(mask))
        with poutine.mask(mask=mask):
            return pyro.sample("z", dist.Normal(loc, 1.0))

    def model(x):
        with pyro.plate("data", len(x)):
            z = latent(torch.zeros_like(x[:, 0]), len(x))
            loc = z.unsqueeze(-1) if particles == "plate" else z.reshape(len(x), 1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            latent(w * x[:, 0], len(x))

    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(40))
    weights = weights / weights.sum()
    density = torch.distributions.Normal(w * x + nodes, 1.0).log_prob(x)
    bound = torch.logaddexp(density[:, None], density) - math.log(2)
    (exact,) = torch.autograd.grad(-(weights[:, None] * weights * bound).sum(), w)
    data = {"x": x.expand(2000, 1)}
    assert pv.programs.layout_of(model, guide, data).particles == particles
    for objective in (IWAE(2), DReG(2)):
        assert_mean_is(gradients(objective, (model, guide), data, [w]), exact.reshape(1))
