"""IWAE and Rényi's bounds: against evaluation, quadrature, sums over every draw, and each other."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives import (
    GUIDES,
    PARTICLES,
    SMALL,
    Coins,
    assert_mean_is,
    datum,
    flat_gradient,
    gradients,
    parameters_of,
    quadrature,
    tiny_pair,
)
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from sampling import covering
from test_objectives_elbo import N, assert_same, batch, pair, value_and_gradients

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.evaluate import chunked
from pyro_vae.objectives import ELBO, IWAE, DReG, Renyi
from pyro_vae.programs import trace_pair
from pyro_vae.programs.calling import as_keyword_program

SUMMED_IN_GUIDE = [
    n for n, m in methods.METHODS.items() if "y" in (m.parents or m.model.default_guide)
]
INF = math.inf


def many(size=500):
    return {"x": datum().expand(size, -1)}


# ------------------------------------------------------------------------------- IWAE


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=2))
def test_iwae_is_what_evaluation_reports_with_the_same_noise(name, monkeypatch):
    monkeypatch.setattr(chunked, "rows_per_chunk", lambda *args: 10**6)
    model, guide = (m.eval() for m in pair(name))
    loss, _ = value_and_gradients(IWAE(num_particles=4), model, guide)
    given = {n: v for n, v in batch().items() if n != "c" or n in getattr(model, "observes", ())}
    bound = pv.evaluate.log_likelihood(model, guide, **given, num_samples=4, seed=3)
    torch.testing.assert_close(-bound.sum(), loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name",
    covering(
        [n for n in methods.METHODS if n not in (*SUMMED_IN_GUIDE, "mixture-posterior")], every=2
    ),
)
def test_of_one_particle_it_is_the_elbo_with_every_gradient(name):
    model, guide = pair(name)
    one = value_and_gradients(IWAE(num_particles=1), model, guide)
    assert_same(one, value_and_gradients(ELBO(), model, guide))


@pytest.mark.parametrize("case, objective", covering(list(GUIDES), [IWAE, DReG], every=2))
def test_its_mean_gradient_is_quadratures(case, objective):
    """DReG's too; and q(y | .), summed in the guide, is fitted to the weights at fixed draws."""
    model, guide = tiny_pair(case)
    weights, log_w, _, _ = quadrature(case, model, guide)
    log_pi = quadrature(case, model, guide, detach_draws=True)[-1]
    loss = -(weights * (log_w.logsumexp(0) - math.log(PARTICLES[case]))).sum()
    share = log_w.softmax(0).detach()
    fit = -(weights * (share * log_pi).sum(0)).sum()
    parameters = parameters_of(model, guide)
    exact = flat_gradient(loss + fit, parameters)
    actual = gradients(objective(PARTICLES[case]), (model, guide), many(), parameters)
    assert_mean_is(actual, exact)


def test_siwae_is_the_iwae_of_a_stratified_mixture():
    model, guide = pair("mixture-posterior", num_components=3)
    loss, _ = value_and_gradients(IWAE(num_particles=2), model, guide)
    torch.manual_seed(3)
    traces = trace_pair(model, guide, batch(), 2)
    mixture = traces.guide["z"]["fn"].mixture
    z = traces.guide["z"]["value"]  # [K, S, N, D]: a draw of each component
    log_p = sum(traces.log_prob(s) for s in traces.model.values())
    log_pi = mixture.log_weights.T.unsqueeze(1)
    by_hand = (log_pi + log_p - mixture.log_prob(z)).flatten(0, 1).logsumexp(0) - math.log(2)
    torch.testing.assert_close(loss, -by_hand.sum().detach(), rtol=1e-12, atol=0)


# ------------------------------------------- the fit of a latent summed in the guide

CHAIN = {"w": ["x"], "z": ["x", "w"], "y": ["z", "w"]}  # y after two draws, one of the other


def traces_by_hand(model, guide, particles):
    """Pyro's own traces with the noise of `value_and_gradients`, and log w `[y, S, N]`."""
    torch.manual_seed(3)
    enum = TraceEnum_ELBO(
        num_particles=particles, vectorize_particles=True, max_plate_nesting=1,
        strict_enumeration_warning=False,
    )  # fmt: skip
    programs = as_keyword_program(model), as_keyword_program(guide)
    p, q = next(enum._get_traces(*programs, (), batch()))
    log_w = sum(s["log_prob"] for s in p.nodes.values() if s["type"] == "sample")
    for site in q.nodes.values():
        if site["type"] == "sample" and site["infer"].get("_enumerate_dim") is None:
            log_w = log_w - site["log_prob"]
    return q.nodes, log_w.reshape(-1, particles, N)


