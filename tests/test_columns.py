"""Likelihoods of tables and counts, against scipy and torch, entry by entry."""

import itertools
import math

import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import pyro_vae as pv
from pyro_vae.conditionals import (
    MLP,
    Columns,
    Conditional,
    IgnoreMissing,
    NormalLikelihood,
    OneHotLikelihood,
    StudentT,
)

NAN = math.nan
BLOCKS = (("normal", 2), ("one-hot", 3), ("negative-binomial", 1), ("bernoulli", 2))


def test_zero_inflated_negative_binomial_is_scipys():
    for gate, mean, r in itertools.product((-3.0, 0.0, 2.0), (0.2, 5.0, 300.0), (0.3, 4.0)):
        fn = pv.distributions.ZeroInflatedNegativeBinomial(
            *torch.tensor([gate, math.log(mean), math.log(r)], dtype=torch.float64)
        )
        x = torch.tensor([0.0, 1, 2, 17, 500]).double()
        nb = scipy.stats.nbinom(r, r / (r + mean))
        g = 1 / (1 + math.exp(-gate))
        exact = torch.from_numpy((1 - g) * nb.pmf(x.numpy())) + g * (x == 0).double()
        torch.testing.assert_close(fn.log_prob(x).exp(), exact, rtol=1e-10, atol=1e-300)
        everything = torch.arange(60_000).double()
        p = fn.log_prob(everything).exp()
        torch.testing.assert_close(p.sum(), torch.tensor(1.0).double(), rtol=1e-6, atol=0)
        torch.testing.assert_close(fn.mean, (p * everything).sum(), rtol=1e-5, atol=0)
        second = (p * everything**2).sum()
        torch.testing.assert_close(fn.variance, second - fn.mean**2, rtol=1e-4, atol=0)


def test_draws_of_a_zero_inflated_negative_binomial_have_its_mean_and_zeros():
    torch.manual_seed(0)
    parameters = torch.tensor(-0.5), torch.tensor(4.0).log(), torch.tensor(1.0)
    fn = pv.distributions.ZeroInflatedNegativeBinomial(*parameters)
    draws = fn.sample((100_000,))
    assert draws.mean().item() == pytest.approx(fn.mean.item(), rel=0.03)
    zeros = fn.log_prob(torch.tensor(0.0)).exp().item()
    assert (draws == 0).float().mean().item() == pytest.approx(zeros, abs=0.01)
    assert fn.expand((3, 2)).sample((4,)).shape == (4, 3, 2)
    extreme = pv.distributions.ZeroInflatedNegativeBinomial(
        *(torch.tensor(v, requires_grad=True) for v in (50.0, -15.0, 7.0))
    )
    log_prob = extreme.log_prob(torch.tensor([0.0, 3.0]))
    gradients = torch.autograd.grad(log_prob.sum(), [extreme.gate_logits], allow_unused=True)
    assert log_prob.isfinite().all() and gradients[0].isfinite()


def test_student_t_is_scipys_with_a_scale_per_value():
    torch.manual_seed(0)
    p = Conditional((3,), {"z": (2,)}, StudentT(df=3.0, scale=0.7)).double()
    with torch.no_grad():
        p.unconditional_parameters["log_scale"].copy_(torch.tensor([0.0, -1.0, 1.0]))
    fn, x = p(z=torch.randn(4, 2).double()), torch.randn(4, 3).double()
    loc, scale = fn.base_dist.loc.detach().numpy(), fn.base_dist.scale.detach().numpy()
    exact = scipy.stats.t(3.0, loc, scale).logpdf(x.numpy()).sum(-1)
    torch.testing.assert_close(fn.log_prob(x).detach(), torch.from_numpy(exact))
    torch.testing.assert_close(fn.mean.detach(), torch.from_numpy(loc))
    for df in (1.0, 0.5, -1.0, NAN):
        with pytest.raises(pv.UserError, match="df must be"):
            StudentT(df=df)


