"""Mixture priors: summing y is exact, on whichever side it is summed."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import LINEAR, binary_patterns
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

import pyro_vae as pv
from pyro_vae.conditionals import MLP, MultivariateNormal, Normal, NormalLikelihood
from pyro_vae.programs import trace_pair

K, LATENT, D, SCALE = 3, 2, 4, 0.6
SMALL = MLP(hidden=(8,), activation="tanh")
COMPONENTS = {"normal": Normal(), "full": MultivariateNormal()}
SHU = {"y": ["x"], "z": ["x", "y"]}


def mixture_vae(component="normal", likelihood="bernoulli", network=SMALL, seed=0):
    """Components two units apart, of different shapes and weights."""
    torch.manual_seed(seed)
    model = pv.models.MixtureVAE((D,), K, LATENT, likelihood, network, COMPONENTS[component])
    model.double()
    with torch.no_grad():
        model.p_y.logits.copy_(torch.randn(K))
        table = model.p_z.head.maps["y"].weight  # [parameters, K]
        table.copy_(0.5 * torch.randn(table.shape))
        table[:LATENT] = 2 * torch.randn(LATENT, K)
    return model


def components(model):
    """log pi `[K]`, and the K component distributions, one batch."""
    with torch.no_grad():
        log_pi = model.p_y.logits.log_softmax(-1)
        fn = model.p_z(y=torch.eye(K, dtype=torch.float64))
    if isinstance(fn, dist.MultivariateNormal):
        return log_pi, fn.loc, fn.covariance_matrix
    return log_pi, fn.base_dist.loc, torch.diag_embed(fn.base_dist.scale**2)


def standard_error(model, guide, x, num_samples, seed=9):
    """Of the log of the mean of `num_samples` importance weights, by the delta method."""
    torch.manual_seed(seed)
    with torch.no_grad():
        w = trace_pair(model.eval(), guide.eval(), {"x": x}, num_particles=num_samples).log_weight()
    w = (w - w.max(0).values).exp()
    return w.std(0) / w.mean(0) / math.sqrt(num_samples)


# ------------------------------------------------- the same model, written differently


@pytest.mark.parametrize("component", COMPONENTS)
def test_y_summed_is_the_mixture_prior_to_the_last_digit(component):
    model, x = mixture_vae(component), binary_patterns(16, D)
    guide = pv.guides.Guide(model, network=SMALL).double()

    def by_hand(x):
        y = torch.eye(K, dtype=x.dtype)
        prior = dist.MixtureSameFamily(dist.Categorical(logits=model.p_y.logits), model.p_z(y=y))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", model.p_x(z=z), obs=x)

    losses, gradients = [], []
    parameters = [*model.parameters(), *guide.parameters()]
    for program in (model, by_hand):
        torch.manual_seed(7)
        loss = pv.objectives.ELBO().differentiable_loss(program, guide, x)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, parameters))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------- closed-form evidence


def gaussian_mixture_evidence(model, x):
    """log sum_k pi_k N(x; W mu_k + b, W Sigma_k W' + s^2 I)."""
    log_pi, means, covariances = components(model)
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    noise = SCALE**2 * torch.eye(D, dtype=x.dtype)
    distribution = TorchMultivariateNormal(means @ w.T + b, w @ covariances @ w.T + noise)
    return (log_pi + distribution.log_prob(x.unsqueeze(1))).logsumexp(-1)


@pytest.mark.parametrize("given", [None, SHU], ids=["model-side", "guide-side"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_with_a_linear_decoder_the_evidence_is_a_gaussian_mixture(component, given):
    torch.set_default_dtype(torch.float64)
    model = mixture_vae(component, NormalLikelihood(scale=SCALE), LINEAR)
    with torch.no_grad():
        model.p_z.head.maps["y"].weight[:LATENT] *= 0.3  # one guide covers all components
    torch.manual_seed(2)
    x = model(size=6).detach()
    guide = pv.guides.Guide(model, given, network=SMALL).double()
    pv.fit(model, guide, x.repeat(40, 1), epochs=20, lr=1e-2, progress=False)
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=20_000)
    error = standard_error(model, guide, x, 20_000)
    assert error.max() < 0.05
    assert ((bound - gaussian_mixture_evidence(model, x)).abs() < 4 * error).all()


def exact_shu_pair():
    """All components of one shape: p(y | x) and the mean of p(z | x, y) are linear."""
    model = mixture_vae("full", NormalLikelihood(scale=SCALE), LINEAR)
    head = model.p_z.head
    with torch.no_grad():
        head.maps["y"].weight[LATENT:] = 0.3
    log_pi, means, (prior, *_) = components(model)
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    guide = pv.guides.Guide(model, SHU, {"z": MultivariateNormal()}, network=LINEAR).double()
    # p(z | x, y): covariance (Sigma^-1 + W'W / s^2)^-1, mean linear in x and y together
    covariance = torch.linalg.inv(torch.linalg.inv(prior) + w.T @ w / SCALE**2)
    to_z = covariance @ w.T / SCALE**2
    # p(y | x): logits log pi_k + x' C^-1 m_k - m_k' C^-1 m_k / 2, m_k = W mu_k + b
    inverse = torch.linalg.inv(w @ prior @ w.T + SCALE**2 * torch.eye(D, dtype=w.dtype))
    m = means @ w.T + b
    with torch.no_grad():
        q_y, q_z = guide.factors["y"].head, guide.factors["z"].head
        q_y.maps["x"].weight.copy_(m @ inverse)
        q_y.bias.copy_(log_pi - 0.5 * ((m @ inverse) * m).sum(-1))
        for name in ("x", "y"):
            q_z.maps[name].weight.zero_()
        q_z.maps["x"].weight[:LATENT] = to_z
        q_z.maps["y"].weight[:LATENT] = covariance @ torch.linalg.inv(prior) @ means.T
        q_z.bias.copy_(MultivariateNormal().raw_parameters(-to_z @ b, covariance))
    torch.manual_seed(2)
    return model, guide, model(size=8).detach()


def test_with_the_exact_posterior_a_guide_side_y_gives_the_evidence_without_noise():
    model, guide, x = exact_shu_pair()
    truth = gaussian_mixture_evidence(model, x)
    torch.testing.assert_close(pv.evaluate.elbo(model, guide, x), truth, atol=1e-9, rtol=0)
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=1)
    # with y summed, p(x, z_y, y) / q(z_y | x, y) = p(x, y): its sum is p(x)
    torch.testing.assert_close(bound, truth, atol=1e-9, rtol=0)


def test_responsibilities_are_bayes_rule_where_the_guide_is_exact():
    model, guide, x = exact_shu_pair()
    log_pi, means, covariances = components(model)
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    noise = SCALE**2 * torch.eye(D, dtype=x.dtype)
    distribution = TorchMultivariateNormal(means @ w.T + b, w @ covariances @ w.T + noise)
    truth = (log_pi + distribution.log_prob(x.unsqueeze(1))).softmax(-1)
    actual = pv.evaluate.responsibilities(model, guide, x)
    torch.testing.assert_close(actual, truth, atol=1e-9, rtol=0)


# ------------------------------------------------------------------------ quadrature


def plane(n=300, edge=9.0):
    """Points `[n * n, 2]` of a grid, and the log of a cell's area."""
    axis = torch.linspace(-edge, edge, n, dtype=torch.float64)
    cell = 2 * math.log((2 * edge) / (n - 1))
    return torch.cartesian_prod(axis, axis), cell


@torch.no_grad()
def log_joint_on(model, x, z):
    """log p(y, z, x) `[K, points, N]`."""
    log_pi, means, covariances = components(model)
    prior = TorchMultivariateNormal(means, covariances).log_prob(z.unsqueeze(1))  # [points, K]
    p_x = torch.stack([model.p_x(z=z).log_prob(datum) for datum in x], 1)  # [points, N]
    return (log_pi + prior).T.unsqueeze(-1) + p_x


@pytest.mark.parametrize("component", COMPONENTS)
def test_model_side_and_guide_side_sums_both_equal_quadrature(component):
    model, x = mixture_vae(component), binary_patterns(3, D)
    z, cell = plane()
    joint = log_joint_on(model, x, z)
    truth = joint.flatten(0, 1).logsumexp(0) + cell
    for given in (None, SHU):
        torch.manual_seed(5)
        guide = pv.guides.Guide(model, given, network=SMALL).double()
        with torch.no_grad():
            guide.factors["z"].head.bias[LATENT:] = math.log(2.5)  # wide: bounded weights
        bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=20_000)
        error = standard_error(model, guide, x, 20_000)
        assert error.max() < 0.05
        assert ((bound - truth).abs() < 4 * error).all()


