"""The recorded step equals plain Pyro: loss, every gradient, buffers, noise, for any program."""

import dataclasses
import functools
import json
import math
import random
import re
import warnings
from collections import OrderedDict

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from presets import built
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from sampling import covering, in_turn
from test_train import _stop_after
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.objectives import ELBO, IWAE, RWS, STL, DReG, Renyi
from pyro_vae.programs import compilation, forget_layout
from pyro_vae.programs.backends import Work, choose_backend, measure_work
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep
from pyro_vae.train.steps.verification import difference

B, D = 6, 5

# --------------------------------------------------- programs: what a Pyro user may write
PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def vae(encoder, extra=lambda x: None):
    decoder = nn.Linear(3, D)

    def model(x):
        pyro.module("decoder", decoder)
        extra(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            m, s = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(m, s.exp()).to_event(1))

    return model, guide


@program
def plain():
    return vae(nn.Linear(D, 6))


@program
def dropout():
    return vae(nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.Linear(8, 6)))


@program
def batch_norm():
    return vae(nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)))


@program
def spectral_norm():
    return vae(nn.utils.parametrizations.spectral_norm(nn.Linear(D, 6)))


@program
def constrained_parameters_made_lazily():
    def model(x):
        s = pyro.param("s", lambda: torch.tensor(0.7), constraint=constraints.positive)
        w = pyro.param("w", torch.ones(4) / 4, constraint=constraints.simplex)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(w), infer={"enumerate": "parallel"})
            loc = pyro.param("l", torch.arange(4.0))[y]
            distribution = dist.Normal(loc.unsqueeze(-1).expand(y.shape + (D,)), s).to_event(1)
            pyro.sample("x", distribution, obs=x)

    return model, lambda x: None


@program
def score_function():
    net = nn.Linear(D, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.3 * torch.ones(len(x))))
            pyro.sample("x", dist.Normal(b.unsqueeze(-1).expand(x.shape), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(logits=net(x).squeeze(-1)))

    return model, guide


def categorical_guide(zeros=False):
    net, decoder = nn.Linear(D, 3), nn.Linear(3, D)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = decoder(torch.eye(3)[y]) + z.unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", net)
        p = net(x).softmax(-1)
        if zeros:  # probabilities that are exactly zero
            p = p * torch.cat([x[:, :2] > 0, x[:, :1] < 9], -1).to(p)
            p = p / p.sum(-1, True)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(p), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(y * pyro.param("a", torch.tensor(0.3)), 1.0))

    return model, guide


@program
def guide_enumerated():
    return categorical_guide()


@program
def guide_enumerated_with_zero_probabilities():
    return categorical_guide(zeros=True)


@program
def guide_enumerated_sequentially():
    def model(x):
        y = pyro.sample("y", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(y * pyro.param("m", torch.tensor(1.0)), 1.0), obs=x.mean())

    def guide(x):
        q = pyro.param("q", torch.tensor(0.4), constraint=constraints.unit_interval)
        pyro.sample("y", dist.Bernoulli(q), infer={"enumerate": "sequential"})

    return model, guide


@program
def hidden_markov_model():
    def model(x):
        start = torch.eye(3) * 0.5 + 0.5 / 3
        transition = pyro.param("transition", start, constraint=constraints.simplex)
        loc = pyro.param("loc", torch.arange(3.0))
        with pyro.plate("data", len(x)):
            h = 0
            for t in pyro.markov(range(D)):
                distribution = dist.Categorical(transition[h])
                h = pyro.sample(f"h{t}", distribution, infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(loc[h], 1.0), obs=x[:, t])

    return model, lambda x: None


@program
def subsampled_plate():
    data, encoder, decoder = torch.randn(50, D), nn.Linear(D, 6), nn.Linear(3, D)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", 50, subsample_size=B) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(B, 3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=data[i])

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", 50, subsample_size=B) as i:
            m, s = encoder(data[i]).chunk(2, -1)
            pyro.sample("z", dist.Normal(m, s.exp()).to_event(1))

    return model, guide


@program
def mask_and_tensor_scale():
    def masked(f):
        def g(x):
            with poutine.scale(scale=x[0, 0].abs() + 0.1), poutine.mask(mask=x[:, 0] > 0):
                return f(x)

        return g

    return tuple(map(masked, vae(nn.Linear(D, 6))))


@program
def obs_mask():
    decoder, encoder = nn.Linear(3, D), nn.Linear(D, 6)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            distribution = dist.Normal(decoder(z), 1.0).to_event(1)
            pyro.sample("x", distribution, obs=x, obs_mask=x[:, 0] > 0)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            m, s = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(m, s.exp()).to_event(1))
            pyro.sample("x_unobserved", dist.Normal(x * 0, 1.0).to_event(1))

    return model, guide


