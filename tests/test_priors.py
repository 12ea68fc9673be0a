"""Learned priors, the density fitted afterwards, and the second layer: exact where that is known."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import main
from presets import built
from problems import LINEAR, binary_patterns, plane_grid
from sampling import covering
from torch.distributions import MultivariateNormal as Gaussian

import pyro_vae as pv
from pyro_vae.conditionals import MLP, MultivariateNormal, Normal, NormalLikelihood
from pyro_vae.conditionals.flows import FLOWS
from pyro_vae.models import FlowPrior, MixturePrior, VampPrior, with_prior
from pyro_vae.models.components import set_components
from pyro_vae.train import PseudoInputInitialization, load_weights

D, LATENT, SCALE = 4, 2, 0.6
SMALL = MLP(hidden=(8,), activation="tanh")
FAMILIES = {"normal": Normal(), "full": MultivariateNormal()}
METHODS = ["hierarchical-vae", "mixture-prior", "vampprior", "flow-prior"]
TINY = {
    "latent_dim": 2, "z2_dim": 2, "num_components": 3, "num_classes": 3, "hidden": [6],
    "likelihood": "bernoulli",
}  # fmt: skip


def vamp(family="normal", k=5, network=SMALL):
    torch.manual_seed(0)
    prior = VampPrior((D,), LATENT, k, network, FAMILIES[family])
    model = pv.models.VAE((D,), LATENT, "bernoulli", SMALL, prior=prior)
    guide = pv.guides.Guide(model, family={"z": FAMILIES[family]}, network=SMALL)
    return model.double(), guide.double()


def tiny(name, x_shape=(1, 8, 8), **overrides):
    torch.manual_seed(0)
    return built(name, x_shape, overrides={**TINY, **overrides}, num_data=12)


def images(n=12):
    gray = torch.full((n, 1, 8, 8), 0.5)
    return torch.bernoulli(gray, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------- mixture


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_prior_is_the_mixture_vae_with_y_summed(family):
    torch.manual_seed(0)
    summed = pv.models.MixtureVAE((D,), 3, LATENT, "bernoulli", SMALL, FAMILIES[family]).double()
    with torch.no_grad():
        summed.p_y.logits.copy_(torch.randn(3))
        summed.p_z.head.maps["y"].weight.normal_()
    prior = MixturePrior(LATENT, 3, FAMILIES[family]).double()
    prior.p_y.load_state_dict(summed.p_y.state_dict())
    prior.p_z.load_state_dict(summed.p_z.state_dict())
    model = pv.models.VAE((D,), LATENT, "bernoulli", SMALL, prior=prior).double()
    model.p_x.load_state_dict(summed.p_x.state_dict())
    guide, x = pv.guides.Guide(model, network=SMALL).double(), binary_patterns(16, D)
    for evaluate in (pv.evaluate.elbo, pv.evaluate.log_likelihood):
        of_model, of_summed = (evaluate(m, guide, x, num_samples=7) for m in (model, summed))
        torch.testing.assert_close(of_model, of_summed, atol=1e-12, rtol=1e-12)


def test_set_components_puts_a_mixture_into_the_prior():
    torch.manual_seed(0)
    root = torch.randn(3, LATENT, LATENT, dtype=torch.float64)
    covariances = root @ root.mT + 0.1 * torch.eye(LATENT)
    weights, means = torch.tensor([0.2, 0.3, 0.5]).double(), torch.randn(3, LATENT).double()
    prior = MixturePrior(LATENT, 3, MultivariateNormal()).double()
    set_components(prior, weights, means, covariances)
    z = torch.randn(50, LATENT, dtype=torch.float64)
    each = Gaussian(means, covariances).log_prob(z.unsqueeze(1)) + weights.log()
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(1))


# ------------------------------------------------------------------------- Vamp


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vampprior_is_the_mean_of_the_encoders_densities_at_its_pseudo_inputs(family):
    model, guide = vamp(family)
    z, total = torch.randn(9, LATENT, dtype=torch.float64), 0.0
    for u in model.p_z.pseudo_inputs["x"]:
        total = total + guide.factors["z"](x=u).log_prob(z).exp() / 5
    torch.testing.assert_close(model.p_z().log_prob(z), total.log())


def test_guide_and_prior_have_one_encoder():
    model, guide = vamp()
    assert guide.factors["z"] is model.p_z.encoder


@pytest.mark.parametrize(
    "declared",
    [{"given": {"z": []}}, {"given": {"z": ["index"]}, "num_data": 3}, {"family": {"z": FAMILIES["full"]}}],
    ids=["constants", "per data point", "another family"],
)  # fmt: skip
def test_to_any_other_guide_the_prior_keeps_an_encoder_of_its_own(declared):
    model, _ = vamp()
    guide = pv.guides.Guide(model, network=SMALL, **declared)
    own = {id(p) for p in model.p_z.encoder.parameters()}
    assert not own & {id(p) for p in guide.parameters()}


def test_the_bounds_gradient_reaches_the_encoder_from_both_sides_and_the_pseudo_inputs():
    model, guide = vamp()
    x, encoder = binary_patterns(16, D), [*model.p_z.encoder.parameters()]
    inputs = model.p_z.pseudo_inputs["x"]

    def gradients(pair):
        torch.manual_seed(3)
        loss = pv.objectives.ELBO().differentiable_loss(*pair, x)
        return torch.autograd.grad(loss, [*encoder, inputs], allow_unused=True)

    both = gradients((model, guide))
    separate = copy.deepcopy(guide), copy.deepcopy(model)
    prior_side, guide_side = (
        gradients((model, separate[0])),
        gradients((separate[1], guide)),
    )
    assert guide_side[-1] is None and prior_side[-1].abs().sum() > 0
    torch.testing.assert_close(both[-1], prior_side[-1])
    for b, p, q in zip(both[:-1], prior_side, guide_side, strict=False):
        assert p.abs().sum() > 0 and q.abs().sum() > 0
        torch.testing.assert_close(b, p + q)


@pytest.mark.parametrize("semi_amortized", [False, True])
def test_pseudo_inputs_start_at_training_data_as_the_network_sees_them(semi_amortized):
    model, guide = tiny("vampprior")
    data = pv.data.from_arrays(images(), valid=0, test=0)
    guide.input_scaling = {"x": (0.5, 0.25)}
    trained = pv.guides.SemiAmortized(model, guide, steps=1) if semi_amortized else guide
    PseudoInputInitialization()(model, trained, data, "cpu", seed=1)
    actual = model.p_z.pseudo_inputs["x"].detach() * 0.25 + 0.5
    matches = (actual[:, None] == data.train.x[None]).flatten(2).all(-1)
    assert matches.any(1).all()
    # so each component is the posterior of such a data point
    first = guide.factors["z"](x=(actual[:1] - 0.5) / 0.25).mean
    torch.testing.assert_close(model.p_z().component_distribution.mean[0], first[0])


def test_pseudo_inputs_of_a_latent_parent_start_at_its_encodings():
    model, guide = tiny("hierarchical-vae", prior="VampPrior")
    assert guide.factors["z2"] is model.p_z2.encoder
    before = model.p_z2.pseudo_inputs["z1"].clone()
    PseudoInputInitialization()(model, guide, pv.data.from_arrays(images(), valid=0, test=0), "cpu")
    assert before.shape == (3, 2) and not torch.equal(before, model.p_z2.pseudo_inputs["z1"])


@pytest.mark.parametrize("model, message", [
    (lambda: tiny("vae"), "is no VampPrior"),
    (lambda: tiny("vampprior", num_components=99), "99 pseudo-inputs need as many training data"),
    (lambda: tiny("vade"), "'z' has the parents y in MixtureVAE"),
])  # fmt: skip
def test_pseudo_inputs_that_cannot_start_there_say_so(model, message):
    with pytest.raises(pv.UserError, match=message):
        PseudoInputInitialization()(*model(), pv.data.from_arrays(images(), valid=0, test=0), "cpu")


def test_with_a_linear_decoder_the_evidence_under_a_vampprior_is_a_gaussian_mixture():
    torch.manual_seed(0)
    prior = VampPrior((D,), LATENT, 3, LINEAR)
    model = pv.models.VAE((D,), LATENT, NormalLikelihood(SCALE), LINEAR, prior=prior).double()
    with torch.no_grad():
        prior.pseudo_inputs["x"].mul_(3)

    def guide(x):  # the prior itself: draws of it, weighted by the likelihood
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior())

    x = model(size=8).detach()
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    each = prior().component_distribution
    covariance = w @ torch.diag_embed(each.variance) @ w.T + SCALE**2 * torch.eye(D)
    exact = Gaussian(each.mean @ w.T + b, covariance).log_prob(x.unsqueeze(1)).logsumexp(1)
    actual = pv.evaluate.log_likelihood(model, guide, x, num_samples=200_000)
    torch.testing.assert_close(actual, exact.detach() - math.log(3), atol=0.05, rtol=0)


# ------------------------------------------------------------------------- flow


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flows_density_integrates_to_one(flow):
    torch.manual_seed(0)
    z, area = plane_grid(6.0, 241)
    for loc, scale in ((0.0, 1.0), (0.7, 0.5)):
        options = {"loc": torch.full((2,), loc), "scale": torch.full((2,), scale)}
        prior = FlowPrior(2, flow, 3, (16,), **options).double()
        with torch.no_grad():
            for parameter in prior.flow.transform.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            assert prior().log_prob(z).exp().sum() * area == pytest.approx(1, abs=2e-3)
    line = torch.linspace(-40, 40, 40_001, dtype=torch.float64).unsqueeze(1)
    prior = FlowPrior(1, flow, 2, (16,)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(0.5)  # zuko starts them wide in one dimension
        assert prior().log_prob(line).exp().sum() * 0.002 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flows_draws_follow_its_density(flow):
    torch.manual_seed(0)
    prior = FlowPrior(2, flow, 2, (16,), loc=torch.tensor([1.0, 0.0])).double()
    with torch.no_grad():
        for parameter in prior.flow.transform.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        z, area = plane_grid(8.0, 401)
        mass = prior().log_prob(z).exp() * area
        draws = prior().sample((40_000,))
    for f in (lambda v: v[:, 0], lambda v: v[:, 1] ** 2, lambda v: (v.prod(1) > 0.5).double()):
        exact, actual = (mass * f(z)).sum(), f(draws)
        assert abs(actual.mean() - exact) < 4 * actual.std() / math.sqrt(len(draws)) + 2e-3


# --------------------------------------------------------------- the second layer


def linear_hierarchy():
    """x = W z1 + b + s e; z1 | z2 and z2 | z1 linear; and the closed forms."""
    torch.manual_seed(1)
    model = pv.models.HierarchicalVAE((D,), 3, 2, NormalLikelihood(SCALE), LINEAR, LINEAR)
    model.double()
    with torch.no_grad():
        model.p_z1.head.maps["z2"].weight[:3] *= 2
        model.p_z1.head.maps["z2"].weight[3:] = 0  # a scale that does not depend on z2
    return model


def conditioned(prior, mean, noise, given):
    """`(M, m, S)` of p(a | b) = N(M b + m, S), where a ~ N(prior), b | a ~ N(given a + mean, noise)."""
    loc, covariance = prior
    gain = covariance @ given.T @ torch.linalg.inv(given @ covariance @ given.T + noise)
    return gain, loc - gain @ (given @ loc + mean), covariance - gain @ given @ covariance


def closed_form(model):
    """`p(x)`, and p(z1 | x), p(z2 | z1) as `(M, m, S)`."""
    eye = torch.eye
    a, t = model.p_z1.head.maps["z2"].weight.detach()[:3], model.p_z1.head.bias.detach()
    var = torch.diag(model.p_z1(z2=torch.zeros(2).double()).variance.detach())
    w, b = model.p_x.head.maps["z1"].weight.detach(), model.p_x.head.bias.detach()
    z1 = t[:3], a @ a.T + var
    noise = SCALE**2 * eye(D, dtype=w.dtype)
    evidence = Gaussian(w @ z1[0] + b, w @ z1[1] @ w.T + noise)
    z2 = torch.zeros(2, dtype=w.dtype), eye(2, dtype=w.dtype)
    return evidence, {
        "z1": conditioned(z1, b, noise, w),
        "z2": conditioned(z2, t[:3], var, a),
    }


def hierarchical_guide(model, spoilt=0.0):
    family = {"z1": MultivariateNormal(), "z2": MultivariateNormal()}
    guide = pv.guides.Guide(model, family=family, network=LINEAR).double()
    _, posterior = closed_form(model)
    torch.manual_seed(4)
    with torch.no_grad():
        for latent, (gain, offset, covariance) in posterior.items():
            head = guide.factors[latent].head
            (affine,) = head.maps.values()
            affine.weight.zero_()[: len(offset)] = gain
            head.bias.copy_(MultivariateNormal().raw_parameters(offset, covariance))
            head.bias.add_(spoilt * torch.rand_like(head.bias))
    return guide


def test_the_hierarchys_default_guide_holds_the_exact_posterior_so_every_elbo_is_the_evidence():
    model = linear_hierarchy()
    evidence, _ = closed_form(model)
    x = model(size=12).detach()
    guide = hierarchical_guide(model)
    assert guide.given == {"z1": ("x",), "z2": ("z1",)}
    bound = pv.evaluate.elbo(model, guide, x)
    torch.testing.assert_close(bound, evidence.log_prob(x), atol=1e-9, rtol=0)
    one = pv.evaluate.log_likelihood(model, guide, x, num_samples=1)
    torch.testing.assert_close(one, evidence.log_prob(x), atol=1e-9, rtol=0)


def test_with_a_wrong_guide_the_hierarchys_importance_weighted_bounds_rise_to_the_evidence():
    model = linear_hierarchy()
    evidence, _ = closed_form(model)
    x = model(size=1).detach()
    truth, guide = evidence.log_prob(x).item(), hierarchical_guide(model, spoilt=0.4)
    many = x.expand(4000, D)
    bounds = [
        pv.evaluate.log_likelihood(model, guide, many, k, seed=k).mean().item()
        for k in (1, 4, 16, 64)
    ]
    assert bounds[0] < truth - 0.1
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < truth + 0.01
    assert truth - bounds[3] < 0.1 * (truth - bounds[0])


def test_the_hierarchys_terms_are_named_after_its_layers():
    model, guide = tiny("hierarchical-vae")
    terms = pv.evaluate.elbo_terms(model, guide, images())
    assert set(terms) == {"z1", "z2", "x"}
    assert pv.evaluate.active_units(model, guide, images()).keys() == {"z1", "z2"}


def test_the_other_order_of_the_hierarchys_latents_is_declared():
    model, _ = tiny("hierarchical-vae")
    guide = pv.guides.Guide(model, given={"z2": ["x"], "z1": ["x", "z2"]}, network=SMALL)
    assert torch.isfinite(pv.evaluate.elbo(model, guide, images())).all()


# ------------------------------------------------------------ ex-post density


@pytest.fixture
def off_center():
    """A linear VAE, its exact posterior as guide, and data that are not the model's own."""
    torch.manual_seed(1)
    model = pv.models.VAE((D,), LATENT, NormalLikelihood(SCALE), LINEAR).double()
    guide = pv.guides.Guide(model, family={"z": MultivariateNormal()}, network=LINEAR).double()
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    eye = torch.eye(LATENT, dtype=w.dtype)
    gain, offset, covariance = conditioned(
        (torch.zeros_like(eye[0]), eye), b, SCALE**2 * torch.eye(D, dtype=w.dtype), w
    )
    head = guide.factors["z"].head
    with torch.no_grad():
        head.maps["x"].weight.zero_()[:LATENT] = gain
        head.bias.copy_(MultivariateNormal().raw_parameters(offset, covariance))
    x = 1.0 + torch.randn(5000, D, dtype=torch.float64) @ torch.randn(D, D).double()
    mean = x.mean(0) @ gain.T + offset
    spread = gain @ torch.cov(x.T, correction=0) @ gain.T  # of the posterior means
    return model, guide, x, mean, spread, covariance


