"""p(a | b): the distributions of families, broadcasting of networks, one-line errors."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_vae as pv
from pyro_vae.conditionals import (
    MLP,
    Bernoulli,
    Binomial,
    Categorical,
    Conditional,
    ConstantCorrelationNormal,
    ContinuousBernoulli,
    Conv,
    DiscretizedLogistic,
    GrayBernoulli,
    MixtureOfNormals,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    NormalLikelihood,
    OneHotCategorical,
    Poisson,
    RelaxedOneHotCategorical,
    ResidualMLP,
    likelihood,
)
from pyro_vae.conditionals.conditional import select_head
from pyro_vae.conditionals.families import bounded_log_scale, raw_log_scale
from pyro_vae.conditionals.likelihoods import LIKELIHOODS
from pyro_vae.distributions import LinearOneHotCategorical
from pyro_vae.distributions.one_hot import is_support

SCALE_MIN, SCALE_MAX = math.exp(-7.001), math.exp(7.001)


def doubles(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def close(a, b, **tolerance):
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(a.detach(), torch.as_tensor(b).to(a.dtype), **tolerance)


# ---------------------------------------------------------- log-probs, by other programs


def test_normal_is_scipys():
    loc, raw, value = doubles(5, 3), doubles(5, 3, seed=1), doubles(5, 3, seed=2)
    fn = Normal()((3,), loc, raw)
    scale = np.exp(7 * np.tanh(raw.numpy() / 7))
    close(fn.log_prob(value), scipy.stats.norm.logpdf(value, loc, scale).sum(-1))
    assert fn.batch_shape == (5,) and fn.event_shape == (3,)


def test_multivariate_normal_is_scipys():
    loc, raw, below = doubles(3), doubles(3, seed=1), doubles(3, seed=2)
    value = doubles(6, 3, seed=3)
    fn = MultivariateNormal()((3,), loc, raw, below)
    unit = np.eye(3)
    unit[1, 0], unit[2, 0], unit[2, 1] = below.numpy()
    root = unit / np.exp(7 * np.tanh(raw.numpy() / 7))  # of the precision
    covariance = np.linalg.inv(root.T @ root)
    close(fn.covariance_matrix, covariance)
    truth = scipy.stats.multivariate_normal(loc.numpy(), covariance).logpdf(value.numpy())
    close(fn.log_prob(value), truth)


def test_constant_correlations_are_those_of_one_matrix_at_all_parents():
    q = Conditional((3,), {"x": (4,)}, ConstantCorrelationNormal()).double()
    with torch.no_grad():
        q.unconditional_parameters["below"].copy_(doubles(3, seed=2))
    x, value = doubles(5, 4), doubles(5, 3, seed=3)
    fn = q(x=x)
    unit = torch.eye(3, dtype=torch.float64)
    unit[1, 0], unit[2, 0], unit[2, 1] = q.unconditional_parameters["below"].detach()
    rows = q.head(**q.features(x=x)).detach()  # mean and raw logarithm of the conditional scale
    for row, actual, point in zip(rows, fn.log_prob(value), value, strict=True):
        root = unit / torch.exp(7 * torch.tanh(row[3:] / 7))
        covariance = np.linalg.inv((root.mT @ root).numpy())
        truth = scipy.stats.multivariate_normal(row[:3].numpy(), covariance).logpdf(point.numpy())
        close(actual, truth)
    scale = fn.variance.sqrt()
    correlation = fn.covariance_matrix / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    assert not torch.allclose(scale[0], scale[1])
    torch.testing.assert_close(correlation, correlation[:1].expand(5, 3, 3))


@pytest.mark.parametrize("family", [Normal(), MultivariateNormal(), ConstantCorrelationNormal()])
def test_raw_outputs_give_back_a_mean_and_a_covariance(family):
    loc, root = doubles(2, 3), doubles(2, 3, 3, seed=1)
    covariance = root @ root.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    if isinstance(family, Normal):
        covariance = torch.diag_embed(torch.diagonal(covariance, dim1=-2, dim2=-1))
    raw = family.raw_parameters(loc, covariance)
    sizes = [math.prod(s) for s in family.parameter_shapes((3,)).values()]
    constants = family.raw_unconditional_parameters(covariance)
    fn = family((3,), *raw.split(sizes, -1), **constants)
    close(fn.mean, loc)
    if isinstance(family, Normal):
        close(fn.variance, torch.diagonal(covariance, dim1=-2, dim2=-1))
    else:
        close(fn.covariance_matrix, covariance)


def test_bernoulli_is_scipys():
    logits, value = doubles(4, 2, 3), (doubles(4, 2, 3, seed=1) > 0).double()
    fn = Bernoulli()((2, 3), logits)
    truth = scipy.stats.bernoulli.logpmf(value, scipy.special.expit(logits.numpy()))
    close(fn.log_prob(value), truth.sum((-1, -2)))


@pytest.mark.parametrize("trials", [1, 16, 255])
def test_binomial_proportions_are_scipys_counts(trials):
    logits = doubles(9, scale=3.0).unsqueeze(-1)
    counts = torch.arange(trials + 1, dtype=torch.float64)
    fn = Binomial(trials)((1,), logits.unsqueeze(-1))
    actual = fn.log_prob((counts / trials).unsqueeze(-1))  # [9, trials + 1]
    p = scipy.special.expit(logits.numpy())
    close(actual, scipy.stats.binom.logpmf(counts.numpy(), trials, p), rtol=1e-9, atol=1e-9)
    close(actual.logsumexp(-1), np.zeros(9))  # it sums to one
    close(fn.base_dist.mean, p[..., None])
    close(fn.base_dist.variance, (p * (1 - p) / trials)[..., None])


def test_binomial_is_finite_for_any_logit_in_float32():
    logits = torch.tensor([[-1e4], [-50.0], [50.0], [1e4]], requires_grad=True)
    log_prob = Binomial(16)((1,), logits).log_prob(torch.tensor([0.25]))
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all() and torch.isfinite(logits.grad).all()


def test_binomial_expands_samples_levels_and_refuses_others():
    torch.manual_seed(0)
    fn = Binomial(16)((2,), doubles(3, 2)).expand([1000, 3])
    x = fn.sample()
    assert x.shape == (1000, 3, 2)
    close((x * 16).round() / 16, x)
    assert fn.base_dist.support.check(x).all()
    outside = torch.tensor([0.03, -1 / 16, 17 / 16, math.nan]).reshape(4, 1, 1, 1)
    assert not fn.base_dist.support.check(outside).any()
    error = (fn.variance[0] / 1000).sqrt()
    assert ((x.mean(0) - fn.mean[0]).abs() < 5 * error).all()


@pytest.mark.parametrize("logit", [-20.0, -14.0, -3.0, -0.1, 0.0, 0.05, 2.0, 15.0, 1e3])
def test_continuous_bernoulli_integrates_to_one(logit):
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64).unsqueeze(-1)
    fn = ContinuousBernoulli()((1,), torch.full((1,), logit, dtype=torch.float64))
    total = torch.trapezoid(fn.log_prob(x).exp(), x[:, 0])
    assert total.item() == pytest.approx(1.0, abs=1e-4)
    mean = torch.trapezoid(fn.log_prob(x).exp() * x[:, 0], x[:, 0])
    assert fn.mean.item() == pytest.approx(mean.item(), abs=1e-4)


def test_continuous_bernoulli_is_its_papers_density():
    """C(l) l^x (1 - l)^(1 - x), C(l) = 2 atanh(1 - 2 l) / (1 - 2 l) (arXiv 1907.06845)."""
    logits = torch.tensor([[-2.0], [0.7], [5.0]], dtype=torch.float64)
    x = torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)
    p = logits.sigmoid()
    c = 2 * torch.atanh(1 - 2 * p) / (1 - 2 * p)
    truth = (c.log() + x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    close(ContinuousBernoulli()((1,), logits).log_prob(x), truth)


def test_continuous_bernoulli_is_finite_for_any_logit_in_float32():
    logits = torch.tensor([-1e6, -15.1, -1e-6, 0.0, 1e-6, 15.1, 1e6], requires_grad=True)
    for value in (0.0, 0.3, 1.0):
        log_prob = ContinuousBernoulli()((7,), logits).log_prob(torch.full((7,), value))
        (gradient,) = torch.autograd.grad(log_prob, logits)
        assert torch.isfinite(log_prob) and torch.isfinite(gradient).all()


def test_normal_likelihood_has_one_scale_for_all_fixed_or_learned():
    loc, value = doubles(4, 3), doubles(4, 3, seed=1)
    truth = scipy.stats.norm.logpdf(value, loc, 0.3).sum(-1)
    close(NormalLikelihood(scale=0.3)((3,), loc).log_prob(value), truth)
    learned = NormalLikelihood(scale=0.3, learned=True)
    free = learned.unconditional_parameters((3,))
    assert set(free) == {"log_scale"} and free["log_scale"].shape == ()
    close(learned((3,), loc, **free).log_prob(value), truth, rtol=1e-6, atol=1e-6)
    p_x = Conditional((3,), {"z": (2,)}, learned, MLP((4,)))
    p_x(z=torch.zeros(5, 2)).log_prob(torch.ones(5, 3)).sum().backward()
    assert p_x.unconditional_parameters["log_scale"].grad.abs() > 0


def test_one_hot_categorical_is_the_categorical_and_linear_between():
    logits = doubles(4, 3)
    fn = OneHotCategorical()((3,), logits)
    eye = torch.eye(3, dtype=torch.float64)
    truth = scipy.special.log_softmax(logits.numpy(), -1)
    close(fn.log_prob(eye.unsqueeze(1)).T, truth)
    close(fn.enumerate_support(expand=False).squeeze(1), eye)
    mixed = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    with pyro.validation_enabled(False):
        close(fn.log_prob(mixed), truth @ mixed.numpy())
    y = fn.sample()
    assert (y.sum(-1) == 1).all() and y.shape == (4, 3)


@pytest.mark.parametrize("shape", [(), (5,), (2, 5), (1, 5)])
def test_enumerated_values_select_every_head_and_others_theirs(shape):
    """As a sum over one-hot vectors; values that only look like the support are read."""
    heads = doubles(*shape, 3, 4).requires_grad_()
    weights = doubles(3, *shape, 4, seed=1)
    fn = LinearOneHotCategorical(logits=torch.zeros(*shape, 3, dtype=torch.float64))
    support = fn.enumerate_support(expand=False)
    assert is_support(support) and not is_support(support.clone())
    assert not is_support(support.flip(0)) and not is_support(support[:1])
    for y in (support, support.clone(), support.flip(0)):
        selected = select_head(y, heads)
        expected = (y.unsqueeze(-1) * heads).sum(-2)
        assert torch.equal(selected, expected) and selected.shape == (3, *shape, 4)
        gradients = (torch.autograd.grad((v * weights).sum(), heads) for v in (selected, expected))
        torch.testing.assert_close(*gradients)


def test_relaxed_one_hot_samples_the_simplex_with_a_gradient():
    logits = doubles(400, 3).requires_grad_()
    fn = RelaxedOneHotCategorical(0.5)((3,), logits=logits)
    y = fn.rsample()
    close(y.sum(-1), np.ones(400))
    assert (y >= 0).all()
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), logits)
    assert gradient.abs().sum() > 0
    close(fn.log_prob(torch.eye(3, dtype=torch.float64)[0]), logits.log_softmax(-1)[:, 0].detach())


def test_gray_bernoulli_scores_any_value_and_is_not_a_probability():
    logits, gray = doubles(2, 4), torch.full((2, 4), 0.3, dtype=torch.float64)
    fn = GrayBernoulli()((4,), logits)
    truth = 0.3 * logits - torch.nn.functional.softplus(logits)
    close(fn.log_prob(gray), truth.sum(-1))
    assert not GrayBernoulli().proper and Bernoulli().proper
    assert fn.expand([3, 2]).log_prob(gray).shape == (3, 2)
    with pytest.raises(ValueError, match="support"):
        Bernoulli()((4,), logits).log_prob(gray)


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_discretized_logistic_is_scipys_mass_of_a_bin_and_sums_to_one(levels):
    loc, raw = doubles(7, 1, scale=0.7), doubles(7, 1, seed=1, scale=2.0)
    fn = DiscretizedLogistic(levels)((1,), loc, raw)
    x = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    actual = fn.log_prob(x[:, None, None])  # [levels, 7]
    distribution = scipy.stats.logistic(
        loc.numpy() + 0.5, np.exp(7 * np.tanh((raw.numpy() - 3) / 7))
    )
    h = 0.5 / (levels - 1)
    upper = np.where(x.numpy() > 1 - h, 1, distribution.cdf(x.numpy() + h)).T
    lower = np.where(x.numpy() < h, 0, distribution.cdf(x.numpy() - h)).T
    close(actual.exp(), upper - lower, rtol=1e-9, atol=1e-12)
    close(actual.logsumexp(0), np.zeros(7))
    mean = (actual.exp() * x[:, None]).sum(0)
    close(fn.mean[:, 0], mean)
    close(fn.variance[:, 0], (actual.exp() * x[:, None] ** 2).sum(0) - mean**2)


@pytest.mark.parametrize("loc", [-1e4, -3.0, 0.0, 0.5, 1e4])
@pytest.mark.parametrize("raw", [-1e4, -3.0, 0.0, 1e4])
def test_discretized_logistic_keeps_its_digits_in_the_tails_in_float32(loc, raw):
    x = torch.arange(256) / 255

    def log_prob(dtype):
        parameters = [torch.full((1,), v, dtype=dtype, requires_grad=True) for v in (loc, raw)]
        actual = DiscretizedLogistic()((1,), *parameters).log_prob(x.to(dtype)[:, None])
        return actual, torch.autograd.grad(actual.sum(), parameters)

    (single, gradients), (exact, _) = log_prob(torch.float32), log_prob(torch.float64)
    assert torch.isfinite(single).all() and all(torch.isfinite(g).all() for g in gradients)
    torch.testing.assert_close(single.double(), exact, rtol=2e-4, atol=2e-4)
    if abs(loc) < 10:  # beyond, one level has all mass to the last digit
        torch.testing.assert_close(single.exp().sum(), torch.tensor(1.0), rtol=0, atol=2e-5)


def test_categorical_levels_are_scipys_and_can_have_any_probabilities():
    logits = doubles(4, 2, 17)
    fn = Categorical(17)((2,), logits)
    x = torch.tensor([3 / 16, 1.0], dtype=torch.float64)
    p = scipy.special.softmax(logits.numpy(), -1)
    close(fn.log_prob(x), np.log(p[:, 0, 3]) + np.log(p[:, 1, 16]))
    grid = np.arange(17) / 16
    close(fn.mean, p @ grid)
    close(fn.variance, p @ grid**2 - (p @ grid) ** 2)
    every = torch.cartesian_prod(*[torch.tensor(grid)] * 2)
    close(fn.log_prob(every.unsqueeze(1)).logsumexp(0), np.zeros(4))


def test_poisson_is_scipys():
    raw, x = doubles(5, 3), torch.tensor([0.0, 4.0, 30.0], dtype=torch.float64)
    rate = np.exp(15 * np.tanh(raw.numpy() / 15))
    close(Poisson()((3,), raw).log_prob(x), scipy.stats.poisson.logpmf(x, rate).sum(-1))


def test_negative_binomial_is_scipys_and_tends_to_poisson():
    raw, log_r = doubles(5, 3), doubles(3, seed=1)
    x = torch.tensor([0.0, 4.0, 30.0], dtype=torch.float64)
    mean, r = np.exp(15 * np.tanh(raw.numpy() / 15)), np.exp(7 * np.tanh(log_r.numpy() / 7))
    fn = NegativeBinomial()((3,), raw, log_r)
    close(fn.log_prob(x), scipy.stats.nbinom.logpmf(x, r, r / (r + mean)).sum(-1))
    close(fn.mean, mean)
    close(fn.variance, mean + mean**2 / r)
    flat = NegativeBinomial()((3,), raw, torch.full((3,), 1e6, dtype=torch.float64))
    close(flat.log_prob(x[:1]), Poisson()((3,), raw).log_prob(x[:1]), rtol=0.02, atol=0.02)


LEVELS = {
    "discretized logistic": (DiscretizedLogistic(5), 4),
    "discretized logistic, a scale a pixel": (DiscretizedLogistic(5, learned_scale=True), 4),
    "categorical": (Categorical(5), 4),
    "poisson": (Poisson(), 1),
    "negative binomial": (NegativeBinomial(), 1),
}


@pytest.mark.parametrize("name", LEVELS)
def test_draws_of_discrete_likelihoods_have_their_mean_variance_and_frequencies(name):
    family, steps = LEVELS[name]
    torch.manual_seed(0)
    p = Conditional((2,), {"z": (3,)}, family, MLP(())).double()
    fn = p(z=doubles(1, 3, seed=3)).expand([40_000])
    x = fn.sample()
    assert x.shape == (40_000, 2) and fn.base_dist.support.check(x).all()
    mean, error = fn.mean[0], (fn.variance[0] / 40_000).sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * error).all()
    close(x.var(0), fn.variance[0], rtol=0.1, atol=0)
    for k in range(3):
        probability = fn.base_dist.log_prob(torch.full((2,), k / steps).double())[0].exp()
        bound = 5 * (probability * (1 - probability) / 40_000).sqrt() + 1e-4
        assert (((x == k / steps).double().mean(0) - probability).abs() < bound).all()


@pytest.mark.parametrize("size", [1e2, 1e30])
@pytest.mark.parametrize("name", LEVELS)
def test_no_network_output_makes_a_discrete_likelihood_infinite(name, size):
    family, steps = LEVELS[name]
    for sign in (1, -1):
        outputs = {
            **family.parameter_shapes((3,)),
            **{k: v.shape for k, v in family.unconditional_parameters((3,)).items()},
        }
        raw = {k: torch.full(s, sign * size).requires_grad_() for k, s in outputs.items()}
        if name == "categorical":  # equal logits: rounding at 1e30 aside, a uniform distribution
            raw = {"logits": torch.full((3, 5), sign * 1e2).requires_grad_()}
        actual = family((3,), **raw).log_prob(torch.tensor([0.0, 1 / steps, 4 / steps]))
        gradients = torch.autograd.grad(actual, list(raw.values()))
        assert torch.isfinite(actual) and all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("discretized-logistic", 0.5, "multiples of 1/255 in .*set levels="),
        ("categorical", -1 / 255, "multiples of 1/255"),
        ("poisson", 0.5, "counts are whole numbers"),
        ("negative-binomial", -1.0, "counts are whole numbers"),
    ],
)
def test_data_that_a_discrete_likelihood_cannot_have_are_refused(name, value, message):
    model = pv.models.VAE((3,), 2, name, MLP((4,)))
    x = torch.zeros(20, 3)
    x[17, 1] = value
    with pytest.raises(pv.UserError, match=message):
        pv.fit(model, pv.guides.Guide(model), x, epochs=1, batch_size=5, progress=False)


def test_levels_can_be_set_of_likelihoods_that_have_them():
    assert likelihood("categorical", levels=17) == Categorical(17)
    assert likelihood("discretized-logistic", 2) == DiscretizedLogistic(2)
    with pytest.raises(pv.UserError, match="'poisson' has no levels"):
        likelihood("poisson", levels=3)
    with pytest.raises(pv.UserError, match="levels must be an integer >= 2, got 1"):
        likelihood("categorical", levels=1)


def test_families_have_names():
    assert likelihood("bernoulli") == Bernoulli()
    assert likelihood(Binomial(255)) == Binomial(255)
    with pytest.raises(
        pv.UserError, match="unknown likelihood 'bernouli'; did you mean 'bernoulli'"
    ):
        likelihood("bernouli")
    with pytest.raises(pv.UserError, match="a likelihood is a name or a Family, not int"):
        likelihood(3)


# ------------------------------------------------------------------------ bounded scales


@pytest.mark.parametrize("size", [1.0, 1e2, 1e6, 1e30])
@pytest.mark.parametrize("family", [Normal(), MultivariateNormal()])
def test_no_network_output_makes_a_scale_zero_or_infinite(family, size):
    raw = {
        name: torch.full((2, *shape), sign * (size if name == "log_scale" else 1.0))
        .requires_grad_()
        for (name, shape), sign in zip(family.parameter_shapes((3,)).items(), (1, -1, 1), strict=False)
    }  # fmt: skip
    for sign in (1, -1):
        values = {**raw, "log_scale": (sign * raw["log_scale"]).detach().requires_grad_()}
        fn = family((3,), **values)
        scale = fn.variance.sqrt()
        assert torch.isfinite(scale).all() and (scale > 0.9 * SCALE_MIN).all()
        log_prob = fn.log_prob(torch.zeros(3)).sum()
        gradients = torch.autograd.grad(log_prob, list(values.values()))
        assert torch.isfinite(log_prob) and all(torch.isfinite(g).all() for g in gradients)


@given(st.floats(-1e6, 1e6))
def test_bounded_log_scale_is_bounded_odd_and_its_inverse_undoes_it(raw):
    raw = torch.tensor(raw, dtype=torch.float64)
    log_scale = bounded_log_scale(raw)
    assert -7 <= log_scale <= 7
    assert torch.equal(bounded_log_scale(-raw), -log_scale)
    if raw.abs() < 15:
        close(raw_log_scale(log_scale), raw, rtol=1e-6, atol=1e-9)
    if raw.abs() < 1e-2:
        close(log_scale, raw, rtol=1e-5, atol=1e-12)


# ----------------------------------------------------------------- broadcasting of parents


def distribution(fn):
    """Every parameter of a distribution that a network makes."""
    base = getattr(fn, "base_dist", fn)
    known = ("loc", "scale", "scale_tril", "logits", "rate", "gate_logits", "log_mean")
    names = [n for n in known if n in base.__dict__]
    return [getattr(base, n) for n in names]


def assert_same_distribution(a, b):
    assert a.batch_shape == b.batch_shape and a.event_shape == b.event_shape
    for one, other in zip(distribution(a), distribution(b), strict=True):
        torch.testing.assert_close(one.expand(other.shape), other)


NETWORKS = {
    "linear": MLP(()),
    "mlp": MLP((6, 5), "tanh"),
    "residual": ResidualMLP((6, 5), "tanh"),
    "conv": Conv((2, 3), (6,), "tanh"),
}


@pytest.mark.parametrize("family", [Normal(), MultivariateNormal()])
@pytest.mark.parametrize("network", NETWORKS)
def test_an_enumerated_y_is_as_good_as_copies_of_x(network, family):
    k, b = 3, 5
    q = Conditional((2,), {"x": (1, 7, 6), "y": (k,)}, family, NETWORKS[network]).double()
    x, y = doubles(b, 1, 7, 6), torch.eye(k, dtype=torch.float64)
    enumerated = q(x=x, y=y.unsqueeze(1))
    copies = q(x=x.expand(k, b, 1, 7, 6), y=y.unsqueeze(1).expand(k, b, k))
    assert enumerated.batch_shape == (k, b)
    assert_same_distribution(enumerated, copies)


@pytest.mark.parametrize("family", [ConstantCorrelationNormal(), MixtureOfNormals(2)])
def test_each_head_has_its_own_unconditional_parameters(family):
    k, b = 3, 5
    p = Conditional((2,), {"w": (4,), "y": (k,)}, family, head_index="y").double()
    own = dict(p.unconditional_parameters)
    with torch.no_grad():
        for value in own.values():
            assert value.shape[0] == k
            value.copy_(doubles(*value.shape))
    w, y, z = doubles(b, 4), torch.eye(k, dtype=torch.float64), doubles(b, 2, seed=1)
    raw = p.head(**p.features(w=w)).reshape(b, k, p.size)
    expected, shapes = [], p.parameter_shapes.items()
    for i in range(k):
        parts = raw[:, i].split([math.prod(s) for _, s in shapes], -1)
        values = {n: v.reshape(b, *s) for (n, s), v in zip(shapes, parts, strict=True)}
        one = family((2,), **values, **{name: value[i] for name, value in own.items()})
        expected.append(one.log_prob(z))
        close(p(w=w, y=y[i].expand(b, k)).log_prob(z).detach(), expected[-1].detach())
    support = LinearOneHotCategorical(logits=torch.zeros(k).double()).enumerate_support()
    for every_y in (y.unsqueeze(1), support.reshape(k, 1, k)):
        close(p(w=w, y=every_y).log_prob(z).detach(), torch.stack(expected).detach())


@pytest.mark.parametrize("network", NETWORKS)
def test_selected_heads_are_each_components_own(network):
    k, b = 3, 5
    size = (1, 2, 2) if network == "conv" else (4,)
    p = Conditional(
        (2,), {"w": size, "y": (k,)}, Normal(), NETWORKS[network], head_index="y"
    ).double()
    w, y = doubles(b, *size), torch.eye(k, dtype=torch.float64)
    enumerated = p(w=w, y=y.unsqueeze(1))
    assert_same_distribution(
        enumerated, p(w=w.expand(k, b, *size), y=y.unsqueeze(1).expand(k, b, k))
    )
    raw = p.head(**p.features(w=w, y=y)).reshape(b, k, 4)  # the K heads, none selected
    for i in range(k):
        one = p(w=w, y=y[i].expand(b, k))
        close(one.base_dist.loc, raw[:, i, :2].detach())
    # a y enumerated left of particles, over a w with particles
    many = p(w=doubles(7, b, *size), y=y.reshape(k, 1, 1, k))
    assert many.batch_shape == (k, 7, b)


left = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(left, st.sampled_from(sorted(NETWORKS)), st.sampled_from(sorted(LIKELIHOODS)))
def test_any_leftmost_dimensions_are_a_batch(batch, network, name):
    torch.manual_seed(0)
    p = Conditional((1, 4, 4), {"z": (3,), "c": (2,)}, likelihood(name), NETWORKS[network]).double()
    z, c = doubles(*batch, 3), doubles(*batch, 2, seed=1)
    fn = p(z=z, c=c)
    assert fn.batch_shape == batch and fn.event_shape == (1, 4, 4)
    rows = p(z=z.reshape(-1, 3), c=c.reshape(-1, 2))
    (parameter, *_), (row, *_) = distribution(fn), distribution(rows)
    torch.testing.assert_close(parameter.reshape(row.shape), row)


@settings(max_examples=60, deadline=None)
@given(left, st.data())
def test_parents_meet_as_torch_broadcasts(batch, data):
    """A parent may lack leftmost dimensions, or have size one there."""

    def thinned():
        keep = data.draw(st.integers(0, len(batch)))
        shape = batch[len(batch) - keep :]
        return tuple(data.draw(st.sampled_from([1, n])) for n in shape)

    torch.manual_seed(0)
    q = Conditional((2,), {"a": (3,), "b": (2, 2)}, Normal(), NETWORKS["mlp"]).double()
    a, b = doubles(*thinned(), 3), doubles(*thinned(), 2, 2, seed=1)
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-2])
    assert_same_distribution(q(a=a, b=b), q(a=a.expand(*shape, 3), b=b.expand(*shape, 2, 2)))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_wrong_shape_raises_with_the_parents_name(network):
    q = Conditional((1, 4, 4), {"z": (3,)}, Normal(), NETWORKS[network])
    with pytest.raises(
        pv.UserError, match=r"'z' has shape \[5, 4\], but .* built for \[\.\.\., 3\]"
    ):
        q(z=torch.zeros(5, 4))


@pytest.mark.parametrize("shape", [(1, 7, 8), (2, 8, 8), (1, 4, 16), (8, 8), (64,)])
@pytest.mark.parametrize("network", ["linear", "mlp", "conv"])
def test_a_wrong_image_raises_with_the_parents_name(network, shape):
    """An image of another shape and the same number of pixels is wrong too."""
    q = Conditional((2,), {"x": (1, 8, 8)}, Normal(), NETWORKS[network])
    with pytest.raises(pv.UserError) as error:
        q(x=torch.zeros(5, *shape))
    actual = str(error.value)
    assert f"'x' has shape {[5, *shape]}" in actual and "[..., 1, 8, 8]" in actual


def test_a_residual_network_is_its_formula():
    """h0 = A x + B y + b; h <- S h + W2 tanh(W1 tanh(h) + c1) + c2; tanh(h) are the features."""
    q = Conditional((2,), {"x": (3,), "y": (2,)}, Normal(), ResidualMLP((4, 4, 5), "tanh")).double()
    x, y = doubles(6, 3), doubles(6, 2, seed=1)
    w = {n: p.detach().numpy() for n, p in q.trunk.named_parameters()}
    h = x.numpy() @ w["first.maps.x.weight"].T + y.numpy() @ w["first.maps.y.weight"].T
    h = h + w["first.bias"]
    for i in range(3):
        block = f"blocks.{i}"
        inner = np.tanh(h) @ w[f"{block}.residual.1.weight"].T + w[f"{block}.residual.1.bias"]
        outer = np.tanh(inner) @ w[f"{block}.residual.3.weight"].T + w[f"{block}.residual.3.bias"]
        skip = w.get(f"{block}.skip.weight", np.eye(4))
        assert ("skip.weight" in "".join(n for n in w if n.startswith(block))) == (i == 2)
        h = h @ skip.T + outer
    close(q.features(x=x, y=y)["features"], np.tanh(h))


# ----------------------------------------------------------------------- no parents, tables


@pytest.mark.parametrize("network", NETWORKS)
def test_without_parents_the_parameters_are_learned_constants(network):
    p = Conditional((4,), {}, Normal(), NETWORKS[network])
    fn = p()
    assert fn.batch_shape == () and fn.event_shape == (4,)
    assert [q.shape for q in p.parameters()] == [(8,)]
    close(fn.base_dist.loc, np.zeros(4))
    close(fn.base_dist.scale, np.ones(4))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_parent_index_is_a_row_per_datum(network):
    q = Conditional((4,), {"index": (10,)}, Normal(), NETWORKS[network])
    with torch.no_grad():
        q.head.maps["index"].rows.copy_(torch.arange(80.0).reshape(10, 8))
    loc = q(index=torch.tensor([7, 0])).base_dist.loc
    close(loc, [[56.0, 57, 58, 59], [0, 1, 2, 3]], rtol=0, atol=1e-4)


def test_conditionals_of_the_same_parents_may_share_a_trunk():
    a = Conditional((2,), {"x": (3,)}, Normal(), NETWORKS["mlp"])
    b = Conditional((4,), {"x": (3,)}, Normal(), NETWORKS["mlp"], trunk=a.trunk)
    x = torch.randn(5, 3)
    assert b.trunk is a.trunk
    assert_same_distribution(b(x=x), b(features=a.features(x=x), x=x))


# ------------------------------------------------------------------------ image networks


@pytest.mark.parametrize("side", [1, 2, 5, 7, 8, 13, 28])
@pytest.mark.parametrize("channels", [(2,), (2, 3), (2, 3, 4)])
def test_convolutions_give_back_images_of_any_size(side, channels):
    shape = (2, side, side + 1)
    network = Conv(channels, (6,))
    p_x = Conditional(shape, {"z": (3,)}, Bernoulli(), network)
    x = p_x(z=torch.zeros(4, 3)).sample()
    assert x.shape == (4, *shape)
    q_z = Conditional((3,), {"x": shape}, Normal(), network)
    assert q_z(x=x).batch_shape == (4,)


@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 8, 8), (1, 28, 28), (3, 5, 9)])
def test_every_pixel_of_a_convolutional_decoder_depends_on_z(shape):
    p_x = Conditional(shape, {"z": (3,)}, Bernoulli(), Conv((3, 4), (6,), "tanh")).double()
    a, b = (p_x(z=doubles(1, 3, seed=s)).base_dist.logits for s in (1, 2))
    assert (a != b).all()


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, torch.nn.modules.conv._ConvNd)]


@pytest.mark.parametrize("family", ["normal", "categorical", "discretized-logistic"])
@pytest.mark.parametrize(
    "shape", [(2, 64), (1, 1), (3, 7), (1, 8, 8), (2, 5, 6), (1, 4, 5, 6), (2, 1, 3, 8)]
)
def test_convolutions_have_the_dimensions_of_the_data_and_gradients_reach_them(shape, family):
    """(C, L), (C, H, W), (C, D, H, W): Conv1d, Conv2d, Conv3d, odd sides and enumerated y too."""
    torch.manual_seed(0)
    network, dims, k, b = Conv((2, 3), (6,), "tanh"), len(shape) - 1, 2, 4
    given = {"z": (3,), "y": (k,)}
    p_x = Conditional(shape, given, likelihood(family), network).double()
    q_z = Conditional((3,), {"x": shape, "y": (k,)}, Normal(), network).double()
    kinds = [getattr(torch.nn, f"{name}{dims}d") for name in ("ConvTranspose", "Conv")]
    for conditional, kind in zip((p_x, q_z), kinds, strict=True):
        assert [type(m) for m in convolutions(conditional)] == [kind, kind]
    y = torch.eye(k, dtype=torch.float64).unsqueeze(1)  # enumerated
    x = torch.bernoulli(torch.full((b, *shape), 0.5, dtype=torch.float64))
    z = q_z(x=x, y=y).rsample()
    fn = p_x(z=z, y=y)
    assert fn.batch_shape == (k, b) and fn.event_shape == shape
    assert fn.sample().shape == (k, b, *shape)
    copies = p_x(z=z, y=y.expand(k, b, k))
    close(fn.log_prob(x), copies.log_prob(x).detach())
    fn.log_prob(x).sum().backward()
    for m in convolutions(p_x) + convolutions(q_z):
        assert m.weight.grad.abs().max() > 0


def test_a_convolution_is_local():
    """The first layer of a signal's encoder sees three neighbors, not the whole signal."""
    q = Conditional((2,), {"x": (1, 16)}, Normal(), Conv((2,), (4,))).double()
    (layer,) = convolutions(q)
    x = torch.zeros(1, 1, 16, dtype=torch.float64)
    moved = x.clone()
    moved[..., 7] = 1
    changed = (layer(moved) != layer(x)).any(1)[0].nonzero().flatten()
    assert changed.tolist() == [3, 4]


