"""Surgery, calibration, NUTS and grids, where the answer is known."""

import math
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import LINEAR, binary_patterns, linear_marginal, linear_posterior
from scipy import stats
from torch.distributions import transforms

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.conditionals import MLP, NormalLikelihood
from pyro_vae.diagnostics.joint import Joint
from pyro_vae.evaluate import chunked
from pyro_vae.guides import Guide

D, SCALE = 3, 0.8
NET = MLP(hidden=(6,), activation="tanh")


def linear(latent):
    """x = W z + b + noise, z ~ N(0, I)."""
    torch.manual_seed(1)
    model = pv.models.VAE((D,), latent, NormalLikelihood(SCALE), LINEAR).double()
    columns = torch.tensor([[1.0, 0.8, -0.5], [0.8, 0.2, -0.7]]).double()
    model.p_x.head.maps["z"].weight.data.copy_(columns[:latent].T)
    return model


def exact(model, x):
    """`(log p(x), posterior)`."""
    gain, offset, covariance = linear_posterior(model, SCALE)
    posterior = dist.MultivariateNormal(x @ gain.T + offset, covariance)
    return linear_marginal(model, SCALE).log_prob(x), posterior


def posterior_guide(model, widen=1.0, shift=0.0):
    def guide(x):
        distribution = exact(model, x)[1]
        with pyro.plate("data", len(x)):
            pyro.sample(
                "z",
                dist.MultivariateNormal(
                    distribution.loc + shift, scale_tril=widen * distribution.scale_tril
                ),
            )

    return guide


# ------------------------------------------------------------------------ surgery


def by_quadrature(log_q, log_p, cell):
    """kl, information and marginal KL of densities `[N, G]` and `[G]` on a grid of such cells."""
    log_aggregate = log_q.logsumexp(0) - math.log(len(log_q))

    def mean(gain):
        return float((log_q.exp() * gain).sum() * cell / len(log_q))

    return {
        "kl": mean(log_q - log_p),
        "mutual_information": mean(log_q - log_aggregate),
        "marginal_kl": mean(log_aggregate - log_p),
    }


AXIS = torch.linspace(-9, 9, 6001, dtype=torch.float64).unsqueeze(-1)
STEP = float(AXIS[1, 0] - AXIS[0, 0])


def close(actual, truth, atol=0.02):
    for name, value in truth.items():
        assert actual[name] == pytest.approx(value, abs=atol), name


def test_the_kl_is_cut_as_quadrature_cuts_it():
    model, x = linear(1), 1.5 * torch.randn(20, D, dtype=torch.float64)
    guide = posterior_guide(model, widen=0.5)
    actual = pv.diagnostics.elbo_surgery(model, guide, x, num_samples=4000)["z"]
    distribution = exact(model, x)[1]
    q = dist.Normal(distribution.loc, 0.5 * distribution.scale_tril[..., 0])
    log_p = dist.Normal(0.0, 1.0).log_prob(AXIS[:, 0])
    truth = by_quadrature(q.log_prob(AXIS[:, 0]), log_p, STEP)
    close(actual, truth)
    assert 0.1 < truth["mutual_information"] < math.log(20) and truth["marginal_kl"] > 0.05
    assert actual["units"] == actual["active_units"] == 1


@pytest.mark.parametrize("given", [{"z": ["x"]}, {"y": ["x"], "z": ["x", "y"]}], ids=str)
def test_discrete_latents_are_summed_in_posterior_and_prior(given, monkeypatch):
    torch.manual_seed(0)
    model, x = pv.models.MixtureVAE((D,), 2, 1, network=NET).double(), binary_patterns(20, D)
    model.p_z.head.maps["y"].weight.data[0] = torch.tensor([-2.0, 1.0])
    guide = Guide(model, given=given, network=NET).double()
    guide.factors["z"].head.bias.data[1] = -1.0
    with torch.no_grad():
        log_p = torch.stack([model.p_z(y=y).log_prob(AXIS) for y in torch.eye(2).double()])
        log_p = (log_p + model.p_y().logits.unsqueeze(-1)).logsumexp(0)
        q = guide.factors["z"]
        if "y" in given:
            log_q = torch.stack(
                [
                    q(x=x, y=y.expand(20, 2)).log_prob(AXIS.unsqueeze(1)).T
                    for y in torch.eye(2).double()
                ]
            )
            weight = guide.factors["y"](x=x).logits.T.unsqueeze(-1)
            log_q = (log_q + weight).logsumexp(0)
        else:
            log_q = q(x=x).log_prob(AXIS.unsqueeze(1)).T
    truth = by_quadrature(log_q, log_p, STEP)
    actual = pv.diagnostics.elbo_surgery(model, guide, x, num_samples=1000)
    assert set(actual) == {"z"}
    close(actual["z"], truth)
    monkeypatch.setattr(chunked, "MEMORY_BUDGET", 32 * 512 * 3)
    close(pv.diagnostics.elbo_surgery(model, guide, x, num_samples=300)["z"], truth, atol=0.08)


