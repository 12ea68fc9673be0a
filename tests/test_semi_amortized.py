"""Gradient steps per data point: by hand, to convergence, and differentiated."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import binary_patterns, linear_posterior, rows_of

import pyro_vae as pv
from pyro_vae.conditionals import (
    MLP,
    ConstantCorrelationNormal,
    Flow,
    LowRankNormal,
    MixtureOfNormals,
    MultivariateNormal,
    NormalLikelihood,
)
from pyro_vae.guides import Guide, SemiAmortized
from pyro_vae.programs.centers import CommonNoise

D, K, LATENT, N, SCALE = 6, 3, 2, 7, 0.5
NET = MLP(hidden=(5,), activation="tanh")
SHU = {"y": ["x"], "z": ["x", "y"]}


def linear():
    """x = W z + b + 0.5 e, and a guide that is off."""
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, NormalLikelihood(SCALE), MLP(hidden=())).double()
    guide = Guide(model, network=NET).double()
    return model, guide, model(size=N).detach()


def posterior(model, x):
    """Exact `(mean [N, D], precision [D, D])`."""
    gain, offset, covariance = linear_posterior(model, SCALE)
    return x @ gain.T + offset, torch.linalg.inv(covariance)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_the_steps_are_gradient_ascent_on_a_quadratic(clip_norm):
    model, guide, x = linear()
    steps, lr = 4, 0.03
    semi = SemiAmortized(model, guide, steps=steps, lr=lr, clip_norm=clip_norm)
    torch.manual_seed(3)
    actual = semi.parameter_offsets(x=x)["z"].detach()
    torch.manual_seed(3)
    mean, precision = posterior(model, x)
    q = guide.factors["z"]
    start = q.head(**q.features(x=x)).detach()
    numbers = start.clone()
    longest = 0.0
    for _ in range(steps):
        loc, raw = numbers.chunk(2, -1)
        noise = torch.randn(1, N, LATENT, dtype=torch.float64)[0]
        squash = torch.tanh(raw / 7)
        scale = (7 * squash).exp()
        to_z = -(loc + scale * noise - mean) @ precision  # gradient of log p(x, z)
        to_raw = (to_z * noise * scale + 1) * (1 - squash**2)  # + 1: the entropy's
        gradient = torch.cat([to_z, to_raw], -1)
        norm = gradient.norm(dim=-1, keepdim=True)
        longest = max(longest, norm.max())
        if clip_norm is not None:
            gradient = gradient * (clip_norm / norm).clamp(max=1)
        numbers = numbers + lr * gradient
    torch.testing.assert_close(actual, numbers - start, rtol=1e-9, atol=1e-12)
    assert longest > 0.5  # clipping had something to do


@pytest.mark.slow
def test_many_steps_end_at_the_optimal_diagonal_normal():
    model, guide, x = linear()
    mean, precision = posterior(model, x)
    semi = SemiAmortized(model, guide, steps=800, lr=0.01, num_samples=200, clip_norm=None)
    with torch.no_grad():
        fn = guide.factors["z"](x=x, parameter_offsets=semi.parameter_offsets(x=x)["z"]).base_dist
    torch.testing.assert_close(fn.loc, mean, atol=0.03, rtol=0)
    optimal = precision.diagonal().rsqrt().expand_as(fn.scale)
    torch.testing.assert_close(fn.scale, optimal, rtol=0.05, atol=0)
    # what it cannot have: the correlations, (log det diag - log det) / 2 nats
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    w = model.p_x.head.maps["z"].weight.detach()
    covariance = w @ w.T + SCALE**2 * torch.eye(D).double()
    bias = model.p_x.head.bias.detach()
    evidence = torch.distributions.MultivariateNormal(bias, covariance).log_prob(x)
    bound = pv.evaluate.elbo(model, semi, x, num_samples=2000)
    torch.testing.assert_close(evidence - bound, gap.expand(N), atol=0.05, rtol=0)


def mixture_vae():
    return pv.models.MixtureVAE((D,), K, LATENT, network=NET)


def vae():
    return pv.models.VAE((D,), LATENT, network=NET)


PAIRS = {
    "normal": (vae, None, None),
    "full": (vae, None, MultivariateNormal()),
    "low-rank": (vae, None, LowRankNormal(1)),
    "constant correlation": (vae, None, ConstantCorrelationNormal()),
    "stratified": (vae, None, MixtureOfNormals(2)),
    "iaf": (vae, None, Flow("iaf", hidden=(6,), context=3)),
    "constants": (vae, {"z": []}, None),
    "per data point": (vae, {"z": ["index"]}, None),
    "y summed in the model": (mixture_vae, None, None),
    "y summed in the guide": (mixture_vae, SHU, None),
}


def pair(name, **options):
    make, given, family = PAIRS[name]
    torch.manual_seed(0)
    model = make().double()
    family = None if family is None else {"z": family}
    guide = Guide(model, given, family, NET, num_data=rows_of(given, N)).double()
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(0.2 * torch.randn_like(p))
    options = {"steps": 3, "lr": 0.1, "clip_norm": 1.0, **options}
    return (
        model,
        SemiAmortized(model, guide, **options),
        {"x": binary_patterns(N, D), "index": torch.arange(N)},
    )


def loss(model, guide, batch, seed=4, **options):
    torch.manual_seed(seed)
    objective = pv.objectives.ELBO(**options)
    return objective.differentiable_loss(model, guide, **batch)


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_run_through_the_steps(name):
    """The whole derivative, second-order terms included, in encoder and model: by differences."""
    model, semi, batch = pair(name)
    parameters = [*model.parameters(), *semi.parameters()]
    torch.manual_seed(9)
    direction = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(loss(model, semi, batch), parameters)
    actual = sum((g * v).sum() for g, v in zip(gradients, direction, strict=True))
    h, sides = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(sign * h * v)
        sides.append(loss(model, semi, batch).detach())
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.sub_(sign * h * v)
    assert actual.item() == pytest.approx(((sides[0] - sides[1]) / (2 * h)).item(), rel=1e-5)
    # without the steps' own derivative it is another number
    torch.manual_seed(4)
    with torch.no_grad():
        parameter_offsets = semi.parameter_offsets(**batch)
    stopped = pv.objectives.ELBO().differentiable_loss(
        model,
        lambda x, index: semi.guide(x=x, index=index, parameter_offsets=parameter_offsets),
        **batch,
    )
    torch.testing.assert_close(stopped, loss(model, semi, batch))
    first = torch.autograd.grad(stopped, parameters)
    first = sum((g * v).sum() for g, v in zip(first, direction, strict=True))
    assert abs(first - actual) > 1e-3 * abs(actual)


@pytest.mark.parametrize("options", [{"num_particles": 3}, {"beta": 0.5}], ids=str)
@pytest.mark.parametrize("name", ["normal", "stratified", "y summed in the guide"])
def test_the_steps_are_hidden_from_what_runs_the_guide(name, options):
    """Particles, enumeration and scales of the outer objective: as if the shifts were given."""
    model, semi, batch = pair(name)
    whole = loss(model, semi, batch, **options)
    torch.manual_seed(4)
    parameter_offsets = semi.parameter_offsets(**batch)
    actual = pv.objectives.ELBO(**options).differentiable_loss(
        model,
        lambda x, index: semi.guide(x=x, index=index, parameter_offsets=parameter_offsets),
        **batch,
    )
    torch.testing.assert_close(whole, actual, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_the_steps_gain_what_the_encoder_lost(name):
    model, semi, batch = pair(name, steps=15, num_samples=8)
    x, index = batch["x"], batch["index"]
    others = {"index": index} if name == "per data point" else {}
    before = pv.evaluate.elbo(model, semi.guide, x, num_samples=300, **others)
    after = pv.evaluate.elbo(model, semi, x, num_samples=300, **others)
    assert (after - before).mean() > 0.05
    bound = pv.evaluate.log_likelihood(model, semi, x, num_samples=300, **others)
    assert torch.isfinite(bound).all() and (bound.mean() > after.mean() - 0.05)
    pv.check_pair(model, semi, x, **others)
    assert pv.evaluate.encode(model, semi, x, **others)["z"].shape == (N, LATENT)


def test_a_later_layer_is_moved_by_a_shift_per_datum():
    torch.manual_seed(0)
    model = pv.models.HierarchicalVAE((D,), LATENT, 2, "bernoulli", NET, NET).double()
    semi = SemiAmortized(model, Guide(model, network=NET).double(), steps=20, num_samples=8)
    x = binary_patterns(N, D)
    parameter_offsets = semi.parameter_offsets(x=x)
    assert {k: v.shape for k, v in parameter_offsets.items()} == {"z1": (N, 4), "z2": (N, 4)}
    gain = pv.evaluate.elbo(model, semi, x, num_samples=300) - pv.evaluate.elbo(
        model, semi.guide, x, num_samples=300
    )
    assert gain.mean() > 0.05


def test_it_trains_as_other_guides_do_and_evaluation_leaves_no_graph():
    model, semi, batch = pair("normal", lr=0.2)
    x = binary_patterns(50, D)
    actual = pv.fit(model, semi, x, epochs=20, lr=0.01, progress=False)
    assert actual.history[-1]["loss"] < actual.history[0]["loss"] - 0.1
    with torch.no_grad():
        assert not semi.parameter_offsets(x=x)["z"].requires_grad
    bound = pv.evaluate.elbo(model, semi, x)
    assert not bound.requires_grad and math.isfinite(bound.mean())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m: SemiAmortized(m, pv.guides.PriorGuide(m)), "not PriorGuide"),
        (lambda m: SemiAmortized(m, Guide(m), steps=0), "steps must be an integer >= 1"),
        (lambda m: SemiAmortized(m, Guide(m), lr=-1), "lr must be positive"),
        (lambda m: SemiAmortized(m, Guide(m), clip_norm=0), "clip_norm must be positive"),
        (lambda m: SemiAmortized(m, Guide(m))(size=3), "pass x="),
    ],
)
def test_wrong_uses_raise_one_line(make, message):
    with pytest.raises(pv.UserError) as error:
        make(vae())
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_refined_posteriors_depend_on_their_own_row_alone(num_samples, monkeypatch):
    model, guide, x = linear()
    semi = SemiAmortized(model, guide, steps=3, num_samples=num_samples).eval()
    with torch.no_grad():
        offsets = semi.parameter_offsets(x=x)["z"]
        same = semi.parameter_offsets(x=x[2].expand(N, D))["z"]
    torch.testing.assert_close(same, offsets[2].expand_as(same))
    code = pv.evaluate.encode(model, semi, x)["z"]
    order = torch.randperm(N)
    torch.testing.assert_close(pv.evaluate.encode(model, semi, x[order])["z"], code[order])
    monkeypatch.setattr("pyro_vae.evaluate.chunked.rows_per_chunk", lambda *args: 2)
    torch.testing.assert_close(pv.evaluate.encode(model, semi, x)["z"], code)


def test_draws_of_a_step_have_separate_noise():
    model, guide, x = linear()
    noise = CommonNoise(N)
    for _ in range(2):
        traces = pv.programs.trace_pair(model, guide, {"x": x}, 3, noise=noise)
        q = traces.guide["z"]["fn"].base_dist
        eps = ((traces.guide["z"]["value"] - q.loc) / q.scale).detach()
        torch.testing.assert_close(eps, eps[:, :1].expand_as(eps))
        assert len({round(float(e), 6) for e in eps[:, 0].flatten()}) == 3 * LATENT
    with CommonNoise(2), pyro.plate("data", 6):  # particles that are rows of the plate
        blocks = pyro.sample("z", dist.Normal(torch.zeros(6), 1.0)).reshape(3, 2)
    assert torch.equal(blocks[:, 0], blocks[:, 1]) and len(blocks[:, 0].unique()) == 3
