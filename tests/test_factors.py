"""Models with `pyro.factor`: bounds are Pyro's and the exact ones, in training and in evaluation."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives import FixedNoise
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal

import pyro_vae as pv
from pyro_vae.report import summary

LOC, SCALE = 0.7, 0.8


def data(n=6):
    return torch.linspace(-1.0, 2.0, n).unsqueeze(-1)


def scored_model(x):
    """p(z) = N(0, 1), and exp(-(x - z)^2 / 2) as the only score of x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        pyro.factor("fit", -0.5 * (x - z).square().sum(-1))


def fixed_guide(x):
    with pyro.plate("data", len(x)):
        loc = torch.full((len(x), 1), LOC)
        pyro.sample("z", dist.Normal(loc, SCALE).to_event(1))


def guide_without_noise(x):
    with pyro.plate("data", len(x)):
        loc = torch.full((len(x), 1), LOC, requires_grad=True)
        pyro.sample("z", FixedNoise(loc, torch.full_like(loc, SCALE)).to_event(1))


def posterior_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)).to_event(1))


def exact_elbo(x, loc=LOC, scale=SCALE):
    """E_q[log f] - KL(q || N(0, 1)), in closed form."""
    score = -0.5 * ((x - loc).square() + scale**2)
    kl = 0.5 * (loc**2 + scale**2 - 1) - math.log(scale)
    return (score - kl).squeeze(-1)


def log_normalizer(x):
    """log of the integral of N(z; 0, 1) exp(-(x - z)^2 / 2) over z."""
    return (-0.25 * x.square() - 0.5 * math.log(2)).squeeze(-1)


def test_the_elbo_has_the_factor_of_each_data_point():
    x = data()
    terms = pv.evaluate.elbo_terms(scored_model, fixed_guide, x, num_samples=40_000)
    assert terms.keys() == {"z", "fit"}
    torch.testing.assert_close(sum(terms.values()), exact_elbo(x), atol=0.03, rtol=0)
    torch.testing.assert_close(
        pv.evaluate.elbo(scored_model, posterior_guide, x), log_normalizer(x), atol=1e-5, rtol=0
    )


def test_only_latents_have_a_kl():
    x = data()
    kl = pv.evaluate.likelihood.latent_kl(scored_model, fixed_guide, x, num_samples=40_000)
    assert kl.keys() == {"z"}
    expected = 0.5 * (LOC**2 + SCALE**2 - 1) - math.log(SCALE)
    torch.testing.assert_close(kl["z"], torch.full((len(x),), expected), atol=0.03, rtol=0)


def test_the_elbo_is_pyros():
    x = data()
    theirs = -Trace_ELBO().loss(scored_model, guide_without_noise, x)
    ours = pv.evaluate.elbo(scored_model, guide_without_noise, x).sum()
    assert ours.item() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("objective", [pv.objectives.IWAE, pv.objectives.DReG])
def test_importance_weights_have_the_factor(objective, num_particles):
    """With the exact posterior as the guide, every weight is the normalizer."""
    x = data()
    loss = objective(num_particles=num_particles).differentiable_loss(
        scored_model, posterior_guide, x
    )
    assert -loss.item() == pytest.approx(log_normalizer(x).sum().item(), rel=1e-5)


