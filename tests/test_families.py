"""Families of posteriors: densities in closed form, gradients against quadrature."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from problems import rows_of
from sampling import covering, in_turn
from torch import nn

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Conditional, Flow, LowRankNormal, MixtureOfNormals, Normal
from pyro_vae.conditionals.mixtures import TRAINING
from pyro_vae.distributions import NormalMixture
from pyro_vae.distributions.normal_mixture import ImplicitReparameterization
from pyro_vae.programs import trace_pair
from pyro_vae.train import loop

D, LATENT, N = 6, 2, 7
NET = MLP(hidden=(5,), activation="tanh")
FLOWS = ("iaf", "maf", "spline", "coupling")
FAMILIES = {
    "low-rank": LowRankNormal(1),
    **{f"mixture, {t}": MixtureOfNormals(3, t) for t in TRAINING},
    **{flow: Flow(flow, hidden=(8,), context=4) for flow in FLOWS},
}


def binary(n=N):
    generator = torch.Generator().manual_seed(1)
    return torch.bernoulli(torch.full((n, D), 0.5, dtype=torch.float64), generator=generator)


def pair(family, scale=0.5, given=None):
    """A VAE and a guide of this family, its weights away from where they start."""
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, network=NET).double()
    guide = pv.guides.Guide(model, given, {"z": family}, NET, num_data=rows_of(given, N)).double()
    with torch.no_grad():
        for name, p in guide.named_parameters():
            if ".family_modules." in name:
                p.mul_(0.5)  # zuko's flows start with deep valleys
            else:
                p.add_(scale * torch.randn_like(p))
        if isinstance(family, Flow):  # wide enough for its importance weights, and for grids
            guide.factors["z"].head.bias[LATENT : 2 * LATENT] += 0.5
    return model, guide


def grid(half=9.0, points=181):
    line = torch.linspace(-half, half, points, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return z, (line[1] - line[0]) ** 2


def mixture(k=3, batch=(), seed=0, spread=1.0):
    torch.manual_seed(seed)
    parts = (torch.randn(*batch, k), spread * torch.randn(*batch, k, LATENT))
    parts = (*parts, torch.rand(*batch, k, LATENT) + 0.4)
    return [p.double().requires_grad_() for p in parts]


# ---------------------------------------------------------------------- densities


def test_a_low_rank_normals_density_is_scipys():
    q = Conditional((4,), family=LowRankNormal(2), network=NET).double()
    nn.init.normal_(q.head.bias)
    raw, start = q.head.bias.detach(), q.unconditional_parameters["initial_factor"].detach()
    factor = raw[8:].reshape(4, 2) + start
    variance = (2 * 7 * torch.tanh(raw[4:8] / 7)).exp()
    covariance = (factor @ factor.T + torch.diag(variance)).numpy()
    z = torch.randn(5, 4, dtype=torch.float64)
    expected = scipy.stats.multivariate_normal(raw[:4].numpy(), covariance).logpdf(z.numpy())
    np.testing.assert_allclose(q().log_prob(z).detach(), expected, rtol=1e-10)
    torch.testing.assert_close(q().mean, raw[:4])


@pytest.mark.parametrize("training", TRAINING)
def test_a_mixtures_density_mean_and_variance_are_the_formulas(training):
    q = Conditional((LATENT,), family=MixtureOfNormals(3, training), network=NET).double()
    nn.init.normal_(q.head.bias)
    raw, fn = q.head.bias.detach(), q()
    logits = torch.zeros(3).double() if training == "uniform" else raw[:3]
    rest = raw if training == "uniform" else raw[3:]
    weights = logits.softmax(-1).numpy()
    loc = (
        rest[:6].reshape(3, 2) + q.unconditional_parameters["component_offsets"].detach()
    ).numpy()
    scale = (7 * torch.tanh(rest[6:].reshape(3, 2) / 7)).exp().numpy()
    z = torch.randn(5, 2, dtype=torch.float64)
    density = sum(
        w * scipy.stats.norm(m, s).pdf(z.numpy()).prod(-1)
        for w, m, s in zip(weights, loc, scale, strict=True)
    )
    np.testing.assert_allclose(fn.log_prob(z).detach(), np.log(density), rtol=1e-10)
    mean = (weights[:, None] * loc).sum(0)
    np.testing.assert_allclose(fn.mean.detach(), mean)
    second = (weights[:, None] * (scale**2 + loc**2)).sum(0)
    np.testing.assert_allclose(fn.variance.detach(), second - mean**2)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_density_integrates_to_one_and_its_draws_follow_it(name):
    _, guide = pair(FAMILIES[name], scale=0.1)
    fn = guide.factors["z"](x=binary(1)).expand((1,))
    z, area = grid()
    with torch.no_grad():
        mass = fn.log_prob(z.unsqueeze(1)).exp()[:, 0] * area
        draws = fn.sample((20_000,))[:, 0]
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    for f in (lambda v: v[:, 0], lambda v: v[:, 1] ** 2, lambda v: (v.prod(1) > 0.3).double()):
        exact, actual = (mass * f(z)).sum(), f(draws)
        assert abs(actual.mean() - exact) < 4.5 * actual.std() / math.sqrt(len(draws)) + 2e-3


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flows_density_of_its_own_draw_is_the_density_of_that_value(flow):
    """The one kept from drawing, and the one found by inverting."""
    _, guide = pair(FAMILIES[flow])
    fn = guide.factors["z"](x=binary())
    z = fn()
    torch.testing.assert_close(fn.log_prob(z), fn.log_prob(z.clone()), rtol=1e-5, atol=1e-5)
    assert z.requires_grad and fn.event_shape == (LATENT,) and fn.batch_shape == (N,)


# ------------------------------------------------- draws of a mixture as functions of it


def by_inversion(u, log_weights, loc, scale):
    """The draw z for uniform `u [D]`, by bisection in one dimension after the other."""
    z = []
    before = torch.zeros_like(log_weights)
    for d in range(len(u)):
        w = (log_weights + before).softmax(-1)
        low, high = torch.tensor(-50.0).double(), torch.tensor(50.0).double()
        for _ in range(90):
            middle = (low + high) / 2
            below = (w * torch.special.ndtr((middle - loc[:, d]) / scale[:, d])).sum() < u[d]
            low, high = (middle, high) if below else (low, middle)
        z.append(middle)
        t = (middle - loc[:, d]) / scale[:, d]
        before = before - t**2 / 2 - scale[:, d].log()
    return torch.stack(z)


def ranks(z, log_weights, loc, scale):
    """The u of a draw z: its conditional distribution functions."""
    t = (z - loc) / scale
    log_p = -(t**2) / 2 - scale.log()
    w = (log_weights[:, None] + log_p.cumsum(-1) - log_p).softmax(0)
    return (w * torch.special.ndtr(t)).sum(0)


def test_a_pathwise_draw_moves_with_the_parameters_as_its_quantiles_do():
    """dz / d(parameter) at fixed u, against finite differences of the inverted conditional CDFs."""
    logits, loc, scale = mixture()
    z = NormalMixture(logits, loc, scale).rsample()
    with torch.no_grad():
        u = ranks(z, logits, loc, scale)
        torch.testing.assert_close(by_inversion(u, logits, loc, scale), z, atol=1e-9, rtol=0)
    each = [
        torch.autograd.grad(z[d], (logits, loc, scale), retain_graph=True) for d in range(LATENT)
    ]
    for d, actual in enumerate(each):
        for parameter, gradient in zip((logits, loc, scale), actual, strict=True):
            numeric = torch.zeros_like(gradient)
            for i in range(parameter.numel()):
                with torch.no_grad():
                    entry, h = parameter.view(-1), 1e-5
                    entry[i] += h
                    up = by_inversion(u, logits, loc, scale)[d]
                    entry[i] -= 2 * h
                    down = by_inversion(u, logits, loc, scale)[d]
                    entry[i] += h
                numeric.view(-1)[i] = (up - down) / (2 * h)
            torch.testing.assert_close(gradient, numeric, rtol=1e-4, atol=1e-6)


def test_a_pathwise_draws_second_derivative_is_right_too():
    """Semi-amortized inference differentiates gradients: against differences of first ones."""
    parameters = mixture(k=2)

    def first(create_graph=False):
        torch.manual_seed(5)
        logits, loc, scale = parameters
        with torch.no_grad():  # one fixed u for every value of the parameters
            u = torch.tensor([0.3, 0.8]).double()
            value = by_inversion(u, logits.log_softmax(-1), loc, scale)
        z = ImplicitReparameterization.apply(value, logits.log_softmax(-1), loc, scale)
        y = (z**3).sum() + z.prod()
        return torch.autograd.grad(y, parameters, create_graph=create_graph)

    direction = [torch.randn_like(p) for p in parameters]
    inner = sum((g * v).sum() for g, v in zip(first(True), direction, strict=True))
    actual = torch.autograd.grad(inner, parameters)
    h = 1e-5
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(sign * h * v)
        sides.append(first())
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.sub_(sign * h * v)
    for a, up, down in zip(actual, *sides, strict=True):
        torch.testing.assert_close(a, (up - down) / (2 * h), rtol=1e-4, atol=1e-5)


def test_one_components_pathwise_draw_is_the_normals():
    _, loc, scale = mixture(k=1)
    z = NormalMixture(torch.zeros(1).double(), loc, scale).rsample()
    noise = (z - loc[0]).detach() / scale[0].detach()
    to_loc, to_scale = torch.autograd.grad(z.sum(), (loc, scale))
    torch.testing.assert_close(to_loc, torch.ones_like(to_loc))
    torch.testing.assert_close(to_scale[0], noise)


# -------------------------------------------------------- gradients of the whole bound


def points(guide, x):
    """Quadrature for E_q of one data point: `z [M, 2]`, log q(z), and weights that sum to 1.

    Over z; over the noise that a flow maps to z, where its density may be narrow.
    """
    fn = guide.factors["z"](x=x)
    z, area = grid()
    if not hasattr(fn, "dist"):
        log_q = fn.log_prob(z.unsqueeze(1))[:, 0]
        return z, log_q, log_q.exp() * area
    noise = z.unsqueeze(1)
    log_noise = fn.dist.base.log_prob(noise)[:, 0]
    z, ladj = fn.dist.transform.inv.call_and_ladj(noise)
    return z[:, 0], log_noise - ladj[:, 0], log_noise.exp() * area


def exact(model, guide, x, beta=1.0):
    """Minus the bound of one data point by quadrature, differentiable."""
    z, log_q, mass = points(guide, x)
    kl = log_q - model.p_z().log_prob(z)
    return (mass * (beta * kl - model.p_x(z=z).log_prob(x))).sum()


@pytest.mark.parametrize(
    "name, objective", in_turn(list(FAMILIES), [{}, {"beta": 0.3}, {"num_particles": 2}])
)
def test_the_bounds_and_gradients_mean_is_quadratures(name, objective):
    model, guide = pair(FAMILIES[name], scale=0.15)
    objective = pv.objectives.ELBO(**objective)
    x, rows, times = binary(1), 200, 25
    parameters = [p for p in [*model.parameters(), *guide.parameters()]]
    loss = exact(model, guide, x, objective.beta)
    expected = torch.cat(
        [loss.detach()[None], *[g.flatten() for g in torch.autograd.grad(loss, parameters)]]
    )
    actual = []
    for seed in range(times):
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(model, guide, x.expand(rows, D)) / rows
        gradients = torch.autograd.grad(loss, parameters)
        actual.append(torch.cat([loss.detach()[None], *[g.flatten() for g in gradients]]))
    actual = torch.stack(actual)
    error = (actual.var(0) / times).sqrt()
    assert ((actual.mean(0) - expected).abs() < 5 * error + 2e-3 * (1 + expected.abs())).all()
    assert (expected.abs() > 10 * error).sum() > 10  # the test can fail


@pytest.mark.parametrize("name", FAMILIES)
def test_an_evaluation_uses_the_distribution_of_the_family(name):
    """ELBO and its terms, importance weights and encodings: against quadrature."""
    model, guide = pair(FAMILIES[name], scale=0.15)
    x = binary(2)
    terms = pv.evaluate.elbo_terms(model, guide, x, num_samples=5000)
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=20_000)
    assert set(terms) >= {"x", "z"} and not any("component" in n for n in terms)
    means = []
    for i in range(2):
        with torch.no_grad():
            z, log_q, mass = points(guide, x[i : i + 1])
            log_x = model.p_x(z=z).log_prob(x[i])
            kl = log_q - model.p_z().log_prob(z)
            even, area = grid()
            joint = model.p_z().log_prob(even) + model.p_x(z=even).log_prob(x[i])
        for actual, values in ((terms["x"][i], log_x), (-terms["z"][i], kl)):
            mean = (mass * values).sum()
            sd = (mass * (values - mean) ** 2).sum().sqrt()
            assert abs(actual - mean) < 5 * sd / math.sqrt(5000) + 1e-3
        # the weights of a flow that has not been trained have heavy tails
        tolerance = 0.15 if name in FLOWS else 0.03
        evidence = (joint + area.log()).logsumexp(0).item()
        assert bound[i] == pytest.approx(evidence, abs=tolerance)
        mean = (mass.unsqueeze(-1) * z).sum(0)
        sd = (mass.unsqueeze(-1) * (z - mean) ** 2).sum(0).sqrt()
        means.append((mean, 5 * sd / math.sqrt(32) if name in FLOWS else 2e-3))
    code = pv.evaluate.encode(model, guide, x)
    assert set(code) == {"z"}
    for actual, (mean, error) in zip(code["z"], means, strict=True):  # a flow's: of 32 draws
        assert ((actual - mean).abs() < error).all()


# ------------------------------------------------------------------ strata in training


def test_the_stratified_loss_is_the_sum_over_components_spelled_out():
    model, guide = pair(MixtureOfNormals(3))
    x = binary()
    torch.manual_seed(3)
    loss = pv.objectives.ELBO().differentiable_loss(model, guide, x)
    torch.manual_seed(3)
    fn = guide.factors["z"](x=x)
    noise = torch.randn(3, N, LATENT, dtype=torch.float64)
    z = fn.loc.movedim(-2, 0) + fn.scale.movedim(-2, 0) * noise
    log_p = model.p_z().log_prob(z) + model.p_x(z=z).log_prob(x)
    by_hand = -(fn.log_weights.exp().T * (log_p - fn.log_prob(z))).sum()
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)


def test_strata_in_training_mode_are_weighed_as_in_siwae():
    """log (1/S) sum_s sum_k pi_k p(x, z_ks) / q(z_ks), draw by draw."""
    model, guide = pair(MixtureOfNormals(3))
    x, s = binary(), 4
    torch.manual_seed(3)
    actual = trace_pair(model, guide, {"x": x}, num_particles=s).log_weight()
    torch.manual_seed(3)
    fn = guide.factors["z"](x=x)
    noise = torch.randn(3, s, N, LATENT, dtype=torch.float64)
    z = fn.loc.movedim(-2, 0)[:, None] + fn.scale.movedim(-2, 0)[:, None] * noise
    log_p = model.p_z().log_prob(z) + model.p_x(z=z).log_prob(x)
    by_hand = (fn.log_weights.T[:, None] + log_p - fn.log_prob(z)).logsumexp(0)
    torch.testing.assert_close(actual, by_hand, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [2, 5])
def test_a_mixture_gains_at_most_log_k_over_its_components_average(k):
    """And not less than nothing, on average: the gain is their generalized JSD (MISELBO)."""
    model, guide = pair(MixtureOfNormals(k, "uniform"), scale=1.0)
    x = binary()
    gains = []
    for seed in range(50):
        torch.manual_seed(seed)
        bound = trace_pair(model, guide, {"x": x}).site_terms()
        bound = bound["x"] + bound["z"]
        torch.manual_seed(seed)
        fn = guide.factors["z"](x=x)
        noise = torch.randn(k, N, LATENT, dtype=torch.float64)
        z = fn.loc.movedim(-2, 0) + fn.scale.movedim(-2, 0) * noise
        own = torch.distributions.Normal(fn.loc.movedim(-2, 0), fn.scale.movedim(-2, 0))
        log_p = model.p_z().log_prob(z) + model.p_x(z=z).log_prob(x)
        each = (log_p - own.log_prob(z).sum(-1)).mean(0)
        gains.append((bound - each).detach())
    gains = torch.stack(gains)
    assert (gains <= math.log(k) + 1e-9).all()  # draw by draw
    assert (gains.mean(0) > 0).all() and gains.max() > 0.5 * math.log(k)


def test_no_component_is_a_latent_of_the_pair():
    """A model with a discrete y of its own: its responsibilities, not the mixture's."""
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((D,), 4, LATENT, network=NET).double()
    guide = pv.guides.Guide(
        model, {"y": ["x"], "z": ["x", "y"]}, {"z": MixtureOfNormals(3)}, NET
    ).double()
    x = binary()
    assert pv.evaluate.responsibilities(model, guide, x).shape == (N, 4)
    assert set(pv.evaluate.encode(model, guide, x)) == {"z"}
    assert set(pv.evaluate.sample_posterior(model, guide, x)) == {"y", "z"}
    torch.manual_seed(2)
    plain = pv.objectives.ELBO().differentiable_loss(model, guide, x)
    torch.manual_seed(2)
    weighted = pv.objectives.ELBO(free_bits={"y": 0.0}).differentiable_loss(model, guide, x)
    torch.testing.assert_close(plain, weighted)  # Pyro's sum and this library's