def bound_of(log_w):
    return (log_w.flatten(0, 1).logsumexp(0) - math.log(log_w.shape[1])).sum()


def assert_gradients(actual, loss, parameters):
    expected = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    for g, w in zip(actual, expected, strict=True):
        torch.testing.assert_close(g, torch.zeros_like(g) if w is None else w, rtol=1e-8, atol=1e-9)


def test_what_is_summed_after_a_chain_of_draws_is_fitted_at_fixed_draws():
    """z <- w and y <- z, w: all factors but q(y) have the bound's gradient, draw by draw."""
    model, _ = pair("gmvae")
    guide = pv.guides.Guide(model, CHAIN, network=SMALL).double()
    _, actual = value_and_gradients(IWAE(3), model, guide)
    parameters = parameters_of(model, guide)
    q, log_w = traces_by_hand(model, guide, 3)
    fixed = {name: q[name]["value"].detach() for name in ("w", "z")}
    log_q = guide.factors["y"](**fixed).logits.movedim(-1, 0)
    share = log_w.detach().flatten(0, 1).softmax(0).reshape(log_w.shape)
    assert_gradients(actual, -bound_of(log_w) - (share * log_q).sum(), parameters)
    leaky = -bound_of(log_w) - (share * q["y"]["log_prob"]).sum()
    with pytest.raises(AssertionError):
        assert_gradients(actual, leaky, parameters)


@pytest.mark.parametrize("objective", [IWAE, DReG])
@pytest.mark.parametrize("given", [{"y": ["x"], "z": ["x", "y"]}, {"z": ["x"], "y": ["z"]}])
def test_the_steps_of_a_semi_amortized_guide_pass_no_fit_on_to_the_model(given, objective):
    """Its numbers are functions of the model's parameters, which are trained for the bound alone."""
    model, _ = pair("vade")
    guide = pv.guides.Guide(model, given, network=SMALL)
    guide = pv.guides.SemiAmortized(model, guide, steps=2, lr=0.1).double()
    _, actual = value_and_gradients(objective(1), model, guide)
    if objective is DReG:  # the model's part, and what goes through the draws
        _, at_draws = value_and_gradients(DReGWithoutFit(1), model, guide)
        expected = at_draws[: len(parameters_of(model))]
        for a, b in zip(actual, expected, strict=False):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    else:
        _, log_w = traces_by_hand(model, guide, 1)
        parameters = parameters_of(model)
        assert_gradients(actual[: len(parameters)], -bound_of(log_w), parameters)
    of_y = parameters_of(guide.guide.factors["y"])
    gradient = dict(zip(map(id, parameters_of(model, guide)), actual, strict=True))
    assert all(gradient[id(p)].abs().max() > 1e-4 for p in of_y)


class DReGWithoutFit(DReG):
    def _fit_summed(self, traces, guide):
        return 0.0


def test_the_prior_as_a_guide_is_not_fitted():
    """y and z are summed and drawn from the model's own prior: it has the bound's gradient once."""
    model, _ = pair("vade")
    guide = pv.guides.PriorGuide(model)
    loss, actual = value_and_gradients(IWAE(3), model, guide)
    q, log_w = traces_by_hand(model, guide, 3)
    assert q["y"]["infer"]["_enumerate_dim"] is not None
    assert_gradients(actual, -bound_of(log_w), parameters_of(model))
    torch.testing.assert_close(loss, -bound_of(log_w).detach())


# ------------------------------------------------------------------------------ Renyi


@pytest.mark.parametrize("name", ["vae", "vade", "shu-gmvae", "hierarchical-vae", "gmvae-v1"])
def test_renyi_of_order_0_is_the_iwae_of_order_1_the_elbo(name):
    model, guide = pair(name)
    for alpha, same in ((0, IWAE(3)), (0.0, IWAE(3)), (1, ELBO(num_particles=3))):
        renyi = value_and_gradients(Renyi(alpha, 3), model, guide)
        assert_same(renyi, value_and_gradients(same, model, guide))