def test_student_t_resists_an_outlier():
    torch.manual_seed(0)
    x = torch.randn(200, 1)
    x[:10] = 100.0
    centers = {}
    for name in ("normal", "student-t"):
        torch.manual_seed(0)
        model = pv.models.VAE((1,), 1, likelihood=name, network=MLP(()))
        prior = pv.guides.PriorGuide(model)
        pv.fit(model, prior, x, epochs=150, lr=0.05, progress=False)
        centers[name] = model.p_x(z=torch.zeros(1, 1)).mean.item()
    assert abs(centers["student-t"]) < 0.5 < centers["normal"]


def test_a_scale_per_value_is_learned_for_each():
    family = NormalLikelihood(scale=0.5, learned=True, per_value=True)
    p = Conditional((3,), {"z": (2,)}, family)
    torch.testing.assert_close(p(z=torch.zeros(1, 2)).stddev, torch.full((1, 3), 0.5))
    assert p.unconditional_parameters["log_scale"].shape == (3,)
    with pytest.raises(pv.UserError, match="learned=True"):
        NormalLikelihood(per_value=True)


def test_one_hot_vectors_are_torchs_and_others_have_no_likelihood():
    torch.manual_seed(0)
    p = Conditional((3,), {"z": (2,)}, OneHotLikelihood())
    fn, x = p(z=torch.randn(3, 2)), torch.eye(3)
    exact = torch.distributions.OneHotCategorical(logits=fn.logits).log_prob(x)
    torch.testing.assert_close(fn.log_prob(x), exact)
    torch.testing.assert_close(fn.mean, fn.probs)
    model = pv.models.VAE((3,), 1, likelihood=OneHotLikelihood())
    with pytest.raises(pv.UserError, match="outside the support"):
        pv.evaluate.elbo(model, pv.guides.Guide(model), torch.full((2, 3), 1 / 3))


def columns_at_z(missing=False):
    torch.manual_seed(0)
    p = Conditional((8,), {"z": (2,)}, Columns(BLOCKS, missing))
    with torch.no_grad():
        p.unconditional_parameters["log_scale_0"].copy_(torch.tensor([0.3, -0.6]))
    return p(z=torch.randn(4, 2))


X = torch.tensor(
    [
        [0.5, -1.0, 1, 0, 0, 7, 1, 0],
        [1.5, 2.0, 0, 1, 0, 0, 0, 0],
        [0.0, 0.1, 0, 0, 1, 3, 1, 1],
        [9.0, -4.0, 0, 1, 0, 100, 0, 1],
    ]
)


def test_columns_are_the_product_of_their_likelihoods():
    fn = columns_at_z()
    normal, category, counts, binary = fn.blocks
    exact = torch.distributions.Normal(normal.mean, normal.stddev).log_prob(X[:, :2]).sum(-1)
    exact = exact + torch.distributions.Categorical(logits=category.logits).log_prob(
        X[:, 2:5].argmax(-1)
    )
    r, mean = counts.base_dist.log_r.exp().detach(), counts.mean.detach()
    exact = exact + torch.from_numpy(
        scipy.stats.nbinom(r.numpy(), (r / (r + mean)).numpy()).logpmf(X[:, 5:6].numpy())
    ).sum(-1)
    logits = binary.base_dist.logits
    exact = exact + torch.distributions.Bernoulli(logits=logits).log_prob(X[:, 6:]).sum(-1)
    torch.testing.assert_close(fn.log_prob(X), exact.float())
    parts = [normal.mean, category.probs, counts.mean, binary.mean]
    torch.testing.assert_close(fn.mean, torch.cat(parts, -1))
    assert fn.event_shape == (8,) and fn.batch_shape == (4,)
    wide = fn.expand((3, 4))
    torch.testing.assert_close(wide.log_prob(X), fn.log_prob(X).expand(3, 4))
    draws = fn.sample((5,))
    assert draws.shape == (5, 4, 8) and fn.support.check(draws).all()


