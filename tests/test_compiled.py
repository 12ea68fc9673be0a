"""The compiled step trains as the recorded one with torch's AdamW: weights, moments, counts, noise.

Most tests run the program's operations as they are, without Inductor; one test per data type and the
slow ones compile them.
"""

import copy
from collections import OrderedDict

import pyro
import pytest
import torch
import torch.nn as nn
from sampling import covering
from test_recorded import (
    PROGRAMS,
    digits_batch,
    enum_elbo,
    library_pair,
    losses,
    scaled_program,
    trained,
)
from test_recorded import batch64 as random_batch
from test_train import _stop_after

from pyro_vae.objectives import ELBO
from pyro_vae.programs import compilation
from pyro_vae.programs.recorder import record
from pyro_vae.train.optimizer import RunOptimizer
from pyro_vae.train.steps import compiled, stepper
from pyro_vae.train.steps.compiled import CompiledStep, adamw, adamw_factors, clip
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep, leaf_parameters
from pyro_vae.train.steps.training import TrainingStep

STEPS = 20


@pytest.fixture
def uncompiled(monkeypatch):
    """In Inductor's place, the operations of the program; returns the list of programs."""
    programs = []

    def compile_graph(graph, inputs):
        programs.append(graph)
        return graph

    monkeypatch.setattr(compilation, "compile_graph", compile_graph)
    monkeypatch.setattr(compilation, "_programs", OrderedDict())
    return programs


def rates(step):
    """A schedule of the learning rate, as `RunOptimizer.set_rate_factor` takes it."""
    return 1 / (1 + step / 5)


def run_optimizer(pair, lr=1e-2, weight_decay=0.0):
    parameters = [p for m in pair for p in m.parameters() if p.requires_grad]
    return RunOptimizer(parameters, {"lr": lr, "weight_decay": weight_decay})


def training_step(kind, pair, objective, optimizer, clip_norm=None, size=None):
    """`kind`: plain; recorded; outside: Inductor's gradients and torch's AdamW; compiled."""
    parts = optimizer.optimizer, clip_norm
    if kind == "plain":
        return TrainingStep(PlainStep(objective, pair), *parts)
    if kind == "compiled":
        return CompiledStep(RecordedStep(objective, pair, "recorded"), *parts, size)
    backend = {"recorded": "recorded", "outside": "inductor"}[kind]
    return TrainingStep(RecordedStep(objective, pair, backend), *parts)


def train(kind, pair, sizes=(12,) * STEPS, clip_norm=None, size=None, objective=None, **settings):
    """Train on seeded batches and noise; losses, weights, and AdamW's state."""
    objective = ELBO(warmup=10) if objective is None else objective
    optimizer = run_optimizer(pair, **settings)
    step = training_step(kind, pair, objective, optimizer, clip_norm, size)
    torch.manual_seed(1)
    values = []
    for objective.epoch, rows in enumerate(sizes):
        optimizer.set_rate_factor(rates(objective.epoch))
        values.append(step(digits_batch(rows)))
    return torch.stack(values), *state_of(pair, optimizer), step


def state_of(pair, optimizer):
    """Weights, and `{name: tensors}` of AdamW's state."""
    parameters = [p for m in pair for p in m.parameters()]
    states = [optimizer.optimizer.state[p] for p in parameters if p in optimizer.optimizer.state]
    state = {name: [s[name].clone() for s in states] for name in states[0]}
    return [p.detach().clone() for p in parameters], state


def length(tensors):
    return torch.cat([t.flatten().double() for t in tensors]).norm().item()


def distance(a, b):
    return length([p - q for p, q in zip(a, b, strict=True)])


# ------------------------------------------------------------------------- the update itself


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-13), (torch.float32, 2e-6)], ids=str)
def test_the_update_is_torchs_adamw(dtype, rtol, weight_decay):
    p = torch.randn(50, dtype=dtype)
    own = p.clone(), torch.zeros_like(p), torch.zeros_like(p)
    p.requires_grad_()
    optimizer = torch.optim.AdamW([p], lr=1.0, weight_decay=weight_decay, fused=True)
    (group,) = optimizer.param_groups
    for step in range(STEPS):
        # of all sizes: eps matters for the small ones
        p.grad = torch.randn(50, dtype=dtype) * 10.0 ** -torch.arange(50) * (step + 1)
        group["lr"] = 0.1 * rates(step)
        own = adamw(*own, p.grad, *adamw_factors(step + 1, group), *group["betas"])
        optimizer.step()
    state = optimizer.state[p]
    expected = p.detach(), state["exp_avg"], state["exp_avg_sq"]
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