def test_the_elbo_with_y_summed_equals_quadrature_and_beats_naming_y():
    model, x = mixture_vae(), binary_patterns(3, D)
    z, cell = plane()
    joint = log_joint_on(model, x, z)
    guide = pv.guides.Guide(model, network=SMALL).double()
    with torch.no_grad():
        log_q = guide.factors["z"](x=x).log_prob(z.unsqueeze(1))  # [points, N]
    truth = (log_q.exp() * (joint.logsumexp(0) - log_q)).sum(0) * math.exp(cell)
    bound = torch.stack([pv.evaluate.elbo(model, guide, x, 500, seed=s) for s in range(40)])
    error = bound.std(0) / math.sqrt(len(bound))
    assert ((bound.mean(0) - truth).abs() < 4 * error).all()
    named = pv.guides.Guide(model, {"y": ["x"], "z": ["x"]}, network=SMALL).double()
    named.factors["z"] = guide.factors["z"]
    # one q(z | x): an exact p(y | x, z) costs nothing, q(y | x) costs its KL to that
    assert (pv.evaluate.elbo(model, named, x, 2000) < truth - 0.01).all()


def test_responsibilities_of_a_summed_y_are_bayes_rule_at_each_sampled_z():
    model, x = mixture_vae(), binary_patterns(5, D)
    guide = pv.guides.Guide(model, network=SMALL).double()
    torch.manual_seed(3)
    with torch.no_grad():
        traces = trace_pair(model, guide, {"x": x}, num_particles=7)
    z = traces.guide["z"]["value"]
    log_pi, means, covariances = components(model)
    joint = log_pi + TorchMultivariateNormal(means, covariances).log_prob(z.unsqueeze(-2))
    actual = traces.probabilities("y")
    assert actual.shape == (7, 5, K)
    torch.testing.assert_close(actual, joint.softmax(-1), atol=1e-12, rtol=1e-9)