def mixture_model(x):
    """y is summed by the model; the factor weighs its values."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.factor("preference", 2.0 * y * x.squeeze(-1))
        pyro.sample("x", dist.Normal(z.squeeze(-1) + y, 1.0), obs=x.squeeze(-1))


@pytest.mark.parametrize("settings", [{}, {"beta": {"z": 0.999999}}, {"analytic_kl": True}])
def test_a_factor_that_depends_on_a_summed_latent_is_in_its_sum(settings):
    """As in TraceEnum_ELBO; the KL of z in closed form replaces that of its draw."""
    x, guide = data(), guide_without_noise
    theirs = TraceEnum_ELBO(max_plate_nesting=1).loss(mixture_model, guide, x)
    ours = pv.objectives.ELBO(**settings).differentiable_loss(mixture_model, guide, x).item()
    terms = pv.evaluate.elbo_terms(mixture_model, guide, x)
    assert -sum(t.sum().item() for t in terms.values()) == pytest.approx(theirs, rel=1e-4)
    if settings.get("analytic_kl"):
        theirs += terms["z"].sum().item()
        theirs += len(x) * (0.5 * (LOC**2 + SCALE**2 - 1) - math.log(SCALE))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_best_epoch_is_that_of_the_whole_bound():
    torch.manual_seed(0)
    x, net = torch.randn(60, 1) + 2, torch.nn.Linear(1, 1)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 0.7).to_event(1))

    run = pv.fit(scored_model, guide, x, 60, valid=x, lr=3e-2, progress=False)
    last = run.history[-1]
    assert last["elbo"] == pytest.approx(-last["loss"], abs=0.4)
    # q(z | x) with this scale, at the best mean, x / 2
    best = exact_elbo(x, x / 2, 0.7).mean().item()
    assert pv.evaluate.elbo(scored_model, guide, x, 200).mean().item() == pytest.approx(
        best, abs=0.1
    )


def test_a_factor_outside_the_plate_is_trained_but_of_no_data_point():
    weight = torch.nn.Parameter(torch.tensor(2.0))

    def penalized(x):
        pyro.factor("penalty", -(weight**2))
        scored_model(x)

    x = data()
    terms = pv.evaluate.elbo_terms(penalized, posterior_guide, x)
    assert terms.keys() == {"z", "fit"}
    for objective in (pv.objectives.ELBO(), pv.objectives.IWAE(3)):
        loss = objective.differentiable_loss(penalized, posterior_guide, x)
        assert -loss.item() == pytest.approx(log_normalizer(x).sum().item() - 4, rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, weight)
        assert gradient.item() == pytest.approx(4.0)


class WithClassifier(torch.nn.Module):
    """The guide has a classifier of x, which its `pyro.factor` trains, as in Pyro's scANVI."""

    def __init__(self, inside=True, **options):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.inside, self.options = inside, options

    def loss(self, x):
        return torch.nn.functional.softplus(self.logits).sum() * (1 + x.squeeze(-1).square())

    def forward(self, x):
        if not self.inside:
            pyro.factor("classifier", self.loss(x).sum(), **self.options)
        with pyro.plate("data", len(x)):
            if self.inside:
                pyro.factor("classifier", self.loss(x), **self.options)
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)).to_event(1))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "objective",
    [
        pv.objectives.ELBO(),
        pv.objectives.ELBO(warmup=10, warmup_start=0.999),
        pv.objectives.ELBO(beta={"z": 0.999}),
        pv.objectives.STL(),
    ],
)
def test_every_elbo_has_the_guides_factor(objective, inside):
    """With the exact posterior, the bound is the normalizer; the factor's gradient is its own."""
    x, guide = data(), WithClassifier(inside, has_rsample=True)
    loss = objective.differentiable_loss(scored_model, guide, x)
    expected = guide.loss(x).sum() - log_normalizer(x).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    (ours,) = torch.autograd.grad(loss, guide.logits)
    (exact,) = torch.autograd.grad(guide.loss(x).sum(), guide.logits)
    torch.testing.assert_close(ours, exact)


def test_the_evaluated_elbo_has_the_guides_factor():
    x, guide = data(), WithClassifier(has_rsample=True)
    expected = log_normalizer(x) - guide.loss(x).detach()
    torch.testing.assert_close(pv.evaluate.elbo(scored_model, guide, x), expected)
    assert pv.evaluate.likelihood.latent_kl(scored_model, guide, x).keys() == {"z"}


def test_the_guides_factor_is_refused_where_it_has_no_place():
    x = data()
    with pytest.raises(pv.UserError, match="no part of an importance weight"):
        guide = WithClassifier(has_rsample=True)
        pv.objectives.IWAE(2).differentiable_loss(scored_model, guide, x)
    with pytest.raises(pv.UserError, match="has_rsample=False"):
        guide = WithClassifier(has_rsample=False)
        pv.objectives.STL().differentiable_loss(scored_model, guide, x)


def rows_of(model, guide, x):
    """`{name: (value, note)}` of the table that a run prints."""
    run = pv.fit(model, guide, x, 1, lr=1e-9, progress=False)
    evaluation = run.evaluate(num_samples=20)
    return {name: (value, note) for name, value, note in summary.rows(evaluation)}


def test_a_run_says_what_each_term_is():
    """A factor is neither data nor a latent, and with one there is a score, no likelihood."""
    x, shift = data(), torch.nn.Parameter(torch.zeros(()))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, math.sqrt(0.5)).to_event(1))

    rows = rows_of(scored_model, guide, x)
    assert rows.keys() == {"score", "KL of z", "E fit"}
    assert "the model has a pyro.factor" in rows["score"][1]
    assert rows["score"][0] == pytest.approx(log_normalizer(x).mean().item(), abs=1e-4)
    assert rows["E fit"][0] - rows["KL of z"][0] == pytest.approx(rows["score"][0], abs=1e-4)