def gap_of_a_bimodal_posterior(family):
    """log p(x) minus the ELBO after training, where x = z^2 + noise."""
    torch.manual_seed(0)

    class Square(pv.programs.program.Program):
        def forward(self, x=None, size=None):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z**2, 0.3).to_event(1), obs=x)

    model, x = Square(), torch.full((50, 1), 1.0)
    z = torch.linspace(-6, 6, 4001)
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, 0.3).log_prob(torch.tensor(1.0))
    evidence = (joint + math.log(z[1] - z[0])).logsumexp(0)
    guide = pv.guides.Guide(model, {"z": []}, {"z": family})
    with torch.no_grad():  # narrow, and a component near each mode
        guide.factors["z"].head.bias[-1 if isinstance(family, Normal) else -2 :] = -1.5
        for component_offsets in guide.factors["z"].unconditional_parameters.values():
            component_offsets.copy_(torch.tensor([[-0.8], [0.8]]))
    pv.fit(model, guide, x, epochs=250, lr=0.05, schedule="cosine", progress=False)
    return evidence - pv.evaluate.elbo(model, guide, x, num_samples=400).mean()


def test_a_normal_loses_log_2_on_a_bimodal_posterior():
    assert gap_of_a_bimodal_posterior(Normal()) > math.log(2) - 0.05


