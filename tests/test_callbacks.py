"""Hooks of `fit`: callbacks, optimizers and schedules of the user's, time limits, kept weights."""

import contextlib
import functools
import json
import math
import os
import re
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_train import quiet, same_tensors, weights, without_seconds

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.train import Callback, checkpoint, load_weights

NET = MLP((8,))
X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
DATA = pv.data.from_arrays(X, valid=16, test=0)


def pair(seed=0):
    torch.manual_seed(seed)
    model = pv.models.VAE((6,), 2, "normal", NET)
    return model, pv.guides.Guide(model, network=NET)


def fit(programs, epochs=3, data=DATA, **options):
    return quiet(*programs, data, epochs, **{"batch_size": 16, "compile": False, **options})


class Location(torch.nn.Module):
    """x ~ N(mu, 1), without a latent: the gradient of the mean loss is mu - mean(x)."""

    def __init__(self):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.zeros(6))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.mu, 1.0).to_event(1), obs=x)


def no_latents(x):
    pass


def sgd(parameters, **options):
    return torch.optim.SGD(parameters, **{"lr": 0.1, **options})


# ------------------------------------------------------------------- callbacks


class Recorder(Callback):
    def __init__(self, stop_at=None, error_at=None):
        self.calls, self.stop_at, self.error_at = [], stop_at, error_at

    def on_start(self, run):
        self.calls.append(("start", len(run.history)))

    def on_epoch(self, run, metrics):
        self.calls.append(("epoch", metrics["epoch"], run.best_epoch))
        assert metrics == run.history[-1] and metrics is not run.history[-1]
        if metrics["epoch"] == self.error_at:
            raise ConnectionError("no route to host")
        return metrics["epoch"] == self.stop_at

    def on_end(self, run):
        self.calls.append(("end", len(run.history), run.stop_reason))


def test_callbacks_are_called_at_the_start_after_every_epoch_and_at_the_end():
    recorder, epochs = Recorder(), []
    run = fit(pair(), callbacks=[recorder, lambda run, metrics: epochs.append(metrics["epoch"])])
    kinds = [call[0] for call in recorder.calls]
    assert kinds == ["start", "epoch", "epoch", "epoch", "end"] and epochs == [1, 2, 3]
    assert recorder.calls[-1] == ("end", 3, "epochs") and run.stop_reason == "epochs"
    assert recorder.calls[3][2] == run.best_epoch


def test_true_stops_the_run_which_can_be_resumed(tmp_path):
    recorder = Recorder(stop_at=2)
    run = fit(pair(), 5, out=tmp_path, callbacks=[lambda run, metrics: None, recorder])
    assert len(run.history) == 2 and run.stop_reason == "callback" and not run.interrupted
    again = Recorder()
    resumed = fit(pair(), 5, out=tmp_path, resume=True, callbacks=[again])
    assert again.calls[0] == ("start", 2) and len(resumed.history) == 5
    assert without_seconds(resumed.history) == without_seconds(fit(pair(), 5).history)


@pytest.mark.parametrize("answer", [np.bool_(True), True])
def test_a_stop_in_the_last_epoch_is_the_end_of_the_run(answer):
    run = fit(pair(), 2, callbacks=[lambda run, metrics: answer if metrics["epoch"] == 2 else None])
    assert run.stop_reason == "epochs"


def test_a_callback_evaluates_and_draws_without_a_change_of_the_run():
    plain, watched = pair(), pair()
    seen = []

    def watch(run, metrics):
        torch.randn(7)
        seen.append(float(pv.evaluate.elbo(run.model, run.guide, DATA.valid.x).mean()))
        run.sample(3)
        assert isinstance(run, pv.Run) and run.data is DATA

    run = fit(watched, callbacks=[watch])
    assert without_seconds(run.history) == without_seconds(fit(plain).history)
    assert same_tensors(weights(*plain), weights(*watched))
    assert seen == pytest.approx([row["elbo"] for row in run.history], abs=1e-4)