def auto(kind):
    def model(x):
        a = pyro.sample("a", dist.Gamma(2.0, 1.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(b, a).to_event(1), obs=x)

    guide = kind(model)
    guide(torch.zeros(B, D))  # its parameters are made lazily
    return model, guide


@program
def auto_normal():
    return auto(AutoNormal)


@program
def auto_diagonal_normal():
    return auto(AutoDiagonalNormal)


@program
def pyro_modules():
    class Model(PyroModule):
        def __init__(self):
            super().__init__("model")
            self.linear = PyroModule[nn.Linear](3, D)
            self.scale = PyroParam(torch.ones(()), constraint=constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.linear(z), self.scale).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__("guide")
            self.linear = PyroModule[nn.Linear](D, 6)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                m, s = self.linear(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(m, s.exp()).to_event(1))

    return Model(), Guide()


@program
def gamma_beta_dirichlet():
    def model(x):
        g = pyro.sample("g", dist.Gamma(2.0, 1.0))
        b = pyro.sample("b", dist.Beta(2.0, 2.0))
        t = pyro.sample("t", dist.Dirichlet(torch.ones(D)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(t * b, g).to_event(1), obs=x)

    def guide(x):
        def check_positive(name, value):
            return pyro.param(name, value, constraint=constraints.positive)

        pyro.sample("g", dist.Gamma(check_positive("a", torch.tensor(2.0)), 1.0))
        pyro.sample("b", dist.Beta(check_positive("c", torch.tensor(2.0)), 1.5))
        pyro.sample("t", dist.Dirichlet(check_positive("e", torch.ones(D))))

    return model, guide


@program
def full_covariance():
    def model(x):
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(D), torch.eye(D)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        start = torch.eye(D) * 0.5
        tril = pyro.param("L", start, constraint=constraints.lower_cholesky)
        loc = pyro.param("m", torch.zeros(D))
        pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))

    return model, guide


@program
def inverse_autoregressive_flow():
    from pyro.distributions.transforms import affine_autoregressive

    flow, decoder = affine_autoregressive(3, hidden_dims=[8]), nn.Linear(3, D)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("flow", flow)
        base = dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return model, guide


#: Programs with something that a recording would freeze, or that cannot be recorded: they fall back.
def counter():
    state = {"n": 0}

    def extra(x):
        state["n"] += 1
        pyro.factor("f", pyro.param("k", torch.tensor(1.0)) * state["n"])

    return vae(nn.Linear(D, 6), extra)


def numpy_noise():
    def extra(x):
        pyro.factor("f", pyro.param("k", torch.tensor(1.0)) * float(np.random.randn()))

    return vae(nn.Linear(D, 6), extra)


def own_generator():
    generator = torch.Generator().manual_seed(0)

    def extra(x):
        noise = torch.randn((), generator=generator, dtype=x.dtype)
        pyro.factor("f", pyro.param("k", x.new_tensor(1.0)) * noise)

    return vae(nn.Linear(D, 6), extra)


class Averaging(nn.Linear):
    """A layer that replaces a tensor, which is no buffer, at each call."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.mean = torch.zeros(sizes[1])

    def forward(self, x):
        y = super().forward(x) + 1e-12 * self.mean
        self.mean = 0.9 * self.mean + 0.1 * y.mean(0).detach()
        return y


def replaced_tensor():
    return vae(Averaging(D, 6))


class Keeping(nn.Linear):
    """A layer that keeps its latest result, which it does not read."""

    def forward(self, x):
        self.sizes, self.latest = {"rows": len(x)}, super().forward(x)
        return self.latest


@program
def kept_result():
    return vae(Keeping(D, 6))


def numpy_of_the_data():
    def extra(x):
        pyro.factor("f", pyro.param("k", torch.tensor(1.0)) * float(np.asarray(x).sum()))

    return vae(nn.Linear(D, 6), extra)


class Counting(nn.Linear):
    """A layer that counts its calls, for what it will do after many of them."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (2.0 if self.calls > 1000 else 1.0)


def counter_with_a_later_effect():
    return vae(Counting(D, 6))


def rare_python_noise():
    def extra(x):
        if random.random() < 1e-6:
            pyro.factor("f", torch.ones(()))

    return vae(nn.Linear(D, 6), extra)


def rows_of_a_mask():
    classifier = nn.Linear(D, 2)

    def extra(x):
        rows = x[x[:, 0] > 1e-3]
        if len(rows) > 0:
            pyro.factor("classifier", classifier(rows).sum())

    return vae(nn.Linear(D, 6), extra)


def item():
    def extra(x):
        if x.sum().item() > 0:
            pass

    return vae(nn.Linear(D, 6), extra)


def branch_on_a_tensor():
    def extra(x):
        if (x > 0).any():
            pass

    return vae(nn.Linear(D, 6), extra)


def explicit_validation():
    def extra(x):
        distribution = dist.Normal(pyro.param("q", torch.zeros(2)), 1.0, validate_args=True)
        pyro.sample("q_", distribution.to_event(1), obs=torch.ones(2))

    return vae(nn.Linear(D, 6), extra)


