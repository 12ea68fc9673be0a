"""Pyro's AutoGuides for local latents, through the adapter."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value

import pyro_vae as pv
from pyro_vae.conditionals import MLP, NormalLikelihood
from pyro_vae.guides import Auto

D, LATENT, N, SCALE = 6, 2, 12, 0.5
NET = MLP(hidden=(5,), activation="tanh")


def linear():
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, NormalLikelihood(SCALE), MLP(hidden=()))
    return model, model(size=N).detach()


def posterior(model, x):
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    precision = torch.eye(LATENT) + w.T @ w / SCALE**2
    return (x - b) @ w / SCALE**2 @ torch.inverse(precision), precision


def train(model, guide, x, **options):
    frozen = model.requires_grad_(False)
    return pv.fit(frozen, guide, x, progress=False, device="cpu", **options)


@pytest.mark.parametrize("batch_size", [N, 5, 1], ids=["all, shuffled", "uneven", "one by one"])
def test_an_auto_normal_trained_on_minibatches_is_each_datums_own_optimum(batch_size):
    """Every row meets its own datum, whatever the order and the size of the batches."""
    model, x = linear()
    guide = Auto(AutoNormal, model, num_data=N, init_scale=0.5)
    train(model, guide, x, epochs=300, lr=0.05, batch_size=batch_size, schedule="cosine")
    mean, precision = posterior(model, x)
    loc = guide.rows["locs_z"].detach()
    torch.testing.assert_close(loc, mean, atol=0.15, rtol=0)
    index = torch.arange(N)
    code = pv.evaluate.encode(model, guide, x, index=index)
    assert set(code) == {"z"}
    torch.testing.assert_close(code["z"], loc)
    scale = pyro.poutine.trace(guide).get_trace(x, index=index).nodes["z_unconstrained"]["fn"]
    optimal = precision.diagonal().rsqrt().expand(N, LATENT)
    torch.testing.assert_close(scale.base_dist.scale.detach(), optimal, rtol=0.25, atol=0)
    assert len(pyro.get_param_store()) == 0


def test_its_bound_and_terms_are_those_of_the_same_normal_declared():
    model, x = linear()
    auto = Auto(AutoNormal, model, num_data=N, init_scale=0.5)
    declared = pv.guides.Guide(model, {"z": ["index"]}, num_data=N)
    with torch.no_grad():
        loc = auto.rows["locs_z"]
        loc.normal_()
        table = declared.factors["z"].head.maps["index"].rows
        table[:, :LATENT] = loc
        table[:, LATENT:] = 7 * torch.atanh(torch.tensor(0.5).log() / 7)
    index = torch.randperm(N)
    for found, expected in (
        [e(model, g, x, index=index) for g in (auto, declared)]
        for e in (
            pv.evaluate.elbo,
            lambda *a, **k: pv.evaluate.elbo_terms(*a, **k)["z"],
            lambda *a, **k: pv.evaluate.log_likelihood(*a, num_samples=7, **k),
        )
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    losses = []
    for guide in (auto, declared):
        for options in ({}, {"beta": 0.5}, {"num_particles": 3}):
            torch.manual_seed(1)
            objective = pv.objectives.ELBO(**options)
            losses.append(objective.differentiable_loss(model, guide, x, index=index))
    torch.testing.assert_close(losses[:3], losses[3:], rtol=1e-5, atol=1e-3)


def test_a_positive_latents_change_of_variables_is_in_its_bound():
    """AutoNormal in log space: q is log-normal, and so are the numbers."""

    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate.unsqueeze(-1) * torch.ones(3)).to_event(1), obs=x)

    x = torch.tensor([[1.0, 2, 0], [4, 5, 3]])
    start = init_to_value(values={"rate": torch.tensor([1.0, 3.5])})
    guide = Auto(AutoNormal, model, example={"x": x}, init_scale=0.4, init_loc_fn=start)
    index = torch.arange(2)
    terms = pv.evaluate.elbo_terms(model, guide, x, index=index, num_samples=20_000)
    q = torch.distributions.LogNormal(torch.tensor([1.0, 3.5]).log(), 0.4)
    draws = q.sample((200_000,))
    kl = (q.log_prob(draws) - torch.distributions.Gamma(2.0, 1.0).log_prob(draws)).mean(0)
    torch.testing.assert_close(-terms["rate"], kl, atol=0.02, rtol=0)
    total, count = x.sum(1), 3  # the posterior is conjugate, the evidence closed
    evidence = (
        torch.lgamma(2 + total) - (2 + total) * torch.tensor(1.0 + count).log()
        - torch.lgamma(x + 1).sum(1)
    )  # fmt: skip
    bound = pv.evaluate.log_likelihood(model, guide, x, index=index, num_samples=20_000)
    torch.testing.assert_close(bound, evidence, atol=0.02, rtol=0)


def test_an_auto_delta_finds_the_mode():
    model, x = linear()
    guide = Auto(AutoDelta, model, num_data=N)
    train(model, guide, x, epochs=400, lr=0.05, batch_size=5, schedule="cosine")
    mean, _ = posterior(model, x)
    code = pv.evaluate.encode(model, guide, x, index=torch.arange(N))["z"]
    torch.testing.assert_close(code, mean, atol=0.01, rtol=0)


def test_a_discrete_latent_is_hidden_from_it_and_summed_in_the_model():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((D,), 3, LATENT, network=NET)
    x, index = torch.bernoulli(torch.full((N, D), 0.5)), torch.arange(N)
    guide = Auto(AutoNormal, model, num_data=N)
    assert guide.given == {"z": ("index",)}
    pv.check_pair(model, guide, x, index=index)
    found = pv.fit(model, guide, x, epochs=60, lr=0.05, batch_size=5, progress=False)
    assert found.history[-1]["loss"] < found.history[0]["loss"] - 1
    shares = pv.evaluate.responsibilities(model, guide, x, index=index)
    torch.testing.assert_close(shares.sum(-1), torch.ones(N))
    assert set(pv.evaluate.posterior(model, guide, x, index=index)) == {"y", "z"}


def test_parameters_are_there_at_once_and_are_the_modules_own():
    model, x = linear()
    guide = Auto(AutoNormal, model, num_data=N)
    assert {tuple(p.shape) for p in guide.parameters()} == {(N, LATENT)}
    other = Auto(AutoNormal, model, num_data=N)
    before = pv.evaluate.elbo(model, guide, x, index=torch.arange(N))
    other.load_state_dict(guide.state_dict())
    after = pv.evaluate.elbo(model, other, x, index=torch.arange(N))
    assert torch.equal(before, after)
    twins = copy.deepcopy((model, guide))
    train(*twins, x, epochs=2, lr=0.1)
    assert torch.equal(pv.evaluate.elbo(model, guide, x, index=torch.arange(N)), before)
    assert len(pyro.get_param_store()) == 0


def test_it_trains_under_svi():
    model, x = linear()
    guide = Auto(AutoNormal, model, num_data=N)
    start = {k: v.clone() for k, v in guide.state_dict().items()}
    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    svi.step(x, index=torch.arange(N))
    assert not any(torch.equal(v, start[k]) for k, v in guide.state_dict().items())


def test_a_recorded_step_takes_it():
    losses = []
    for compile in (False, "aten"):
        model, x = linear()
        guide = Auto(AutoNormal, model, num_data=N, init_loc_fn=autoguide.init_to_mean)
        found = pv.fit(model, guide, x, epochs=4, batch_size=4, compile=compile, progress=False)
        losses.append([row["loss"] for row in found.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m: Auto(autoguide.AutoNormalMessenger, m, N), "messenger guides have no local"),
        (lambda m: Auto(autoguide.AutoMultivariateNormal, m, N), "joint over all data"),
        (lambda m: Auto("normal", m, N), "normal is not supported"),
        (lambda m: Auto(AutoNormal, m), "pass num_data=, or example="),
        (lambda m: Auto(AutoNormal, m, example={"c": torch.zeros(2)}), "example= needs the data"),
        (lambda m: Auto(AutoNormal, m, N)(x=torch.zeros(N, D)), "'z' needs index: pass index="),
    ],
)
def test_what_it_cannot_do_is_told_in_one_line(make, message):
    with pytest.raises(pv.UserError) as error:
        make(linear()[0])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_global_latent_is_refused_by_name():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(pv.UserError, match="'scale' must lie in one data plate"):
        Auto(AutoNormal, model, example={"x": torch.zeros(3)})