def test_a_latent_that_depends_on_another_is_diagnosed_with_it():
    torch.manual_seed(0)
    x = binary_patterns(20, D)
    model = pv.models.GMVAE((D,), 2, 1, 2, network=NET, w_network=NET).double()
    actual = pv.diagnostics.elbo_surgery(model, Guide(model, network=NET).double(), x)
    assert set(actual) == {"w", "all"} and actual["all"]["units"] == 3
    # with factors of x alone: the information of both is at least that of one
    many = pv.diagnostics.elbo_surgery(model, Guide(model, network=NET).double(), x, 300)
    assert many["all"]["mutual_information"] > many["w"]["mutual_information"] - 0.02
    model = pv.models.HierarchicalVAE((D,), 2, 1, network=NET, top_network=NET).double()
    actual = pv.diagnostics.elbo_surgery(model, Guide(model, network=NET).double(), x)
    assert set(actual) == {"all"}


def test_the_joint_kl_of_two_latents_is_cut_as_quadrature_cuts_it():
    """z1 <- x; z2 <- z1, x under z1 -> z2, on a grid of 301 x 301 points."""

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_tensor(0.0), 1.0))
            z2 = pyro.sample("z2", dist.Normal(0.5 * z1, 0.8))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    def q1(x):
        return dist.Normal(0.6 * x, 0.5)

    def q2(x, z1):
        return dist.Normal(0.4 * x - 0.3 * z1, 0.6)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", q1(x))
            pyro.sample("z2", q2(x, z1))

    torch.manual_seed(0)
    x = 1.5 * torch.randn(20, dtype=torch.float64)
    axis = torch.linspace(-7, 7, 301, dtype=torch.float64)
    z1, z2 = (v.flatten() for v in torch.meshgrid(axis, axis, indexing="ij"))
    log_p = dist.Normal(0.0, 1.0).log_prob(z1) + dist.Normal(0.5 * z1, 0.8).log_prob(z2)
    log_q = q1(x[:, None]).log_prob(z1) + q2(x[:, None], z1).log_prob(z2)
    truth = by_quadrature(log_q, log_p, float(axis[1] - axis[0]) ** 2)
    actual = pv.diagnostics.elbo_surgery(model, guide, x, num_samples=2000)
    assert set(actual) == {"z1", "all"}
    close(actual["all"], truth)
    log_q, log_p = q1(x[:, None]).log_prob(AXIS[:, 0]), dist.Normal(0.0, 1.0).log_prob(AXIS[:, 0])
    close(actual["z1"], by_quadrature(log_q, log_p, STEP))
    assert truth["mutual_information"] > 0.3 and truth["marginal_kl"] > 0.1


def test_the_kl_of_surgery_is_below_that_of_an_elbo_with_y_in_the_guide():
    """KL(q(z|x) || p(z)) <= E KL(q(z|x,y) || p(z|y)) + KL(q(y|x) || p(y)), as surgery states."""
    torch.manual_seed(0)
    model, x = pv.models.MixtureVAE((D,), 2, 1, network=NET).double(), binary_patterns(20, D)
    model.p_z.head.maps["y"].weight.data[0] = torch.tensor([-2.0, 1.0])
    guide = Guide(model, given={"y": ["x"], "z": ["x", "y"]}, network=NET).double()
    actual = pv.diagnostics.elbo_surgery(model, guide, x, num_samples=2000)["z"]["kl"]
    terms = pv.evaluate.elbo_terms(model, guide, x, num_samples=2000)
    in_elbo = {name: -float(terms[name].mean()) for name in ("y", "z")}
    assert actual < in_elbo["y"] + in_elbo["z"] + 0.01
    assert abs(actual - in_elbo["z"]) > 0.1