def test_an_error_in_a_callback_is_the_users_and_loses_no_step(tmp_path):
    recorder = Recorder(error_at=2)
    with pytest.raises(ConnectionError, match="no route"):
        fit(pair(), 5, out=tmp_path, callbacks=[recorder])
    assert recorder.calls[-1][0] == "end"
    assert checkpoint.load(tmp_path / "checkpoint.pt")["progress"]["epoch"] == 2
    resumed = fit(pair(), 5, out=tmp_path, resume=True)
    assert without_seconds(resumed.history) == without_seconds(fit(pair(), 5).history)


@pytest.mark.parametrize(
    "callbacks, message",
    [
        ([3], "a callback must be a pv.train.Callback or a function"),
        ([Recorder], "a callback must be a pv.train.Callback or a function"),
        ([lambda run: None], "a callback must be a pv.train.Callback or a function"),
        (None, "callbacks must be a list"),
        (5, "callbacks must be a list"),
        (print, "callbacks must be a list"),
        (Recorder(), "callbacks must be a list"),
        ([lambda run, metrics: metrics["loss"]], "must return True to stop the run, else False"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks, message):
    with pytest.raises(pv.UserError, match=message) as e:
        fit(pair(), callbacks=callbacks)
    assert "\n" not in str(e.value)


def test_a_method_takes_callbacks():
    runs = []
    method = pv.method("vae", "digits", epochs=1, hidden=[8])
    method.fit(progress=False, callbacks=[lambda run, metrics: runs.append(run)])
    assert runs[0].config["method"] == "vae" and runs[0].evaluate(num_samples=2)["elbo"] < 0


def test_tensorboard_files_hold_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(pair(), 2, out=tmp_path, callbacks=[pv.train.TensorBoard()])
    run = fit(pair(), 3, out=tmp_path, resume=True, callbacks=[pv.train.TensorBoard()])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "elbo", "lr"):
        written = [(e.step, e.value) for e in events.Scalars(name)]
        wanted = [(row["epoch"], np.float32(row[name])) for row in run.history]
        assert written == wanted
    with pytest.raises(pv.UserError, match="needs a folder, or a run with out="):
        fit(pair(), 1, callbacks=[pv.train.TensorBoard()])


def test_without_tensorboard_its_callback_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(pv.UserError, match=r'pip install "pyro-vae\[tensorboard\]"'):
        pv.train.TensorBoard()


# ------------------------------------------------------------------- optimizer and schedule


@pytest.mark.parametrize("compile", [False, "recorded"])
def test_gradient_descent_of_a_location_has_its_closed_form(compile):
    """Each step of SGD multiplies the distance to the mean by 1 - lr; here lr is 0.1."""
    model = Location()
    run = fit((model, no_latents), 7, X, batch_size=48, optimizer=sgd, compile=compile)
    torch.testing.assert_close(model.mu.detach(), X.mean(0) * (1 - 0.9**7))
    assert [row["lr"] for row in run.history] == [0.1] * 7


def test_a_schedule_multiplies_the_rate_by_a_function_of_the_fraction_done():
    model, fractions = Location(), []

    def falling(fraction):
        fractions.append(fraction)
        return (1 - fraction) ** 2

    fit((model, no_latents), 3, X, batch_size=24, optimizer=sgd, schedule=falling)
    assert fractions[-6:] == pytest.approx([k / 6 for k in range(6)])
    halves = [X[:24], X[24:]]  # any order of two batches: compare with a loop over the same halves
    model = Location()
    fit((model, no_latents), 3, halves, optimizer=sgd, schedule=falling)
    mu = torch.zeros(6)
    for step in range(6):
        mu = mu + 0.1 * (1 - step / 6) ** 2 * (halves[step % 2].mean(0) - mu)
    torch.testing.assert_close(model.mu.detach(), mu)


def test_every_group_of_an_optimizer_keeps_its_rate_times_the_factor():
    model = Location()

    def two_groups(parameters):
        extra = torch.nn.Parameter(torch.zeros(1))
        return torch.optim.SGD(
            [{"params": parameters, "lr": 0.2}, {"params": [extra], "lr": 0.5}], lr=0.1
        )

    run = fit((model, no_latents), 2, X, batch_size=48, optimizer=two_groups, schedule="linear")
    assert [row["lr"] for row in run.history] == pytest.approx([0.2, 0.1])
    torch.testing.assert_close(model.mu.detach(), X.mean(0) * (1 - 0.8 * 0.9))


OPTIMIZERS = {
    "momentum": functools.partial(sgd, momentum=0.9),
    "adagrad": functools.partial(torch.optim.Adagrad, lr=0.05),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=0.01),
    "nadam": functools.partial(torch.optim.NAdam, lr=0.01),
    "adafactor": functools.partial(torch.optim.Adafactor, lr=0.01),
}


