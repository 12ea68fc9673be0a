"""Generation from user-defined pairs: any names of sites and arguments, any data plate, exact answers.

The pair of most tests is linear-Gaussian: z ~ N(0, I), obs | z ~ N(W z + b, s^2 I), its guide the
exact posterior, so that samples, reconstructions and completions have closed forms.
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam
from scipy import stats

import pyro_vae as pv
from pyro_vae.generate import AggregatePosterior, predict_mean
from pyro_vae.guides import Guide, PriorGuide
from pyro_vae.programs import trace_pair
from pyro_vae.programs.calling import parameters_of
from pyro_vae.programs.sites import choose_latent, observed_site

D, LATENT, S, N = 4, 2, 0.6, 6
GENERATOR = torch.Generator().manual_seed(5)
W = torch.randn(D, LATENT, generator=GENERATOR, dtype=torch.float64)
BIAS = torch.randn(D, generator=GENERATOR, dtype=torch.float64)
X = torch.randn(N, D, generator=GENERATOR, dtype=torch.float64)
EYE = torch.eye(LATENT, dtype=torch.float64)
POSTERIOR = torch.linalg.inv(EYE + W.T @ W / S**2)
MARGINAL = W @ W.T + S**2 * torch.eye(D, dtype=torch.float64)


def posterior_mean(x):
    return (x - BIAS) @ W @ POSTERIOR / S**2


def standard_normal(*shape):
    return dist.Normal(torch.zeros(*shape, dtype=torch.float64), 1.0).to_event(1)


def model(data):
    with pyro.plate("rows", len(data)):
        code = pyro.sample("code", standard_normal(LATENT))
        pyro.deterministic("mean", code @ W.T + BIAS)
        pyro.sample("obs", dist.Normal(code @ W.T + BIAS, S).to_event(1), obs=data.reshape(-1, D))


def guide(data):
    with pyro.plate("rows", len(data)):
        mean = posterior_mean(data.reshape(-1, D))
        pyro.sample("code", dist.MultivariateNormal(mean, POSTERIOR))


def off(draws, mean, covariance):
    """The largest error of the draws' mean and covariance `[D, D]`, in standard errors."""
    n, variance = len(draws), covariance.diagonal()
    errors = ((covariance**2 + torch.outer(variance, variance)) / n).sqrt()
    off_mean = (draws.mean(0) - mean).abs() / (variance / n).sqrt()
    return max(off_mean.max(), ((draws.T.cov() - covariance).abs() / errors).max())


# ------------------------------------------------------------- one observed site, of any name


def test_samples_have_the_moments_of_the_marginal():
    draws = pv.sample(model, 20_000, example={"data": X[:3]}, seed=0)
    assert off(draws, BIAS, MARGINAL) < 4.5
    assert torch.equal(draws, pv.sample(model, 20_000, example=X[:3], seed=0))
    means = pv.sample(model, 20_000, example={"x": X}, mean=True, seed=0)
    assert off(means, BIAS, W @ W.T + 1e-12 * torch.eye(D)) < 4.5
    codes = pv.sample(model, 20_000, example={"x": X}, site="code", seed=0)
    assert off(codes, torch.zeros(LATENT), EYE) < 4.5
    torch.testing.assert_close(
        pv.sample(model, 5, example={"x": X}, site="mean", seed=0),
        pv.sample(model, 5, example={"x": X}, mean=True, seed=0),
    )


def test_images_that_the_model_flattens_come_back_as_images():
    images = X.reshape(N, 2, 2)
    assert pv.sample(model, 3, example={"x": images}).shape == (3, 2, 2)
    rebuilt = pv.evaluate.reconstruct(model, guide, images)
    torch.testing.assert_close(rebuilt, (posterior_mean(X) @ W.T + BIAS).reshape(N, 2, 2))
    path = pv.interpolate(model, guide, images[:1], images[1:2], steps=3, path="linear")
    ends = posterior_mean(X[:2])
    codes = torch.stack([ends[0], ends.mean(0), ends[1]])
    torch.testing.assert_close(path, (codes @ W.T + BIAS).reshape(1, 3, 2, 2))
    mask = torch.tensor([[True, False], [True, True]])
    done = pv.impute(model, guide, images, mask, num_samples=2, steps=2)
    assert done.x.shape == (2, N, 2, 2)
    assert torch.equal(done.x[..., mask], images[:, mask].expand(2, N, 3))