class Rebinding(nn.Linear):
    """A layer that replaces its buffer at each call, instead of writing into it."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("mean", torch.zeros(sizes[1]))

    def forward(self, x):
        y = super().forward(x)
        self.mean = 0.9 * self.mean + 0.1 * y.mean(0).detach()
        return y


def rebound_buffer():
    return vae(Rebinding(D, 6))


FROZEN = [counter, numpy_noise, numpy_of_the_data, item, branch_on_a_tensor, explicit_validation]
FROZEN += [rebound_buffer, counter_with_a_later_effect, rare_python_noise, rows_of_a_mask]
FROZEN += [replaced_tensor, own_generator]

# --------------------------------------------------------------------------- the comparison


def buffers(programs):
    modules = RecordedStep(pv.objectives.Objective(), programs).modules
    return [b for m in modules for b in m._buffers.values() if b is not None]


def assert_equal_steps(objective, programs, make_batch, backend="recorded", rtol=1e-9, steps=3):
    """The recorded step on new data and noise, parameters moving, against the plain one."""
    step, plain = RecordedStep(objective, programs, backend), PlainStep(objective, programs)
    pyro.enable_validation(False)
    batch = make_batch()
    plain(batch)  # lazily made parameters
    state, kept = torch.get_rng_state(), [b.clone() for b in buffers(programs)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        recording = step.recording(batch)
    assert torch.equal(state, torch.get_rng_state()), "recording drew from the caller's stream"
    assert all(map(torch.equal, kept, buffers(programs))), "recording changed a buffer"
    losses = set()
    for seed in range(steps):
        batch = make_batch()
        before = [b.clone() for b in buffers(programs)]
        results = []
        for run in (plain, step):
            for b, v in zip(buffers(programs), before, strict=True):
                b.copy_(v)
            for p in recording.leaves:
                p.grad = None
            torch.manual_seed(seed)
            loss = run(batch)
            assert not loss.requires_grad
            gradients = [p.grad for p in recording.leaves]
            results.append(
                [loss, *gradients, *(b.clone() for b in buffers(programs)), torch.rand(1)]
            )
        size = max(g.abs().max() for g in results[0][1 : 1 + len(recording.leaves)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(size))
        losses.add(loss.item())
        with torch.no_grad():
            for p in recording.leaves:
                p.sub_(p.grad, alpha=1e-3)
    assert len(losses) == steps and step.count == 1
    return step


def batch64():
    return {"x": torch.randn(B, D)}


def enum_elbo(**options):
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False, **options)


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=4))
def test_any_program_replays_exactly_on_new_data_and_noise(name):
    torch.set_default_dtype(torch.float64)
    assert_equal_steps(enum_elbo(), PROGRAMS[name](), batch64)


@pytest.mark.parametrize(
    "objective",
    [
        enum_elbo(num_particles=4, vectorize_particles=True),
        enum_elbo(num_particles=3),
        TraceEnum_ELBO(strict_enumeration_warning=False),
        ELBO(),
        Trace_ELBO(),
        TraceMeanField_ELBO(),
    ],
    ids=lambda o: f"{type(o).__name__}-{o.num_particles}-{o.max_plate_nesting}",
)
def test_any_objective_with_a_differentiable_loss_replays_exactly(objective):
    torch.set_default_dtype(torch.float64)
    assert_equal_steps(objective, plain(), batch64)


@pytest.mark.parametrize("make", FROZEN, ids=lambda f: f.__name__)
def test_what_cannot_be_recorded_is_run_plainly_with_one_warning(make):
    torch.set_default_dtype(torch.float64)
    programs = make()
    step = RecordedStep(enum_elbo(), programs, "recorded")
    with pytest.warns(UserWarning, match="cannot be recorded and is run plainly") as caught:
        with pyro.validation_enabled(False):
            for size in (B, B, B - 1):
                step({"x": torch.randn(size, D)})
    assert len([w for w in caught if "run plainly" in str(w.message)]) == 1
    assert "\n" not in str(caught[0].message) and step.count == 0


def test_a_generator_of_the_program_is_named_as_the_reason():
    step = RecordedStep(enum_elbo(), own_generator(), "recorded")
    with pytest.warns(UserWarning, match=r"draws from another generator \(generator=, aten\."):
        step({"x": torch.randn(B, D)})


# ------------------------------------------------------------------- this library's pairs

SMALL = {
    "hidden": [16], "latent_dim": 3, "num_components": 4, "num_classes": 4, "w_dim": 2,
    "likelihood": "binomial",
}  # fmt: skip
OBJECTIVES = {
    "elbo": {},
    "particles": {"num_particles": 3},
    "beta": {"beta": 0.5},
    "warmup": {"warmup": 10},
}


def library_pair(name, **overrides):
    torch.manual_seed(0)
    overrides = {**SMALL, **overrides}
    return built(name, (1, 8, 8), overrides=overrides, num_data=50, c_shape=(5,))


def digits_batch(size=12):
    x = torch.randint(0, 17, (size, 1, 8, 8)) / 16
    x, c = x.to(torch.get_default_dtype()), torch.randn(size, 5)
    return {"x": x, "c": c, "index": torch.randint(0, 50, (size,))}


@pytest.mark.parametrize(
    "method, options", covering(list(methods.METHODS), list(OBJECTIVES), every=16)
)
def test_every_method_replays_exactly_under_every_objective(method, options):
    options = OBJECTIVES[options]
    torch.set_default_dtype(torch.float64)
    pair = library_pair(method)
    objective = ELBO(**options)
    objective.epoch = 3
    assert_equal_steps(objective, pair, digits_batch)


BOUNDS = {
    "stl": STL(num_particles=2), "stl, warm-up": STL(warmup=10), "iwae": IWAE(3), "dreg": DReG(3),
    "renyi": Renyi(0.5, 3), "vr-max": Renyi(-math.inf, 3), "rws": RWS(3),
}  # fmt: skip


@pytest.mark.parametrize(
    "objective, method",
    in_turn(list(BOUNDS), ["shu-gmvae", "auxiliary-dgm", "mixture-posterior", "iaf-vae"]),
)
def test_every_bound_and_estimator_replays_exactly(method, objective):
    objective = BOUNDS[objective]
    torch.set_default_dtype(torch.float64)
    objective.epoch = 3
    assert_equal_steps(objective, library_pair(method), digits_batch)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(ELBO(leave_one_out_baseline=True), id="elbo-1", marks=pytest.mark.slow),
        pytest.param(ELBO(num_particles=3, leave_one_out_baseline=True), id="elbo-3"),
        pytest.param(STL(), id="stl", marks=pytest.mark.slow),
        pytest.param(IWAE(3), id="vimco"),
        pytest.param(RWS(3), id="rws"),
    ],
)
def test_score_functions_with_baselines_replay_exactly(objective):
    torch.set_default_dtype(torch.float64)
    assert_equal_steps(
        objective, library_pair("shu-gmvae", discrete="score_function"), digits_batch
    )


@pytest.mark.parametrize(
    "method", covering(["vae", "shu-gmvae", "mixture-posterior", "cvae"], every=2, first=1)
)
def test_the_sleep_phase_replays_exactly(method):
    torch.set_default_dtype(torch.float64)
    assert_equal_steps(RWS(2, sleep_weight=0.5), library_pair(method), digits_batch)


@pytest.mark.parametrize("treatment", ["score_function", "relaxed"])
def test_sampled_and_relaxed_discrete_latents_replay_exactly(treatment):
    torch.set_default_dtype(torch.float64)
    assert_equal_steps(ELBO(), library_pair("shu-gmvae", discrete=treatment), digits_batch)


def test_free_bits_replay_exactly():
    torch.set_default_dtype(torch.float64)
    for bits in (0.0, 5.0):
        assert_equal_steps(ELBO(free_bits={"y": bits}), library_pair("vade"), digits_batch)


def test_schedules_change_without_a_new_recording():
    torch.set_default_dtype(torch.float64)
    objective = ELBO(beta={"z": 2.0}, warmup={"z": 4, "y": 6})
    pair = library_pair("vade")
    step, plain = RecordedStep(objective, pair, "recorded"), PlainStep(objective, pair)
    batch, losses = digits_batch(), []
    for objective.epoch in (0, 1, 3, 5, 50):
        torch.manual_seed(1)
        losses.append(step(batch).item())
        torch.manual_seed(1)
        assert losses[-1] == pytest.approx(plain(batch).item(), rel=1e-12)
    assert len(set(losses)) == 5 and step.count == 1


@pytest.mark.parametrize("method", ["gmvae", "shu-gmvae"])
def test_the_weighted_loss_at_beta_1_is_the_plain_one_in_float32_too(method):
    pair = library_pair(method)
    batch, actual = {"x": digits().train.x[:128]}, []
    step = PlainStep(ELBO(warmup=1), pair)
    for schedule_values in (None, {None: torch.tensor(1.0)}):
        for m in pair:
            m.zero_grad()
        torch.manual_seed(1)
        loss = step(batch, schedule_values)
        actual.append([loss, *(p.grad for m in pair for p in m.parameters() if p.grad is not None)])
    size = max(g.abs().max() for g in actual[0][1:])
    for a, b in zip(*actual, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6 * float(size))


def test_an_objective_that_reads_its_epoch_as_a_number_is_run_plainly():
    class Annealed(ELBO):
        def differentiable_loss(self, *args, **kwargs):
            return super().differentiable_loss(*args, **kwargs) * min(1.0, self.epoch / 10)

    objective = Annealed()
    objective.epoch = 1
    step = RecordedStep(objective, library_pair("vae"), "recorded")
    with pytest.warns(UserWarning, match="run plainly"):
        step(digits_batch())
    assert objective.epoch == 1


# --------------------------------------------------------------------- changes from outside


def test_a_replaced_or_moved_parameter_is_recorded_again():
    model, guide = library_pair("vae")
    step = RecordedStep(ELBO(), (model, guide), "recorded")
    batch = digits_batch()
    step(batch)
    step(batch)
    assert step.count == 1
    bias = model.p_x.head.bias
    model.p_x.head.bias = nn.Parameter(torch.ones_like(bias))  # another object
    step(batch)
    assert step.count == 2 and model.p_x.head.bias.grad is not None
    model.double(), guide.double()  # the same objects, other memory
    batch = {"x": batch["x"].double(), "index": batch["index"]}
    step(batch)
    assert step.count == 3 and bias.grad.dtype == torch.float32
    for p in guide.parameters():
        p.requires_grad_(False)
        p.grad = None
    step(batch)
    assert step.count == 4 and all(p.grad is None for p in guide.parameters())


def test_in_place_changes_of_parameters_and_closed_over_tensors_are_seen():
    torch.set_default_dtype(torch.float64)
    temperature = torch.tensor(1.0)

    def extra(x):
        pyro.factor("f", pyro.param("k", torch.tensor(1.0)) * temperature)

    programs = vae(nn.Linear(D, 6), extra)
    step, plain = RecordedStep(enum_elbo(), programs, "recorded"), PlainStep(enum_elbo(), programs)
    batch = batch64()
    for value in (1.0, 2.0, 30.0):
        temperature.fill_(value)
        torch.manual_seed(1)
        loss = step(batch)
        torch.manual_seed(1)
        assert loss.item() == pytest.approx(plain(batch).item(), rel=1e-12)
    assert step.count == 1


def test_train_and_eval_mode_are_recorded_apart():
    net = nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 6))
    programs = vae(net)
    step, plain = RecordedStep(enum_elbo(), programs, "recorded"), PlainStep(enum_elbo(), programs)
    batch = batch64()
    for training in (True, False, True):
        net.train(training)
        state = {k: v.clone() for k, v in net.state_dict().items()}
        torch.manual_seed(1)
        loss = step(batch).item()
        net.load_state_dict(state)
        torch.manual_seed(1)
        assert loss == pytest.approx(plain(batch).item(), rel=1e-5)
    assert step.count == 2


class Scale:
    """A number that a program multiplies with."""

    of_class = 1.0

    def __init__(self, value=1.0):
        self.value, self.entries, self.tensor = value, {"scale": value}, torch.tensor(value)


class SlotsScale:
    """A number that is no entry of a dict."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = 1.0