def test_missing_columns_do_not_count():
    """The log-probability without a block is the sum of the others'."""
    complete, fn = columns_at_z(), columns_at_z(missing=True)
    torch.testing.assert_close(fn.log_prob(X), complete.log_prob(X))
    sizes = (2, 3, 1, 2)
    terms = [b.log_prob(part) for b, part in zip(complete.blocks, X.split(sizes, -1), strict=True)]
    for i, start in enumerate((0, 2, 5, 6)):
        holes = X.clone()
        holes[:, start : start + sizes[i]] = NAN
        expected = sum(term for j, term in enumerate(terms) if j != i)
        torch.testing.assert_close(fn.log_prob(holes), expected)
        assert fn.support.check(holes).all() and not complete.support.check(holes).all()
    half = X.clone()
    half[:, 3] = NAN  # a part of a category is neither missing nor observed
    assert not fn.support.check(half).all()
    assert IgnoreMissing("normal") == IgnoreMissing(pv.conditionals.likelihood("normal"))
    assert pv.conditionals.missing.ignore_missing(Columns(BLOCKS)) == Columns(BLOCKS, True)


def test_a_mixed_table_trains_plainly_and_recorded_the_same():
    weights = {}
    x = X.repeat(16, 1)
    x[::3, 0] = NAN
    x[1::5, 2:5] = NAN
    for compile in (False, "recorded"):
        torch.manual_seed(0)
        model = pv.models.MixtureVAE(
            (8,), 2, 2, likelihood=Columns(BLOCKS, True), network=MLP((8,))
        )
        guide = pv.guides.Guide(model, network=MLP((8,)))
        pv.fit(model, guide, x, epochs=3, batch_size=16, compile=compile, progress=False)
        weights[compile] = torch.cat([p.flatten() for p in model.parameters()])
    torch.testing.assert_close(weights[False], weights["recorded"], rtol=1e-4, atol=1e-5)
    assert pv.evaluate.log_likelihood(model, guide, x, num_samples=5).isfinite().all()
    done = pv.generate.impute(model, guide, x, num_samples=2, steps=3)
    assert (done.x[..., 2:5].sum(-1) == 1).all()
    mask = torch.ones(8, dtype=torch.bool)
    mask[3] = False
    with pytest.raises(pv.UserError, match="columns of a category"):
        pv.generate.impute(model, guide, X, mask, num_samples=2, steps=3)


@pytest.mark.parametrize(
    "blocks, message",
    [
        ((), "blocks must be pairs"),
        ("normal", "blocks must be pairs"),
        ((("normal", 0),), "blocks must be pairs"),
        ((("normal", "two"),), "blocks must be pairs"),
        ((("norml", 2),), "did you mean 'normal'"),
    ],
)
def test_blocks_that_are_none_raise_one_line(blocks, message):
    with pytest.raises(pv.UserError, match=message):
        Columns(blocks)


def test_columns_must_add_up():
    with pytest.raises(pv.UserError, match=r"have 8 columns; x has shape \[7\]"):
        pv.models.VAE((7,), 2, likelihood=Columns(BLOCKS))
    with pytest.raises(pv.UserError, match=r"shape \(K,\), not \[1, 8, 8\]"):
        pv.models.VAE((1, 8, 8), 2, likelihood=OneHotLikelihood())


def test_a_run_with_columns_is_rebuilt_from_its_folder(tmp_path):
    model = pv.models.VAE((8,), 2, likelihood=Columns(BLOCKS, True), network=MLP((8,)))
    guide = pv.guides.Guide(model, network=MLP((8,)))
    pv.fit(model, guide, X, epochs=1, progress=False, out=tmp_path / "run")
    again = pv.load(tmp_path / "run", data=X)
    assert again.model.p_x.family == model.p_x.family
    torch.testing.assert_close(
        pv.evaluate.elbo(again.model, again.guide, X), pv.evaluate.elbo(model, guide, X)
    )


def test_a_mixture_of_gates_is_a_distribution_of_pyro():
    """Against Pyro's own zero-inflated negative binomial, where its logits do not overflow."""
    gate, mean, r = torch.tensor(0.4), torch.tensor(6.0), torch.tensor(2.0)
    theirs = dist.ZeroInflatedNegativeBinomial(
        total_count=r, logits=(mean / r).log(), gate_logits=gate
    )
    ours = pv.distributions.ZeroInflatedNegativeBinomial(gate, mean.log(), r.log())
    x = torch.arange(20.0)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-4, atol=1e-5)
