"""Inference gaps where the best of the family is known in closed form."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Flow, MixtureOfNormals, MultivariateNormal, NormalLikelihood
from pyro_vae.diagnostics import gaps
from pyro_vae.diagnostics.bounds import MeanBound
from pyro_vae.guides import Guide, PerDatumAutoGuide, SemiAmortized
from pyro_vae.guides.per_datum_optimum import PerDatumOptimum

D, LATENT, SCALE, N = 5, 2, 0.7, 8
MOVE, WIDEN = 0.3, 1.5
LINEAR, NET = MLP(hidden=()), MLP(hidden=(6,), activation="tanh")
FAST = {"annealing": False, "importance_samples": 2000, "num_samples": 10_000, "max_steps": 175}


@pytest.fixture(autouse=True)
def window(monkeypatch):
    """Half the steps between two evaluations of the bound: these problems are small."""
    monkeypatch.setattr(gaps, "WINDOW", 25)


@pytest.fixture
def model():
    """x = W z + b + noise, z ~ N(0, I)."""
    torch.manual_seed(1)
    model = pv.models.VAE((D,), LATENT, NormalLikelihood(SCALE), LINEAR).double()
    columns = torch.tensor([[1.0, 0.8, -0.5, 0.3, 0.0], [0.8, 0.2, -0.7, 0.6, 0.4]])
    model.p_x.head.maps["z"].weight.data.copy_(columns.T)
    return model


class Truth:
    """Evidence, the posterior, and the best diagonal normal, all in closed form."""

    def __init__(self, model, x):
        head = model.p_x.head
        w, b = head.maps["z"].weight.detach(), head.bias.detach()
        marginal = w @ w.T + SCALE**2 * torch.eye(D, dtype=w.dtype)
        self.evidence = dist.MultivariateNormal(b, marginal).log_prob(x)
        self.precision = torch.eye(LATENT, dtype=w.dtype) + w.T @ w / SCALE**2
        self.gain = torch.linalg.inv(self.precision) @ w.T / SCALE**2
        self.offset = -self.gain @ b
        self.scale = self.precision.diagonal().rsqrt()
        self.approximation = self.kl(0.0, 1.0)
        self.amortization = self.kl(MOVE, WIDEN) - self.approximation

    def kl(self, move, widen):
        """KL(q || posterior) of the best diagonal q, its mean moved and its scale widened."""
        shift = torch.full((LATENT,), move, dtype=torch.float64)
        covariance = torch.diag((widen * self.scale) ** 2)
        trace = (self.precision @ covariance).trace() + shift @ self.precision @ shift
        return 0.5 * (trace - LATENT - torch.logdet(self.precision) - torch.logdet(covariance))


def spoilt(model, truth, kind, x):
    """The best diagonal guide, spoilt by what `MOVE` and `WIDEN` say, in many forms; and others."""
    loc = lambda x: x @ truth.gain.T + truth.offset + MOVE  # noqa: E731
    scale = WIDEN * truth.scale

    def function(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc(x), scale).to_event(1))

    if kind == "a user's function":
        return function, {}
    if kind == "AutoNormal":
        guide = PerDatumAutoGuide(AutoNormal, model, example={"x": x})
        rows = dict(guide.rows.items())
        rows["locs_z"].data.copy_(loc(x))
        # its scales are softplus of what it stores, or whatever its constraint makes of it
        guide.rows["scales_z"].data.copy_(
            torch.distributions.biject_to(dist.constraints.softplus_positive)
            .inv(scale)
            .expand(N, -1)
        )
        return guide, {"index": torch.arange(N)}
    if kind == "per data point":
        guide = Guide(model, given={"z": ["index"]}, num_data=N).double()
        raw = guide.factors["z"].family.raw_parameters(
            loc(x), torch.diag(scale**2).expand(N, -1, -1)
        )
        guide.factors["z"].head.maps["index"].rows.data.copy_(raw)
        guide.factors["z"].head.bias.data.zero_()
        return guide, {"index": torch.arange(N)}
    guide = Guide(model, network=LINEAR).double()
    head = guide.factors["z"].head
    with torch.no_grad():
        head.bias.copy_(
            guide.factors["z"].family.raw_parameters(truth.offset + MOVE, torch.diag(scale**2))
        )
        head.maps["x"].weight.zero_()[:LATENT] = truth.gain
    return guide, {}


@pytest.mark.parametrize("kind", ["amortized", "per data point", "a user's function", "AutoNormal"])
def test_a_spoilt_diagonal_guides_gaps_are_what_was_done_to_it(model, kind):
    x = model(size=N).detach()
    truth = Truth(model, x)
    guide, others = spoilt(model, truth, kind, x)
    given = {**FAST, **others, "log_likelihood": truth.evidence}
    actual = pv.diagnostics.inference_gaps(model, guide, x, **given)
    assert truth.approximation > 0.05 and truth.amortization > 0.3
    for name, largest in {"approximation": 0.01, "amortization": 0.04}.items():
        error, se = actual[name] - getattr(truth, name), actual[f"{name}_se"]
        assert (error.abs() < 4 * se + 0.003).all() and 0 < se.max() < largest
        assert error.mean().abs() < 4 * se.square().sum().sqrt() / N + 0.003
    total = actual["approximation"] + actual["amortization"]
    torch.testing.assert_close(total, actual["log_likelihood"] - actual["elbo"])


@pytest.mark.parametrize(
    "family", [MultivariateNormal(), MixtureOfNormals(2), Flow("iaf")], ids=str
)
def test_a_family_that_holds_the_posterior_has_no_approximation_gap(model, family):
    x = model(size=N).detach()
    torch.manual_seed(2)
    guide = Guide(model, family={"z": family}, network=LINEAR).double()
    if not isinstance(family, MultivariateNormal):  # a round posterior, which all of them hold
        weight = model.p_x.head.maps["z"].weight
        weight.data.copy_(torch.eye(D, LATENT))
    truth = Truth(model, x)
    actual = pv.diagnostics.inference_gaps(model, guide, x, log_likelihood=truth.evidence, **FAST)
    assert torch.equal(actual["log_likelihood"], truth.evidence)
    assert actual["amortization"].mean() > 0.5
    assert actual["approximation"].mean() < 0.02 and actual["approximation"].min() > -0.02


def not_negative(actual):
    """Whether an amortization gap is that of a q* that is at least as good as q."""
    gap, se = actual["amortization"], actual["amortization_se"]
    return (gap > -4.5 * se - 1e-3).all() and gap.mean() > -4 * se.square().mean().sqrt() - 1e-3


def test_the_steps_of_a_semi_amortized_guide_leave_little_to_amortize(model):
    x = model(size=N).detach()
    truth = Truth(model, x)
    guide = spoilt(model, truth, "amortized", x)[0]
    semi = SemiAmortized(model, guide, steps=80, lr=0.03, num_samples=30)
    options = {**FAST, "num_samples": 2000, "max_steps": 50}
    actual = pv.diagnostics.inference_gaps(model, semi, x, **options)
    assert not_negative(actual) and actual["amortization"].mean() < 0.02
    assert actual["approximation"].mean() == pytest.approx(float(truth.approximation), abs=0.03)


def test_the_search_reports_its_progress_and_the_tail_of_its_weights(model):
    x = model(size=N).detach()
    guide, _ = spoilt(model, Truth(model, x), "amortized", x)
    options = {**FAST, "importance_samples": 500, "max_steps": 100, "num_samples": 100}
    fractions = []
    actual = pv.diagnostics.inference_gaps(model, guide, x, **options, on_progress=fractions.append)
    assert fractions == sorted(fractions) and fractions[0] == pytest.approx(0.25)
    assert fractions[-1] == pytest.approx(1.0)
    assert actual["pareto_k"].shape == (N,) and actual["pareto_k"].median() < 0.7
    quiet = pv.diagnostics.inference_gaps(model, guide, x, **options)
    for name in actual:
        torch.testing.assert_close(actual[name], quiet[name], rtol=0, atol=0, equal_nan=True)
    exact = {**options, "log_likelihood": torch.zeros(N).double()}
    assert pv.diagnostics.inference_gaps(model, guide, x, **exact)["pareto_k"].isnan().all()


def test_a_search_that_ends_far_away_leaves_the_guide_as_it_is(model):
    x = model(size=N).detach()
    guide, _ = spoilt(model, Truth(model, x), "amortized", x)
    actual = pv.diagnostics.inference_gaps(model, guide, x, **{**FAST, "max_steps": 50}, lr=20.0)
    assert (actual["amortization"] == 0).all() and (actual["amortization_se"] == 0).all()


# ------------------------------------------------- bounds stay bounds, with their errors


@pytest.mark.slow
def test_the_better_of_two_noisy_bounds_on_one_data_point_is_still_a_bound(model, monkeypatch):
    """Both bounds are 0.1 below log p(x), with errors of 0.2 and more: their maximum is above it."""
    monkeypatch.setattr(gaps, "WINDOW", 2)
    monkeypatch.setattr(gaps, "SELECTION_DRAWS", 5)
    x = model(size=1).detach()
    truth = Truth(model, x)
    guide, _ = spoilt(model, truth, "amortized", x)
    options = {"num_samples": 2, "importance_samples": 20, "max_steps": 2, "lr": 1e-3}
    options["annealing"] = {"num_steps": 3, "num_chains": 16, "leapfrog": 1}
    actual = [
        pv.diagnostics.inference_gaps(model, guide, x, **options, seed=seed) for seed in range(60)
    ]
    error = torch.cat([f["log_likelihood"] for f in actual]) - truth.evidence
    assert error.std() > 0.1
    assert error.mean() < 3 * error.std() / math.sqrt(len(error))


def test_the_best_guide_of_a_family_has_no_amortization_gap_on_average(model, monkeypatch):
    """A noisy search finds other guides, none better; the larger of two estimates would be."""
    monkeypatch.setattr(gaps, "WINDOW", 5)
    monkeypatch.setattr(gaps, "SELECTION_DRAWS", 10)
    torch.manual_seed(3)
    x = model(size=2000).detach()
    truth = Truth(model, x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x @ truth.gain.T + truth.offset
            pyro.sample("z", dist.Normal(loc, truth.scale).to_event(1))

    options = {"num_samples": 2, "max_steps": 10, "log_likelihood": truth.evidence}
    actual = pv.diagnostics.inference_gaps(model, guide, x, **options)
    gap, se = actual["amortization"], actual["amortization_se"]
    moved = se > 0
    assert moved.double().mean() > 0.1
    assert gap[moved].mean() < 3 * gap[moved].std() / math.sqrt(moved.sum())
    error = actual["elbo_optimal"] - (truth.evidence - truth.approximation)
    assert error.mean() < 3 * error.std() / math.sqrt(len(x))


@pytest.mark.slow
def test_standard_errors_are_those_of_repetitions(model, monkeypatch):
    monkeypatch.setattr(gaps, "WINDOW", 2)
    x = model(size=1).detach().expand(400, D)
    truth = Truth(model, x)
    guide, _ = spoilt(model, truth, "amortized", x)
    options = {"num_samples": 40, "importance_samples": 100, "max_steps": 2, "lr": 0.02}
    actual = pv.diagnostics.inference_gaps(model, guide, x, **options, annealing=False)
    for name in ("elbo", "log_likelihood"):
        assert actual[f"{name}_se"].mean() == pytest.approx(float(actual[name].std()), rel=0.2)
    assert len(actual["elbo"].unique()) == len(x)  # chunks have noise of their own
    expected = actual["log_likelihood_se"].hypot(actual["elbo_optimal_se"])
    torch.testing.assert_close(actual["approximation_se"], expected)
    annealing = {"num_steps": 3, "num_chains": 50}
    monkeypatch.setattr(gaps, "_pilot", lambda *_: MeanBound(1e6, 0.0))
    actual = pv.diagnostics.inference_gaps(model, guide, x, **options, annealing=annealing)
    assert actual["log_likelihood_se"].mean() == pytest.approx(
        float(actual["log_likelihood"].std()), rel=0.25
    )


# ------------------------------------------- distributions whose parameters can be moved

MATRICES = {
    "covariance_matrix": lambda covariance: {"covariance_matrix": covariance},
    "precision_matrix": lambda covariance: {"precision_matrix": covariance.inverse()},
    "scale_tril": lambda covariance: {"scale_tril": torch.linalg.cholesky(covariance)},
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_multivariate_normal_is_moved_however_its_matrix_is_given(model, matrix):
    x = model(size=N).detach()
    truth = Truth(model, x)
    covariance = WIDEN**2 * truth.precision.inverse()

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x @ truth.gain.T + truth.offset + MOVE
            pyro.sample("z", dist.MultivariateNormal(loc, **MATRICES[matrix](covariance)))

    options = {**FAST, "num_samples": 2000, "log_likelihood": truth.evidence}
    actual = pv.diagnostics.inference_gaps(model, guide, x, **options)
    shift = torch.full((LATENT,), MOVE, dtype=torch.float64)
    lost = shift @ truth.precision @ shift + LATENT * (WIDEN**2 - 1 - 2 * math.log(WIDEN))
    assert actual["approximation"].mean() == pytest.approx(0, abs=0.01)
    assert actual["amortization"].mean() == pytest.approx(float(lost / 2), abs=0.06)


def numbers(*shape):
    return 0.5 + torch.rand(*shape, dtype=torch.float64)


TWO = torch.tensor([[1.5, 0.3], [0.3, 0.8]], dtype=torch.float64)
MOVABLE = {
    "AffineBeta": lambda: dist.AffineBeta(numbers(N), numbers(N), numbers(N), numbers(N)),
    "AsymmetricLaplace": lambda: dist.AsymmetricLaplace(numbers(N), numbers(N), numbers(N)),
    "Beta": lambda: dist.Beta(numbers(N), numbers(N)),
    "Cauchy": lambda: dist.Cauchy(numbers(N), numbers(N)),
    "Chi2": lambda: dist.Chi2(numbers(N)),
    "ContinuousBernoulli": lambda: dist.ContinuousBernoulli(logits=numbers(N)),
    "Dirichlet": lambda: dist.Dirichlet(numbers(N, 3)),
    "Exponential": lambda: dist.Exponential(numbers(N)),
    "FisherSnedecor": lambda: dist.FisherSnedecor(numbers(N), numbers(N)),
    "Gamma": lambda: dist.Gamma(numbers(N), 2.0),
    "Gumbel": lambda: dist.Gumbel(numbers(N), numbers(N)),
    "HalfCauchy": lambda: dist.HalfCauchy(numbers(N)),
    "HalfNormal": lambda: dist.HalfNormal(numbers(N)),
    "InverseGamma": lambda: dist.InverseGamma(numbers(N), numbers(N)),
    "Kumaraswamy": lambda: dist.Kumaraswamy(numbers(N), numbers(N)),
    "Laplace": lambda: dist.Laplace(numbers(N), numbers(N)),
    "LogNormal": lambda: dist.LogNormal(numbers(N), numbers(N)),
    "Logistic": lambda: dist.Logistic(numbers(N), numbers(N)),
    "LogisticNormal": lambda: dist.LogisticNormal(numbers(N, 2), numbers(N, 2)),
    "LowRankMultivariateNormal": lambda: dist.LowRankMultivariateNormal(
        numbers(N, 3), numbers(N, 3, 1), numbers(N, 3)
    ),
    "MixtureOfDiagNormals": lambda: dist.MixtureOfDiagNormals(
        numbers(N, 2, 3), numbers(N, 2, 3), numbers(N, 2)
    ),
    "MultivariateNormal": lambda: dist.MultivariateNormal(numbers(N, 2), precision_matrix=TWO),
    "MultivariateStudentT": lambda: dist.MultivariateStudentT(
        numbers(N), numbers(N, 2), torch.linalg.cholesky(TWO)
    ),
    "Pareto": lambda: dist.Pareto(numbers(N), numbers(N)),
    "RelaxedBernoulli": lambda: dist.RelaxedBernoulli(numbers(1), probs=numbers(N) / 2),
    "RelaxedOneHotCategorical": lambda: dist.RelaxedOneHotCategorical(
        numbers(1), logits=numbers(N, 3)
    ),
    "SkewLogistic": lambda: dist.SkewLogistic(numbers(N), numbers(N), numbers(N)),
    "SoftLaplace": lambda: dist.SoftLaplace(numbers(N), numbers(N)),
    "StudentT": lambda: dist.StudentT(3.0, numbers(N), numbers(N)),
    "Uniform": lambda: dist.Uniform(numbers(N), 3 + numbers(N)),
    "Weibull": lambda: dist.Weibull(numbers(N), numbers(N)),
    "Wishart": lambda: dist.torch.Wishart(5 + numbers(N), covariance_matrix=TWO.expand(N, 2, 2)),
}


@pytest.mark.parametrize("kind", MOVABLE)
def test_a_distribution_is_moved_by_its_parameters(kind):
    """With shifts of zero it is itself; shifts are one set of numbers per data point."""
    torch.manual_seed(0)
    fn = MOVABLE[kind]()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn)
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn)

    free = PerDatumOptimum(model, guide, {"x": torch.zeros(N)})
    value = fn.sample()
    site = pyro.poutine.trace(free).get_trace(x=torch.zeros(N)).nodes["z"]
    torch.testing.assert_close(site["fn"].log_prob(value), fn.log_prob(value))
    for name, shift in free.parameter_offsets.items():
        assert shift.shape[free.rows[name]] == N
        shift.data.normal_(0, 0.3)
    site = pyro.poutine.trace(free).get_trace(x=torch.zeros(N)).nodes["z"]
    assert (site["fn"].log_prob(value) != fn.log_prob(value)).any()
    assert torch.isfinite(site["fn"].log_prob(site["fn"].rsample())).all()


@pytest.mark.parametrize("side", ["y <- x; z <- x, y", "z <- x"])
def test_discrete_latents_stay_in(side):
    """Of a mixture of Gaussians the structured family holds the posterior; one without y does not."""
    torch.manual_seed(0)
    likelihood = NormalLikelihood(SCALE)
    model = pv.models.MixtureVAE((D,), 2, LATENT, likelihood, LINEAR).double()
    model.p_z.head.maps["y"].weight.data[:LATENT] = torch.tensor(
        [[-1.5, 1.5], [0.5, -0.5]]
    ).double()
    x = model(size=N).detach()
    head = model.p_x.head
    w, b = head.maps["z"].weight.detach(), head.bias.detach()
    with torch.no_grad():
        p_z = model.p_z(y=torch.eye(2).double()).base_dist
        noise = SCALE**2 * torch.eye(D).double()
        covariance = w @ torch.diag_embed(p_z.scale**2) @ w.T + noise
        distribution = dist.MultivariateNormal(p_z.loc @ w.T + b, covariance)
        truth = (distribution.log_prob(x.unsqueeze(1)) + model.p_y().logits).logsumexp(-1)
    given = {"y": ["x"], "z": ["x", "y"]} if "y" in side else None
    guide = Guide(model, given=given, family={"z": MultivariateNormal()}, network=NET).double()
    actual = pv.diagnostics.inference_gaps(model, guide, x, **FAST)
    torch.testing.assert_close(actual["log_likelihood"], truth, atol=0.08, rtol=0)
    if given:
        assert actual["approximation"].mean() < 0.02
    else:
        assert 0.0 < actual["approximation"].mean() < math.log(2) + 0.02
    assert actual["amortization"].mean() > 0.3


def test_the_evidence_is_the_better_of_two_bounds_and_chunks_make_no_difference(model, monkeypatch):
    x = model(size=N).detach()
    guide, _ = spoilt(model, Truth(model, x), "amortized", x)
    before = torch.get_rng_state()
    annealing = {"num_steps": 20, "leapfrog": 4}
    options = {"importance_samples": 1, "num_samples": 100}
    options |= {"max_steps": 10, "lr": 1e-4}  # so that q* is hardly better, and AIS is
    actual = pv.diagnostics.inference_gaps(model, guide, x, annealing=annealing, **options)
    assert torch.equal(before, torch.get_rng_state())
    annealed = pv.diagnostics.ais(model, x, **annealing)
    torch.testing.assert_close(actual["log_likelihood"], annealed)
    monkeypatch.setattr(pv.evaluate.chunked, "MEMORY_BUDGET", 4 * 8 * 512 * 16 * 4 * 3)
    monkeypatch.setattr(gaps, "SELECTION_DRAWS", 20)
    again = pv.diagnostics.inference_gaps(model, guide, x, annealing=False, **options)
    assert (actual["amortization"] < 0.02).all()
    for name in ("elbo", "elbo_optimal"):
        se = again[f"{name}_se"].hypot(actual[f"{name}_se"])
        assert ((again[name] - actual[name]).abs() < 4.5 * se).all()


@pytest.mark.parametrize(
    "guide, message",
    [
        (lambda m, x: PerDatumAutoGuide(AutoDelta, m, example={"x": x}), "nothing to optimize"),
        (lambda m, x: _flow, "'z' is a TransformedDistribution, which has no parameters that"),
        (lambda m, x: _hidden, "'z' is a _HidesItsScale, .* rebuilt .* it has another density"),
    ],
)
def test_a_guide_that_cannot_be_optimized_raises(model, guide, message):
    x = model(size=N).detach()
    guide = guide(model, x)
    others = {"index": torch.arange(N)} if isinstance(guide, PerDatumAutoGuide) else {}
    with pytest.raises(pv.UserError, match=message):
        pv.diagnostics.inference_gaps(model, guide, x, **FAST, **others)


class _HidesItsScale(dist.Normal):
    """A distribution whose arguments are not what its attributes of the same name are."""

    def __init__(self, loc, scale, validate_args=None):
        super().__init__(loc, 2 * scale, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return _HidesItsScale(self.loc.expand(batch_shape), self.scale.expand(batch_shape) / 2)


def _hidden(x):
    with pyro.plate("data", len(x)):
        loc = x.new_zeros(len(x), LATENT)
        pyro.sample("z", _HidesItsScale(loc, torch.ones_like(loc)).to_event(1))


def _flow(x):
    with pyro.plate("data", len(x)):
        base = dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1)
        flow = dist.transforms.AffineTransform(x.new_ones(LATENT), 2.0, event_dim=1)
        pyro.sample("z", dist.TransformedDistribution(base, [flow]))


def test_a_known_likelihood_is_an_array_with_a_number_for_each_data_point():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.4 * x, 0.9))

    x = torch.tensor([0.3, -1.0]).double()
    exact = torch.distributions.Normal(0.0, math.sqrt(2.0)).log_prob(x)
    options = {"num_samples": 20, "max_steps": 2}

    def found(value):
        result = pv.diagnostics.inference_gaps(model, guide, x, log_likelihood=value, **options)
        return result["log_likelihood"]

    for value in (exact, exact.numpy(), exact.tolist()):
        torch.testing.assert_close(found(value), exact)
    for wrong in (exact[:1], exact[0], torch.zeros(3)):
        with pytest.raises(pv.UserError, match="a number for each of the 2 data points"):
            found(wrong)


def test_gaps_of_one_sample_have_no_standard_error():
    model = pv.models.VAE((3,), 1, likelihood="normal")
    guide = Guide(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pv.diagnostics.inference_gaps(
            model, guide, torch.randn(2, 3), num_samples=1, max_steps=2, annealing=False,
            importance_samples=10,
        )  # fmt: skip
    assert found["elbo_se"].isnan().all() and found["elbo"].isfinite().all()


def two_modes(x=None, size=None):
    """|z - 1| with noise: z = 1 - x is more probable than 1 + x, where the guides below begin."""
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        return pyro.sample("x", dist.Normal((z - 1.0).abs(), 0.2).to_event(1), obs=x)


def at_the_worse_mode(x):
    loc = pyro.param("loc", torch.tensor(2.5))
    scale = pyro.param("scale", torch.tensor(0.2), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc.expand(len(x), 1), scale).to_event(1))


def declared_at_the_worse_mode():
    guide = pv.guides.Guide(two_modes, given={"z": ["x"]}, example=torch.zeros(2, 1))
    head = guide.conditionals["z"].head
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    head.bias.data[:] = torch.tensor([2.5, -1.6])
    return guide


@pytest.mark.parametrize("of", [lambda: at_the_worse_mode, declared_at_the_worse_mode])
def test_the_search_leaves_the_mode_that_the_guide_is_in(of):
    x = torch.tensor([[1.5], [1.2], [1.8]])
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    noise = (z - 1.0).abs() - x.double()
    log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(0.0, 0.2).log_prob(noise)

    def elbo(loc, scale):
        log_q = dist.Normal(loc, scale).log_prob(z)
        weights = log_q.softmax(0)
        return (weights * (log_joint - log_q)).sum(1)

    locs = torch.linspace(-3, 4, 281, dtype=torch.float64)
    scales = torch.linspace(0.1, 0.3, 21, dtype=torch.float64)
    best = torch.stack([elbo(a, b) for a in locs for b in scales]).amax(0)
    log_likelihood = log_joint.logsumexp(1) + math.log(z[1] - z[0])
    gaps = pv.diagnostics.inference_gaps(two_modes, of(), x, log_likelihood=log_likelihood)
    torch.testing.assert_close(gaps["elbo_optimal"].double(), best, rtol=0, atol=0.01)
    expected = (log_likelihood - best).float()
    torch.testing.assert_close(gaps["approximation"], expected, rtol=0, atol=0.01)