def test_codes_given_by_the_latents_name_are_decoded():
    codes = posterior_mean(X)
    made = pv.sample(model, code=codes, example={"x": X[:1]}, mean=True)
    torch.testing.assert_close(made, codes @ W.T + BIAS)
    with pytest.raises(pv.UserError, match=r"code must have shape \[3, 2\] or \[2\]"):
        pv.sample(model, 3, code=torch.zeros(3, 5), example={"x": X})
    with pytest.raises(pv.UserError, match="unknown latent or covariate 'cod'.*'code'"):
        pv.sample(model, 3, cod=codes[:3], example={"x": X})


def test_a_traversal_moves_the_units_of_a_latent_of_any_name():
    actual = pv.traverse(model, guide, X, steps=3, span=2.0, start=1)
    codes = posterior_mean(X)
    for row, unit in enumerate(actual.units):
        code = codes[1].expand(3, LATENT).clone()
        code[:, unit] = actual.values[row]
        torch.testing.assert_close(actual.x[row], code @ W.T + BIAS)
    # the prior's standard deviation is 1; 1,000 draws of it
    torch.testing.assert_close(
        actual.values[:, 2], torch.full((2,), 2.0, dtype=torch.float64), atol=0.3, rtol=0
    )


def test_the_aggregate_posterior_of_one_datum_is_its_posterior():
    source = AggregatePosterior(guide, X[:1])
    codes = pv.sample(model, 20_000, source=source, site="code", seed=0)
    assert off(codes, posterior_mean(X[:1])[0], POSTERIOR) < 4.5
    mean, gain = posterior_mean(X[:1])[0] @ W.T + BIAS, W @ POSTERIOR @ W.T
    draws = pv.sample(model, 20_000, source=source, seed=0)
    assert off(draws, mean, gain + S**2 * torch.eye(D, dtype=torch.float64)) < 4.5


def test_a_spherical_path_turns_by_the_angle_between_whole_latents():
    """A latent that is a matrix: sin(w / 2) / sin w = 1 / (2 cos(w / 2)) of both ends' sum."""

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 2).double(), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    def encoder(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(2))

    a, b = X[:2].reshape(2, 1, 2, 2)
    path = pv.interpolate(program, encoder, a, b, steps=3)
    omega = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).arccos()
    torch.testing.assert_close(path[0, 1], (a[0] + b[0]) / (2 * (omega / 2).cos()))


def wrong_guide(data):
    with pyro.plate("rows", len(data)):
        mean = posterior_mean(data.reshape(-1, D)) + 0.3
        pyro.sample("code", dist.MultivariateNormal(mean, 2 * POSTERIOR))


def test_completions_follow_the_conditional_gaussian():
    o = torch.tensor([True, False, True, False])
    gain = MARGINAL[~o][:, o] @ torch.linalg.inv(MARGINAL[o][:, o])
    mean = BIAS[~o] + gain @ (X[0, o] - BIAS[o])
    covariance = MARGINAL[~o][:, ~o] - gain @ MARGINAL[o][:, ~o]
    done = pv.impute(model, wrong_guide, X[:1], o, num_samples=4000, steps=60)
    assert off(done.x[:, 0][:, ~o], mean, covariance) < 4.5
    assert 0.2 < done.acceptance < 0.9