@pytest.mark.parametrize("name", ["vae", "vade", "shu-gmvae"])
def test_renyi_falls_with_its_order_and_is_continuous_at_its_limits(name):
    model, guide = pair(name)
    orders = (-INF, -1e4, -2, -1e-7, 0, 0.5, 1 - 1e-7, 1, 1 + 1e-7, 3)
    bounds = {a: -value_and_gradients(Renyi(a, 3), model, guide)[0] for a in orders}
    values = [bounds[a] for a in orders]
    assert all(a >= b - 1e-9 * a.abs() for a, b in itertools.pairwise(values))
    assert bounds[-2] - bounds[3] > 0.1
    for near, limit in ((-1e4, -INF), (-1e-7, 0), (1 - 1e-7, 1), (1 + 1e-7, 1)):
        torch.testing.assert_close(bounds[near], bounds[limit], atol=0.02, rtol=1e-6)


def test_renyi_of_order_minus_infinity_is_the_largest_weight():
    model, guide = pair("vae")
    loss, _ = value_and_gradients(Renyi(-INF, 4), model, guide)
    torch.manual_seed(3)
    largest = trace_pair(model, guide, batch(), 4).log_weight().max(0).values
    torch.testing.assert_close(-largest.sum().detach(), loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case, alpha", covering(list(GUIDES), [-0.5, 0.5, 2.0], every=3))
def test_renyis_mean_gradient_is_quadratures(case, alpha):
    model, guide = tiny_pair(case)
    weights, log_w, _, log_pi = quadrature(case, model, guide)
    power = log_pi + (1 - alpha) * (log_w - log_pi)
    bound = (power.logsumexp(0) - math.log(PARTICLES[case])) / (1 - alpha)
    parameters = parameters_of(model, guide)
    exact = flat_gradient(-(weights * bound).sum(), parameters)
    actual = gradients(Renyi(alpha, PARTICLES[case]), (model, guide), many(), parameters)
    assert_mean_is(actual, exact)


# ----------------------------------------------------- a latent sampled without gradient


class EveryDraw(Coins):
    def exact(self, x, bound, particles):
        """The mean of a bound of `log_w [particles]`, over every combination of draws."""
        log_q = self.guess.log_softmax(0)
        log_p = self.prior.log_softmax(0) + dist.Normal(self.mean, 1.0).log_prob(x)
        total = 0.0
        for draws in itertools.product(range(3), repeat=particles):
            draws = list(draws)
            total = total + log_q[draws].sum().exp() * bound((log_p - log_q)[draws])
        return total


@pytest.mark.parametrize("particles", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0, 0.5])
def test_a_sampled_latents_gradient_is_the_sums_over_every_draw(particles, alpha):
    torch.set_default_dtype(torch.float64)
    coins = EveryDraw()

    def bound(log_w):
        return (((1 - alpha) * log_w).logsumexp(0) - math.log(particles)) / (1 - alpha)

    parameters = [*coins.parameters()]
    exact = flat_gradient(-coins.exact(torch.tensor(1.2), bound, particles), parameters)
    x = torch.full((500,), 1.2)
    objective = Renyi(alpha, particles) if alpha else IWAE(particles)
    actual = gradients(objective, (coins.model, coins.guide), {"x": x}, parameters)
    assert_mean_is(actual, exact)


# -------------------------------------------------------------------------------- scales


def test_one_scale_of_all_sites_scales_the_bound():
    model, guide = pair("vade")
    loss, _ = value_and_gradients(IWAE(3), model, guide)
    programs = [poutine.scale(p, 2.5) for p in (model, guide)]
    torch.manual_seed(3)
    scaled = IWAE(3).differentiable_loss(*programs, batch()["x"])
    torch.testing.assert_close(scaled, 2.5 * loss, rtol=1e-12, atol=0)
    with pytest.raises(pv.UserError, match="weight needs one scale at every site"):
        IWAE(3).differentiable_loss(programs[0], guide, batch()["x"])


def test_weights_are_each_datums_own():
    model, guide = pair("vae")
    torch.manual_seed(3)
    together = trace_pair(model, guide, batch(), 3).log_weight()
    by_datum = together.logsumexp(0) - math.log(3)
    loss, _ = value_and_gradients(IWAE(3), model, guide)
    assert by_datum.shape == (N,)
    torch.testing.assert_close(-by_datum.sum().detach(), loss, rtol=1e-12, atol=0)
    assert abs(loss + together.sum(1).logsumexp(0) - math.log(3)) > 0.1  # not the batch's