@pytest.mark.parametrize("draws", [0, 40])
def test_one_component_fitted_ex_post_is_the_aggregate_posteriors_gaussian(off_center, draws):
    model, guide, x, mean, spread, covariance = off_center
    density = pv.evaluate.fit_ex_post_prior(
        model, guide, x, num_components=1, draws=draws, reg_covar=0
    )
    fitted = density().component_distribution
    exact = spread + covariance if draws else spread
    torch.testing.assert_close(fitted.mean[0], mean, atol=0.02 if draws else 1e-9, rtol=0)
    torch.testing.assert_close(
        fitted.covariance_matrix[0], exact, atol=0.03 if draws else 1e-9, rtol=0
    )


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_a_model_with_an_ex_post_prior_is_evaluated_and_sampled_like_any(off_center, kind):
    model, guide, x, mean, spread, covariance = off_center
    options = {"kind": kind, "draws": 2, "epochs": 10}
    density = pv.evaluate.fit_ex_post_prior(model, guide, x, num_components=1, **options)
    better = with_prior(model, density)
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    noise = SCALE**2 * torch.eye(D, dtype=w.dtype)
    exact = Gaussian(mean @ w.T + b, w @ (spread + covariance) @ w.T + noise).log_prob(x[:50])
    actual = pv.evaluate.log_likelihood(better, guide, x[:50], num_samples=5000)
    assert abs((actual - exact).mean()) < (0.1 if kind == "mixture" else 0.2)
    before = pv.evaluate.log_likelihood(model, guide, x[:50], num_samples=5000)
    assert actual.mean() > before.mean() + 0.3
    draws = pv.sample(better, 20_000, seed=0, mean=True)
    torch.testing.assert_close(draws.mean(0), mean @ w.T + b, atol=0.1, rtol=0)