def test_the_acceptance_of_a_completion_counts_every_proposal_and_no_first_state():
    """With all of x observed a step is one independent proposal: E min(1, w(z') / w(z)), by sums."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x[:, 0] + 0.5, 1.2))

    x, chains = torch.tensor([[0.4]]), 20_000
    done = pv.impute(model, guide, x, torch.tensor([True]), num_samples=chains, steps=1)
    z = torch.linspace(-7, 8, 1501, dtype=torch.float64)
    q = dist.Normal(0.7, 1.2).log_prob(z)
    log_w = dist.Normal(0.2, math.sqrt(0.5)).log_prob(z) - q
    p = q.exp() / q.exp().sum()
    truth = ((log_w - log_w[:, None]).exp().clamp(max=1) * p * p[:, None]).sum()
    assert truth < 0.8
    assert abs(done.acceptance - truth) < 4 * math.sqrt(0.25 / chains)


def test_one_rule_chooses_the_default_latent():
    assert choose_latent(["w", "z"]) == "z" and choose_latent(["code", "w"]) == "code"
    assert choose_latent(["code", "w"], preferred="w") == "w"
    assert pv.evaluate.aggregate_posterior(model, guide, X).shape == (N, LATENT)
    torch.testing.assert_close(pv.evaluate.active_unit_features(model, guide, X), posterior_mean(X))
    for draws in (0, 10):
        density = pv.evaluate.fit_ex_post_prior(model, guide, X, num_components=1, draws=draws)
        assert density().event_shape == (LATENT,)


def discrete_model(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(y.unsqueeze(-1).double(), 1.0).to_event(1), obs=x)


def discrete_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.5])))


@pytest.mark.parametrize(
    "function",
    [
        lambda *pair: pv.interpolate(*pair, X[:2, :1], X[2:4, :1]),
        lambda *pair: pv.traverse(*pair, X[:, :1]),
        lambda *pair: pv.evaluate.aggregate_posterior(*pair, X[:, :1]),
        lambda *pair: pv.evaluate.active_unit_features(*pair, X[:, :1]),
    ],
    ids=["interpolate", "traverse", "aggregate_posterior", "features"],
)
def test_a_pair_without_a_continuous_latent_is_refused(function):
    with pytest.raises(pv.UserError, match="this pair has no continuous latent"):
        function(discrete_model, discrete_guide)


# ----------------------------------------------------------------------- several observed sites


def two_sites(image, sound):
    with pyro.plate("data", len(image)):
        z = pyro.sample("z", standard_normal(LATENT))
        pyro.sample("noise", dist.Normal(z - 1, 0.5).to_event(1), obs=sound)
        pyro.sample("picture", dist.Normal(z @ W.T + BIAS, S).to_event(1), obs=image)


def two_sites_guide(image, sound):
    with pyro.plate("data", len(image)):
        pyro.sample("z", dist.MultivariateNormal(posterior_mean(image), POSTERIOR))


SOUND = torch.arange(2.0 * N, dtype=torch.float64).reshape(N, 2)


def test_the_site_of_x_is_the_default_of_several_observed_sites():
    pair, example = (two_sites, two_sites_guide), {"x": X, "sound": SOUND}
    mask = torch.tensor([True, False, True, True])
    functions = {
        "sample": lambda site: pv.sample(two_sites, 3, example=example, mean=True, site=site),
        "reconstruct": lambda site: pv.evaluate.reconstruct(*pair, X, sound=SOUND, site=site),
        "interpolate": lambda site: pv.interpolate(
            *pair, X[:1], X[1:2], sound=SOUND[:1], site=site, steps=4
        )[0],
        "traverse": lambda site: pv.traverse(*pair, X, sound=SOUND, site=site, steps=5).x[0],
    }
    rows = {"sample": 3, "reconstruct": N, "interpolate": 4, "traverse": 5}
    for name, function in functions.items():
        assert function(None).shape == function("picture").shape == (rows[name], D)
        assert function("noise").shape == (rows[name], 2)
        with pytest.raises(pv.UserError, match="'x' is not an observed site|unknown site 'x'"):
            function("x")
    codes = posterior_mean(X)
    torch.testing.assert_close(functions["reconstruct"]("noise"), codes - 1)
    done = pv.impute(*pair, X, mask, 2, steps=2, sound=SOUND)
    assert torch.equal(done.x[..., mask], X[:, mask].expand(2, N, 3))
    with pytest.raises(pv.UserError, match="'noise' does not observe x itself"):
        pv.impute(*pair, X, mask, 2, steps=2, sound=SOUND, site="noise")


def test_sites_of_parts_of_x_are_listed():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal(LATENT))
            for t in range(2):
                pyro.sample(f"x_{t}", dist.Normal(z[..., t], S), obs=x[:, t])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, S).to_event(1))

    for function in (
        lambda: pv.sample(program, 3, example={"x": X[:, :2]}),
        lambda: pv.evaluate.reconstruct(program, guide, X[:, :2]),
        lambda: pv.interpolate(program, guide, X[:1, :2], X[1:2, :2]),
        lambda: pv.traverse(program, guide, X[:, :2]),
        lambda: pv.impute(program, guide, X[:, :2], torch.tensor([True, False])),
    ):
        with pytest.raises(pv.UserError, match="pass site=, one of 'x_0', 'x_1'"):
            function()
    rebuilt = pv.evaluate.reconstruct(program, guide, X[:, :2], site="x_1")
    torch.testing.assert_close(rebuilt, X[:, 1])


def test_simulated_data_of_several_sites_go_where_the_program_takes_them():
    from pyro_vae.diagnostics.simulate import simulate

    torch.manual_seed(0)
    batch, latents = simulate(two_sites, 20_000, "cpu", {"x": X, "sound": SOUND})
    assert set(batch) == {"x", "sound"} and set(latents) == {"z"}
    together = torch.cat([batch["x"], batch["sound"], latents["z"]], 1)
    maps = torch.cat([W, EYE, EYE])
    noise = torch.diag(torch.tensor([S**2] * D + [0.25] * 2 + [0.0] * 2, dtype=torch.float64))
    mean = torch.cat([BIAS, -torch.ones(2), torch.zeros(2)])
    assert off(together, mean, maps @ maps.T + noise) < 4.5


def test_deterministic_and_factor_sites_are_no_data():
    def penalized(data):
        model(data)
        with pyro.plate("other", len(data)):
            pyro.factor("penalty", -torch.ones(len(data)))
        pyro.deterministic("constants", torch.ones(3))

    traces = trace_pair(penalized, guide, {"x": X})
    assert "penalty" in traces.scored and "penalty" not in traces.model
    assert observed_site(traces.model) == "obs"
    rebuilt = pv.evaluate.reconstruct(penalized, guide, X)
    torch.testing.assert_close(rebuilt, posterior_mean(X) @ W.T + BIAS)
    assert pv.sample(penalized, 3, example={"x": X}).shape == (3, D)
    with pytest.raises(pv.UserError, match="'constants' lies outside the data plate"):
        pv.sample(penalized, 2, example={"x": X}, site="constants")
    with pytest.raises(pv.UserError, match="the model has the factor 'penalty'"):
        pv.diagnostics.simulation_based_calibration(
            penalized, guide, 20, num_samples=19, example={"x": X}
        )
    traces = trace_pair(model, guide, {"x": X})
    assert "mean" not in traces.model and observed_site(traces.model) == "obs"
    bound = pv.evaluate.elbo(model, guide, X, num_samples=3)
    truth = dist.MultivariateNormal(BIAS, MARGINAL).log_prob(X)
    torch.testing.assert_close(bound, truth)  # the exact posterior: every draw gives log p(x)


# ------------------------------------------------------------------ labels and covariates by name


class Labeled(nn.Module):
    """y ~ Categorical(p); z ~ N(0, I); features | y, z ~ N(W z + shift_y, s^2 I)."""

    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    shift = torch.tensor([-10.0, 0.0, 10.0], dtype=torch.float64)

    def forward(self, xs, ys=None):
        with pyro.plate("data", len(xs)):
            y = pyro.sample("y", dist.Categorical(self.p), obs=ys)
            z = pyro.sample("z", standard_normal(LATENT))
            mean = z @ W.T + self.shift[y].unsqueeze(-1)
            pyro.sample("features", dist.Normal(mean, S).to_event(1), obs=xs)


def test_labels_stay_observed_by_the_programs_name_or_the_sites():
    program, example = Labeled(), {"x": X}
    ys = torch.tensor([0, 1, 2, 2])
    shift = Labeled.shift[ys].unsqueeze(-1).expand(4, D)
    for given in ({"ys": ys}, {"y": ys}):
        z = torch.zeros(4, LATENT, dtype=torch.float64)
        made = pv.sample(program, example=example, mean=True, z=z, **given)
        torch.testing.assert_close(made, shift)
    assert (pv.sample(program, 50, y=2, example=example) > 3).all()
    drawn = pv.sample(program, 20_000, example=example, site="y", seed=0)
    probabilities = torch.bincount(drawn, minlength=3) / 20_000
    assert (probabilities - Labeled.p).abs().max() < 4.5 * math.sqrt(0.25 / 20_000)
    drawn = pv.sample(program, 50, example={"x": X, "ys": torch.zeros(N).long()}, site="y")
    assert len(drawn.unique()) == 3  # the example's own labels are data, and hidden
    with pytest.raises(pv.UserError, match=r"components 0\.\.2; y is 3"):
        pv.sample(program, 4, y=3, example=example)
    with pytest.raises(pv.UserError, match="ys has 2 rows, but 4 samples"):
        pv.sample(program, 4, ys=ys[:2], example=example)
    with pytest.raises(pv.UserError, match="Categorical distribution of 'y' has no mean"):
        pv.sample(program, 4, site="y", mean=True, example=example)


def test_labels_that_the_program_encodes_before_it_observes_them_are_asked_for_by_site():
    def program(x, labels=None):
        with pyro.plate("data", len(x)):
            one_hot = None if labels is None else nn.functional.one_hot(labels, 3).double()
            y = pyro.sample("y", dist.OneHotCategorical(Labeled.p), obs=one_hot)
            pyro.sample("x", dist.Normal((y @ Labeled.shift).unsqueeze(-1), S).to_event(1), obs=x)

    x, labels = X[:, :1], torch.tensor([2, 2, 2])
    with pytest.raises(pv.UserError, match="'y' observes no argument itself.* by its name, y="):
        pv.sample(program, labels=labels, example={"x": x})
    assert (pv.sample(program, y=labels, example={"x": x}) > 5).all()


def test_labels_given_at_both_ends_of_a_path_are_those_that_it_is_decoded_with():
    torch.manual_seed(0)
    m2 = pv.models.M2((6,), 3, 2)
    encoder = Guide(m2)
    x, y = torch.bernoulli(torch.full((4, 6), 0.5)), torch.tensor([0, 2])
    path = pv.interpolate(m2, encoder, x[:2], x[2:], steps=3, y=y)
    z = pv.evaluate.encode(m2, encoder, x[:2], y=y)["z"]
    ends = m2.p_x(z=z, y=torch.eye(3)[y]).mean.detach()
    torch.testing.assert_close(path[:, 0], ends)
    assert not torch.allclose(ends, m2.p_x(z=z, y=torch.eye(3)[y.flip(0)]).mean)


def conditional(x, w):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w, 1.0).to_event(1))
        pyro.sample("obs", dist.Normal(z + 2 * w, S).to_event(1), obs=x)


def conditional_guide(x, w):
    gain = 1 / (1 + S**2)
    with pyro.plate("data", len(x)):
        mean = w + gain * (x - 3 * w)
        pyro.sample("z", dist.Normal(mean, math.sqrt(1 - gain)).to_event(1))


def test_a_required_covariate_of_any_name_is_passed_by_name():
    x, w = X[:, :2], SOUND
    gain = 1 / (1 + S**2)
    code = w + gain * (x - 3 * w)
    rebuilt = code + 2 * w
    torch.testing.assert_close(
        pv.evaluate.reconstruct(conditional, conditional_guide, x, w=w), rebuilt
    )
    one = w[1].expand(20_000, 2)
    draws = pv.sample(conditional, w=one, example={"x": x}, seed=0)
    assert off(draws, 3 * w[1], (1 + S**2) * EYE) < 4.5
    # row i is drawn on row i mod N of an example that holds the covariate
    means = pv.sample(conditional, 2 * N, example={"x": x, "w": w}, z=torch.zeros(2), mean=True)
    torch.testing.assert_close(means, 2 * w.repeat(2, 1))
    torch.testing.assert_close(predict_mean(conditional, w=w, example={"x": x}), 3 * w)
    path = pv.interpolate(conditional, conditional_guide, x, x.flip(0), steps=3, w=w)
    torch.testing.assert_close(path[:, 0], rebuilt)
    actual = pv.traverse(conditional, conditional_guide, x, steps=3, start=2, w=w)
    torch.testing.assert_close(
        actual.x[0, :, 1 - actual.units[0]], rebuilt[2, 1 - actual.units[0]].expand(3)
    )
    mask = torch.tensor([True, False])
    done = pv.impute(conditional, conditional_guide, x[:1], mask, 4000, steps=30, w=w[:1])
    assert off(done.x[:, 0, 1:], 3 * w[0, 1:], (1 + S**2) * EYE[:1, :1]) < 4.5
    source = AggregatePosterior(conditional_guide, x, w=w)
    assert pv.sample(conditional, 5, source=source).shape == (5, 2)
    with pytest.raises(pv.UserError, match="the model fails on x .*missing .*'w'"):
        pv.sample(conditional, 3, example={"x": x})


def test_the_prior_as_a_guide_takes_what_the_model_takes():
    x, w = X[:, :2], SOUND / 4
    truth = dist.Normal(3 * w, math.sqrt(1 + S**2)).to_event(1).log_prob(x)
    prior = PriorGuide(conditional)
    bound = pv.evaluate.log_likelihood(conditional, prior, x[:2], 50_000, w=w[:2])
    torch.testing.assert_close(bound, truth[:2], atol=0.1, rtol=0)
    assert set(parameters_of(prior)) == {"x", "w"}
    positional = pyro.poutine.trace(prior).get_trace(x, w)
    assert "z" in positional and "obs" not in positional
    by_name = pyro.poutine.trace(PriorGuide(model)).get_trace(x=X)
    assert "code" in by_name and "obs" not in by_name


def test_a_latent_called_x_is_a_latent():
    def program(y):
        with pyro.plate("data", len(y)):
            x = pyro.sample("x", standard_normal(2))
            pyro.sample("y", dist.Normal(x, S).to_event(1), obs=y)

    y = X[:2, :2]
    truth = dist.Normal(torch.zeros(2), math.sqrt(1 + S**2)).to_event(1).log_prob(y)
    bound = pv.evaluate.log_likelihood(program, PriorGuide(program), y, 50_000)
    torch.testing.assert_close(bound, truth.double(), atol=0.1, rtol=0)
    draws = pv.sample(program, 20_000, example={"y": y}, seed=0)
    assert off(draws, torch.zeros(2), (1 + S**2) * EYE) < 4.5


def test_a_declared_guide_reads_a_covariate_of_any_name():
    declared = Guide(conditional, {"z": ["x", "w"]}, example={"x": X[:, :2], "w": SOUND}).double()
    assert "w" in parameters_of(declared)
    x = X[:, :2]
    first, second = (pv.evaluate.encode(conditional, declared, x, w=w)["z"] for w in (SOUND, x))
    assert not torch.allclose(first, second)


def test_simulation_with_a_covariate_of_any_name_calibrates_an_exact_guide():
    w = torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    actual = pv.diagnostics.simulation_based_calibration(
        conditional, conditional_guide, 500, num_samples=19, example={"x": X[:, :2]}, w=w
    )["z"]
    assert actual["ks_p"].min() > 1e-3
    gap = pv.diagnostics.bdmc(
        conditional, conditional_guide, 5, 3, 2, 2, example={"x": X[:, :2]}, w=w[:5]
    )["gap"]
    assert gap.abs().max() < 1e-6  # the guide is the posterior


def test_data_that_are_a_function_of_x_are_not_simulated():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal(2))
            pyro.sample("obs", dist.Normal(z, S).to_event(1), obs=x.log1p())

    with pytest.raises(pv.UserError, match="'obs' observes no argument itself"):
        pv.diagnostics.bdmc(program, num_data=3, num_steps=2, example={"x": X[:, :2] ** 2})
    assert pv.sample(program, 3, example={"x": X[:, :2] ** 2}).shape == (3, 2)


# ------------------------------------------------------------------------------------ data plates


def fixed_plate(x):
    with pyro.plate("data", N):
        z = pyro.sample("z", standard_normal(LATENT))
        pyro.sample("obs", dist.Normal(z @ W.T + BIAS, S).to_event(1), obs=x)


def subsampled(x):
    with pyro.plate("data", N, subsample_size=4) as rows:
        z = pyro.sample("z", standard_normal(LATENT))
        pyro.sample("obs", dist.Normal(z @ W.T + BIAS, S).to_event(1), obs=x[rows])


def by_index(x, index):
    with pyro.plate("data", N, subsample=index):
        z = pyro.sample("z", standard_normal(LATENT))
        pyro.sample("obs", dist.Normal(z @ W.T + BIAS, S).to_event(1), obs=x)


def without_a_size(x):
    with pyro.plate("data"):
        z = pyro.sample("z", standard_normal(len(x), LATENT))
        pyro.sample("obs", dist.Normal(z @ W.T + BIAS, S).to_event(1), obs=x)


@pytest.mark.parametrize("program", [fixed_plate, subsampled, by_index, without_a_size])
def test_any_number_of_rows_is_sampled_of_any_data_plate(program):
    example = {"x": X, "index": torch.arange(N)} if program is by_index else {"x": X}
    size = 2001
    draws = pv.sample(program, size, example=example, seed=0)
    assert draws.shape == (size, D) and len(draws.unique(dim=0)) == size
    assert off(draws, BIAS, MARGINAL) < 4.5
    if program is not subsampled:
        codes = torch.randn(8, LATENT, dtype=torch.float64)
        made = pv.sample(program, z=codes, example=example, mean=True)
        torch.testing.assert_close(made, codes @ W.T + BIAS)


def test_rows_of_its_own_choice_cannot_be_given_one_by_one():
    with pytest.raises(pv.UserError, match="always draws 4 rows: z cannot be given"):
        pv.sample(subsampled, z=torch.zeros(8, LATENT), example={"x": X})


def global_latent(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("obs", dist.Normal(z.unsqueeze(-1), 0.1).to_event(1), obs=x)


def global_latent_by_size(x=None, size=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.1).to_event(1), obs=x)


def unsized_global(x):
    with pyro.plate("data"):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(1), 10.0).to_event(1))
        pyro.sample("obs", dist.Normal(mean.expand(len(x), 1), 0.1).to_event(1), obs=x)


def topics(x):
    with pyro.plate("topics", 3):
        words = pyro.sample("words", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("obs", dist.Normal(words[y].unsqueeze(-1), 0.1).to_event(1), obs=x)


def nested(x):
    with pyro.plate("data", len(x), dim=-1):
        with pyro.plate("words", 3, dim=-2):
            pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(torch.zeros(1), 0.1).to_event(1), obs=x)


def guide_of(*names):
    def guide(x):
        for name in names:
            pyro.sample(name, dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    return guide


@pytest.mark.parametrize(
    "program, message",
    [
        (global_latent, "site 'mean' lies outside the data plate"),
        (unsized_global, "site 'mean' lies outside the data plate"),
        (topics, "site 'words' lies outside the data plate"),
        (nested, "site 'z' lies in more than one plate"),
    ],
)
@pytest.mark.parametrize("size", [3, 64])
def test_what_is_not_drawn_once_per_data_point_is_refused(program, message, size):
    x = torch.zeros(N, 1)
    with pytest.raises(pv.UserError, match=message):
        pv.sample(program, size, example={"x": x})
    with pytest.raises(pv.UserError, match=message):
        pv.diagnostics.simulation_based_calibration(
            program, guide_of(), size, num_samples=3, bins=2, example={"x": x}
        )


def test_a_global_latent_is_refused_with_the_same_line_everywhere():
    x, message = torch.zeros(N, 1), "site 'mean' lies outside the data plate"
    pair, mask = (global_latent, guide_of("mean")), torch.tensor([False])
    for function in (
        lambda: pv.sample(global_latent_by_size, 10),
        lambda: pv.sample(global_latent, 10, example={"x": x}),
        lambda: pv.evaluate.reconstruct(*pair, x),
        lambda: pv.evaluate.encode(*pair, x),
        lambda: pv.impute(*pair, x, mask),
        lambda: pv.interpolate(*pair, x[:2], x[2:4]),
        lambda: pv.traverse(*pair, x),
        lambda: pv.diagnostics.bdmc(global_latent, num_data=3, example={"x": x}),
    ):
        with pytest.raises(pv.UserError, match=message):
            function()


def test_a_model_with_size_names_its_data_site_by_an_example():
    def program(data=None, size=None):
        with pyro.plate("data", size if data is None else len(data)):
            z = pyro.sample("z", standard_normal(LATENT))
            return pyro.sample("obs", dist.Normal(z @ W.T + BIAS, S).to_event(1), obs=data)

    with pytest.raises(pv.UserError, match="no site 'x': pass site=.* 'z', 'obs'"):
        pv.sample(program, 3)
    named = pv.sample(program, 3, site="obs", seed=0)
    assert torch.equal(named, pv.sample(program, 3, example={"data": X}, seed=0))
    gap = pv.diagnostics.bdmc(program, num_data=3, num_steps=2, num_chains=2, example={"x": X})
    assert gap["x"].shape == (3, D)


def test_the_ranks_of_an_exact_guide_are_uniform_where_the_data_site_is_called_obs():
    actual = pv.diagnostics.simulation_based_calibration(
        model, guide, 2000, num_samples=9, bins=5, example={"x": X}
    )
    assert actual["code"]["chi2_p"].min() > 1e-3
    ranks = actual["code"]["ranks"].flatten().double()
    assert stats.kstest((ranks + 0.5) / 10, "uniform").statistic < 0.1


# ------------------------------------------------- sites that are observed and are no data


def reparameterized(x=None, size=None):
    """x ~ N(5, 9 + 4); z is a recorded value, its draw another site."""
    size = size if x is None else len(x)
    with pyro.plate("data", size):
        with poutine.reparam(config={"z": LocScaleReparam(0.0)}):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0))
        pyro.sample("x", dist.Normal(3 * z + 5, 2.0), obs=x)


def with_a_pseudo_observation(x=None, size=None):
    """The same x: sampling draws what is observed without data, as plain Pyro draws x."""
    size = size if x is None else len(x)
    with pyro.plate("data", size):
        z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0))
        pyro.sample("near_zero", dist.Normal(z, 0.1), obs=torch.zeros(size))
        pyro.sample("x", dist.Normal(3 * z + 5, 2.0), obs=x)


@pytest.mark.parametrize("program", [reparameterized, with_a_pseudo_observation])
@pytest.mark.parametrize("options", [{}, {"example": {"x": torch.randn(9)}}])
def test_samples_are_of_the_data_site(program, options):
    x = pv.sample(program, 20_000, **options)
    assert abs(x.mean() - 5) < 0.1 and abs(x.var() - 13) < 0.5


def test_a_model_whose_data_site_is_not_known_is_asked_for_it():
    def renamed(data=None, size=None):
        size = size if data is None else len(data)
        with pyro.plate("rows", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0))
            pyro.sample("near_zero", dist.Normal(z, 0.1), obs=torch.zeros(size))
            pyro.sample("values", dist.Normal(3 * z + 5, 2.0), obs=data)

    with pytest.raises(pv.UserError, match="pass site="):
        pv.sample(renamed, 5)
    for options in ({"site": "values"}, {"example": {"data": torch.randn(9)}, "site": "values"}):
        assert abs(pv.sample(renamed, 20_000, **options).mean() - 5) < 0.1


def test_values_are_given_for_what_a_reparameterized_latent_is_drawn_from():
    x = pv.sample(reparameterized, 4, z_decentered=torch.zeros(4), mean=True)
    assert torch.equal(x, torch.full((4,), 5.0))
    with pytest.raises(pv.UserError, match="'z' is a function of the latents: .*'z_decentered'"):
        pv.sample(reparameterized, 4, z=torch.zeros(4))


def test_diagnostics_take_a_reparameterized_latent_for_what_draws_it():
    x = torch.tensor([2.0, 9.0])
    exact = dist.Normal(5.0, math.sqrt(13)).log_prob(x)
    log_p = pv.diagnostics.ais(reparameterized, x, num_chains=64, num_steps=100)
    torch.testing.assert_close(log_p, exact, rtol=0, atol=0.1)

    def exact_guide(x):
        with pyro.plate("data", len(x)):
            mean = 3 * (x - 5) / 13
            pyro.sample("z_decentered", dist.Normal(mean, math.sqrt(4 / 13)))

    bound = pv.evaluate.log_likelihood(reparameterized, exact_guide, x, num_samples=5)
    torch.testing.assert_close(bound, exact, rtol=1e-5, atol=1e-5)
    calibration = pv.diagnostics.simulation_based_calibration(
        reparameterized, exact_guide, num_data=100, num_samples=19
    )
    assert set(calibration) == {"z_decentered"}
    with pytest.raises(pv.UserError, match="the model does not take 'num_simulations'"):
        pv.diagnostics.simulation_based_calibration(
            reparameterized, exact_guide, num_simulations=100
        )


@pytest.mark.parametrize(
    "example", [lambda x: x, lambda x: x.numpy(), lambda x: {"x": x.numpy()}, lambda x: {"rows": x}]
)
def test_an_example_is_x_or_arrays_by_name(example):
    def model(rows):
        with pyro.plate("data", len(rows)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            x = dist.Normal(z.sum(-1, keepdim=True).expand(-1, 3), 1.0).to_event(1)
            return pyro.sample("obs", x, obs=rows)

    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    guide = pv.guides.Guide(model, given={"z": ["x"]}, example=example(rows))
    assert pv.sample(model, 30, example=example(rows)).shape == (30, 3)
    options = {"num_data": 10, "num_samples": 4, "bins": 5, "example": example(rows)}
    ranks = pv.diagnostics.simulation_based_calibration(model, guide, **options)["z"]["ranks"]
    assert ranks.shape == (10, 2)
    _, ax = pv.plots.axes()
    pv.plots.graph(ax, model, example=example(rows))
    per_datum = pv.guides.PerDatumAutoGuide(AutoNormal, model, example=example(rows))
    assert per_datum.num_data == 20


# ------------------------------------------------------------------- runs of user-defined pairs


class Shifted(nn.Module):
    """x ~ Normal(3 + 10 age, 1), with a latent that has no effect; it samples by size and age."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(3.0))

    def forward(self, x=None, age=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = (self.shift + 10 * age).expand(-1, 2)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def whole(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + 3, pyro.param("sd", torch.tensor(0.5))).to_event(1), obs=x)


