"""Annealed importance sampling where log p(x) is known: closed forms and quadrature."""

import importlib
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import LINEAR, binary_patterns, linear_marginal, linear_posterior_guide, plane_grid
from pyro.infer.autoguide import AutoDelta, AutoNormal

import pyro_vae as pv
from pyro_vae.conditionals import MLP, NormalLikelihood
from pyro_vae.diagnostics.ais import _Annealing
from pyro_vae.diagnostics.gaps import annealed_bound
from pyro_vae.diagnostics.joint import Joint
from pyro_vae.evaluate import chunked
from pyro_vae.programs.recorder import replayed

D, LATENT, SCALE, N = 5, 2, 0.7, 12
NET = MLP(hidden=(6,), activation="tanh")


@pytest.fixture
def model():
    """x = W z + b + noise, z ~ N(0, I)."""
    torch.manual_seed(1)
    return pv.models.VAE((D,), LATENT, NormalLikelihood(SCALE), LINEAR).double()


def test_started_from_the_exact_posterior_every_chain_weighs_the_evidence(model):
    x = model(size=N).detach()
    actual = pv.diagnostics.ais(
        model, x, linear_posterior_guide(model, SCALE), num_steps=3, num_chains=1
    )
    torch.testing.assert_close(actual, linear_marginal(model, SCALE).log_prob(x), atol=1e-9, rtol=0)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_its_exponential_is_unbiased_and_its_bound_rises(model, start):
    guide = None if start == "prior" else linear_posterior_guide(model, SCALE, widen=2.5)
    x = model(size=1).detach().expand(2000, D)
    truth = linear_marginal(model, SCALE).log_prob(x[:1])
    bounds = []
    for num_steps in (1, 4, 16):
        error = pv.diagnostics.ais(model, x, guide, num_steps, num_chains=1, leapfrog=3) - truth
        weight = error.exp()
        assert abs(weight.mean() - 1) < 4 * weight.std() / math.sqrt(len(x))
        assert weight.std() > 1e-3
        bounds.append(error.mean())
    assert bounds[0] < bounds[1] - 0.01 and bounds[1] < bounds[2] - 0.01 and bounds[2] < 0


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_both_sides_of_the_sandwich_are_unbiased(model, start):
    guide = None if start == "prior" else linear_posterior_guide(model, SCALE, widen=1.5)
    actual = pv.diagnostics.bdmc(
        model, guide, num_data=1500, num_steps=10, num_chains=1, leapfrog=3
    )
    truth = linear_marginal(model, SCALE).log_prob(actual["x"])
    for weight in ((actual["lower"] - truth).exp(), (truth - actual["upper"]).exp()):
        assert abs(weight.mean() - 1) < 4 * weight.std() / math.sqrt(len(truth))
    assert actual["lower"].mean() < truth.mean() - 0.01
    assert actual["upper"].mean() > truth.mean() + 0.01
    assert torch.equal(actual["gap"], actual["upper"] - actual["lower"])


def test_the_gap_of_the_sandwich_closes(model):
    gaps = []
    for num_steps in (4, 40):
        actual = pv.diagnostics.bdmc(
            model, num_data=300, num_steps=num_steps, num_chains=4, leapfrog=4
        )
        truth = linear_marginal(model, SCALE).log_prob(actual["x"])
        for above in (truth - actual["lower"], actual["upper"] - truth):
            assert above.mean() > -3 * above.std() / math.sqrt(300)
        gaps.append(actual["gap"].mean())
    assert gaps[1] < 0.1 and gaps[1] < gaps[0] / 3


# ---------------------------------------------------- nonlinear, by quadrature


def mixture():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((D,), 3, LATENT, network=NET).double()
    with torch.no_grad():
        model.p_z.head.maps["y"].weight[:LATENT].normal_(0, 2)
        for p in model.p_x.parameters():
            p.mul_(2)
    return model


@torch.no_grad()
def mixture_evidence(model, x):
    points, cell = plane_grid(7.0, 281)
    y = torch.eye(3, dtype=x.dtype)
    prior = model.p_z(y=y.unsqueeze(1)).log_prob(points)  # [K, G]
    prior = (prior + model.p_y().logits.unsqueeze(-1)).logsumexp(0)
    return (prior + model.p_x(z=points).log_prob(x.unsqueeze(1))).logsumexp(-1) + math.log(cell)