# -------------------------------------------------------------------- calibration


def evaluated(widen=1.0, shift=0.0, oversample=1, seed=0, num_data=2000):
    model = linear(2)
    guide = posterior_guide(model, widen, shift)
    return pv.diagnostics.simulation_based_calibration(
        model, guide, num_data, oversample=oversample, seed=seed
    )["z"]


def test_ranks_of_the_exact_posterior_are_uniform():
    actual = evaluated()
    assert actual["ranks"].shape == (2000, 2)
    assert actual["ranks"].min() == 0 and actual["ranks"].max() == 99
    assert actual["chi2_p"].min() > 1e-3 and actual["ks_p"].min() > 1e-3


@pytest.mark.parametrize("wrong", [{"widen": 0.8}, {"widen": 1.3}, {"shift": 0.15}], ids=str)
def test_a_wrong_guide_shows_in_its_ranks(wrong):
    actual = evaluated(**wrong)
    assert actual["chi2_p"].max() < 1e-3
    counts = torch.bincount(actual["ranks"][:, 0] // 10, minlength=10) / 200
    ends, middle = counts[[0, 9]], counts[[4, 5]]
    if "shift" in wrong:
        assert ends[0] > 1.2 > 0.8 > ends[1]
    else:
        assert (ends.mean() > middle.mean()) == (wrong["widen"] < 1)


def test_importance_weights_mend_a_wide_guide():
    # of seed 0 the data are unlikely ones: under the exact posterior the smallest p is 0.007
    num_data = 600
    assert evaluated(widen=1.5, seed=1, num_data=num_data)["chi2_p"].max() < 1e-6  # not mended
    actual = evaluated(widen=1.5, oversample=20, seed=1, num_data=num_data)
    assert actual["chi2_p"].min() > 1e-3 and actual["ks_p"].min() > 1e-3


def resampled(widen, times):
    """P-values of some calibrations with two candidates for each of 19 draws."""
    model = linear(2)
    guide = posterior_guide(model, widen)
    options = {"num_samples": 19, "oversample": 2, "bins": 20}
    actual = [
        pv.diagnostics.simulation_based_calibration(model, guide, 1000, seed=seed, **options)["z"]
        for seed in range(times)
    ]
    return torch.stack([f["chi2_p"][0] for f in actual])


def test_resampling_leaves_an_exact_guide_exact():
    """All candidates weigh the same; p-values are uniform, and small ones no more frequent."""
    p = resampled(widen=1.0, times=20)
    assert stats.kstest(p.numpy(), "uniform").pvalue > 1e-3 and (p < 0.05).sum() <= 5


def test_two_candidates_do_not_hide_a_wrong_guide():
    assert resampled(widen=1.6, times=5).max() < 1e-3


def test_calibration_of_a_user_defined_pair_and_its_errors():
    def model(counts):
        with pyro.plate("rows", len(counts)):
            rate = pyro.sample("rate", dist.Gamma(counts.new_tensor(3.0), 1.0))
            pyro.sample("obs", dist.Poisson(rate), obs=counts)

    def guide(counts):  # the conjugate posterior
        with pyro.plate("rows", len(counts)):
            pyro.sample("rate", dist.Gamma(3.0 + counts, 2.0))

    example = {"x": torch.zeros(5, dtype=torch.float64)}
    actual = pv.diagnostics.simulation_based_calibration(model, guide, 2000, example=example)[
        "rate"
    ]
    assert actual["ranks"].shape == (2000,) and actual["ks_p"] > 1e-3 and actual["chi2_p"] > 1e-3
    with pytest.raises(pv.UserError, match="not a multiple of bins"):
        pv.diagnostics.simulation_based_calibration(
            model, guide, 10, num_samples=50, example=example
        )


def test_calibration_says_how_a_second_data_site_is_passed():
    def model(x=None, r=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("r", dist.Normal(z, 1.0), obs=r)
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, r):  # the conjugate posterior
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + r) / 3, 3**-0.5))

    calibrate = partial(pv.diagnostics.simulation_based_calibration, model, guide)
    with pytest.raises(pv.UserError, match="if it is data, pass example={'x': x, 'r': r}"):
        calibrate(10, num_samples=9, bins=5)
    example = {"x": torch.zeros(5), "r": torch.zeros(5)}
    assert calibrate(1000, num_samples=99, bins=10, example=example)["z"]["ks_p"] > 1e-3


