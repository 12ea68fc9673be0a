"""Runs that are stopped at any moment end where an uninterrupted run does, bit for bit."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from test_train import quiet, same_tensors, weights, without_seconds

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.train import checkpoint, folder, load_weights

NET = MLP((8,))
EPOCHS = 40
X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()

#: A run of this file's pair in a separate process.
SCRIPT = """
import importlib, sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
importlib.import_module("pyro_vae.train.loop").CHECKPOINT_SECONDS = {seconds}
import test_interrupts as this
print("ready", flush=True)
this.fit(this.pair(), {epochs}, out={out!r}, resume=True, compile={compile!r})
print("done", flush=True)
"""


def pair(seed=0):
    torch.manual_seed(seed)
    model = pv.models.GMVAE((6,), 3, 2, network=NET)
    return model, pv.guides.Guide(model, network=NET)


def data():
    return pv.data.from_arrays(X, valid=12, test=0, name="bits", likelihood="bernoulli")


def fit(programs, epochs=EPOCHS, **options):
    return quiet(*programs, data(), epochs, **{"batch_size": 16, "compile": False, **options})


def start(out, compile, epochs=EPOCHS, seconds=-1):
    """The run in a process, once it has imported everything; `seconds` between checkpoints."""
    script = SCRIPT.format(
        tests=os.path.dirname(__file__), out=str(out), compile=compile, epochs=epochs,
        seconds=seconds,
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def survive(out, compile, signals, rng, longest):
    """Stop and continue a run, by each signal at a random moment; returns how many hit it."""
    hits = 0
    for number in signals:
        process = start(out, compile)
        try:
            process.wait(rng.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        output, errors = process.communicate(timeout=120)
        # a KeyboardInterrupt before the first step is Python's own
        assert "Error" not in errors or "KeyboardInterrupt" in errors, errors
        if "done" in output:
            return hits  # the run is finished
        hits += 1
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, "recorded"])
def test_a_run_that_is_stopped_at_random_moments_ends_where_an_uninterrupted_one_does(
    tmp_path, compile, count=25
):
    """SIGINT, SIGTERM and SIGKILL in turn; a run that finishes is followed by another one."""
    rng = random.Random(count)
    kinds = [(signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[i % 3] for i in range(count)]
    programs, started = pair(), time.monotonic()
    whole = fit(programs, compile=compile)
    longest = 0.8 * (time.monotonic() - started)
    hits, number = 0, 0
    while hits < count:
        out = tmp_path / f"run{number}"
        hits += survive(out, compile, kinds[hits:], rng, longest)
        has_begun = (out / "checkpoint.pt").exists()
        other = pair(seed=5 if has_begun else 0)  # a checkpoint replaces the weights
        run = fit(other, out=out, resume=True, compile=compile)
        assert without_seconds(run.history) == without_seconds(whole.history)
        assert same_tensors(weights(*programs), weights(*other))
        lines = (out / "metrics.jsonl").read_text().splitlines()
        assert without_seconds(map(json.loads, lines)) == without_seconds(whole.history)
        number += 1


def test_sigterm_ends_a_process_by_that_signal_with_its_last_step_saved(tmp_path):
    process = start(tmp_path, False, epochs=10**6, seconds=1e9)
    metrics = tmp_path / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.read_text().count("\n") > 3:
            break
        time.sleep(0.1)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    at = checkpoint.load(tmp_path / "checkpoint.pt")["progress"]
    assert at["epoch"] == metrics.read_text().count("\n") > 3
    resumed = fit(pair(), at["epoch"] + 2, out=tmp_path, resume=True)
    wanted = fit(pair(), at["epoch"] + 2)
    assert without_seconds(resumed.history) == without_seconds(wanted.history)


def test_a_second_process_on_a_folder_is_refused_and_a_killed_one_frees_it(tmp_path):
    process = start(tmp_path, False, epochs=10**6)
    try:
        for _ in range(1200):
            if (tmp_path / "checkpoint.pt").exists():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(pv.UserError, match=f"in use by another run .process {process.pid} on"):
            fit(pair(), out=tmp_path, resume=True)
    finally:
        process.kill()
        process.communicate()
    epochs = checkpoint.load(tmp_path / "checkpoint.pt")["progress"]["epoch"] + 2
    programs, other = pair(), pair(5)
    whole = fit(programs, epochs)
    run = fit(other, epochs, out=tmp_path, resume=True)
    assert without_seconds(run.history) == without_seconds(whole.history)
    assert same_tensors(weights(*programs), weights(*other))


# ------------------------------------------------------------------- disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_fails_while_training_costs_no_step(tmp_path, monkeypatch, number):
    """Every write fails from the second epoch on; at the end the error is one line."""
    out, programs, wanted = tmp_path / "run", pair(), pair()
    whole = fit(wanted, 4)

    def fails(*arguments, **options):
        raise OSError(number, os.strerror(number))

    def break_disk(run, metrics):
        if metrics["epoch"] == 2:
            monkeypatch.setattr(checkpoint, "write_atomically", fails)
            monkeypatch.setattr(folder.RunFolder, "write_metrics", guarded)

    def guarded(self, history):
        with self._one_line():
            fails()

    message = f"cannot write to .*{os.strerror(number)}"
    with (
        pytest.warns(UserWarning, match=f"{message}; training continues"),
        pytest.raises(pv.UserError, match=message) as e,
    ):
        fit(programs, 4, out=out, callbacks=[break_disk])
    assert "\n" not in str(e.value)
    # the modules have the trained weights
    assert same_tensors(weights(*wanted), weights(*programs))
    monkeypatch.undo()
    resumed = fit(pair(), 4, out=out, resume=True)
    assert without_seconds(resumed.history) == without_seconds(whole.history)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_refused_before_training(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o555)
    with pytest.raises(pv.UserError, match="cannot write to .*Permission denied"):
        fit(pair(), out=tmp_path / "run")


def test_a_folder_that_is_removed_again_and_again_is_whole_at_the_end(tmp_path, monkeypatch):
    from pyro_vae.train import loop

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    out, wanted, programs = tmp_path / "run", pair(), pair()
    whole = fit(wanted, 6)
    with pytest.warns(UserWarning, match="was removed while training; it is written again"):
        fit(programs, 6, out=out, callbacks=[lambda run, metrics: shutil.rmtree(out)])
    assert same_tensors(weights(*wanted), weights(*programs))
    load_weights(*(other := pair(3)), out / "checkpoint.pt")
    assert same_tensors(weights(*wanted), weights(*other))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert without_seconds(map(json.loads, lines)) == without_seconds(whole.history)


# ------------------------------------------------------------------- threads


@pytest.mark.parametrize(
    "evaluate",
    [
        pv.evaluate.elbo, pv.evaluate.elbo_terms, pv.evaluate.log_likelihood, pv.evaluate.encode,
        pv.evaluate.reconstruct, pv.evaluate.responsibilities, pv.evaluate.sample_posterior,
        pv.check_pair, lambda m, g, x: pv.sample(m, 3), lambda m, g, x: fit((m, g), 1),
        lambda m, g, x: pv.diagnostics.ais(m, x, num_chains=2, num_steps=2),
        lambda m, g, x: pv.evaluate.mean_over_batches(pv.evaluate.elbo, m, g, [x]),
    ],
)  # fmt: skip
def test_what_runs_a_pair_in_another_thread_is_refused_while_one_trains(evaluate):
    others, found = pair(1), []

    def in_thread():
        try:
            found.append(evaluate(*others, X))
        except Exception as e:
            found.append(e)

    def on_epoch(run, metrics):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join(60)

    programs, wanted = pair(), pair()
    run = fit(programs, 1, callbacks=[on_epoch])
    (error,) = found
    assert isinstance(error, pv.UserError) and "another thread of this process is in fit" in str(
        error
    )
    assert without_seconds(run.history) == without_seconds(fit(wanted, 1).history)
    assert same_tensors(weights(*programs), weights(*wanted))