@pytest.mark.parametrize("start", ["prior", "z <- x", "y <- x; z <- x, y"])
def test_discrete_latents_are_summed_on_whichever_side_they_are(start):
    model, x = mixture(), binary_patterns(4, D)
    guide = None
    if start != "prior":
        given = {"y": ["x"], "z": ["x", "y"]} if "y" in start else None
        guide = pv.guides.Guide(model, given=given, network=NET).double()
        guide.factors["z"].head.bias.data[LATENT:] += 1.0  # wide, so that weights have moments
    truth = mixture_evidence(model, x)
    many = x.repeat(250, 1)
    options = {"num_steps": 8, "num_chains": 1, "leapfrog": 3}
    few = pv.diagnostics.ais(model, many, guide, **options).reshape(250, -1) - truth
    assert ((few.exp().mean(0) - 1).abs() < 4.5 * few.exp().std(0) / math.sqrt(250)).all()
    options = {"num_steps": 20, "num_chains": 400, "leapfrog": 5}
    actual, error = annealed_bound(model, x, guide=guide, **options)
    assert error.max() < 0.15 and ((actual - truth).abs() < 4.5 * error).all()


def test_several_latents_are_one_vector():
    torch.manual_seed(0)
    model = pv.models.GMVAE((D,), 3, 1, 1, network=NET, w_network=NET).double()
    x = binary_patterns(4, D)
    points, cell = plane_grid(7.0, 281)
    w, z = points[:, :1], points[:, 1:]
    with torch.no_grad():
        p_z = [model.p_z(w=w, y=y.expand(len(w), 3)).log_prob(z) for y in torch.eye(3).double()]
        prior = torch.stack(p_z).logsumexp(0) - math.log(3) + model.p_w().log_prob(w)
        truth = (prior + model.p_x(z=z).log_prob(x.unsqueeze(1))).logsumexp(-1) + math.log(cell)
    options = {"num_steps": 20, "num_chains": 200, "leapfrog": 4}
    actual = pv.diagnostics.ais(model, x, **options)
    torch.testing.assert_close(actual, truth, atol=0.12, rtol=0)
    guide = pv.guides.Guide(model, network=NET).double()
    actual = pv.diagnostics.ais(model, x, guide, **options)
    torch.testing.assert_close(actual, truth, atol=0.12, rtol=0)
    gap = pv.diagnostics.bdmc(model, num_data=20, num_steps=20, leapfrog=4)["gap"]
    assert -0.1 < gap.mean() < 0.2


# ------------------------------------------- user-defined models: supports, names


def gamma_poisson(x):
    with pyro.plate("rows", len(x)):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), x.new_tensor(0.5)))
        pyro.sample("obs", dist.Poisson(rate), obs=x)


COUNTS = torch.tensor([0.0, 1, 4, 12], dtype=torch.float64)