# ------------------------------------------------------------------ NUTS and grids


@pytest.mark.slow
def test_nuts_draws_the_posterior():
    model = linear(2)
    x = model(size=3).detach()
    before = torch.get_rng_state()
    actual = pv.diagnostics.nuts_posterior(model, x, num_samples=250, warmup=100)
    assert torch.equal(before, torch.get_rng_state())
    distribution = exact(model, x)[1]
    z = actual.draws["z"]
    assert z.shape == (1000, 3, 2) and actual.r_hat["z"].shape == actual.ess["z"].shape == (3, 2)
    assert actual.r_hat["z"].max() < 1.05 and actual.ess["z"].min() > 100
    error = distribution.variance.sqrt() / actual.ess["z"].sqrt()
    assert ((z.mean(0) - distribution.loc).abs() < 4.5 * error).all()
    for n in range(3):
        torch.testing.assert_close(
            z[:, n].T.cov(), distribution.covariance_matrix[n], atol=0.08, rtol=0
        )


def test_a_grid_is_the_evidence_and_the_densities():
    model = linear(2)
    x = model(size=4).detach()
    actual = pv.diagnostics.posterior_grid(model, x, posterior_guide(model, widen=1.3))
    truth, distribution = exact(model, x)
    torch.testing.assert_close(actual.log_likelihood, truth, atol=1e-4, rtol=0)
    points = torch.stack(torch.meshgrid(*actual.axes[1], indexing="ij"), -1)
    one = dist.MultivariateNormal(distribution.loc[1], distribution.covariance_matrix[1])
    torch.testing.assert_close(actual.posterior[1], one.log_prob(points).exp(), atol=1e-3, rtol=0)
    wide = dist.MultivariateNormal(distribution.loc[1], scale_tril=1.3 * distribution.scale_tril[1])
    torch.testing.assert_close(actual.guide[1], wide.log_prob(points).exp(), atol=1e-9, rtol=0)
    with pytest.raises(pv.UserError, match="two latent numbers, this model has 1"):
        pv.diagnostics.posterior_grid(linear(1), x)


def test_a_grid_follows_a_posterior_far_from_the_prior():
    model = linear(2)
    far = torch.tensor([[30.0, -5.0], [0.0, 25.0]]).double()
    x = model.p_x(z=far).mean.detach()
    actual = pv.diagnostics.posterior_grid(model, x)
    truth, _ = exact(model, x)
    torch.testing.assert_close(actual.log_likelihood, truth, atol=1e-3, rtol=0)


def test_the_window_of_a_grid_contains_the_outer_contour_of_a_wide_guide():
    model = linear(2)
    x = model(size=20).detach()
    grid = pv.diagnostics.posterior_grid(model, x, posterior_guide(model, widen=3.0))
    inside = grid.guide[:, 1:-1, 1:-1].amax((1, 2))
    edges = torch.cat([grid.guide[:, [0, -1]].flatten(1), grid.guide[..., [0, -1]].flatten(1)], 1)
    assert (edges.amax(1) < 0.01 * inside).all()  # the density on the contour of 99 % of a normal


@pytest.mark.slow
def test_nuts_and_the_grid_agree_on_a_mixture():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((D,), 2, 2, network=NET).double()
    model.p_z.head.maps["y"].weight.data[:2].normal_(0, 1)
    x = binary_patterns(1, D)
    grid = pv.diagnostics.posterior_grid(model, x)
    assert grid.guide is None
    truth = pv.evaluate.log_likelihood(model, pv.guides.PriorGuide(model), x, 100_000)
    torch.testing.assert_close(grid.log_likelihood, truth, atol=0.02, rtol=0)
    actual = pv.diagnostics.nuts_posterior(model, x, num_samples=60, warmup=50)
    share = grid.posterior / grid.posterior.sum((1, 2), keepdim=True)
    mean = torch.stack(
        [(share.sum(2) * grid.axes[:, 0]).sum(1), (share.sum(1) * grid.axes[:, 1]).sum(1)], -1
    )
    error = actual.draws["z"].std(0) / actual.ess["z"].sqrt()
    assert ((actual.draws["z"].mean(0) - mean).abs() < 4.5 * error).all()