@pytest.mark.parametrize("shape", [(64,), (1, 2, 3, 4, 5)])
def test_conv_on_data_without_convolutions_raises_one_line(shape):
    conv, x = Conv((2,), (4,)), "data of shape .C, L., .C, H, W. or .C, D, H, W."
    with pytest.raises(pv.UserError, match=x):
        pv.models.VAE(shape, 2, network=conv)
    model = pv.models.VAE(shape, 2, network=MLP((4,)))
    with pytest.raises(pv.UserError, match=x):
        pv.guides.Guide(model, network=conv)
    with pytest.raises(pv.UserError, match=x):
        Conditional((2,), {"x": shape}, Normal(), conv)


def test_latents_of_a_convolutional_pair_have_the_fully_connected_layers():
    conv = Conv((2,), (4,), "tanh")
    model = pv.models.M1M2((1, 8, 8), 3, 2, network=conv)
    guide = pv.guides.Guide(model, network=conv)
    assert not convolutions(model.p_z1) and not convolutions(guide.factors["z2"])
    assert convolutions(model.p_x) and convolutions(guide.factors["z1"])
    assert [type(m) for m in guide.factors["y"].trunk.rest] == [torch.nn.Tanh]


@pytest.mark.parametrize("training", ["stratified", "uniform"])
def test_parameters_of_a_vector_are_never_taken_for_an_image(training):
    """A mixture's `loc [K, D]` or a vector's levels `[D, L]` have two dimensions, and are none."""
    conv = Conv((2,), (4,))
    q = Conditional((5,), {"x": (1, 8)}, pv.conditionals.MixtureOfNormals(3, training), conv)
    p = Conditional((5,), {"x": (1, 8)}, Categorical(4), conv)
    for conditional in (q, p):
        assert [type(m) for m in convolutions(conditional)] == [torch.nn.Conv1d]
        assert conditional(x=torch.zeros(2, 1, 8)).event_shape == (5,)