def no_news(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


@pytest.mark.parametrize("source", ["prior", "aggregate", "ex-post", "interpolate", "traverse"])
def test_a_run_of_two_functions_samples_from_every_source(source):
    """The messages had asked for an example that `run.sample` does not take."""
    run = pv.fit(whole, no_news, torch.randn(60, 2) + 3, 1, progress=False)
    num = {"interpolate": 10, "traverse": 2}.get(source, 2000)
    drawn = run.sample(num, source, mean=False) if num == 2000 else run.sample(num, source)
    assert drawn.shape[1:] == (2,) and abs(float(drawn.mean()) - 3) < 0.6
    if source == "prior":  # x ~ Normal(3, 1 + 0.25)
        torch.testing.assert_close(drawn.var(0), torch.full((2,), 1.25), rtol=0, atol=0.2)
        with pytest.raises(pv.UserError, match="whole has no y to condition on"):
            run.sample(4, y=1)


def test_a_run_with_covariates_of_its_own_samples_and_reports_with_those_of_its_rows(tmp_path):
    age = torch.tensor([0.0, 1.0]).repeat(30).unsqueeze(1)
    x = 3 + 10 * age + torch.randn(60, 2)
    data = pv.data.from_arrays({"x": x, "age": age}, valid=0, test=0)
    declared = partial(
        pv.guides.Guide, given={"z": ["x", "age"]}, network=pv.conditionals.MLP((4,))
    )
    run = pv.fit(Shifted(), no_news, data, 1, lr=1e-9, progress=False)
    rows = run.data.train.others["age"]
    drawn = run.sample(60, mean=False)
    torch.testing.assert_close(drawn, (3 + 10 * rows).expand(-1, 2), rtol=0, atol=5.0)
    run.report(tmp_path / "report.html", num_samples=2)
    assert "could not be drawn" not in (tmp_path / "report.html").read_text()
    table = pv.compare(Shifted, {"declared": declared}, data, epochs=1, seeds=1, num_gap_data=0,
                       num_samples=5, progress=False)  # fmt: skip
    assert table.rows[0]["guide"] == "declared"