GLOBAL_SCALE = 1.0


def scaled_program(holder):
    """A program that depends on a number, and a function that sets the number."""
    scale, slots, dropout = Scale(), SlotsScale(), nn.Dropout(0.0)
    array, hidden = np.ones(1), np.ones(101)
    dropout.scale = Scale()
    cell, weight = 1.0, nn.Parameter(torch.ones(D))

    def set_cell(value):
        nonlocal cell
        cell = value

    read, set_value = {
        "attribute": (lambda: scale.value, lambda v: setattr(scale, "value", v)),
        "dictionary": (lambda: scale.entries["scale"], lambda v: scale.entries.update(scale=v)),
        "tensor": (
            lambda: scale.tensor,
            lambda v: setattr(scale, "tensor", torch.tensor(v, dtype=torch.float64)),
        ),
        "object": (lambda: dropout.scale.value, lambda v: setattr(dropout, "scale", Scale(v))),
        "class": (lambda: scale.of_class, lambda v: setattr(Scale, "of_class", v)),
        "closure": (lambda: cell, set_cell),
        "global": (lambda: GLOBAL_SCALE, lambda v: globals().update(GLOBAL_SCALE=v)),
        "dropout": (lambda: 1.0, lambda v: setattr(dropout, "p", v - 1)),
        "slots": (lambda: slots.value, lambda v: setattr(slots, "value", v)),
        "array": (lambda: float(array[0]), lambda v: array.fill(v)),
        "hidden": (
            lambda: float(hidden[0]),
            lambda v: hidden.fill(v),
        ),  # too long to be looked into
    }[holder]

    def model(x):
        with pyro.plate("data", len(x)):
            loc = dropout(x * weight) * read()
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return (model, lambda x: None), set_value