def test_pictures_show_them():
    model = linear(2)
    x = model(size=1).detach()
    grid = pv.diagnostics.posterior_grid(model, x, posterior_guide(model, widen=0.6), num=40)
    _, (left, right) = plots.panels(2, 8, 4)
    draws = torch.randn(50, 2)
    assert plots.posterior(left, grid, draws=draws) is left
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["posterior", "NUTS", "guide"]
    assert plots.ranks(right, torch.randint(100, (500,)), 99) is right
    assert sum(bar.get_height() for bar in right.patches if bar.get_height() > 1) >= 500


# ----------------------------------------------------- supports of guide and model


def gamma_model(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        return pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def log_normal(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(x.clamp_min(0.3).log(), 0.4))


def scaled_log_normal(x):
    """The same distribution; torch states that its support is real, as of any affine transform."""
    base = dist.Normal(x.clamp_min(0.3).log() - math.log(2.0), 0.4)
    parts = [transforms.ExpTransform(), transforms.AffineTransform(0.0, 2.0)]
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.TransformedDistribution(base, parts))


@pytest.mark.parametrize("guide", [log_normal, scaled_log_normal])
def test_the_support_is_that_of_the_model_in_both_programs(guide):
    x = torch.linspace(0.5, 4, 6, dtype=torch.float64)
    z = torch.linspace(1e-4, 25, 100_001, dtype=torch.float64)
    log_p = dist.Gamma(2.0, 1.0).log_prob(z)
    log_q = dist.LogNormal(x.clamp_min(0.3).log(), 0.4).log_prob(z[:, None])
    kl = ((log_q.exp() * (log_q - log_p[:, None])).sum(0) * (z[1] - z[0])).mean()
    log_joint = log_p + dist.Normal(z, 0.5).log_prob(x[:, None])
    evidence = log_joint.logsumexp(1) + (z[1] - z[0]).log()

    u = torch.randn(3, 6, 1, dtype=torch.float64)  # log z
    start, _ = Joint(gamma_model, {"x": x}, guide).log_densities(u)
    exact = dist.Normal(x.clamp_min(0.3).log(), 0.4).log_prob(u[..., 0])
    torch.testing.assert_close(start, exact)
    actual = pv.diagnostics.elbo_surgery(gamma_model, guide, x, num_samples=400)["z"]["kl"]
    assert actual == pytest.approx(float(kl), abs=0.03)
    options = {"num_steps": 60, "num_chains": 100, "leapfrog": 4}
    actual = pv.diagnostics.ais(gamma_model, x, guide, **options)
    torch.testing.assert_close(actual, evidence, atol=0.1, rtol=0)
    gap = pv.diagnostics.bdmc(gamma_model, guide, num_data=6, **options)["gap"]
    assert -0.1 < gap.mean() < 0.1
    result = pv.diagnostics.simulation_based_calibration(gamma_model, guide, 300, oversample=20)
    assert result["z"]["chi2_p"] > 1e-3


def uniform_model(low, width=10.0):
    """A uniform latent whose bounds, of each data point, are `low(n)` and `width` more."""

    def model(x=None, size=None):
        n = len(x) if size is None else size
        lower = low(n)
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Uniform(lower, lower + width))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return model


@pytest.mark.parametrize(
    "low", [torch.zeros, lambda n: torch.linspace(-3, 2, n)], ids=["one", "several"]
)
@pytest.mark.parametrize("n", [7, 20])  # 20: as many as the chains
def test_bounds_may_have_a_row_for_each_data_point(low, n):
    model, lower = uniform_model(low), low(n)
    x = lower + torch.linspace(1, 9, n)
    assert Joint(model, {"x": x}).shapes == {"z": torch.Size([])}
    normal = dist.Normal(0.0, 1.0)
    exact = (normal.cdf(lower + 10 - x) - normal.cdf(lower - x)).log() - math.log(10)
    actual = pv.diagnostics.ais(model, x, num_steps=100)
    assert (actual - exact).abs().max() < 0.5
    assert (actual - exact).mean().abs() < 0.1

    def exact_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(lower, lower + 10.0))

    def prior_only(x=None, size=None):
        with pyro.plate("data", n):
            pyro.sample("z", dist.Uniform(lower, lower + 10.0))
            return pyro.sample("x", dist.Normal(torch.zeros(n), 1.0), obs=x)

    u = Joint(prior_only, {"x": x}, exact_guide).draw(5)
    start, log_p = Joint(prior_only, {"x": x}, exact_guide).log_densities(u)
    torch.testing.assert_close(log_p - start, normal.log_prob(x).expand(5, n), atol=1e-4, rtol=0)


