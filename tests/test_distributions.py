"""Log-densities and their gradients over the whole line, against mpmath with 50 digits."""

import itertools
import math
from functools import partial

import mpmath as mp
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_vae as pv
from pyro_vae.conditionals import Bernoulli, ContinuousBernoulli, NormalLikelihood
from pyro_vae.distributions import (
    BinomialProportion,
    CategoricalLevels,
    DiscretizedLogistic,
    LinearOneHotCategorical,
    NegativeBinomial,
    Poisson,
    one_hot,
)
from pyro_vae.distributions.continuous_bernoulli import SERIES
from pyro_vae.programs.recorder import record

mp.mp.dps = 50
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def softplus(t):
    return mp.log1p(mp.exp(t)) if t < 0 else t + mp.log1p(mp.exp(-t))


def of(fn):
    """The distribution of one value, of a family's independent values."""
    return getattr(fn, "base_dist", fn)


def error(actual, exact):
    """Relative to the exact value where that is large; absolute where it is small."""
    return float(abs(mp.mpf(float(actual)) - exact) / max(1, abs(exact)))


# ---------------------------------------------------------------- continuous Bernoulli

SIZES = [0, 1e-30, 1e-8, 1e-4, 1e-3, 0.1, 0.5, 0.999999, 1, 1.000001, 1.1, 2, 5, 12]
SIZES += [15, 16, 20, 30, 88, 100, 300, 1e3, 1e4]
LOGITS = sorted({sign * size for size in SIZES for sign in (-1.0, 1.0)})
VALUES = [0, 1e-6, 1e-3, 0.3, 0.5, 0.999, 1]


def exact_continuous_bernoulli(eta, x):
    """log p(x), its mean and variance; the moments by their limits where digits would cancel."""
    size = abs(eta)
    if size < mp.mpf("1e-10"):
        return eta * (x - mp.mpf(1) / 2), mp.mpf(1) / 2 + eta / 12, mp.mpf(1) / 12
    log_p = -size * (1 - x if eta > 0 else x) + mp.log(-size / mp.expm1(-size))
    below = 1 / size - 1 / mp.expm1(size)
    variance = 1 / size**2 - 1 / (4 * mp.sinh(size / 2) ** 2)
    return log_p, below if eta < 0 else 1 - below, variance


@pytest.mark.parametrize("dtype, tolerance", [("float32", 3e-6), ("float64", 5e-14)])
def test_continuous_bernoulli_is_exact_on_the_whole_line(dtype, tolerance):
    """Value, first and second derivative in the logit, derivative in x, mean and variance."""
    for logit, value in itertools.product(LOGITS, VALUES):
        eta = torch.tensor([logit], dtype=DTYPES[dtype], requires_grad=True)
        x = torch.tensor([value], dtype=DTYPES[dtype], requires_grad=True)
        fn = of(ContinuousBernoulli()((1,), eta))
        log_p = fn.log_prob(x)
        first, in_x = torch.autograd.grad(log_p, (eta, x), create_graph=True)
        (second,) = torch.autograd.grad(first, eta)
        eta_, x_ = (mp.mpf(v.item()) for v in (eta, x))
        exact, mean, variance = exact_continuous_bernoulli(eta_, x_)
        where = f"logit {logit}, x {value}"
        assert error(log_p.item(), exact) < tolerance, where
        assert error(first.item(), x_ - mean) < tolerance, where
        assert in_x.item() == eta.item(), where
        for name, actual, moment in (
            ("second derivative", -second, variance),
            ("mean", fn.mean, mean),
            ("variance", fn.variance, variance),
        ):
            assert abs(mp.mpf(actual.item()) - moment) < tolerance * moment, f"{name} at {where}"


def test_continuous_bernoulli_is_far_from_clamped_at_a_saturated_pixel():
    """784 saturated pixels at logit 100: log p = 784 log(100), with mean 0.99."""
    fn = ContinuousBernoulli()((784,), torch.full((784,), 100.0))
    assert fn.log_prob(torch.ones(784)).item() == pytest.approx(784 * math.log(100), rel=1e-6)
    assert fn.mean[0].item() == pytest.approx(0.99, rel=1e-6)