@pytest.mark.parametrize("start", ["prior", "LogNormal", "AutoNormal"])
def test_a_positive_latent_counts_its_jacobian(start):
    def log_normal(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("rate", dist.LogNormal(x.log1p(), x.new_tensor(0.7)))

    others = {}
    guide = {"prior": None, "LogNormal": log_normal}.get(start)
    if start == "AutoNormal":
        guide = pv.guides.PerDatumAutoGuide(
            AutoNormal, gamma_poisson, example={"x": COUNTS}, init_scale=1.0
        )
        others = {"index": torch.arange(len(COUNTS))}
    truth = dist.NegativeBinomial(COUNTS.new_tensor(2.0), probs=COUNTS.new_tensor(1 / 1.5))
    truth = truth.log_prob(COUNTS)
    actual = pv.diagnostics.ais(
        gamma_poisson, COUNTS, guide, num_steps=30, num_chains=1000, leapfrog=5, **others
    )
    torch.testing.assert_close(actual, truth, atol=0.06, rtol=0)


def test_a_mixture_of_positive_laws_is_a_positive_latent():
    """One component twice: the mixture is the Gamma, whose evidence is known."""

    def model(x):
        with pyro.plate("rows", len(x)):
            parts = dist.Gamma(x.new_full((2,), 2.0), 0.5)
            weights = dist.Categorical(logits=x.new_zeros(2))
            rate = pyro.sample("rate", dist.MixtureSameFamily(weights, parts))
            pyro.sample("obs", dist.Poisson(rate), obs=x)

    actual = pv.diagnostics.ais(model, COUNTS, num_steps=20, num_chains=200, leapfrog=5)
    truth = dist.NegativeBinomial(COUNTS.new_tensor(2.0), probs=COUNTS.new_tensor(1 / 1.5))
    torch.testing.assert_close(actual, truth.log_prob(COUNTS), atol=0.1, rtol=0)


def test_a_user_defined_pair_with_a_latent_on_the_simplex():
    prior = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

    def model(x):
        with pyro.plate("rows", len(x)):
            p = pyro.sample("p", dist.Dirichlet(prior))
            pyro.sample("obs", dist.Multinomial(6, p, validate_args=False), obs=x)

    x = torch.tensor([[6, 0, 0], [1, 3, 2]], dtype=torch.float64)
    truth = dist.DirichletMultinomial(prior, 6).log_prob(x)
    actual = pv.diagnostics.ais(model, x, num_steps=25, num_chains=150, leapfrog=5)
    torch.testing.assert_close(actual, truth, atol=0.12, rtol=0)
    options = {"num_steps": 10, "num_chains": 1, "leapfrog": 4}
    actual = pv.diagnostics.bdmc(model, num_data=300, example={"x": x}, **options)
    truth = dist.DirichletMultinomial(prior, 6).log_prob(actual["x"])
    for weight in ((actual["lower"] - truth).exp(), (truth - actual["upper"]).exp()):
        assert abs(weight.mean() - 1) < 4 * weight.std() / math.sqrt(len(truth))


def test_a_conditional_model_and_one_whose_latent_depends_on_x():
    torch.manual_seed(0)
    x, c = binary_patterns(4, D), torch.randn(4, 2, dtype=torch.float64)
    model = pv.models.CVAE((D,), (2,), 1, network=NET).double()
    prior = pv.guides.PriorGuide(model)
    truth = pv.evaluate.log_likelihood(model, prior, x, 50_000, c=c)
    options = {"num_steps": 15, "leapfrog": 4}
    actual = pv.diagnostics.ais(model, x, c=c, num_chains=50, **options)
    torch.testing.assert_close(actual, truth, atol=0.05, rtol=0)
    gap = pv.diagnostics.bdmc(model, num_data=4, c=c, **options)["gap"]
    assert -0.1 < gap.mean() < 0.1
    model = pv.models.AuxiliaryDGM((D,), 2, 1, network=NET).double()  # a <- x, y, z
    truth = pv.evaluate.log_likelihood(model, pv.guides.PriorGuide(model), x, 50_000)
    actual = pv.diagnostics.ais(model, x, num_chains=50, **options)
    torch.testing.assert_close(actual, truth, atol=0.05, rtol=0)
    assert -0.1 < pv.diagnostics.bdmc(model, num_data=10, **options)["gap"].mean() < 0.1


# ------------------------------------------------------------------- its manners


def test_it_repeats_with_its_seed_leaves_the_stream_alone_and_works_in_chunks(model, monkeypatch):
    x, before = model(size=6).detach(), torch.get_rng_state()
    options = {"num_steps": 15, "leapfrog": 4, "num_chains": 64}
    run = lambda seed: pv.diagnostics.ais(model, x, seed=seed, **options)  # noqa: E731
    a, b, c = run(5), run(5), run(6)
    pv.diagnostics.bdmc(model, num_data=3, num_steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b) and not torch.equal(a, c) and not a.requires_grad
    assert all(p.grad is None for p in model.parameters())
    monkeypatch.setattr(chunked, "MEMORY_BUDGET", 1)
    torch.testing.assert_close(run(5), linear_marginal(model, SCALE).log_prob(x), atol=0.3, rtol=0)


@pytest.mark.parametrize(
    "evaluate, message",
    [
        (
            lambda m, x: pv.diagnostics.ais(m, x, num_steps=0),
            "num_steps must be an integer >= 1",
        ),
        (lambda m, x: pv.diagnostics.ais(gamma_poisson, COUNTS, _point()), "no density of 'rate'"),
        (lambda m, x: pv.diagnostics.ais(m, x, _auxiliary), "is no latent of the model"),
        (lambda m, x: pv.diagnostics.ais(_poisson, x), "neither continuous nor can it be summed"),
        (lambda m, x: pv.diagnostics.bdmc(gamma_poisson), "pass example="),
        (lambda m, x: pv.diagnostics.bdmc(m, num_data=0), "num_data must be an integer >= 1"),
    ],
)
def test_wrong_uses_raise_one_line(model, evaluate, message):
    with pytest.raises(pv.UserError) as error:
        evaluate(model, model(size=2).detach())
    assert message in str(error.value) and "\n" not in str(error.value)


def _point():
    guide = pv.guides.PerDatumAutoGuide(AutoDelta, gamma_poisson, example={"x": COUNTS})
    return lambda x: guide(x, index=torch.arange(len(x)))


def _auxiliary(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        loc = a.unsqueeze(-1).expand(a.shape + (LATENT,))
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def _poisson(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Poisson(x.new_tensor(3.0)))
        pyro.sample(
            "x", dist.Normal(z.unsqueeze(-1).expand(z.shape + (D,)), 1.0).to_event(1), obs=x
        )


def test_step_sizes_follow_the_pilot_chains_alone(model, monkeypatch):
    """Adapted by the chains that are weighted, they would bias the estimate."""
    joint = Joint(model, {"x": model(size=4).detach()})
    anneal, transition = _Annealing(30, 5, 3), _Annealing._transition

    def plan(*acceptance):
        def changed(*args):
            u, ends, accept = transition(*args)
            for chains, value in acceptance:
                accept[chains] = value
            return u, ends, accept

        monkeypatch.setattr(_Annealing, "_transition", changed)
        torch.manual_seed(0)
        return torch.stack(anneal.forward(joint)[1][1])

    weighted, pilots = slice(0, 5), slice(5, None)
    assert torch.equal(plan(), plan((weighted, 0.0)))
    steps = plan((pilots, 0.0))
    torch.testing.assert_close(steps[0] - steps[-1], torch.full((4,), 28 * 0.3 * 0.8).double())


def test_a_prior_that_states_no_support_is_taken_as_real_with_a_warning(model):
    """As zuko's flows are wrapped for Pyro; here the flow is the identity, so log p(x) is known."""

    class Wrapped(pyro.distributions.TorchDistribution):
        has_rsample = True

        def __init__(self, base):
            self.base = base
            super().__init__(base.batch_shape, base.event_shape, validate_args=False)

        def expand(self, batch_shape, _instance=None):
            return Wrapped(self.base.expand(batch_shape))

        def rsample(self, sample_shape=()):
            return self.base.rsample(sample_shape)

        def log_prob(self, value):
            return self.base.log_prob(value)

    def wrapped(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Wrapped(dist.Normal(torch.zeros(LATENT).double(), 1).to_event(1)))
            pyro.sample("x", model.p_x(z=z), obs=x)

    x = model(size=4).detach()
    with pytest.warns(UserWarning, match="the prior of 'z' states no support"):
        actual = pv.diagnostics.ais(wrapped, x, num_steps=30, num_chains=150, leapfrog=5)
    torch.testing.assert_close(actual, linear_marginal(model, SCALE).log_prob(x), atol=0.1, rtol=0)
    with pytest.warns(UserWarning, match="states no support"):
        pv.diagnostics.bdmc(wrapped, num_data=2, num_steps=2, example={"x": x})
    with pytest.warns(UserWarning, match="states no support"):
        pv.diagnostics.nuts_posterior(wrapped, x[:1], num_samples=4, warmup=4, num_chains=2)


def test_counts_as_integers_have_a_bound_in_floating_point():
    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), torch.tensor(0.5)))
            pyro.sample("obs", dist.Poisson(rate), obs=x)

    actual = pv.diagnostics.ais(model, COUNTS.int(), num_steps=20, num_chains=500, leapfrog=5)
    truth = dist.NegativeBinomial(COUNTS.new_tensor(2.0), probs=COUNTS.new_tensor(1 / 1.5))
    torch.testing.assert_close(actual.double(), truth.log_prob(COUNTS), atol=0.1, rtol=0)