@pytest.mark.parametrize("compile", [False, "recorded"])
def test_a_layer_that_a_callback_unfreezes_is_trained_from_there(tmp_path, compile):
    def frozen_pair():
        model, guide = pair()
        for p in model.parameters():
            p.requires_grad_(False)
        return model, guide

    def unfreeze(run, metrics):
        for p in run.model.parameters():
            p.requires_grad_(metrics["epoch"] >= 2)

    options = {"callbacks": [unfreeze], "compile": compile, "weight_decay": 0.1}
    start, programs = weights(frozen_pair()[0]), frozen_pair()
    fit(programs, 2, **options)
    assert same_tensors(weights(programs[0]), start)
    programs = frozen_pair()
    whole = fit(programs, 4, **options)
    assert all(not torch.equal(p, start[name]) for name, p in weights(programs[0]).items())
    resumed_programs = frozen_pair()
    fit(resumed_programs, 4, out=tmp_path, **{**options, "callbacks": [unfreeze, Recorder(3)]})
    resumed = fit(resumed_programs, 4, out=tmp_path, resume=True, **options)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert same_tensors(weights(*programs), weights(*resumed_programs))


@pytest.mark.parametrize(
    "name, compile", [*((name, False) for name in OPTIMIZERS), ("momentum", "recorded")]
)
def test_a_resumed_run_with_any_optimizer_equals_a_whole_one(tmp_path, name, compile):
    options = {"optimizer": OPTIMIZERS[name], "compile": compile}
    programs = pair()
    whole = fit(programs, 4, **options)
    fit(pair(), 4, out=tmp_path, callbacks=[Recorder(stop_at=2)], **options)
    resumed_programs = pair(seed=3)
    resumed = fit(resumed_programs, 4, out=tmp_path, resume=True, **options)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert same_tensors(weights(*programs), weights(*resumed_programs))


def test_a_run_is_resumed_with_its_optimizer_and_schedule_alone(tmp_path):
    half = functools.partial(sgd, lr=0.05)
    fit(pair(), 1, out=tmp_path, optimizer=sgd)
    for options, message in (
        ({"optimizer": half}, r"optimizer=SGD\(.*lr=0.1.*, not SGD\(.*lr=0.05"),
        ({}, r"optimizer=SGD\(.*, not None"),
        ({"optimizer": sgd, "schedule": lambda fraction: 1.0}, "schedule=constant, not "),
    ):
        with pytest.raises(pv.UserError, match=message):
            fit(pair(), 2, out=tmp_path, resume=True, **options)
    assert json.loads((tmp_path / "config.json").read_text())["fit"]["optimizer"].startswith("SGD(")
    assert len(fit(pair(), 2, out=tmp_path, resume=True, optimizer=sgd).history) == 2


def only_first(parameters):
    return sgd(parameters[:1])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optimizer": sgd([torch.nn.Parameter(torch.zeros(1))])}, "must be a function that makes"),
        ({"optimizer": "adam"}, "must be a function that makes one of the parameters"),
        ({"optimizer": lambda parameters: 3}, "must return a torch optimizer.*, not int"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS calls the loss itself"),
        ({"optimizer": only_first}, "leaves out .* parameters: pass it all"),
        ({"optimizer": sgd, "lr": 0.1}, "lr is AdamW's"),
        ({"optimizer": sgd, "weight_decay": 0.1}, "weight_decay is AdamW's"),
        ({"schedule": lambda fraction: math.nan}, r"schedule\(0\) is nan: it must return"),
        ({"schedule": lambda fraction: None}, r"schedule\(0\) is None: it must return"),
        ({"schedule": lambda fraction: 0.5 - fraction}, r"schedule\(0.5.*\) is -0.*at least 0"),
        ({"schedule": 3}, "unknown schedule 3"),
        ({"max_time": 0}, "max_time must be positive"),
    ],
)
def test_an_optimizer_or_schedule_that_cannot_be_used_is_refused(options, message):
    with pytest.raises(pv.UserError, match=message) as e:
        fit(pair(), 8, **options)
    assert "\n" not in str(e.value)