def plain_model(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        return pyro.sample("x", dist.Normal(torch.stack([a, b], -1), 1.0).to_event(1), obs=x)


def test_a_guide_at_a_point_has_a_score():
    x = torch.tensor([[1.0, -1.0], [0.5, 2.0], [0.0, 0.0]])
    guide = pv.guides.PerDatumAutoGuide(AutoDelta, plain_model, num_data=len(x))
    rows = rows_of(plain_model, guide, x)
    assert rows.keys() == {"score", "log p(a)", "log p(b)", "E log p(x | ...)"}
    assert "at a point" in rows["score"][1]
    standard = dist.Normal(0.0, 1.0)
    codes = pv.evaluate.encode(plain_model, guide, x, index=torch.arange(3))
    log_prior = standard.log_prob(codes["a"]).mean().item()
    assert rows["log p(a)"][0] == pytest.approx(log_prior, abs=1e-5)


def test_latents_of_one_draw_have_one_kl():
    """The KL of the joint normal distribution to the prior, in closed form."""
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    guide = pv.guides.PerDatumAutoGuide(AutoDiagonalNormal, plain_model, num_data=5, init_scale=0.5)
    rows = rows_of(plain_model, guide, x)
    assert rows.keys() == {"ELBO", "log-likelihood", "KL of a, b", "E log p(x | ...)"}
    total = rows["E log p(x | ...)"][0] - rows["KL of a, b"][0]
    assert rows["ELBO"][0] == pytest.approx(total, abs=1e-5)


def test_compare_keeps_a_guide_at_a_point():
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    guides = {
        "point": lambda m, num_data: pv.guides.PerDatumAutoGuide(AutoDelta, m, num_data=num_data),
        "normal": lambda m, num_data: pv.guides.PerDatumAutoGuide(AutoNormal, m, num_data=num_data),
    }
    with pytest.warns(
        UserWarning, match="its ELBO is a score and no bound: the guide puts 'a', 'b'"
    ):
        result = pv.compare(
            lambda: plain_model, guides, x, seeds=1, epochs=1, num_gap_data=0, num_samples=20,
            progress=False,
        )  # fmt: skip
    point, normal = result.rows
    assert point["log_likelihood"] is None and normal["log_likelihood"] is not None


def test_a_guide_with_a_factor_has_a_score_beside_its_likelihood():
    x = torch.linspace(-1.0, 1.0, 8).reshape(4, 2)
    net = torch.nn.Linear(2, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.factor("classifier", torch.full((len(x),), -20.0), has_rsample=True)
            pyro.sample("a", dist.Normal(net(x)[:, 0], 0.7))
            pyro.sample("b", dist.Normal(net(x)[:, 1], 0.7))

    rows = rows_of(plain_model, guide, x)
    assert rows.keys() == {
        "score", "log-likelihood", "KL of a", "KL of b", "E classifier", "E log p(x | ...)"
    }  # fmt: skip
    assert rows["E classifier"][0] == pytest.approx(20.0)
    exact = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1).mean().item()
    assert rows["log-likelihood"][0] == pytest.approx(exact, abs=1.0)  # the factor is 20 nats


def test_the_terms_of_several_standardized_sites_have_the_sum_of_the_elbo():
    table = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) * 10
    data = pv.data.standardize(pv.data.from_arrays(table))
    net = torch.nn.Linear(2, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("first", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("second", dist.Normal(z, 1.0), obs=x[:, 1])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x)[:, 0], 0.7))

    run = pv.fit(model, guide, data, 1, progress=False)
    result = run.evaluate(num_samples=20)
    assert result["elbo"] == pytest.approx(sum(result["terms"].values()), abs=1e-4)
    names = [name for name, _, _ in summary.rows(result)]
    assert "units" in names and "E log p(first | ...)" in names


@pytest.mark.parametrize("program", ["model", "guide"])
def test_a_factor_in_a_plate_within_the_data_plate_is_refused(program):
    """It was trained, by Pyro's ELBO, and missing from each bound."""

    def penalty(here):
        if here == program:
            with pyro.plate("entries", 3, dim=-2):
                pyro.factor("penalty", torch.ones(3, 1), has_rsample=True)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            penalty("model")
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))
            penalty("guide")

    for use in (
        lambda: pv.fit(model, guide, data(), 1, progress=False),
        lambda: pv.evaluate.elbo(model, guide, data()),
    ):
        message = f"the factor 'penalty' in the {program} lies in the data plate and in another"
        with pytest.raises(pv.UserError, match=message):
            use()
