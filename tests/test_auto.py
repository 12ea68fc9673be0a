"""Pyro's AutoGuides for local latents, through the adapter."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import linear_posterior
from pyro.infer import autoguide
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.conditionals import MLP, NormalLikelihood
from pyro_vae.diagnostics.joint import Joint
from pyro_vae.guides import PerDatumAutoGuide

D, LATENT, N, SCALE = 6, 2, 12, 0.5
NET = MLP(hidden=(5,), activation="tanh")


def linear():
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, NormalLikelihood(SCALE), MLP(hidden=()))
    return model, model(size=N).detach()


def posterior(model, x):
    """Exact `(mean [N, D], precision [D, D])`."""
    gain, offset, covariance = linear_posterior(model, SCALE)
    return x @ gain.T + offset, torch.linalg.inv(covariance)


def train(model, guide, x, **options):
    frozen = model.requires_grad_(False)
    return pv.fit(frozen, guide, x, progress=False, device="cpu", **options)


@pytest.mark.parametrize("batch_size", [N, 5, 1], ids=["all, shuffled", "uneven", "one by one"])
def test_an_auto_normal_trained_on_minibatches_is_each_datums_own_optimum(batch_size):
    """Every row meets its own data point, whatever the order and the size of the batches."""
    model, x = linear()
    guide = PerDatumAutoGuide(AutoNormal, model, num_data=N, init_scale=0.5)
    options = {"batch_size": batch_size, "objective": pv.objectives.ELBO(num_particles=20)}
    train(model, guide, x, epochs=60, lr=0.2, schedule="cosine", **options)
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
    auto = PerDatumAutoGuide(AutoNormal, model, num_data=N, init_scale=0.5)
    declared = pv.guides.Guide(model, {"z": ["index"]}, num_data=N)
    with torch.no_grad():
        loc = auto.rows["locs_z"]
        loc.normal_()
        table = declared.factors["z"].head.maps["index"].rows
        table[:, :LATENT] = loc
        table[:, LATENT:] = 7 * torch.atanh(torch.tensor(0.5).log() / 7)
    index = torch.randperm(N)
    for actual, expected in (
        [e(model, g, x, index=index) for g in (auto, declared)]
        for e in (
            pv.evaluate.elbo,
            lambda *a, **k: pv.evaluate.elbo_terms(*a, **k)["z"],
            lambda *a, **k: pv.evaluate.log_likelihood(*a, num_samples=7, **k),
        )
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
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
    guide = PerDatumAutoGuide(
        AutoNormal, model, example={"x": x}, init_scale=0.4, init_loc_fn=start
    )
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


def put(guide, mean, covariance):
    """Rows of an AutoMultivariateNormal with these means `[N, D]` and this covariance."""
    tril = torch.linalg.cholesky(covariance)
    scale = tril.diagonal()
    with torch.no_grad():
        guide.rows["loc"].copy_(mean)
        guide.rows["scale"].copy_(scale.expm1().log())  # softplus of it is the scale
        guide.rows["scale_tril"].copy_(tril / scale[:, None])


def test_a_joint_normal_that_is_the_posterior_has_the_evidence_for_its_bound():
    model, x = linear()
    guide = PerDatumAutoGuide(autoguide.AutoMultivariateNormal, model, num_data=N)
    mean, precision = posterior(model, x)
    put(guide, mean, precision.inverse())
    index = torch.randperm(N)
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    evidence = torch.distributions.MultivariateNormal(
        b, w @ w.T + SCALE**2 * torch.eye(D)
    ).log_prob(x)
    for bound in (pv.evaluate.elbo, pv.evaluate.log_likelihood):
        actual = bound(model, guide, x[index], num_samples=2, index=index)
        torch.testing.assert_close(actual, evidence[index], atol=1e-3, rtol=1e-4)
    # of one latent the distribution is that latent's
    assert set(pv.evaluate.elbo_terms(model, guide, x, index=torch.arange(N))) == {"x", "z"}


def chain(rows):
    """a ~ N(0, 1); b | a ~ N(a, 1); x | b ~ N(b, 1/2): one chain a data point."""
    with pyro.plate("data", len(rows)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(b.unsqueeze(-1), 0.5).to_event(1), obs=rows)


def test_the_joint_normal_of_two_latents_knows_their_covariance():
    x = torch.tensor([[0.3], [-1.0], [2.0]])
    precision = torch.tensor([[2.0, -1.0], [-1.0, 1.0 + 4.0]])
    mean = (precision.inverse() @ torch.stack([torch.zeros(3), 4 * x[:, 0]])).T
    evidence = torch.distributions.Normal(0.0, (2 + 0.25) ** 0.5).log_prob(x[:, 0])
    guide = PerDatumAutoGuide(autoguide.AutoMultivariateNormal, chain, example={"x": x})
    put(guide, mean, precision.inverse())
    index = torch.arange(3)
    bound = pv.evaluate.elbo(chain, guide, x, index=index)
    torch.testing.assert_close(bound, evidence, atol=1e-4, rtol=0)
    assert set(pv.evaluate.elbo_terms(chain, guide, x, index=index)) == {"a", "b", "x", "_joint"}
    code = pv.evaluate.encode(chain, guide, x, index=index)
    torch.testing.assert_close(torch.stack([code["a"], code["b"]], 1), mean)
    with pytest.raises(pv.UserError, match="'_joint' belongs to no one latent"):
        pv.fit(chain, guide, x, 1, objective=pv.objectives.ELBO(beta=0.5), progress=False)


def test_diagnostics_have_the_density_of_a_joint_normal():
    model, x = linear()
    guide = PerDatumAutoGuide(autoguide.AutoMultivariateNormal, model, num_data=N)
    mean, precision = posterior(model, x)
    put(guide, mean, precision.inverse())
    q = dist.MultivariateNormal(mean, precision.inverse())
    inputs = {"index": torch.arange(N)}
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    evidence = dist.MultivariateNormal(b, w @ w.T + SCALE**2 * torch.eye(D)).log_prob(x)
    bound = pv.diagnostics.ais(model, x, guide, num_steps=3, num_chains=2, **inputs)
    torch.testing.assert_close(bound, evidence, atol=1e-3, rtol=1e-4)
    grid = pv.diagnostics.posterior_grid(model, x, guide, num=20, **inputs)
    points = torch.stack(
        [
            grid.axes[:, 0, :, None].expand(-1, -1, 20),
            grid.axes[:, 1, None, :].expand(-1, 20, -1),
        ],
        -1,
    )
    exact = q.log_prob(points.movedim(0, 2)).exp().movedim(2, 0)
    torch.testing.assert_close(grid.guide, exact, atol=1e-3, rtol=1e-2)
    terms = pv.diagnostics.elbo_surgery(model, guide, x, num_samples=1000, **inputs)["z"]
    prior = dist.MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))
    assert terms["kl"] == pytest.approx(float(kl_divergence(q, prior).mean()), abs=0.05)


def test_a_latent_of_a_joint_normal_has_its_marginal_density():
    x = torch.tensor([[0.3], [-1.0], [2.0]])
    guide = PerDatumAutoGuide(autoguide.AutoMultivariateNormal, chain, example={"x": x})
    mean = torch.tensor([[0.1, 0.2], [-0.5, -1.0], [1.0, 1.5]])
    covariance = torch.tensor([[0.6, 0.2], [0.2, 0.3]])
    put(guide, mean, covariance)
    joint = Joint(chain, {"x": x, "index": torch.arange(3)}, guide)
    u = torch.randn(5, 3, 2)
    marginals = joint.log_marginals(guide, u)
    for i, name in enumerate("ab"):
        exact = dist.Normal(mean[:, i], covariance[i, i].sqrt()).log_prob(u[..., i])
        torch.testing.assert_close(marginals[name], exact)
    torch.testing.assert_close(
        joint.log_guide(u), dist.MultivariateNormal(mean, covariance).log_prob(u)
    )
    torch.manual_seed(0)
    draws = joint.draw(4000)
    torch.testing.assert_close(draws.mean(0), mean, atol=0.06, rtol=0)
    terms = pv.diagnostics.elbo_surgery(chain, guide, x, num_samples=4000, index=torch.arange(3))
    assert set(terms) == {"a", "all"}
    exact = kl_divergence(
        dist.Normal(mean[:, 0], covariance[0, 0].sqrt()), dist.Normal(0.0, 1.0)
    ).mean()
    assert terms["a"]["kl"] == pytest.approx(float(exact), abs=0.03)


@pytest.mark.parametrize("kind", [AutoNormal, autoguide.AutoDiagonalNormal])
def test_a_diagonal_normal_has_the_kl_of_each_unit(kind):
    model, x = linear()
    guide = PerDatumAutoGuide(kind, model, num_data=N, init_scale=0.5)
    inputs = {"index": torch.arange(N)}
    loc = pv.evaluate.encode(model, guide, x, **inputs)["z"]
    exact = kl_divergence(dist.Normal(loc, 0.5), dist.Normal(0.0, 1.0)).mean(0)
    actual = pv.evaluate.unit_kl(model, guide, x, num_samples=5000, **inputs)["z"]
    torch.testing.assert_close(actual, exact, atol=0.03, rtol=0)


def test_a_joint_normal_takes_bounds_with_a_row_for_each_data_point():
    x, index = torch.linspace(0.5, 2.5, 4), torch.arange(4)
    actual = []
    for low in (lambda n: 0.0, torch.zeros):

        def model(x, low=low):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Uniform(low(len(x)), 3.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        start = init_to_value(values={"z": torch.tensor([1.0])})
        guide = PerDatumAutoGuide(
            autoguide.AutoDiagonalNormal, model, example={"x": x}, init_scale=1.0, init_loc_fn=start
        )
        actual.append(pv.evaluate.elbo(model, guide, x, num_samples=5, index=index))
        joint = Joint(model, {"x": x, "index": index}, guide)
        u = torch.linspace(-1, 1, 4).expand(2, 4).unsqueeze(-1)
        exact = dist.Normal(math.log(1 / 2), 1.0).log_prob(u[..., 0])  # logit of 1 of 3
        torch.testing.assert_close(joint.log_guide(u), exact)
    torch.testing.assert_close(*actual)


@pytest.mark.parametrize("kind", ["AutoDiagonalNormal", "AutoLowRankMultivariateNormal"])
def test_joint_normals_train_on_minibatches_towards_the_posterior(kind):
    x = torch.tensor([[0.3], [-1.0], [2.0], [0.0], [1.0]])
    guide = PerDatumAutoGuide(getattr(autoguide, kind), chain, example={"x": x}, init_scale=0.5)
    options = {"batch_size": 2, "objective": pv.objectives.ELBO(num_particles=20)}
    pv.fit(chain, guide, x, 80, lr=0.2, schedule="cosine", progress=False, **options)
    code = pv.evaluate.encode(chain, guide, x, index=torch.arange(5))
    torch.testing.assert_close(code["b"], 8 / 9 * x[:, 0], atol=0.15, rtol=0)
    bound = pv.evaluate.elbo(chain, guide, x, num_samples=2000, index=torch.arange(5)).mean()
    evidence = torch.distributions.Normal(0.0, 1.5).log_prob(x).mean()
    gap = 0.5 * torch.tensor(10 / 9).log()  # of the best diagonal: log of the precisions' ratio
    lost = evidence - bound
    assert lost > gap - 0.02 if kind == "AutoDiagonalNormal" else lost < gap - 0.02
    assert lost < gap + 0.05


def test_a_joint_normal_of_a_positive_latent_is_the_auto_normal():
    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    x, index = torch.tensor([[1.0, 2], [4, 0]]), torch.arange(2)
    actual = []
    for kind, rows in ((AutoNormal, 2), (autoguide.AutoDiagonalNormal, 1)):
        start = init_to_value(values={"rate": torch.tensor([[1.0, 3.5]]).expand(rows, 2)})
        guide = PerDatumAutoGuide(kind, model, example={"x": x}, init_scale=0.4, init_loc_fn=start)
        actual.append(pv.evaluate.elbo(model, guide, x, num_samples=5, index=index))
    torch.testing.assert_close(*actual)


def test_an_auto_delta_finds_the_mode():
    model, x = linear()
    guide = PerDatumAutoGuide(AutoDelta, model, num_data=N)
    train(model, guide, x, epochs=150, lr=0.1, batch_size=5, schedule="cosine")
    mean, _ = posterior(model, x)
    code = pv.evaluate.encode(model, guide, x, index=torch.arange(N))["z"]
    torch.testing.assert_close(code, mean, atol=0.01, rtol=0)


def test_a_discrete_latent_is_hidden_from_it_and_summed_in_the_model():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((D,), 3, LATENT, network=NET)
    x, index = torch.bernoulli(torch.full((N, D), 0.5)), torch.arange(N)
    guide = PerDatumAutoGuide(AutoNormal, model, num_data=N)
    assert guide.given == {"z": ("index",)}
    pv.check_pair(model, guide, x, index=index)
    actual = pv.fit(model, guide, x, epochs=60, lr=0.05, batch_size=5, progress=False)
    assert actual.history[-1]["loss"] < actual.history[0]["loss"] - 1
    probabilities = pv.evaluate.responsibilities(model, guide, x, index=index)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(N))
    assert set(pv.evaluate.sample_posterior(model, guide, x, index=index)) == {"y", "z"}


def test_parameters_are_there_at_once_and_are_the_modules_own():
    model, x = linear()
    guide = PerDatumAutoGuide(AutoNormal, model, num_data=N)
    assert {tuple(p.shape) for p in guide.parameters()} == {(N, LATENT)}
    other = PerDatumAutoGuide(AutoNormal, model, num_data=N)
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
    guide = PerDatumAutoGuide(AutoNormal, model, num_data=N)
    start = {k: v.clone() for k, v in guide.state_dict().items()}
    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    svi.step(x, index=torch.arange(N))
    assert not any(torch.equal(v, start[k]) for k, v in guide.state_dict().items())


def test_a_recorded_step_takes_it():
    losses = []
    for compile in (False, "recorded"):
        model, x = linear()
        guide = PerDatumAutoGuide(AutoNormal, model, num_data=N, init_loc_fn=autoguide.init_to_mean)
        actual = pv.fit(model, guide, x, epochs=4, batch_size=4, compile=compile, progress=False)
        losses.append([row["loss"] for row in actual.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_joint_normal_takes_the_continuous_latents_of_a_mixture():
    torch.manual_seed(0)
    model = pv.models.GMVAE((D,), 3, LATENT, 2, network=NET)
    x, index = torch.bernoulli(torch.full((N, D), 0.5)), torch.arange(N)
    guide = PerDatumAutoGuide(autoguide.AutoMultivariateNormal, model, num_data=N)
    actual = pv.fit(model, guide, x, epochs=60, lr=0.05, batch_size=5, progress=False)
    assert actual.history[-1]["loss"] < actual.history[0]["loss"] - 1
    assert set(pv.evaluate.sample_posterior(model, guide, x, index=index)) == {"w", "y", "z"}
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda m: PerDatumAutoGuide(autoguide.AutoNormalMessenger, m, N),
            "messenger guides have no local",
        ),
        (
            lambda m: PerDatumAutoGuide(autoguide.AutoIAFNormal, m, N),
            "cannot be a row for each data point",
        ),
        (lambda m: PerDatumAutoGuide(autoguide.AutoLaplaceApproximation, m, N), "cannot be a row"),
        (lambda m: PerDatumAutoGuide("normal", m, N), "normal is not supported"),
        (lambda m: PerDatumAutoGuide(AutoNormal, m), "pass num_data=, or example="),
        (
            lambda m: PerDatumAutoGuide(AutoNormal, m, example={"c": torch.zeros(2)}),
            "example= needs the data",
        ),
        (
            lambda m: PerDatumAutoGuide(AutoNormal, m, N)(x=torch.zeros(N, D)),
            "'z' needs index: pass index=",
        ),
    ],
)
def test_unsupported_uses_raise_one_line(make, message):
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
        PerDatumAutoGuide(AutoNormal, model, example={"x": torch.zeros(3)})


def test_a_user_defined_model_without_size_takes_an_example_of_all_rows():
    """Normal mean, known noise: rows by index are each data point's own posterior."""
    x = torch.linspace(-2, 2, 12)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5), obs=x)

    with pytest.raises(pv.UserError, match="pass example="):
        PerDatumAutoGuide(AutoNormal, model, num_data=12)
    guide = PerDatumAutoGuide(AutoNormal, model, example={"x": x})
    options = {"lr": 0.1, "schedule": "cosine", "batch_size": 5, "progress": False}
    pv.fit(model, guide, {"x": x}, epochs=120, **options)
    index = torch.arange(12)
    code = pv.evaluate.encode(model, guide, x, index=index)["z"]
    torch.testing.assert_close(code, 0.8 * x, atol=0.1, rtol=0)
    bound = pv.evaluate.elbo(model, guide, x, index=index, num_samples=2000)
    truth = dist.Normal(0.0, math.sqrt(1.25)).log_prob(x)
    assert (bound < truth + 0.02).all() and (truth - bound).mean() < 0.05