# ------------------------------------------------------------------- one-line mistakes


def test_what_has_no_importance_weight_is_refused():
    model, guide = pair("shu-gmvae", discrete="relaxed")
    for objective in (IWAE(), Renyi(), DReG()):
        with pytest.raises(pv.UserError, match="'y' is relaxed, and so has no importance weight"):
            value_and_gradients(objective, model, guide)


@pytest.mark.parametrize("alpha", [math.nan, INF, "half", None])
def test_orders_that_are_no_numbers_are_refused(alpha):
    with pytest.raises(pv.UserError, match="alpha of the Renyi bound"):
        Renyi(alpha)


def forbidding_pair(forbidden):
    """A sum over y in the guide, which gives one of three values no probability."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(3)))
            loc = y @ torch.tensor([[0.0], [1.0], [2.0]])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    logits = torch.tensor([0.3, -0.2, -INF if forbidden else -40.0]).requires_grad_()

    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.OneHotCategorical(logits=logits.expand(len(x), 3))
            pyro.sample("y", q, infer={"enumerate": "parallel"})

    return model, guide, logits


@pytest.mark.parametrize(
    "objective", [IWAE(1), DReG(1), pv.objectives.RWS(1), ELBO(), Renyi(0.5, 1)]
)
def test_a_value_that_the_guide_cannot_have_leaves_the_bound_a_number(objective):
    """IWAE's bound sums over y by the model alone; the ELBO is that of the values that q has."""
    x = torch.tensor([[0.5], [-1.0]])
    model, guide, logits = forbidding_pair(True)
    loss = objective.differentiable_loss(model, guide, x)
    if type(objective) in (ELBO, Renyi):
        nearly = objective.differentiable_loss(*forbidding_pair(False)[:2], x)
        torch.testing.assert_close(loss, nearly)
    else:
        log_p = dist.Normal(torch.arange(3.0), 1.0).log_prob(x) - math.log(3)
        torch.testing.assert_close(loss, -log_p.logsumexp(-1).sum())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[:2].isfinite().all()
    exact = pv.evaluate.log_likelihood(model, guide, x)
    assert exact.isfinite().all()


def test_their_settings_are_described_for_the_record():
    assert IWAE(7).describe() == {"name": "iwae", "num_particles": 7}
    assert Renyi(0.3).describe() == {"name": "renyi", "num_particles": 5, "alpha": 0.3}


@pytest.mark.parametrize(
    "objective", [pv.objectives.IWAE(400), pv.objectives.RWS(400)], ids=["iwae", "rws"]
)
@pytest.mark.parametrize("layout", ["plate", "rows", "loop"])
def test_a_scale_for_each_row_weighs_the_bound_of_each_row(layout, objective):
    """However particles are run: as rows or one by one, the scale was counted once per particle."""
    torch.manual_seed(0)
    x, weight, c = torch.randn(6, 5), torch.rand(6) + 0.5, torch.randn(6, 1)
    decoder, encoder = torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)

    def model(x, weight, c):
        pyro.module("decoder", decoder)
        if layout == "loop":
            assert len(x) == 6
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=weight):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            if layout == "plate":
                joined = torch.cat([z, c.expand(*z.shape[:-1], 1)], -1)
            else:
                joined = torch.cat([z, c], 1)
            pyro.sample("x", dist.Normal(decoder(joined), 1.0).to_event(1), obs=x)

    def guide(x, weight, c):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=weight):
            pyro.sample("z", dist.Normal(encoder(x), 0.7).to_event(1))

    # the model is linear: log p(x | c) is that of a normal
    w, rest = decoder.weight[:, :2].detach(), (c @ decoder.weight[:, 2:].T + decoder.bias).detach()
    exact = torch.distributions.MultivariateNormal(rest, w @ w.T + torch.eye(5)).log_prob(x)
    loss = objective.differentiable_loss(model, guide, x=x, weight=weight, c=c)
    assert (
        pv.programs.layout_of(model, guide, {"x": x, "weight": weight, "c": c}).particles == layout
    )
    assert loss.item() == pytest.approx(-(weight * exact).sum().item(), abs=2.0)
    (of_bias,) = torch.autograd.grad(loss, decoder.bias)
    assert of_bias.abs().max() < 20  # 400 times as much before