def test_a_methods_schedule_is_a_name():
    with pytest.raises(pv.UserError, match="the schedule of a method is one of constant"):
        pv.method("vae", "digits", schedule=lambda fraction: 1.0)


# ------------------------------------------------------------------- stops, and kept weights


@pytest.mark.parametrize("compile", [False, pytest.param("recorded", marks=pytest.mark.slow)])
def test_a_time_limit_ends_a_run_that_continues_where_it_was(tmp_path, compile):
    options = {"out": tmp_path, "compile": compile}
    run = fit(pair(), 100_000, max_time=3 if compile else 0.4, **options)
    assert run.stop_reason == "max_time" and not run.interrupted
    assert 0 < len(run.history) < 100_000
    epochs = len(run.history) + 2
    resumed = fit(pair(), epochs, max_time=600, resume=True, **options)
    whole = fit(pair(), epochs, compile=compile)
    assert resumed.stop_reason == "epochs"
    assert without_seconds(resumed.history) == without_seconds(whole.history)


def test_a_time_limit_within_the_first_epoch_leaves_a_usable_run(tmp_path):
    run = fit(pair(), 5, max_time=1e-9, out=tmp_path)
    assert run.stop_reason == "max_time" and run.history == [] and run.best_epoch == 0
    assert run.evaluate("valid", num_samples=2)["elbo"] < 0
    run.report(tmp_path / "report.html", num_samples=2)
    resumed = fit(pair(), 2, out=tmp_path, resume=True)
    assert without_seconds(resumed.history) == without_seconds(fit(pair(), 2).history)


def test_the_best_and_the_last_weights_are_kept(tmp_path):
    programs = pair()
    run = fit(programs, 6, lr=0.5, out=tmp_path)
    assert run.best_epoch < 6  # the rate is far too high
    best = weights(*programs)
    last = run.use("last")
    assert last is run and not same_tensors(best, weights(*programs))
    final = weights(*programs)
    elbo = [float(pv.evaluate.elbo(*programs, DATA.valid.x).mean())]
    assert elbo == pytest.approx([run.history[-1]["elbo"]], abs=1e-3)
    run.use("best")
    assert same_tensors(best, weights(*programs))
    loaded = pv.load(tmp_path, data=DATA)
    assert same_tensors(best, weights(loaded.model, loaded.guide))
    loaded.use("last")
    assert same_tensors(final, weights(loaded.model, loaded.guide))
    with pytest.raises(pv.UserError, match="did you mean 'last'"):
        run.use("latest")


def test_a_saved_run_keeps_its_last_weights(tmp_path):
    programs = pair()
    run = fit(programs, 6, lr=0.5)
    run.save(tmp_path / "run")
    loaded = pv.load(tmp_path / "run", data=DATA)
    assert same_tensors(weights(*programs), weights(loaded.model, loaded.guide))
    run.use("last"), loaded.use("last")
    assert same_tensors(weights(*programs), weights(loaded.model, loaded.guide))


class Signal(Callback):
    """Sends a signal to this process after an epoch."""

    def __init__(self, number):
        self.number = number

    def on_epoch(self, run, metrics):
        if metrics["epoch"] == 2:
            os.kill(os.getpid(), self.number)