def test_data_of_another_shape_raise_one_line():
    model = pv.models.VAE((1, 8, 8), 2)
    with pytest.raises(pv.UserError, match=r"shape \[3, 1, 7, 7\].* built for \[..., 1, 8, 8\]"):
        pv.diagnostics.ais(model, torch.zeros(3, 1, 7, 7))


@pytest.mark.parametrize("name", ["vae", "gmvae", "iaf-vae"])
def test_recorded_evaluations_give_the_numbers_of_plain_ones_to_the_last_bit(name, monkeypatch):
    method = pv.method(name, torch.rand(40, 4), hidden=[8], latent_dim=2, likelihood="normal")
    model, guide = method.build()
    x, used = method.data.train.x[:5], []

    def spy(function, *examples, **options):
        replay = replayed(function, *examples, **options)
        used.append(replay is not function)
        return replay

    def numbers(backend):
        monkeypatch.setattr(
            "pyro_vae.programs.recorder.choose_backend", lambda *args, **options: backend
        )
        for module in ("diagnostics.ais", "diagnostics.gaps"):
            monkeypatch.setattr(importlib.import_module(f"pyro_vae.{module}"), "replayed", spy)
        bound = pv.diagnostics.ais(model, x, num_steps=6, num_chains=2)
        found = pv.diagnostics.inference_gaps(
            model, guide, x, num_samples=20, importance_samples=20, annealing=False, max_steps=60
        )
        return [bound, *found.values()]

    plain = numbers("plain")
    assert not any(used)
    used.clear()
    for expected, actual in zip(plain, numbers("recorded"), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert used == [True] * 3  # the gradient of a density, the density, the search's gradient


def turning(x):
    """Two angles; x has the cosine and the sine of each, with noise."""
    with pyro.plate("rows", len(x)):
        center, concentration = torch.tensor([0.5, -1.0]), torch.tensor([1.2, 0.5])
        z = pyro.sample("z", dist.VonMises(center, concentration).to_event(1))
        mean = torch.cat([z.cos(), z.sin()], -1)
        pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x)