def test_the_series_of_the_continuous_bernoulli_is_log_sinh():
    exact = mp.taylor(lambda t: mp.log(mp.sinh(t / 2) / (t / 2)) if t else mp.mpf(0), 0, 6)
    assert SERIES[:3] == pytest.approx([float(exact[n]) for n in (2, 4, 6)], rel=1e-12)


def test_continuous_bernoulli_has_finite_gradients_where_the_branches_are_mixed():
    logits = torch.tensor([-1e30, -1e4, -1.0, -1e-30, 0.0, 0.5, 1.0, 1e4, 1e30])
    for value in (0.0, 0.4, 1.0):
        logits = logits.detach().requires_grad_()
        fn = of(ContinuousBernoulli()((9,), logits))
        total = fn.log_prob(torch.tensor(value)).sum() + fn.mean.sum() + fn.variance.sum()
        (first,) = torch.autograd.grad(total, logits, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), logits)
        assert (
            torch.isfinite(total) and torch.isfinite(first).all() and torch.isfinite(second).all()
        )


def test_continuous_bernoulli_is_recorded_without_control_flow():
    """A recording made on one side of the branch is right on the other."""

    def gradient(logits, x):
        logits = logits.detach().requires_grad_()
        log_p = of(ContinuousBernoulli()((3,), logits)).log_prob(x)
        return torch.autograd.grad(log_p.sum(), logits)[0]

    small, large = torch.tensor([0.1, 0.0, -0.3]), torch.tensor([20.0, -1e3, 1.5])
    x = torch.tensor([0.2, 0.0, 1.0])
    with pyro.validation_enabled(False):
        graph, reads = record(gradient, [small, x])
    torch.testing.assert_close(graph(*reads, large, x), gradient(large, x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logit", [-1e4, -3.0, -1e-4, 0.0, 0.9, 1.1, 30.0])
def test_draws_of_a_continuous_bernoulli_have_its_distribution_function(logit, dtype):
    torch.manual_seed(0)
    fn = of(ContinuousBernoulli()((1,), torch.tensor([logit], dtype=DTYPES[dtype])))
    x = fn.sample((5000,)).squeeze(-1)
    assert x.dtype == DTYPES[dtype] and ((x >= 0) & (x <= 1)).all()

    def cdf(x):
        return x if abs(logit) < 1e-3 else _truncated_exponential(x, logit)

    assert scipy.stats.kstest(x.double().numpy(), cdf).pvalue > 0.01


def _truncated_exponential(x, logit):
    if logit > 0:
        return 1 - _truncated_exponential(1 - x, -logit)
    return scipy.special.expm1(logit * x) / math.expm1(logit)


# ------------------------------------------------------------------- the others, float32


def exact_bernoulli(logit, x):
    return x * logit - softplus(logit)


def exact_proportion(trials):
    def log_p(logit, k):
        k = mp.nint(k * trials)
        choose = mp.log(mp.binomial(trials, k))
        return choose - k * softplus(-logit) - (trials - k) * softplus(logit)

    return log_p


def exact_poisson(log_rate, x):
    return x * log_rate - mp.exp(log_rate) - mp.loggamma(x + 1)


def exact_negative_binomial(log_mean, log_r, x):
    r, logit = mp.exp(log_r), log_mean - log_r
    choose = mp.loggamma(x + r) - mp.loggamma(x + 1) - mp.loggamma(r)
    return choose - r * softplus(logit) - x * softplus(-logit)


def exact_discretized_logistic(loc, scale, x):
    top = 255
    k, half = mp.nint(x * top), mp.mpf(1) / (2 * top)
    a, b = (k / top - half - loc) / scale, (k / top + half - loc) / scale
    if k == 0:
        return -softplus(-b)
    if k == top:
        return -softplus(a)
    return -softplus(-b) - softplus(a) + mp.log(-mp.expm1(a - b))


def exact_normal(loc, x):
    return -(((x - loc) / mp.mpf("0.5")) ** 2) / 2 - mp.log(mp.mpf("0.5")) - mp.log(2 * mp.pi) / 2


WIDE = [0.0, 1e-4, -1e-4, 0.3, -1.0, 5.0, -15.0, 15.0, 20.5, -100.3, 100.3, -1e4, 1e4]
COUNTS = [0.0, 1.0, 7.0, 1e3, 1e5, 3e6]
LOG_RATES = [-15.0, -3.0, 0.0, 0.1, 5.0, 11.5, 14.9]
MODES = [(math.log(x), x) for x in COUNTS[1:]]
CASES = {  # constructor, exact log-density, parameters with a value, tolerances of value, gradient
    "bernoulli": (
        lambda logit: of(Bernoulli()((1,), logit)),
        exact_bernoulli,
        itertools.product(WIDE, (0.0, 1.0)),
        (1e-6, 1e-6),
    ),
    **{
        f"binomial, {n} trials": (
            lambda logit, n=n: BinomialProportion(n, logit),
            exact_proportion(n),
            itertools.product(WIDE, [k / n for k in (0, 1, n // 3, n - 1, n)]),
            (1e-6, 1e-6),
        )
        for n in (16, 255, 65535)
    },
    "poisson": (
        Poisson,
        exact_poisson,
        [*itertools.product(LOG_RATES, COUNTS), *MODES],
        (1e-7, 1e-6),
    ),
    "negative binomial": (
        NegativeBinomial,
        exact_negative_binomial,
        [
            (log_mean, log_r, x)
            for log_mean, x in [*itertools.product(LOG_RATES, COUNTS), *MODES]
            for log_r in (-6.9, -1.0, 0.0, 3.0, 6.9)
        ],
        (1e-7, 1e-6),
    ),
    "discretized logistic": (
        lambda loc, scale: DiscretizedLogistic(loc, scale, 256),
        exact_discretized_logistic,
        itertools.product(
            [-1e3, -2.0, 0.0, 0.31, 0.5, 1.0, 4.0],
            [1e-3, 1e-2, 0.1, 1.0, 1e3],
            [k / 255 for k in (0, 1, 80, 128, 254, 255)],
        ),
        (1e-4, 2e-4),  # a level's rounding in x, over a scale of 1e-3
    ),
    "normal": (
        lambda loc: of(NormalLikelihood(0.5)((1,), loc)),
        exact_normal,
        itertools.product([0.0, 0.1, -3.0, 1e3, -1e4], [0.0, 0.3, 1.0, 1e3]),
        (1e-6, 1e-6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_likelihood_in_float32_is_exact_to_its_tolerance(name):
    """Value and gradient, over the range of its parameters and at the ends of its support."""
    make, exact, cases, (of_value, of_gradient) = CASES[name]
    for *parameters, value in cases:
        given = [torch.tensor([p], requires_grad=True) for p in parameters]
        log_p = make(*given).log_prob(torch.tensor([value]))
        gradients = torch.autograd.grad(log_p.sum(), given)
        point = [mp.mpf(p.item()) for p in given]
        x = mp.mpf(torch.tensor(value).item())
        assert error(log_p.item(), exact(*point, x)) < of_value, f"at {parameters}, {value}"
        for i, gradient in enumerate(gradients):
            actual = error(gradient.item(), slope(exact, point, x, i))
            assert actual < of_gradient, f"gradient {i} at {parameters}, {value}: {gradient.item()}"


def slope(exact, point, x, i):
    """The derivative of `exact` in its parameter i."""
    return mp.diff(
        lambda t: exact(*point[:i], t, *point[i + 1 :], x), point[i], h=mp.mpf(10) ** -20
    )


def test_equal_logits_of_any_size_are_a_uniform_distribution_of_levels():
    for shift in (0.0, 300.3, -1e4, 1e6):
        fn = CategoricalLevels(torch.full((1, 256), shift))
        assert fn.log_prob(torch.tensor([0.0])).item() == pytest.approx(-math.log(256), rel=1e-6)


def test_a_large_enumerated_table_is_contracted_without_being_built(monkeypatch):
    """`[K, 1, K]` against `[B, K]`: the numbers and gradients of the product that is summed."""
    torch.manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    support = torch.eye(5, dtype=torch.float64).unsqueeze(1)
    weights = torch.randn(5, 7, dtype=torch.float64)
    for value in (support, torch.rand(5, 1, 5, dtype=torch.float64)):
        monkeypatch.setattr(one_hot, "MAX_PRODUCTS", 0)
        actual = LinearOneHotCategorical(logits=logits, validate_args=False).log_prob(value)
        (gradient,) = torch.autograd.grad((weights * actual).sum(), logits)
        expected = (value * logits.log_softmax(-1)).sum(-1)
        torch.testing.assert_close(actual, expected)
        (by_hand,) = torch.autograd.grad((weights * expected).sum(), logits)
        torch.testing.assert_close(gradient, by_hand)


@pytest.mark.parametrize(
    ("batch", "inner"),
    [((), 0), ((), 2), ((7,), 1), ((7,), 2), ((3, 7), 2), ((1, 7), 1), ((1, 1, 3, 7), 2),
     ((5, 7), 1), ((4, 1, 7), 1)],
)  # fmt: skip
def test_every_value_of_an_enumerated_one_hot_has_its_logit(batch, inner):
    """The last two have logits that differ along the enumerated dimension, or left of it."""
    torch.manual_seed(0)
    logits = torch.randn(*batch, 5, dtype=torch.float64, requires_grad=True)
    fn = LinearOneHotCategorical(logits=logits, validate_args=False)
    value = fn.enumerate_support(expand=False).reshape(5, *[1] * inner, 5)
    assert one_hot.is_support(value)
    actual = fn.log_prob(value)
    expected = (value.clone() * fn.logits).sum(-1)
    assert actual.shape == expected.shape and torch.equal(actual, expected)
    weights = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((weights * v).sum(), logits, retain_graph=True)[0]
        for v in (actual, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_an_impossible_value_is_impossible_and_the_others_are_numbers():
    fn = LinearOneHotCategorical(logits=torch.tensor([0.0, -math.inf, 0.0]), validate_args=False)
    log_p = fn.log_prob(fn.enumerate_support())
    assert torch.equal(log_p, torch.tensor([0.5, 0.0, 0.5]).log())


@pytest.mark.parametrize("products", [0, 2**20])
def test_an_impossible_value_that_is_left_out_counts_nothing(products, monkeypatch):
    monkeypatch.setattr(one_hot, "MAX_PRODUCTS", products)
    logits = torch.tensor([0.25, 0.75, 0.0]).log().requires_grad_()
    values = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
    mean = 0.5 * (0.25 * 0.75 * torch.ones(())).log()
    expected = torch.tensor([math.log(0.25), math.log(0.75), -math.inf, mean, -math.inf])
    for make in (
        pv.distributions.LinearOneHotCategorical,
        partial(pv.distributions.GumbelSoftmax, torch.tensor(0.5)),
        pv.distributions.OneHotData,
    ):
        actual = make(logits=logits, validate_args=False).log_prob(values)
        torch.testing.assert_close(actual, expected)
        (gradient,) = torch.autograd.grad(actual[:2].sum(), logits)
        assert gradient.isfinite().all()
    relaxed = pv.distributions.GumbelSoftmax(torch.tensor(0.5), logits=logits.detach()).rsample()
    assert relaxed[2] == 0


def test_a_component_of_a_mixture_without_weight_is_never_in_its_density():
    logits = torch.tensor([0.0, -math.inf])
    mixture = pv.distributions.NormalMixture(logits, torch.zeros(2, 1), torch.ones(2, 1))
    stratum = pv.distributions.StratifiedComponent(mixture, torch.tensor([1.0, 0.0]))
    value = torch.tensor([0.3])
    torch.testing.assert_close(stratum.log_prob(value), dist.Normal(0.0, 1.0).log_prob(value)[0])


def test_missing_values_of_a_shifted_support_count_nothing():
    values = torch.tensor([math.nan, 2.5])
    for base, expected in (
        (dist.Uniform(torch.tensor(2.0), torch.tensor(3.0)), 0.0),
        (dist.Pareto(torch.tensor(2.0), torch.tensor(3.0)), math.log(3 * 2**3 / 2.5**4)),
    ):
        actual = pv.distributions.IgnoreMissing(base).log_prob(values)
        torch.testing.assert_close(actual, torch.tensor([0.0, expected]))


@pytest.mark.parametrize("transform", ["iaf", "maf", "coupling", "spline"])
def test_a_flow_broadcasts_is_masked_and_made_independent(transform):
    conditional = pv.conditionals.Conditional((2,), {"x": (3,)}, pv.conditionals.Flow(transform))
    flow, values = conditional(x=torch.randn(4, 3)), torch.randn(5, 1, 2)
    expected = torch.stack([flow.log_prob(v.expand(4, 2)) for v in values])
    torch.testing.assert_close(flow.log_prob(values), expected)
    mask = torch.tensor([True, False, True, False])
    masked = flow.mask(mask)
    torch.testing.assert_close(masked.log_prob(values), expected * mask)
    draws = masked.rsample((7,))
    assert draws.shape == (7, 4, 2) and draws.requires_grad and masked().shape == (4, 2)
    torch.testing.assert_close(flow.to_event(1).log_prob(values[0]), expected[0].sum())
    assert flow.to_event(1)().shape == (4, 2)


def test_the_gradient_of_a_thousand_enumerated_classes_takes_little_memory():
    logits = torch.zeros(64, 1000, requires_grad=True)
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr():
                sizes.append(out.untyped_storage().nbytes() // out.element_size())
            return out

    with Sizes():
        y = torch.eye(1000).unsqueeze(1)
        LinearOneHotCategorical(logits=logits, validate_args=False).log_prob(y).sum().backward()
    assert max(sizes) <= 1000 * 1000 < 64 * 1000 * 1000


def test_variances_far_from_zero_keep_their_digits():
    mixture = pv.distributions.NormalMixture(
        torch.zeros(2), torch.tensor([[100.0], [100.3]]), torch.full((2, 1), 0.1)
    )
    torch.testing.assert_close(mixture.variance, torch.tensor([0.01 + 0.15**2]), rtol=1e-3, atol=0)
    same = pv.distributions.NormalMixture(
        torch.zeros(2), torch.full((2, 1), 1000.0), torch.full((2, 1), 0.01)
    )
    torch.testing.assert_close(same.variance, torch.tensor([1e-4]), rtol=1e-5, atol=0)
    narrow = pv.distributions.DiscretizedLogistic(torch.tensor([1.0]), torch.tensor([9.2e-4]))
    levels = torch.linspace(0, 1, 256).double()
    exact = pv.distributions.DiscretizedLogistic(
        torch.tensor([1.0]).double(), torch.tensor([9.2e-4]).double()
    )
    p = exact.log_prob(levels.unsqueeze(-1)).exp().squeeze(-1)
    variance = (p * (levels - (p * levels).sum()) ** 2).sum()
    torch.testing.assert_close(narrow.variance, variance.float()[None], rtol=1e-4, atol=0)
    logits = torch.full((256,), -20.0)
    logits[254:] = torch.tensor([0.0, 5.0])
    top = pv.distributions.CategoricalLevels(logits)
    q = logits.double().softmax(-1)
    variance = (q * (levels - (q * levels).sum()) ** 2).sum()
    torch.testing.assert_close(top.variance, variance.float(), rtol=1e-4, atol=0)


def test_gray_levels_are_enumerated_as_levels():
    """Summed in a model, with validation off as the library does; entropy and mode in their units."""
    logits = torch.tensor([0.3, -2.0], dtype=torch.float64)
    fn = BinomialProportion(16, logits, validate_args=False)
    levels = torch.arange(17, dtype=torch.float64) / 16
    assert torch.equal(fn.enumerate_support(), levels[:, None].expand(17, 2))
    assert torch.equal(fn.enumerate_support(expand=False), levels[:, None])
    counts = [scipy.stats.binom(16, float(p)) for p in fn.probs]
    torch.testing.assert_close(fn.entropy(), torch.tensor([c.entropy() for c in counts]).double())
    assert fn.mode.tolist() == [9 / 16, 2 / 16]
    x = torch.tensor([[0.1], [1.3]], dtype=torch.float64)

    @pyro.infer.config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            dose = pyro.sample("dose", BinomialProportion(16, logits[:1].expand(len(x))))
            pyro.sample("x", pyro.distributions.Normal(2 * dose[..., None], 0.5).to_event(1), obs=x)

    expected = torch.stack([
        torch.log(sum(float(counts[0].pmf(k)) * torch.exp(
            torch.distributions.Normal(2 * k / 16, 0.5).log_prob(row[0])) for k in range(17)))
        for row in x
    ])  # fmt: skip
    actual = pv.evaluate.log_likelihood(model, lambda x: None, x, num_samples=1)
    torch.testing.assert_close(actual, expected)