def test_a_mixture_of_components_with_one_support_has_it():
    def model(x):
        with pyro.plate("data", len(x)):
            parts = dist.Uniform(torch.zeros(2), torch.full((2,), 3.0))
            weights = dist.Categorical(logits=torch.zeros(len(x), 2))
            z = pyro.sample("z", dist.MixtureSameFamily(weights, parts))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    joint = Joint(model, {"x": torch.zeros(4)})
    assert joint.shapes == {"z": torch.Size([])}
    u = torch.randn(5, 4, 1)
    z = 3 * u[..., 0].sigmoid()
    exact = (z / 3 * (1 - z / 3)).log() + dist.Normal(0.0, 1.0).log_prob(z)  # density 1/3 by z
    torch.testing.assert_close(joint.log_densities(u)[1], exact)


def narrow(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 5.0))


def within(x):
    with pyro.plate("data", len(x)):
        lower = torch.linspace(0, 1, len(x))
        pyro.sample("z", dist.Uniform(lower + 0.1, lower + 0.2))


def bounded_by_another(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Uniform(1.0, 2.0))
        z = pyro.sample("z", dist.Uniform(0.0, a))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def bounded_by_its_component(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Uniform(0.0, 1 + y))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


X = torch.linspace(0.5, 1.5, 6)


@pytest.mark.parametrize(
    "evaluate, message",
    [
        (lambda: pv.diagnostics.ais(gamma_model, X, narrow), "the guide draws 'z' outside"),
        (
            lambda: pv.diagnostics.elbo_surgery(uniform_model(torch.zeros), narrow, X),
            "the guide draws 'z' outside",
        ),
        (
            lambda: pv.diagnostics.elbo_surgery(
                uniform_model(lambda n: torch.linspace(0, 1, n)), within, X
            ),
            "the bounds of 'z' differ between data points",
        ),
        (lambda: pv.diagnostics.ais(bounded_by_another, X), "bounds of 'z' depend on another"),
        (lambda: pv.diagnostics.ais(bounded_by_another, X[:1]), "bounds of 'z' depend on another"),
        (
            lambda: pv.diagnostics.ais(bounded_by_its_component, X),
            "bounds of 'z' depend on another",
        ),
    ],
)
def test_supports_without_one_map_raise_one_line(evaluate, message):
    with pytest.raises(pv.UserError) as error:
        evaluate()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("fixed", ["model", "guide", "both"])