def turning_guide(x):
    with pyro.plate("rows", len(x)):
        center = torch.atan2(x[:, 2:], x[:, :2])
        pyro.sample("z", dist.VonMises(center, torch.tensor(2.0)).to_event(1))


@pytest.mark.slow
def test_an_angle_has_one_turn():
    """Torch states all reals as its support, over which its density has no integral."""
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    angle = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)[:-1]
    exact = torch.zeros(3, dtype=torch.float64)
    for i, (center, concentration) in enumerate([(0.5, 1.2), (-1.0, 0.5)]):
        log_p = dist.VonMises(torch.tensor(center).double(), concentration).log_prob(angle)
        for value, part in ((angle.cos(), x[:, i]), (angle.sin(), x[:, 2 + i])):
            log_p = log_p + dist.Normal(value, 0.7).log_prob(part[:, None].double())
        exact += log_p.logsumexp(-1) + math.log(2 * math.pi / 2000)
    grid = pv.diagnostics.posterior_grid(turning, x, guide=turning_guide)
    torch.testing.assert_close(grid.log_likelihood.double(), exact, atol=2e-3, rtol=0)
    estimate = pv.diagnostics.ais(turning, x, num_steps=300, num_chains=50)
    torch.testing.assert_close(estimate.double(), exact, atol=0.15, rtol=0)
    draws = pv.diagnostics.nuts_posterior(turning, x, 20, 20, num_chains=2).draws["z"]
    assert draws.abs().max() <= math.pi


def test_a_model_whose_shapes_lack_the_summed_dimension_is_one_line():
    """In a run, z has the dimension of y, of whose value its mean depends; a given z has not."""

    def model(x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(y.cumsum(-1)[..., :2], 1.0).to_event(1))
            both = torch.cat([z, y.expand(z.shape[:-1] + (3,))], -1)
            return pyro.sample("x", dist.Normal(both, 1.0).to_event(1), obs=x)

    with pytest.raises(pv.UserError, match=r"summed: expand\(.*torch.broadcast_shapes") as caught:
        pv.diagnostics.ais(model, model(size=4), num_steps=3, num_chains=2)
    assert "\n" not in str(caught.value)