def test_sigterm_saves_the_run_and_then_ends_the_process(tmp_path):
    received, programs = [], pair()
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        run = fit(programs, 5, out=tmp_path, callbacks=[Signal(signal.SIGTERM)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]  # again, when the run was saved
    assert run.interrupted and len(run.history) == 2
    other = pair(3)
    load_weights(*other, tmp_path / "checkpoint.pt")
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["progress"]["epoch"] == 2
    resumed = fit(pair(), 5, out=tmp_path, resume=True)
    assert without_seconds(resumed.history) == without_seconds(fit(pair(), 5).history)


def test_handlers_of_signals_are_as_they_were():
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    fit(pair(), 1)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


# ------------------------------------------------------------------- the examples of the documentation


class FakeLogger(types.SimpleNamespace):
    """Stands for a module of a logging service; records what is logged."""

    def __init__(self):
        logged, state = [], {"runs": 0}

        @contextlib.contextmanager
        def start_run():
            state["runs"] += 1
            yield
            state["runs"] -= 1

        def init(**options):
            state["runs"] += 1
            return self

        super().__init__(
            logged=logged, state=state, init=init, start_run=start_run,
            log=lambda metrics, step: logged.append((step, metrics["loss"])),
            log_metrics=lambda metrics, step: logged.append((step, metrics["loss"])),
            finish=lambda: state.update(runs=state["runs"] - 1),
            log_artifacts=lambda folder: None,
        )  # fmt: skip


@pytest.mark.parametrize("module", ["wandb", "mlflow"])
def test_the_documented_loggers_log_every_epoch(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[1] / "docs" / "training.md"
    blocks = re.findall(r"```py\n(.*?)```", page.read_text(), re.S)
    (code,) = [block for block in blocks if f"import {module}" in block]
    logger = FakeLogger()
    monkeypatch.setitem(sys.modules, module, logger)
    model, guide = pair()
    exec(code, {"pv": pv, "model": model, "guide": guide, "x": X})
    assert [step for step, _ in logger.logged] == [1, 2, 3] and logger.state["runs"] == 0
    lines = (tmp_path / "runs" / module / "metrics.jsonl").read_text().splitlines()
    assert [loss for _, loss in logger.logged] == [json.loads(line)["loss"] for line in lines]


class StandInTrainer:
    """The order in which Lightning calls the hooks of a module, and nothing else of it."""

    def __init__(self, max_epochs, **options):
        self.max_epochs, self.callback_metrics = max_epochs, {}

    def fit(self, module, train_loader, valid_loader):
        logged = []
        module.log = lambda name, value, batch_size: logged.append((float(value), batch_size))
        optimizer = module.configure_optimizers()
        for module.current_epoch in range(self.max_epochs):
            module.train().on_train_epoch_start()
            for i, batch in enumerate(train_loader):
                optimizer.zero_grad()
                module.training_step(batch, i).backward()
                optimizer.step()
            logged.clear()
            module.eval()
            with torch.no_grad():
                for i, batch in enumerate(valid_loader):
                    module.validation_step(batch, i)
            mean = sum(value * size for value, size in logged) / sum(size for _, size in logged)
            self.callback_metrics["elbo"] = mean


def lightning_code():
    page = Path(__file__).parents[1] / "docs" / "training.md"
    blocks = re.findall(r"```py\n(.*?)```", page.read_text(), re.S)
    (code,) = [block for block in blocks if "import lightning" in block]
    return code


def run_lightning_code():
    """The documented block, for a model whose loss has no noise; returns the trained mean."""
    rows, model = torch.utils.data.TensorDataset, Location()
    names = {
        "pv": pv, "torch": torch, "model": model, "guide": no_latents,
        "train_loader": torch.utils.data.DataLoader(rows(X), batch_size=16),
        "valid_loader": torch.utils.data.DataLoader(rows(X[:7]), batch_size=4),
    }  # fmt: skip
    exec(lightning_code(), names)
    elbo = dist.Normal(model.mu, 1.0).to_event(1).log_prob(X[:7]).mean()
    assert float(names["trainer"].callback_metrics["elbo"]) == pytest.approx(elbo.item(), abs=1e-5)
    return model.mu.detach()


def by_hand():
    """Three epochs of AdamW on the mean of -log N(x; mu, 1), whose gradient is mu - mean(x)."""
    mu = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.AdamW([mu], lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        for x in X.split(16):
            mu.grad = mu.detach() - x.mean(0)
            optimizer.step()
    return mu.detach()


def test_the_documented_lightning_module_takes_the_steps_of_fit_in_a_stand_in(monkeypatch):
    stand_in = types.SimpleNamespace(LightningModule=torch.nn.Module, Trainer=StandInTrainer)
    monkeypatch.setitem(sys.modules, "lightning", stand_in)
    torch.testing.assert_close(run_lightning_code(), by_hand())


def test_the_documented_lightning_module_takes_the_steps_of_fit_in_lightning():
    pytest.importorskip("lightning", reason="lightning is not installed: a stand-in tests the page")
    torch.testing.assert_close(run_lightning_code(), by_hand())