def test_a_plate_with_its_own_size_is_simulated_and_evaluated_at_that_size_alone(fixed):
    size, weight = 12, torch.randn(1, 4)

    def model(x):
        rows = len(x) if fixed == "guide" else size
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(rows, 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = 0.1 * x[:, :1] if fixed == "model" else torch.zeros(size, 1)
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    x = torch.randn(size, 4)
    options = {"num_samples": 19, "example": {"x": x}}
    calibrate = partial(pv.diagnostics.simulation_based_calibration, model, guide, **options)
    assert calibrate(num_data=size)["z"]["ranks"].shape == (size, 1)
    for num_data in (7, 24):
        match = "fails on x|12 vs" if fixed == "guide" else "always draws 12 .*num_data must be 12"
        with pytest.raises(pv.UserError, match=match):
            calibrate(num_data=num_data)
        with pytest.raises(pv.UserError, match=match):
            pv.diagnostics.bdmc(
                model, guide=guide, num_data=num_data, num_steps=2, example={"x": x}
            )
        rows = torch.randn(num_data, 4)
        for evaluate in (
            pv.evaluate.elbo,
            pv.evaluate.encode,
            pv.diagnostics.elbo_surgery,
            pv.diagnostics.importance_diagnostics,
            pv.diagnostics.inference_gaps,
        ):
            with pytest.raises(pv.UserError, match=f"12 rows, the batch {num_data}|fails on x"):
                evaluate(model, guide, rows)


def heavy_tail(x=None, size=None):
    """a does not touch x: its posterior is Cauchy."""
    with pyro.plate("data", size if x is None else len(x)):
        a = pyro.sample("a", dist.Cauchy(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        return pyro.sample(
            "x", dist.Normal(torch.stack([b + 0 * a, b], -1), 1.0).to_event(1), obs=x
        )


def ridge_of(noise):
    """x[0] = z1 + z2 + noise, x[1] = 0.3 z1 + N(0, 1); and the covariance of x."""
    weights, scale = torch.tensor([[1.0, 1.0], [0.3, 0.0]]).double(), torch.tensor([noise, 1.0])

    def ridge(x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ weights.T, scale).to_event(1), obs=x)

    return ridge, weights @ weights.T + torch.diag(scale.double() ** 2)


@pytest.mark.parametrize("noise", [0.3, 0.1, 0.01, 0.003])
def test_a_grid_says_where_it_does_not_resolve_a_density(noise):
    model, covariance = ridge_of(noise)
    x = torch.tensor([[0.3, 1.0], [-1.0, 0.5]]).double()
    exact = dist.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error = (pv.diagnostics.posterior_grid(model, x).log_likelihood - exact).abs().max()
    said = any("too coarse" in str(w.message) for w in caught)
    assert said == (noise < 0.005) and (said or error < 0.01)


@pytest.mark.parametrize("scale", [0.05, 0.02, 0.01])
def test_a_grid_has_all_of_several_narrow_modes(scale):
    """x = (|z1|, |z2|) + noise: four modes, which lie anywhere between the points of the first grid."""

    def folded(x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z.abs(), scale).to_event(1), obs=x)

    x = torch.stack([torch.linspace(0.3, 2, 12), torch.linspace(1.3, 0.2, 12)], -1).double()
    variance = 1 + scale**2
    exact = dist.Normal(0.0, variance**0.5).log_prob(x)
    exact = exact + torch.special.log_ndtr(x / (scale * variance**0.5)) + math.log(2)
    grid = pv.diagnostics.posterior_grid(folded, x, num=60)
    torch.testing.assert_close(grid.log_likelihood, exact.sum(-1), rtol=0, atol=0.01)
    assert bool((grid.axes[..., 0] < -x).all()) and bool((grid.axes[..., -1] > x).all())


@pytest.mark.parametrize("place", [30.0, 200.0])
@pytest.mark.parametrize("scale", [1.0, 0.3, 0.1])
def test_a_grid_reaches_a_posterior_that_is_far_from_the_prior(place, scale):
    def normal(x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    x = torch.tensor([[place, 0.0], [0.0, -place], [0.5, 0.2]]).double()
    exact = dist.Normal(0.0, (1 + scale**2) ** 0.5).log_prob(x).sum(-1)
    grid = pv.diagnostics.posterior_grid(normal, x, num=80)
    torch.testing.assert_close(grid.log_likelihood, exact, rtol=0, atol=0.01)


@pytest.mark.parametrize("noise", [0.01, 0.003, 0.001])
def test_no_ridge_is_cut_or_missed_without_a_warning(noise):
    def ridge(x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            total = z.sum(-1, keepdim=True)
            return pyro.sample("x", dist.Normal(total, noise).to_event(1), obs=x)

    for value in torch.linspace(-2, 2, 8):
        exact = dist.Normal(0.0, (2 + noise**2) ** 0.5).log_prob(value)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            grid = pv.diagnostics.posterior_grid(ridge, value.reshape(1, 1), num=80)
        said = any("too coarse" in str(w.message) for w in caught)
        assert said or abs(float(grid.log_likelihood - exact)) < 0.1


def test_a_grid_of_a_heavy_tail_is_warned_of():
    with pytest.warns(
        UserWarning, match="a grid of 400 points on each axis is too coarse for 2 of 2"
    ):
        pv.diagnostics.posterior_grid(heavy_tail, torch.tensor([[0.3, 1.0], [-1.0, 0.5]]))