def test_gradients_are_clipped_as_torch_does_it():
    gradients = [torch.randn(3, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
    for clip_norm in (0.1, 100.0):
        parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        nn.utils.clip_grad_norm_(parameters, clip_norm)
        for p, g in zip(parameters, clip(gradients, clip_norm), strict=True):
            torch.testing.assert_close(g, p.grad, rtol=1e-14, atol=0)


# ------------------------------------------------------------------------ as the outside step


@pytest.mark.parametrize(
    "method, clip_norm, weight_decay",
    covering(["vae", "gmvae", "m2"], [None, 0.5], [0.0, 0.1], every=5),
)
def test_the_program_trains_as_plain_pyro_and_torchs_adamw(
    uncompiled, method, clip_norm, weight_decay
):
    torch.set_default_dtype(torch.float64)
    options = {"clip_norm": clip_norm, "weight_decay": weight_decay}
    loss, weights, state, step = train("compiled", library_pair(method), **options)
    expected, plain_weights, plain_state, _ = train("plain", library_pair(method), **options)
    assert len(uncompiled) == 1 and all(step.programs.values())
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    assert distance(weights, plain_weights) < 1e-8 * length(plain_weights)
    assert list(state) == list(plain_state) == ["step", "exp_avg", "exp_avg_sq"]
    for name, tensors in state.items():
        assert distance(tensors, plain_state[name]) <= 1e-8 * length(plain_state[name])
        for a, b in zip(tensors, plain_state[name], strict=True):
            assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())


def test_inductors_program_trains_as_plain_pyro():
    """Of linear networks: a program of few kernels, each of which takes the C++ compiler seconds."""
    torch.set_default_dtype(torch.float64)
    options = {"clip_norm": 0.5, "weight_decay": 0.1}
    loss, weights, state, step = train("compiled", library_pair("vae", hidden=[]), **options)
    expected, plain_weights, plain_state, _ = train(
        "plain", library_pair("vae", hidden=[]), **options
    )
    assert all(step.programs.values())
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    assert distance(weights, plain_weights) < 1e-8 * length(plain_weights)
    for name, tensors in state.items():
        assert distance(tensors, plain_state[name]) <= 1e-8 * length(plain_state[name])


@pytest.mark.slow
@pytest.mark.parametrize("bits, clip_norm", [(64, 0.5), (64, None), (32, 0.5), (32, None)])
@pytest.mark.parametrize("method", ["vae", "gmvae", "m2"])
def test_inductors_program_is_as_close_to_plain_pyro_as_inductors_gradients(
    method, bits, clip_norm
):
    dtype = {32: torch.float32, 64: torch.float64}[bits]
    torch.set_default_dtype(dtype)
    options = {"clip_norm": clip_norm, "weight_decay": 0.1}
    kinds = ("plain", "outside", "compiled")
    runs = {kind: train(kind, library_pair(method), **options) for kind in kinds}
    assert all(runs["compiled"][3].programs.values())
    start = [p.detach() for m in library_pair(method) for p in m.parameters()]
    (plain, weights, state, _), rounding = runs["plain"], torch.finfo(dtype).eps
    moved = distance(weights, start)
    assert torch.isfinite(runs["compiled"][0]).all() and moved > 0.1
    for name in ("outside", "compiled"):
        loss, others, moments, _ = runs[name]
        runs[name] = [
            ((loss - plain).norm() / plain.norm()).item(),
            distance(others, weights) / moved,
            *(distance(moments[n], state[n]) / length(state[n]) for n in state),
        ]
    for actual, bound in zip(runs["compiled"], runs["outside"], strict=True):
        assert actual <= 5 * bound + 100 * rounding


def test_a_short_batch_and_one_that_is_compiled_share_weights_and_moments(uncompiled):
    torch.set_default_dtype(torch.float64)
    sizes = [12, 12, 5, 12, 5]
    actual = train("compiled", library_pair("gmvae"), sizes, size=12)
    expected = train("plain", library_pair("gmvae"), sizes)
    assert len(uncompiled) == 1 and len(actual[3].programs) == 2
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=0)
    assert distance(actual[1], expected[1]) < 1e-9 * length(expected[1])
    assert [float(t) for t in actual[2]["step"]] == [5.0] * len(expected[2]["step"])