def test_responsibilities_average_bayes_rule_over_the_guides_z():
    model, x = mixture_vae(), binary_patterns(4, D)
    guide = pv.guides.Guide(model, network=SMALL).double()
    z, cell = plane()
    log_pi, means, covariances = components(model)
    posterior = (log_pi + TorchMultivariateNormal(means, covariances).log_prob(z[:, None])).softmax(
        -1
    )
    with torch.no_grad():
        q = guide.factors["z"](x=x).log_prob(z.unsqueeze(1)).exp()  # [points, N]
    truth = q.T @ posterior * math.exp(cell)
    actual = torch.stack(
        [pv.evaluate.responsibilities(model, guide, x, num_samples=200, seed=s) for s in range(20)]
    )
    error = actual.std(0) / math.sqrt(len(actual))
    assert ((actual.mean(0) - truth).abs() < 5 * error + 1e-9).all()
    torch.testing.assert_close(actual.sum(-1), torch.ones_like(actual[..., 0]))


def test_responsibilities_of_a_named_y_are_the_guides_softmax():
    model, x = mixture_vae(), binary_patterns(5, D)
    guide = pv.guides.Guide(model, SHU, network=SMALL).double()
    with torch.no_grad():
        truth = guide.factors["y"](x=x).probs
    torch.testing.assert_close(pv.evaluate.responsibilities(model, guide, x), truth)


# ----------------------------------------------------------------------------- GMVAE


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    "given", [None, {"w": ["x"], "z": ["x"], "y": ["x"]}, {"w": ["x"], "z": ["x"], "y": ["w", "z"]}]
)
def test_the_gmvaes_evidence_equals_quadrature_over_w_and_z(component, given):
    torch.manual_seed(0)
    model = pv.models.GMVAE(
        (D,), K, latent_dim=1, w_dim=1, network=SMALL, component=COMPONENTS[component],
        w_network=MLP((6,), "tanh"),
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in model.p_z.head.parameters():
            parameter.mul_(2)
    x = binary_patterns(3, D)
    points, cell = plane(edge=7.0)
    w, z = points[:, :1], points[:, 1:]
    joint = []
    with torch.no_grad():
        p_x = torch.stack([model.p_x(z=z).log_prob(datum) for datum in x], 1)
        for k in range(K):
            y = torch.eye(K, dtype=x.dtype)[k].expand(len(points), K)
            prior = dist.Normal(0.0, 1.0).log_prob(w[:, 0]) + model.p_z(w=w, y=y).log_prob(z)
            joint.append(prior.unsqueeze(-1) + p_x - math.log(K))
    truth = torch.cat(joint).logsumexp(0) + cell
    torch.manual_seed(4)
    guide = pv.guides.Guide(model, given, network=SMALL).double()
    with torch.no_grad():
        guide.factors["w"].head.bias[1] = guide.factors["z"].head.bias[1] = math.log(1.5)
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=20_000)
    error = standard_error(model, guide, x, 20_000)
    assert error.max() < 0.05
    assert ((bound - truth).abs() < 4 * error).all()


def test_a_mixture_of_one_component_is_a_vae():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((3,), 1, 2, "normal", MLP((4,)))
    guide = pv.guides.Guide(model, network=MLP((4,)))
    x = torch.randn(5, 3)
    terms = pv.evaluate.elbo_terms(model, guide, x)
    assert torch.equal(terms["y"], torch.zeros(5))
    assert torch.allclose(pv.evaluate.responsibilities(model, guide, x), torch.ones(5, 1))
