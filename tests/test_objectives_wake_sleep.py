"""Reweighted wake-sleep: the model's gradient is the IWAE's, the guide's the posterior's."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
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
from pyro.infer import TraceEnum_ELBO
from sampling import covering
from test_objectives_elbo import batch, pair, value_and_gradients

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.objectives import IWAE, RWS
from pyro_vae.programs.calling import as_keyword_program


@pytest.mark.parametrize("name, particles", covering(list(methods.METHODS), [1, 3], every=4))
def test_its_loss_is_the_iwaes_and_so_is_the_models_gradient(name, particles):
    model, guide = pair(name)
    rws = value_and_gradients(RWS(particles), model, guide)
    iwae = value_and_gradients(IWAE(particles), model, guide)
    torch.testing.assert_close(rws[0], iwae[0], rtol=1e-12, atol=0)
    if name in ("gsnn", "semi-amortized"):  # parameters of the model that make draws as well
        return
    shared = {id(p) for p in guide.parameters()}
    for p, a, b in zip(parameters_of(model, guide), rws[1], iwae[1], strict=True):
        if id(p) not in shared:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", GUIDES)
def test_the_guides_mean_gradient_is_quadratures(case):
    model, guide = tiny_pair(case)
    weights, log_w, log_q, log_pi = quadrature(case, model, guide, detach_draws=True)
    share = log_w.softmax(0).detach()
    loss = -(weights * (share * (log_q + log_pi)).sum(0)).sum()
    parameters = parameters_of(guide)
    exact = flat_gradient(loss, parameters)
    data = {"x": datum().expand(500, -1)}
    actual = gradients(RWS(PARTICLES[case]), (model, guide), data, parameters)
    assert_mean_is(actual, exact)


@pytest.mark.parametrize("sleep", [0.0, 0.5])
@pytest.mark.parametrize("name", ["gsnn", "semi-amortized"])
def test_parameters_of_the_model_that_the_guide_reads_have_the_models_gradient_alone(name, sleep):
    """The prior as a guide would else count p(z)'s gradient twice."""
    model, guide = pair(name)
    _, actual = value_and_gradients(RWS(3, sleep), model, guide)
    torch.manual_seed(3)
    enum = TraceEnum_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is enumerated
        programs = as_keyword_program(model), as_keyword_program(guide)
        _, q = next(enum._get_traces(*programs, (), batch()))
    z, data = q.nodes["z"]["value"].detach(), batch()
    log_p = model.p_z(**{k: data[k] for k in getattr(model.p_z, "given", ())}).log_prob(z)
    values = {"z": z, "c": data["c"]}
    log_p = log_p + model.p_x(**{k: values[k] for k in model.p_x.given}).log_prob(data["x"])
    weights = (log_p - q.nodes["z"]["log_prob"]).softmax(0).detach()
    parameters = parameters_of(model)
    expected = flat_gradient(-(weights * log_p).sum(), parameters)
    gradient = torch.cat([g.flatten() for g in actual[: len(parameters)]])
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)
    assert expected.abs().max() > 0.1


def test_a_sampled_latent_is_fitted_as_a_summed_one_is():
    """With many particles both lower the KL from the posterior to the guide."""
    actual = []
    for discrete in ("enumerate", "score_function"):
        model, guide = pair("shu-gmvae", discrete=discrete)
        data = {k: v[:1].expand(10, *v.shape[1:]) for k, v in batch().items()}
        q = parameters_of(guide.factors["y"])
        actual.append(gradients(RWS(1000), (model, guide), data, q, 20))
    summed, sampled = actual
    error = ((summed.var(0) + sampled.var(0)) / 20).sqrt()
    bias = 5e-3 * summed.mean(0).abs().max()  # falls as one over the particles
    assert ((summed.mean(0) - sampled.mean(0)).abs() < 5 * error + bias).all()
    assert (summed.mean(0).abs() > 10 * (error + bias)).any()


@pytest.mark.parametrize("name", ["vae", "shu-gmvae", "hierarchical-vae", "mixture-posterior"])
def test_asleep_the_guide_is_fitted_to_what_the_model_makes_up(name):
    model, guide = pair(name)
    parameters, x = parameters_of(guide), batch()["x"]
    torch.manual_seed(3)
    asleep = flat_gradient(
        RWS(1, sleep_weight=1.0).differentiable_loss(model, guide, x), parameters
    )
    torch.manual_seed(3)
    RWS(1).differentiable_loss(model, guide, x)  # awake, with the noise of before
    made = poutine.trace(model).get_trace(size=len(x))
    values = {n: made.nodes[n]["value"].detach() for n in ("x", *guide.factors)}
    seen = {**values, "x": (values["x"] - 0.5) / 0.5}  # as the encoder sees it
    log_q = 0.0
    for latent, q in guide.factors.items():
        log_q = log_q + q(**{p: seen[p] for p in q.given}).log_prob(values[latent]).sum()
    torch.testing.assert_close(asleep, flat_gradient(-log_q, parameters))


