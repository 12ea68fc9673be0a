"""Inference gaps where the best of the family is known in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Flow, MixtureOfNormals, MultivariateNormal, NormalLikelihood
from pyro_vae.guides import Auto, Guide, SemiAmortised

D, LATENT, SCALE, N = 5, 2, 0.7, 8
MOVE, WIDEN = 0.3, 1.5
LINEAR, NET = MLP(hidden=()), MLP(hidden=(6,), activation="tanh")
FAST = {"annealing": False, "importance_samples": 2000, "num_samples": 10_000}


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
        self.amortisation = self.kl(MOVE, WIDEN) - self.approximation

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

    if kind == "a stranger's function":
        return function, {}
    if kind == "AutoNormal":
        guide = Auto(AutoNormal, model, example={"x": x})
        rows = dict(guide.rows.items())
        rows["locs_z"].data.copy_(loc(x))
        # its scales are softplus of what it stores, or whatever its constraint makes of it
        guide.rows["scales_z"].data.copy_(
            torch.distributions.biject_to(dist.constraints.softplus_positive)
            .inv(scale)
            .expand(N, -1)
        )
        return guide, {"index": torch.arange(N)}
    if kind == "per datum":
        guide = Guide(model, given={"z": ["index"]}, num_data=N).double()
        raw = guide.factors["z"].family.raw(loc(x), torch.diag(scale**2).expand(N, -1, -1))
        guide.factors["z"].head.maps["index"].rows.data.copy_(raw)
        guide.factors["z"].head.bias.data.zero_()
        return guide, {"index": torch.arange(N)}
    guide = Guide(model, network=LINEAR).double()
    head = guide.factors["z"].head
    with torch.no_grad():
        head.bias.copy_(guide.factors["z"].family.raw(truth.offset + MOVE, torch.diag(scale**2)))
        head.maps["x"].weight.zero_()[:LATENT] = truth.gain
    return guide, {}


@pytest.mark.parametrize("kind", ["amortised", "per datum", "a stranger's function", "AutoNormal"])
def test_a_spoilt_diagonal_guides_gaps_are_what_was_done_to_it(model, kind):
    x = model(size=N).detach()
    truth = Truth(model, x)
    guide, others = spoilt(model, truth, kind, x)
    given = {**FAST, **others, "log_likelihood": truth.evidence}
    found = pv.evaluate.inference_gaps(model, guide, x, **given)
    assert truth.approximation > 0.05 and truth.amortisation > 0.3
    for name in ("approximation", "amortisation"):
        expected = getattr(truth, name).expand(N)
        torch.testing.assert_close(found[name], expected, atol=0.06, rtol=0)
        torch.testing.assert_close(found[name].mean(), expected[0], atol=0.02, rtol=0)
    total = found["approximation"] + found["amortisation"]
    torch.testing.assert_close(total, found["log_likelihood"] - found["elbo"])


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
    found = pv.evaluate.inference_gaps(model, guide, x, log_likelihood=truth.evidence, **FAST)
    assert torch.equal(found["log_likelihood"], truth.evidence)
    assert found["amortisation"].mean() > 0.5
    assert found["approximation"].mean() < 0.02 and found["approximation"].min() > -0.02


def test_the_best_is_never_worse_than_what_it_started_from(model):
    x = model(size=N).detach()
    truth = Truth(model, x)
    guide = spoilt(model, truth, "amortised", x)[0]
    semi = SemiAmortised(model, guide, steps=80, lr=0.03, num_samples=30)
    options = {**FAST, "num_samples": 2000, "max_steps": 50}
    found = pv.evaluate.inference_gaps(model, semi, x, **options)
    assert (found["amortisation"] >= 0).all() and found["amortisation"].mean() < 0.02
    assert found["approximation"].mean() == pytest.approx(float(truth.approximation), abs=0.03)


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
        law = dist.MultivariateNormal(p_z.loc @ w.T + b, covariance)
        truth = (law.log_prob(x.unsqueeze(1)) + model.p_y().logits).logsumexp(-1)
    given = {"y": ["x"], "z": ["x", "y"]} if "y" in side else None
    guide = Guide(model, given=given, family={"z": MultivariateNormal()}, network=NET).double()
    found = pv.evaluate.inference_gaps(model, guide, x, **FAST)
    torch.testing.assert_close(found["log_likelihood"], truth, atol=0.08, rtol=0)
    if given:
        assert found["approximation"].mean() < 0.02
    else:
        assert 0.0 < found["approximation"].mean() < math.log(2) + 0.02
    assert found["amortisation"].mean() > 0.3


def test_the_evidence_is_the_better_of_two_bounds_and_chunks_make_no_difference(model, monkeypatch):
    x = model(size=N).detach()
    guide, _ = spoilt(model, Truth(model, x), "amortised", x)
    before = torch.get_rng_state()
    options = {"importance_samples": 1, "annealing": {"num_steps": 60}, "num_samples": 2000}
    options |= {"max_steps": 50, "lr": 1e-4}  # so that q* is hardly better, and AIS is
    found = pv.evaluate.inference_gaps(model, guide, x, **options)
    assert torch.equal(before, torch.get_rng_state())
    annealed = pv.evaluate.ais(model, x, num_steps=60)
    torch.testing.assert_close(found["log_likelihood"], annealed)
    monkeypatch.setattr(pv.evaluate.likelihood, "BYTES", 4 * 8 * 512 * 16 * 4 * 3)
    again = pv.evaluate.inference_gaps(model, guide, x, **options)
    assert (found["amortisation"] < 0.02).all()
    for name in ("elbo", "elbo_optimal"):
        torch.testing.assert_close(again[name].mean(), found[name].mean(), atol=0.12, rtol=0)


@pytest.mark.parametrize(
    "guide, message",
    [
        (lambda m, x: Auto(AutoDelta, m, example={"x": x}), "nothing to optimise"),
        (lambda m, x: _flow, "has no parameters that could be optimised"),
    ],
)
def test_a_guide_that_cannot_be_optimised_is_refused(model, guide, message):
    x = model(size=N).detach()
    guide = guide(model, x)
    others = {"index": torch.arange(N)} if isinstance(guide, Auto) else {}
    with pytest.raises(pv.UserError, match=message):
        pv.evaluate.inference_gaps(model, guide, x, **FAST, **others)


def _flow(x):
    with pyro.plate("data", len(x)):
        base = dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1)
        flow = dist.transforms.AffineTransform(x.new_ones(LATENT), 2.0, event_dim=1)
        pyro.sample("z", dist.TransformedDistribution(base, [flow]))