def assert_same_loss(step, batch, seed=1):
    torch.manual_seed(seed)
    loss = step(batch).item()
    torch.manual_seed(seed)
    assert loss == pytest.approx(step.plain(batch).item(), rel=1e-12)


@pytest.mark.parametrize(
    "holder",
    [
        "attribute",
        "dictionary",
        "object",
        "class",
        "closure",
        "global",
        "dropout",
        "slots",
        "array",
    ],
)
def test_a_number_of_python_that_is_changed_is_recorded_again(holder):
    torch.set_default_dtype(torch.float64)
    programs, set_value = scaled_program(holder)
    step, batch = RecordedStep(enum_elbo(), programs, "recorded"), batch64()
    for value in (1.0, 1.5, 1.5, 1.0):
        set_value(value)
        assert_same_loss(step, batch)
    assert step.count == 2
    with pytest.warns(UserWarning, match="further steps run plainly: 4 values") as caught:
        for i in range(6):
            set_value(1.6 + i / 20)
            assert_same_loss(step, batch)
    assert step.count == 4 and len(caught) == 1
    set_value(1.0)


def test_a_tensor_in_an_attribute_that_is_replaced_is_recorded_again():
    torch.set_default_dtype(torch.float64)
    programs, set_value = scaled_program("tensor")
    step, batch = RecordedStep(enum_elbo(), programs, "recorded"), batch64()
    for value in range(1, 7):
        set_value(float(value))
        assert_same_loss(step, batch)
        assert_same_loss(step, batch)
        assert step.count == value


def test_a_hidden_number_that_is_changed_is_found_in_training():
    torch.set_default_dtype(torch.float64)
    programs, set_value = scaled_program("hidden")
    step, batch = RecordedStep(enum_elbo(), programs, "recorded"), batch64()
    for _ in range(5):
        assert_same_loss(step, batch)
    set_value(1.5)
    with pytest.warns(UserWarning, match="cannot be recorded and is run plainly from here"):
        for _ in range(6, 9):
            step(batch)
    for _ in range(3):
        assert_same_loss(step, batch)
    assert step.count == 1