@pytest.mark.parametrize("training", TRAINING)
def test_a_mixture_finds_both_modes_of_a_bimodal_posterior(training):
    gap = gap_of_a_bimodal_posterior(MixtureOfNormals(2, training))
    # the pathwise gradient is heavy-tailed between modes so far apart
    assert gap < (0.45 if training == "pathwise" else 0.1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "given", [{"z": []}, {"z": ["index"]}], ids=["constants", "per data point"]
)
def test_from_where_it_starts_every_parameter_has_a_gradient(name, given):
    """Tables and constants start at zero, where equal components would stay equal."""
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, network=NET).double()
    guide = pv.guides.Guide(
        model, given, {"z": FAMILIES[name]}, NET, num_data=rows_of(given, N)
    ).double()
    batch = {"x": binary(), "index": torch.arange(N)}
    pv.objectives.ELBO().differentiable_loss(model, guide, **batch).backward()
    for parameter_name, p in guide.named_parameters():
        assert torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, parameter_name
    if "mixture" in name:
        rows = guide.factors["z"].unconditional_parameters["component_offsets"].grad
        assert not torch.allclose(rows[0], rows[1])


@pytest.mark.parametrize("name", covering(list(FAMILIES), every=4, first=2))
def test_a_recorded_step_takes_it(name):
    """The same losses as plain Pyro, step by step."""
    torch.set_default_dtype(torch.float64)
    losses = []
    for compile in (False, "recorded"):
        torch.manual_seed(0)
        model = pv.models.VAE((D,), LATENT, network=NET)
        guide = pv.guides.Guide(model, family={"z": FAMILIES[name]}, network=NET)
        actual = pv.fit(
            model, guide, binary(64), epochs=2, batch_size=16, compile=compile,
            device="cpu", progress=False,
        )  # fmt: skip
        losses.append([row["loss"] for row in actual.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_when_checkpoints_are_written_makes_no_difference_to_the_noise(monkeypatch):
    """Checkpoints are due by the clock; a spline of zuko's draws numbers to print itself."""
    losses = []
    for seconds in (0, math.inf):
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
        model, guide = pair(FAMILIES["spline"])
        run = pv.fit(model, guide, binary(), epochs=3, device="cpu", progress=False)
        losses.append([row["loss"] for row in run.history])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Flow("iafs"), "unknown flow 'iafs'; did you mean 'iaf'?"),
        (lambda: Flow(transforms=0), "transforms must be an integer >= 1"),
        (lambda: MixtureOfNormals(2, "strata"), "did you mean 'stratified'?"),
        (lambda: MixtureOfNormals(0), "num_components must be an integer >= 1"),
        (lambda: LowRankNormal(0), "rank must be an integer >= 1"),
        (
            lambda: Conditional((2, 2), family=Flow()),
            "a distribution of vectors, not of shape [2, 2]",
        ),
        (lambda: Conditional((2, 2), family=MixtureOfNormals()), "a distribution of vectors"),
        (lambda: Conditional((2, 2), family=LowRankNormal()), "a distribution of vectors"),
    ],
)
def test_a_wrong_family_raises_one_line(make, message):
    with pytest.raises(pv.UserError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)