def test_torchs_adamw_continues_where_the_program_stopped(uncompiled):
    """And the other way round: the state is the optimizer's."""
    torch.set_default_dtype(torch.float64)
    results = []
    for kinds in (("plain", "plain"), ("plain", "compiled"), ("compiled", "plain")):
        pair, objective = library_pair("vae"), ELBO()
        optimizer = run_optimizer(pair, weight_decay=0.1)
        torch.manual_seed(1)
        for kind in kinds:
            step = training_step(kind, pair, objective, optimizer, 0.5)
            for _ in range(3):
                step(digits_batch())
        results.append([*state_of(pair, optimizer)[0], torch.rand(1)])
    assert len(uncompiled) == 1
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_batch_norm_dropout_and_parameters_outside_of_modules(uncompiled):
    torch.set_default_dtype(torch.float64)
    for name in ("batch_norm", "dropout", "constrained_parameters_made_lazily"):
        results = []
        for kind in ("plain", "compiled"):
            results.append(train_program(kind, name))
        for a, b in zip(*results, strict=True):
            # the bias before a batch normalization has a gradient of rounding alone
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-7)


def train_program(kind, name):
    """Losses, weights, buffers and a draw after a few steps of a user's program."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    programs, objective = PROGRAMS[name](), enum_elbo()
    PlainStep(objective, programs)(random_batch())  # creates parameters
    modules = RecordedStep(objective, programs, "recorded").modules
    store = [p for p in pyro.get_param_store()._params.values()]
    owned = [p for m in modules for p in m._parameters.values() if p is not None]
    parameters = list(dict.fromkeys([*owned, *store]))
    optimizer = RunOptimizer(parameters, {"lr": 1e-2, "weight_decay": 0.0})
    step = training_step(kind, programs, objective, optimizer)
    torch.manual_seed(1)
    values = [step(random_batch()) for _ in range(5)]
    buffers = [b.double() for m in modules for b in m._buffers.values() if b is not None]
    return [*values, *(p.detach() for p in parameters), *buffers, torch.rand(1)]


def test_a_parameter_without_gradient_or_frozen_later_keeps_value_and_state(uncompiled):
    torch.set_default_dtype(torch.float64)
    results = []
    for kind in ("plain", "compiled"):
        pair = library_pair("vae")
        pair[0].unused = nn.Parameter(torch.ones(3))
        optimizer = run_optimizer(pair, weight_decay=0.1)
        step = training_step(kind, pair, ELBO(), optimizer)
        bias = pair[0].p_x.head.bias
        torch.manual_seed(1)
        for frozen in (False, True, False):
            bias.requires_grad_(not frozen)
            before = bias.detach().clone()
            for _ in range(3):
                step(digits_batch())
            assert torch.equal(before, bias) == frozen
        assert pair[0].unused not in optimizer.optimizer.state
        assert torch.equal(pair[0].unused, torch.ones(3))
        counts = {p: float(s["step"]) for p, s in optimizer.optimizer.state.items()}
        assert counts.pop(bias) == 6 and set(counts.values()) == {9}
        results.append(state_of(pair, optimizer)[0])
    assert distance(*results) < 1e-9 * length(results[0])


@pytest.mark.parametrize("kind", ["plain", "recorded", "compiled"])
def test_a_step_whose_loss_is_not_finite_changes_no_weight(uncompiled, kind):
    pyro.enable_validation(False)  # as `fit` does
    pair = library_pair("vae")
    optimizer = run_optimizer(pair)
    step = training_step(kind, pair, ELBO(), optimizer)
    step(digits_batch())
    before = state_of(pair, optimizer)
    batch = digits_batch()
    batch["x"][0] = torch.nan
    assert not step(batch).isfinite()
    after = state_of(pair, optimizer)
    assert all(map(torch.equal, before[0], after[0]))
    for name in before[1]:
        assert all(map(torch.equal, before[1][name], after[1][name]))
    assert step(digits_batch()).isfinite()
    assert not all(map(torch.equal, before[0], state_of(pair, optimizer)[0]))


def test_compiling_and_verifying_train_nothing_and_leave_the_noise(uncompiled):
    pair = library_pair("gmvae")
    optimizer = run_optimizer(pair)
    training_step("plain", pair, ELBO(), optimizer)(digits_batch())
    step = training_step("compiled", pair, ELBO(), optimizer, 0.5)
    batch, noise = digits_batch(), torch.get_rng_state()
    before = copy.deepcopy(state_of(pair, optimizer))
    assert step.build(step.step.recording(batch), batch) is not None and len(uncompiled) == 1
    after = state_of(pair, optimizer)
    assert all(map(torch.equal, before[0], after[0])) and torch.equal(noise, torch.get_rng_state())
    for name in before[1]:
        assert all(map(torch.equal, before[1][name], after[1][name]))
    assert all(p.grad is None for m in pair for p in m.parameters())


@pytest.mark.parametrize("wrong", [
    "weight", *(pytest.param(name, marks=pytest.mark.slow) for name in ("first", "second"))
])  # fmt: skip
def test_a_program_that_updates_wrongly_is_not_used_and_warns(uncompiled, monkeypatch, wrong):
    def other(*arguments):
        updated = dict(zip(("weight", "first", "second"), adamw(*arguments), strict=True))
        updated[wrong] = updated[wrong] * 1.5
        return tuple(updated.values())

    monkeypatch.setattr(compiled, "adamw", other)
    with pytest.warns(UserWarning, match="the step is recorded, but not compiled: .*rounds worse"):
        actual = train("compiled", library_pair("vae"), [12] * 3)
    expected = train("recorded", library_pair("vae"), [12] * 3)
    assert all(map(torch.equal, actual[1], expected[1]))


def test_equal_steps_share_one_program(uncompiled):
    for options in ({}, {"lr": 1e-3}, {"weight_decay": 0.1}):  # both are inputs
        train("compiled", library_pair("vae"), [12], **options)
    assert len(uncompiled) == 1
    train("compiled", library_pair("vae"), [12], clip_norm=0.1)
    assert len(uncompiled) == 2


def test_inputs_that_share_memory_have_another_program(uncompiled):
    a, b = torch.ones(3), torch.ones(3)
    graph, _ = record(torch.add, [a, b])
    for inputs in ([a, b], [a, b.clone()], [a, a], [a, a.view(3)]):
        compilation.compiled(graph, inputs)
    assert len(uncompiled) == 2


def test_biases_are_added_after_the_products_without_another_value():
    x, v, w = (torch.randn(6, 6, dtype=torch.float64) for _ in range(3))
    b = torch.randn(6, dtype=torch.float64)

    def function(x, v, w, b):
        h = torch.addmm(b, torch.addmm(b, x, w.t()), v)
        sums = b + x @ w, v @ w + b, x + v @ w, (v @ w).add(b, alpha=2.0)
        return h, torch.addmm(x, h, w), torch.addmm(b, x, w, alpha=2.0), *sums

    graph, reads = record(function, [x, v, w, b])
    assert reads == []
    actual = compilation.with_biases_after_products(graph)
    addmm = torch.ops.aten.addmm.default
    add = torch.ops.aten.add.Tensor
    for target, counts in ((addmm, [4, 2]), (add, [4, 2])):
        assert [[n.target for n in g.graph.nodes].count(target) for g in (graph, actual)] == counts
    for p, q in zip(actual(x, v, w, b), graph(x, v, w, b), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_a_hidden_number_that_is_changed_ends_the_use_of_the_program(uncompiled):
    programs, set_value = scaled_program("hidden")
    (weight,) = leaf_parameters(
        lambda: enum_elbo().differentiable_loss(*programs, torch.ones(6, 5))
    )
    step = RecordedStep(enum_elbo(), programs, "recorded")
    optimizer = RunOptimizer([weight], {"lr": 1e-2, "weight_decay": 0.0}).optimizer
    compiled_step, batch = CompiledStep(step, optimizer), random_batch()
    for _ in range(5):
        compiled_step(batch)
    assert len(uncompiled) == 1
    set_value(1.5)
    with pytest.warns(UserWarning, match="cannot be recorded and is run plainly from here"):
        for _ in range(6, 9):
            compiled_step(batch)
    expected = step.plain(batch)
    assert torch.equal(compiled_step(batch), expected)


# ------------------------------------------------------------------------------------ fit


def test_fit_compiled_is_fit_plain_and_resumes_bit_for_bit(uncompiled, tmp_path):
    torch.set_default_dtype(torch.float64)
    options = {"name": "vae", "schedule": "linear", "clip_norm": 0.5, "weight_decay": 0.1}
    a, plain = trained(epochs=2, **options)
    b, whole = trained(epochs=2, compile=True, **options)
    assert losses(a) == pytest.approx(losses(b), rel=1e-9)
    assert distance(plain, whole) < 1e-7 * length(plain)
    with _stop_after(steps=6):  # in the middle of the second epoch
        part, _ = trained(epochs=2, compile=True, out=tmp_path, **options)
    assert part.interrupted
    c, resumed = trained(epochs=2, compile=True, out=tmp_path, resume=True, **options)
    assert losses(b) == losses(c) and all(map(torch.equal, whole, resumed))


def test_a_users_optimizer_and_parameters_of_low_precision_are_updated_outside(
    uncompiled, monkeypatch
):
    monkeypatch.setattr(stepper, "CompiledStep", None)
    trained("vae", compile=True, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=1e-3))
    with pytest.raises(TypeError, match="not callable"):
        trained("vae", compile=True, epochs=1)
    monkeypatch.setattr(stepper, "DTYPES", (torch.float64,))
    trained("vae", compile=True, epochs=1)