def test_comparisons_in_training_change_no_number(monkeypatch):
    def train():
        torch.manual_seed(0)
        layers = nn.Linear(D, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 6)
        programs = vae(nn.Sequential(*layers))
        step = RecordedStep(enum_elbo(), programs, "recorded")
        parameters = [p for m in step.modules for p in m._parameters.values() if p is not None]
        optimizer = torch.optim.Adam(parameters)
        losses = []
        for _ in range(9):
            optimizer.zero_grad()
            losses.append(step(batch64()))
            optimizer.step()
        gradients = [p.grad for p in parameters]
        return [*losses, *parameters, *gradients, *buffers(programs), torch.get_rng_state()]

    compared, agrees = [], RecordedStep._agrees
    monkeypatch.setattr(
        RecordedStep, "_agrees", lambda *a: compared.append(agrees(*a)) or compared[-1]
    )
    expected = train()
    assert compared == [True] * 3
    monkeypatch.setattr(RecordedStep, "_agrees", lambda *a: True)
    assert all(map(torch.equal, expected, train()))


GLOBAL_NET = nn.Linear(D, 6)


def test_modules_behind_functions_methods_and_partials_are_recorded():
    class Pair(nn.Module):
        def model(self, x):
            pass

    closed, owner = nn.Linear(2, 3), Pair()

    def guide(x, net):
        return GLOBAL_NET(x), closed

    actual = RecordedStep(pv.objectives.Objective(), (owner.model, guide)).modules
    assert all(any(m is f for f in actual) for m in (owner, closed, GLOBAL_NET))
    step = RecordedStep(pv.objectives.Objective(), (functools.partial(guide, net=owner), owner))
    assert any(m is owner for m in step.modules) and any(m is closed for m in step.modules)


def test_gradients_share_no_memory_and_lie_as_their_parameters_do():
    a, b = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(D))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a + b, 1.0).to_event(1), obs=x)

    step = RecordedStep(enum_elbo(), (model, lambda x: None), "recorded")
    step(batch64())
    assert a.grad.data_ptr() != b.grad.data_ptr() and torch.equal(a.grad, b.grad)
    assert a.grad.stride() == a.stride()


# ------------------------------------------------------------------------------------ fit


def digits():
    return pv.data.load("digits", binarize="none")


def trained(name="vade", compile=False, epochs=3, **options):
    """On 256 digits, without a short batch, which would be another recording."""
    pair, data = library_pair(name), digits()
    data = dataclasses.replace(data, train=data.train[:256])
    options = {"objective": ELBO(warmup=2), "batch_size": 64, "progress": False} | options
    run = pv.fit(*pair, data, epochs, compile=compile, device="cpu", **options)
    return run, [p.detach().clone() for m in pair for p in m.parameters()]


def losses(run):
    return [row[k] for row in run.history for k in ("loss", "elbo")]


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.1, "schedule": "cosine", "batch_size": 100}], ids=str
)
def test_fit_recorded_equals_fit_plain(options):
    torch.set_default_dtype(torch.float64)
    (a, wa), (b, wb) = trained(**options), trained(compile="recorded", **options)
    assert losses(a) == pytest.approx(losses(b), rel=1e-11)
    for p, q in zip(wa, wb, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)


class Annealed(nn.Module):
    """A model whose prior has a weight that a callback raises, and that counts its training steps."""

    def __init__(self):
        super().__init__()
        self.decoder, self.weight, self.steps = nn.Linear(2, D), 0.1, None

    def forward(self, x):
        if self.steps is not None and self.training:
            self.steps += 1
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=self.weight):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class AnnealedGuide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.encoder, self.weight = nn.Linear(D, 4), lambda: model.weight

    def forward(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)), poutine.scale(scale=self.weight()):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.filterwarnings("ignore:further steps run plainly")