def test_a_convolutional_decoders_channels_are_its_pixels_levels():
    p_x = Conditional((2, 5, 6), {"z": (3,)}, Categorical(4), Conv((3,), (6,))).double()
    z = doubles(1, 3)
    before = p_x(z=z).base_dist.logits
    with torch.no_grad():
        p_x.head.rest[-1].bias[1 * 4 + 2] += 1  # plane 1, level 2
    change = (p_x(z=z).base_dist.logits - before).detach()
    expected = torch.zeros(1, 2, 5, 6, 4, dtype=torch.float64)
    expected[:, 1, :, :, 2] = 1
    close(change, expected)


def test_unknown_activations_raise_with_the_nearest_name():
    with pytest.raises(pv.UserError, match="unknown activation 'rleu'; did you mean 'relu'"):
        Conditional((2,), {"x": (3,)}, Normal(), MLP((4,), "rleu"))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MLP((0,)), r"hidden must be integers >= 1, got \(0,\)"),
        (lambda: MLP((8, -3)), "hidden must be integers"),
        (lambda: Conv((0,)), "channels must be integers"),
        (lambda: Conv(()), "needs channels and a hidden layer"),
        (lambda: ResidualMLP(()), "needs the width of at least one block"),
        (lambda: ResidualMLP((4, 0)), "hidden must be integers"),
        (lambda: ResidualMLP((4,), "rleu"), "unknown activation 'rleu'"),
        (lambda: Conv(hidden=()), "needs channels and a hidden layer"),
        (lambda: pv.models.VAE((4,), 0), "latent_dim must be an integer >= 1, got 0"),
        (lambda: pv.models.MixtureVAE((4,), 0), "num_components must be an integer"),
        (lambda: pv.models.GMVAE((4,), w_dim=-1), "w_dim must be an integer"),
    ],
)
def test_impossible_sizes_raise_at_construction(make, message):
    with pytest.raises(pv.UserError, match=message):
        make()


def test_descriptions_are_values_not_state():
    """A family or network can be used twice, compared and hashed."""
    assert MLP((3,)) == MLP((3,)) and hash(Conv()) == hash(Conv())
    network, family = MLP((3,)), Normal()
    a, b = (Conditional((2,), {"x": (3,)}, family, network) for _ in range(2))
    own = {p.data_ptr() for p in a.parameters()}
    assert not own & {p.data_ptr() for p in b.parameters()}
    assert isinstance(a(x=torch.zeros(3)), dist.Independent)