def test_asleep_and_awake_are_weighed():
    model, guide = pair("vae")
    actual = []
    for sleep in (0.0, 0.25, 1.0):
        actual.append(value_and_gradients(RWS(3, sleep), model, guide))
    assert actual[0][0] == actual[1][0] == actual[2][0]
    for awake, both, asleep in zip(*(g for _, g in actual), strict=True):
        torch.testing.assert_close(both, 0.75 * awake + 0.25 * asleep)


def test_what_it_cannot_do_it_refuses():
    with pytest.raises(pv.UserError, match="sleep_weight weighs the sleep phase: 0 to 1, not 2"):
        RWS(sleep_weight=2)
    model, guide = pair("vae-per-datum")
    with pytest.raises(
        pv.UserError, match="asks the guide of generated data, but .* has a row for each"
    ):
        value_and_gradients(RWS(sleep_weight=0.5), model, guide)
    rows = torch.zeros(20, 2, dtype=torch.float64, requires_grad=True)

    def of_rows(x, index):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(rows[index], 1.0).to_event(1))

    model, _ = pair("vae")
    with pytest.raises(pv.UserError, match="generated data, but .* argument: 'index'"):
        value_and_gradients(RWS(sleep_weight=0.5), model, of_rows)
    model, guide = pair("m2")
    y = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2]]
    with pytest.raises(pv.UserError, match=r"one observed site, x; the model has \['x', 'y'\]"):
        RWS(sleep_weight=0.5).differentiable_loss(model, guide, x=batch()["x"], y=y)
    model, guide = pair("shu-gmvae", discrete="relaxed")
    with pytest.raises(pv.UserError, match="'y' is relaxed, and so has no importance weight"):
        value_and_gradients(RWS(), model, guide)


def test_its_settings_are_described_for_the_record():
    assert RWS(3, 0.5).describe() == {"name": "rws", "num_particles": 3, "sleep_weight": 0.5}


class Observing(torch.nn.Module):
    """z ~ N(0, 1) and x ~ N(z + 2, 1), of which the model observes a function."""

    def __init__(self, function):
        super().__init__()
        self.function, self.shift = function, torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))
            seen = self.function(x)
            loc = z.reshape(-1, *[1] * (seen.dim() - 1)) + self.shift
            x_given_z = dist.Normal(loc, 1.0).expand(seen.shape)
            pyro.sample("x", x_given_z.to_event(seen.dim() - 1), obs=seen)


class LinearGuide(torch.nn.Module):
    """q(z | x) of an image `[N, 1, 2]`."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Conv1d(1, 1, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.linear(x).flatten(), 1.0))


@pytest.mark.parametrize("compile", [False, "recorded"])
def test_the_sleep_phase_refuses_a_model_that_observes_a_function_of_x(compile):
    pair_ = Observing(lambda x: torch.log1p(x).flatten(1)), LinearGuide()
    with pytest.raises(pv.UserError, match="observes a function of x at 'x': observe x itself"):
        pv.fit(
            *pair_, torch.rand(8, 1, 2), 1, objective=RWS(2, sleep_weight=0.5), compile=compile,
            progress=False,
        )  # fmt: skip


def test_the_sleep_phase_gives_the_guide_x_in_its_own_shape():
    """Also of a model that observes it flat, or any numbers in place of missing ones."""
    x, results = torch.rand(8, 1, 2), []
    missing = x.masked_fill(torch.arange(8).view(8, 1, 1) == 3, torch.nan)
    flat = lambda x: x.flatten(1)  # noqa: E731
    filled = lambda x: x.nan_to_num()  # noqa: E731
    for function, data in ((lambda x: x, x), (flat, x), (filled, missing)):
        torch.manual_seed(0)
        model, guide = Observing(function), LinearGuide()
        torch.manual_seed(1)
        loss = RWS(2, sleep_weight=1.0)._sleep_loss(model, guide, (), {"x": data})
        results.append(flat_gradient(loss, parameters_of(guide)))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
    assert results[0].abs().min() > 0