@pytest.mark.parametrize("epochs", [3, 8])
def test_a_weight_that_a_callback_raises_counts_as_in_plain_training(epochs):
    torch.set_default_dtype(torch.float64)
    x, weights = torch.randn(32, D), []
    for compile in (False, "recorded"):
        torch.manual_seed(0)
        model = Annealed()

        def anneal(run, metrics):
            run.model.weight = min(1.0, run.model.weight + 0.1)

        pv.fit(
            model, AnnealedGuide(model), x, epochs, batch_size=8, lr=0.1, compile=compile,
            callbacks=[anneal], progress=False,
        )  # fmt: skip
        weights.append(model.decoder.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "objective, name, change",
    [
        (lambda: pv.objectives.ELBO(), "beta", 5.0),
        (lambda: pv.objectives.ELBO(free_bits={"z": 0.1}), "free_bits", {"z": 3.0}),
        (lambda: pv.objectives.Renyi(0.5, 4), "alpha", 3.0),
    ],
)
def test_an_objective_that_a_callback_changes_counts_as_in_plain_training(objective, name, change):
    """At a step between two comparisons with the plain step, and without a warning."""
    torch.set_default_dtype(torch.float64)
    x, weights = torch.randn(32, D), []
    for compile in (False, "recorded"):
        torch.manual_seed(0)
        network, loss = pv.conditionals.MLP((8,)), objective()
        model = pv.models.VAE((D,), 2, "normal", network)
        guide = pv.guides.Guide(model, network=network)

        def annealed(run, metrics, loss=loss):
            if metrics["epoch"] == 5:  # 20 steps; the next comparison is after 32
                setattr(loss, name, change)

        pv.fit(
            model, guide, x, 7, batch_size=8, lr=0.01, compile=compile, objective=loss,
            callbacks=[annealed], progress=False,
        )  # fmt: skip
        weights.append([p.detach() for p in (*model.parameters(), *guide.parameters())])
    for p, q in zip(*weights, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore:the step cannot be recorded")
@pytest.mark.parametrize("compile", [False, "recorded"])
def test_a_model_that_counts_its_steps_counts_those_of_training(compile):
    torch.manual_seed(0)
    model = Annealed()
    model.steps = 0
    guide, x = AnnealedGuide(model), torch.randn(32, D)
    pv.fit(model, guide, x, 3, batch_size=8, compile=compile, progress=False)
    assert model.steps == 12


@pytest.mark.parametrize("compile", ["recorded", pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_recorded_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, compile):
    whole, weights = trained(compile=compile, out=tmp_path / "a")
    with _stop_after(steps=6):  # in the middle of the second epoch
        part, _ = trained(compile=compile, out=tmp_path / "b")
    assert part.interrupted and len(part.history) == 1
    # what is not said when going on is as it was, not what a run of that length would choose
    resumed, actual = trained(compile="auto", out=tmp_path / "b", resume=True)
    assert losses(resumed) == losses(whole)
    assert all(map(torch.equal, weights, actual))


def test_resuming_with_another_compile_is_refused(tmp_path):
    trained("vae", compile="recorded", epochs=1, out=tmp_path)
    with pytest.raises(pv.UserError, match="compile=recorded, not plain"):
        trained("vae", compile=False, epochs=2, out=tmp_path, resume=True)
    with pytest.raises(pv.UserError, match="did you mean 'inductor'"):
        trained("vae", compile="induktor")


def test_auto_records_where_the_run_is_long_enough_and_always_chooses_the_same():
    small, large = Work(148, 1_100_000), Work(313, 12_300_000)  # VAE and GMVAE on digits
    assert choose_backend("auto", 100, small) == "plain"
    assert choose_backend("auto", 1000, small) == "recorded"
    assert choose_backend("auto", 10_000, small) == "inductor"
    assert choose_backend("auto", 1000, large) == "recorded"
    assert choose_backend("auto", 2000, large) == "inductor"
    assert choose_backend(False, 10**9) == "plain" and choose_backend(True, 1) == "inductor"


def test_the_size_of_a_loss_is_that_of_a_training_step_and_not_of_the_first_call():
    model, guide = library_pair("vae")
    loss_of = functools.partial(ELBO().differentiable_loss, model, guide, x=digits_batch()["x"])
    first, second, third = (measure_work(loss_of)[1] for _ in range(3))
    assert first.operations > 2 * second.operations  # the first call finds out how the pair is run
    assert second == third and second.operations < 300


def test_auto_goes_by_the_size_of_a_loss_after_the_first(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "pyro_vae.train.steps.stepper.choose_backend",
        lambda compile, steps, work, cuda: sizes.append(work) or "plain",
    )
    model, guide = library_pair("vae")
    pv.fit(model, guide, digits_batch()["x"], 1, progress=False)
    forget_layout(model)
    loss_of = functools.partial(ELBO().differentiable_loss, model, guide, x=digits_batch()["x"])
    with pyro.validation_enabled(False):  # as in training
        loss_of()
        assert sizes == [measure_work(loss_of)[1]]


def test_without_a_compiler_the_recording_is_replayed_with_one_warning(monkeypatch):
    def no_compiler(*a, **k):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", no_compiler)
    step = RecordedStep(ELBO(), library_pair("vae"), "inductor")
    with pytest.warns(UserWarning, match="recorded, but not compiled: RuntimeError: no C"):
        step(digits_batch())
    assert step.count == 1


def test_steps_with_the_same_operations_and_shapes_are_compiled_once(monkeypatch):
    compiled = []

    def compile_graph(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(compilation, "compile_graph", compile_graph)
    monkeypatch.setattr(compilation, "_programs", OrderedDict())
    for rows, count in ((64, 1), (32, 2), (64, 2)):
        make_batch = functools.partial(digits_batch, rows)
        assert_equal_steps(ELBO(), library_pair("vae"), make_batch, "inductor", rtol=1e-5, steps=1)
        assert len(compiled) == count
    RecordedStep(ELBO(), library_pair("vade"), "inductor")(digits_batch())
    assert len(compiled) == 3
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:  # Inductor writes the number of threads into its loops
        RecordedStep(ELBO(), library_pair("vae"), "inductor")(digits_batch(64))
    finally:
        torch.set_num_threads(threads)
    assert len(compiled) == 4


# ------------------------------------------------------------------------------- inductor


@pytest.mark.slow  # by default `test_compiled.py` compiles a whole step
def test_inductor_equals_plain_pyro_with_the_same_noise():
    assert_equal_steps(ELBO(), plain(), batch64, "inductor", rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", methods.METHODS)
def test_inductor_equals_plain_pyro_for_every_method(method):
    torch.set_default_dtype(torch.float64)
    pair = library_pair(method)
    assert_equal_steps(ELBO(warmup=2), pair, digits_batch, "inductor", rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"score_function"}))
def test_inductor_replays_any_program(name):
    torch.set_default_dtype(torch.float64)
    assert_equal_steps(enum_elbo(), PROGRAMS[name](), batch64, "inductor", rtol=1e-8)


@pytest.mark.slow
def test_a_program_for_which_inductor_draws_other_noise_is_replayed_as_recorded():
    torch.set_default_dtype(torch.float64)
    step = RecordedStep(enum_elbo(), PROGRAMS["score_function"](), "inductor")  # torch.bernoulli
    with pytest.warns(UserWarning, match="recorded, but not compiled.*other noise"):
        step(batch64())
    assert step.count == 1


@pytest.mark.slow
def test_fit_compiled_equals_fit_plain():
    # from beta = 0 some gradients are rounding alone, and Adam makes whole steps of them
    objective = ELBO(warmup=2, warmup_start=0.3)
    (a, _), (b, _) = (trained(compile=c, epochs=2, objective=objective) for c in (False, True))
    assert losses(a) == pytest.approx(losses(b), rel=1e-5)


@pytest.mark.slow
def test_batches_of_ever_other_shapes_are_not_all_recorded():
    step = RecordedStep(ELBO(), library_pair("vae"), "recorded")
    with pytest.warns(UserWarning, match="further batches run plainly: 16 shapes are recorded"):
        for size in range(1, 21):
            assert torch.isfinite(step(digits_batch(size)))
    assert step.count == 16


def test_auto_without_a_compiler_replays_what_was_recorded(monkeypatch):
    work = Work(150, 10**6)
    assert choose_backend("auto", 10**6, work) == "inductor"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert choose_backend("auto", 10**6, work) == "recorded"


@pytest.mark.parametrize("epochs, backend", [(2, "plain"), (520, "recorded")])
def test_fit_records_unasked_where_the_run_is_long_enough(tmp_path, epochs, backend):
    data = pv.data.from_arrays(torch.rand(8, 5).round(), valid=0, test=0)
    model = pv.models.VAE((5,), 2, network=pv.conditionals.MLP((4,)))
    with _stop_after(steps=3):
        pv.fit(
            model, pv.guides.Guide(model), data, epochs, batch_size=4, device="cpu", out=tmp_path,
            progress=False,
        )  # fmt: skip
    assert json.loads((tmp_path / "config.json").read_text())["fit"]["compile"] == backend


def test_the_bar_says_what_recording_took(capsys):
    pv.fit(*library_pair("vae"), digits(), 1, compile="recorded", device="cpu")
    assert re.search(r"step recorded in \d+\.\d s", capsys.readouterr().err)


def test_a_start_is_trained_as_the_run_is():
    for compile in (False, True, "recorded", "auto"):
        options = pv.method("gmvae", "digits", compile=compile).fit_options()
        assert options["compile"] == options["initialize"].compile == compile


def test_a_kinks_other_side_is_rounding_and_other_noise_is_not():
    gradient = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    loss, noise = torch.tensor(3.0), torch.rand(2)
    flipped = gradient.clone()
    flipped[0] += 0.02 * gradient[1]  # one unit, for one data point
    expected = loss, noise, [gradient], []
    assert difference(expected, (loss, noise, [flipped], []), 1000) is None
    assert difference(expected, (loss, noise, [flipped], []), 1) == "gradient"
    other = gradient + 0.1 * gradient.flip(0)
    assert difference(expected, (loss, noise, [other], []), 1000) == "gradient"
    assert difference(expected, (loss, noise + 1e-2, [gradient], []), 1000) == "random stream"
    assert difference(expected, (loss * torch.nan, noise, [gradient], []), 1000) == "loss"


def test_draws_that_are_rows_divide_no_loss():
    torch.manual_seed(0)
    x, encoder, decoder = torch.randn(B, D), nn.Linear(D, 6), nn.Linear(3, D)

    def pair(from_the_left):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                loc = decoder(z)
                loc = loc.view(len(x), -1) if from_the_left else loc
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                m, s = encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(m, s.exp()).to_event(1))

        return model, guide

    losses = []
    for from_the_left, layout in ((False, "plate"), (True, "rows")):
        model, guide = pair(from_the_left)
        assert pv.programs.layout_of(model, guide, {"x": x}).particles == layout
        step = PlainStep(ELBO(num_particles=500), (model, guide))
        torch.manual_seed(1)
        losses.append(sum(step({"x": x}).item() for _ in range(20)) / 20)
    with torch.no_grad():
        m, s = encoder(x).chunk(2, -1)
        kl = 0.5 * (m**2 + (2 * s).exp() - 2 * s - 1).sum(-1)
        error = (x - decoder(m)) ** 2 + (2 * s).exp() @ decoder.weight.T**2
        exact = (kl + 0.5 * (error + math.log(2 * math.pi)).sum(-1)).mean().item()
    assert losses == pytest.approx([exact, exact], abs=0.1)