def test_a_prior_fitted_to_draws_raises_the_training_elbo(off_center):
    model, guide, x, *_ = off_center
    density = pv.evaluate.fit_ex_post_prior(model, guide, x, num_components=3, draws=2)
    fitted = pv.evaluate.elbo(with_prior(model, density), guide, x).mean()
    assert fitted > pv.evaluate.elbo(model, guide, x).mean() + 0.3


def test_with_prior_shares_every_part_but_the_prior():
    model, guide = tiny("vae")
    density = MixturePrior(2, 3)
    other = with_prior(model, density)
    assert other.p_z is density and other.p_x is model.p_x
    assert isinstance(model.p_z, pv.models.StandardNormalPrior)
    top, _ = tiny("hierarchical-vae")
    assert with_prior(top, density).p_z2 is density
    w, _ = tiny("gmvae", w_dim=2, initialize=None)
    assert with_prior(w, density).p_w is density


@pytest.mark.parametrize("make, message", [
    (lambda m, g: with_prior(m, MixturePrior(5)), r"'z' has shape \[2\], this prior \[5\]"),
    (lambda m, g: with_prior(m, MixturePrior(2), "w"), "no module p_w"),
    (lambda m, g: with_prior(tiny("vade")[0], MixturePrior(2)), "'z' has the parents y"),
    (lambda m, g: pv.evaluate.fit_ex_post_prior(m, g, images(), kind="flwo"), "flow"),
    (lambda m, g: pv.evaluate.fit_ex_post_prior(m, g, images(), draws=0, num_components=13), "12 encodings"),
    (lambda m, g: FlowPrior(2, "realnvp"), "unknown flow"),
    (lambda m, g: VampPrior({}, 2), "at least one parent"),
    (lambda m, g: pv.method("vade", "digits", prior="FlowPrior"), "vade has no option 'prior'"),
    (lambda m, g: tiny("vae", prior="Vamp"), "did you mean 'VampPrior'"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(make, message):
    with pytest.raises(pv.UserError, match=message):
        make(*tiny("vae"))


# ------------------------------------------------------- training, files, replay


@pytest.mark.parametrize(
    "prior", [None, "StandardNormalPrior", "MixturePrior", "VampPrior", "FlowPrior"]
)
@pytest.mark.parametrize("name", ["vae", "vae-constants", "hierarchical-vae", "gmvae"])
def test_every_free_prior_goes_with_every_model_that_has_one(name, prior):
    model, guide = tiny(name, prior=prior, w_dim=2)
    pv.check_pair(model, guide, images())
    assert pv.sample(model, 3, seed=0).shape == (3, 1, 8, 8)
    pv.fit(model, guide, images(), epochs=1, device="cpu", progress=False)
    assert torch.isfinite(pv.evaluate.log_likelihood(model, guide, images(), 5)).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_equals_an_uninterrupted_one_and_loads(name, tmp_path):
    def train(folder, epochs, resume=False):
        model, guide = tiny(name)
        options = {"epochs": epochs, "out": tmp_path / folder, "resume": resume, "batch_size": 6}
        start = PseudoInputInitialization() if name == "vampprior" else None
        pv.fit(model, guide, images(), device="cpu", progress=False, initialize=start, **options)
        return model, guide

    whole = train("whole", 4)
    train("parts", 2)
    parts = train("parts", 4, resume=True)
    loaded = tiny(name)
    load_weights(*loaded, tmp_path / "parts" / "checkpoint.pt")
    if name == "vampprior":
        assert loaded[1].factors["z"] is loaded[0].p_z.encoder
    for other in (parts, loaded):
        for a, b in zip(whole, other, strict=True):
            for key, value in a.state_dict().items():
                assert torch.equal(value, b.state_dict()[key]), key


def test_a_chunk_of_a_likelihood_counts_the_mixtures_components():
    rows = {}
    for k in (1, 4096):
        model, guide = tiny("vampprior", num_components=k)
        rows[k] = pv.evaluate.chunked.rows_per_chunk(model, guide, {"x": images()}, "cpu")
    assert rows[4096] == pytest.approx(rows[1] / 16, rel=0.01)  # 4096 x 2 floats, not 512


def test_a_pair_copied_in_one_go_still_has_one_encoder():
    model, guide = copy.deepcopy(vamp())
    assert guide.factors["z"] is model.p_z.encoder


DIGITS = {"latent_dim": 8, "hidden": [64], "epochs": 40, "lr": 3e-3, "compile": "recorded"}


def trained(name, **overrides):
    """A pair trained on digits for seconds, and the data."""
    run = pv.method(name, "digits", **DIGITS, **overrides).fit(device="cpu", progress=False)
    return (run.model, run.guide), run.data


def reached(pair, data):
    x = data.test.x
    return pv.evaluate.log_likelihood(*pair, x, num_samples=50).mean().item()


def bound(pair, data):
    return pv.evaluate.elbo(*pair, data.test.x, num_samples=10).mean().item()


@pytest.fixture(scope="module")
def standard():
    return trained("vae")


@pytest.mark.parametrize("name, margin", covering(
    ["mixture-prior", "vampprior", "flow-prior", "hierarchical-vae"], [1.0], every=4,
))  # fmt: skip
def test_on_digits_it_gains_on_the_standard_normal_prior(name, margin, standard):
    assert reached(*trained(name)) > reached(*standard) + margin


def test_on_digits_a_density_fitted_to_draws_gains_on_the_prior_and_on_one_fitted_to_means(
    standard,
):
    (model, guide), data = standard
    actual = {"none": (reached((model, guide), data), bound((model, guide), data))}
    for draws in (0, 4):
        density = pv.evaluate.fit_ex_post_prior(model, guide, data.train.x, draws=draws)
        pair = with_prior(model, density), guide
        actual[draws] = reached(pair, data), bound(pair, data)
    assert actual[4][0] > actual["none"][0] + 3
    assert actual[4][1] > actual[0][1] + 0.3  # what the fit to draws is made for: the ELBO


@pytest.mark.parametrize("arguments, words", [
    (["vampprior"], ["A draw of q(z | x) for each data point", "Learned pseudo-inputs"]),
    (["mixture-prior"], ["A draw of q(z | x) for each data point", "means of the prior&#x27;s components decode to"]),
    pytest.param(
        ["gmvae-v1", "--prior", "FlowPrior"], ["A draw of q(w | x) for each data point"],
        marks=pytest.mark.slow,
    ),
    (["hierarchical-vae", "--z2_dim", "2"], ["KL of z2", "KL of z1", "of 2 units active"]),
])  # fmt: skip
def test_the_report_shows_what_is_special_to_it(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--hidden", "[16]", "--num_samples", "5", "--progress", "false"]
    assert main(["fit", *arguments, *small, "--out", "run"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(word in page for word in words)
    assert main(["sample", "run"]) == 0
    assert main(["evaluate", "run", "--num_samples", "5"]) == 0


def test_a_prior_that_is_not_there_gets_one_line(capsys):
    assert main(["fit", "vade", "--prior", "VampPrior"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("pyro-vae: vade has no option 'prior'; ") and line.count("\n") == 1


@pytest.mark.parametrize("sd", [5000.0, 1e-3])
def test_encodings_beyond_the_scales_of_a_mixture_are_warned_of(sd):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), sd).to_event(1))
            pyro.sample("x", dist.Normal(z / sd, 0.1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(sd * x, 0.01 * sd).to_event(1))

    x = torch.randn(200, 1)
    with pytest.warns(UserWarning, match="encodings have standard deviations from .* kind='flow'"):
        pv.evaluate.fit_ex_post_prior(model, guide, x, num_components=1)
    flow = pv.evaluate.fit_ex_post_prior(model, guide, x, kind="flow", epochs=25)
    spread = float(flow().sample((2000,)).std())
    assert spread == pytest.approx(sd * float(x.std()), rel=0.15)
