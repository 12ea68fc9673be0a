"""`ModifiedCholeskyNormal` is torch's multivariate normal: same numbers, gradients and draws."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.distributions import ModifiedCholeskyNormal

SHAPES = {  # of loc, scale and below, before their last dimension
    "one": ((), (), ()),
    "of each": ((4,), (4,), (4,)),
    "one matrix": ((5, 4), (5, 4), ()),
    "of each component": ((5, 4), (5, 1), (5, 1)),
    "means": ((1, 4), (5, 1), (5, 4)),
}


def arguments(shapes, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    loc, scale, below = shapes
    values = numbers(*loc, d), numbers(*scale, d).exp(), numbers(*below, d * (d - 1) // 2)
    return [v.requires_grad_() for v in values]


def exact(loc, scale, below):
    """The same distribution by the definition: z = loc + scale * (I + S)^-1 noise, in torch's class."""
    d = loc.shape[-1]
    unit = torch.eye(d, dtype=loc.dtype).expand(*below.shape[:-1], d, d).clone()
    entries = iter(range(below.shape[-1]))
    for i in range(d):
        for j in range(i):
            unit[..., i, j] = below[..., next(entries)]
    inverse = torch.linalg.inv(unit).tril()  # what is above is rounding
    return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * inverse)


@pytest.mark.parametrize("d", [1, 3, 66])  # 66: beyond the size of the products with a table
@pytest.mark.parametrize("name", SHAPES)
def test_log_prob_and_its_gradients_are_torchs(name, d):
    values = arguments(SHAPES[name], d)
    values[2].data /= d  # so that the numbers of many values stay in range
    q, expected = ModifiedCholeskyNormal(*values), exact(*values)
    assert (q.batch_shape, q.event_shape) == (expected.batch_shape, expected.event_shape)
    x = torch.randn(2, *q.batch_shape, d, dtype=torch.float64)
    log_probs = q.log_prob(x), expected.log_prob(x)
    torch.testing.assert_close(*log_probs, rtol=1e-10, atol=1e-10)
    weights = torch.randn(log_probs[0].shape, dtype=torch.float64)
    used = values[: 2 if d == 1 else 3]  # one value has none before it
    gradients = (torch.autograd.grad((v * weights).sum(), used) for v in log_probs)
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_draws_are_those_of_the_definition_with_the_same_noise(name):
    values = arguments(SHAPES[name])
    for sample_shape in ((), (7,), (2, 3)):
        draws = []
        for q in (ModifiedCholeskyNormal(*values), exact(*values)):
            torch.manual_seed(1)
            draws.append(q.rsample(sample_shape))
        torch.testing.assert_close(*draws)
        weights = torch.randn(draws[0].shape, dtype=torch.float64)
        gradients = (torch.autograd.grad((z * weights).sum(), values) for z in draws)
        for actual, wanted in zip(*gradients, strict=True):
            torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("name", SHAPES)
def test_all_that_torchs_class_has_it_has_too(name):
    values = arguments(SHAPES[name])
    q, expected = ModifiedCholeskyNormal(*values), exact(*values)
    for attribute in (
        "mean",
        "mode",
        "variance",
        "covariance_matrix",
        "precision_matrix",
        "scale_tril",
    ):
        torch.testing.assert_close(getattr(q, attribute), getattr(expected, attribute))
    torch.testing.assert_close(q.entropy(), expected.entropy())
    other = exact(*arguments(SHAPES[name], seed=1))
    torch.testing.assert_close(kl_divergence(q, other), kl_divergence(expected, other))
    wide = q.expand((6, *q.batch_shape))
    assert wide.batch_shape == (6, *q.batch_shape)
    x = wide.sample()
    torch.testing.assert_close(wide.log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(wide.covariance_matrix[2], expected.covariance_matrix)


def test_bad_arguments_are_named():
    loc, scale, below = arguments(SHAPES["one"])
    with pytest.raises(
        pv.UserError, match="3 scales and 3 entries below the diagonal, not 3 and 2"
    ):
        ModifiedCholeskyNormal(loc, scale, below[:2])
    with pytest.raises(ValueError, match="scale"):
        ModifiedCholeskyNormal(loc, -scale, below)
    q = ModifiedCholeskyNormal(loc, scale, below)
    with pytest.raises(ValueError, match="value"):
        q.log_prob(torch.full((3,), torch.nan, dtype=torch.float64))
