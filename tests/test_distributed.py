"""Two processes under `torchrun` do what one does, to rounding, and agree on everything."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed_worker as worker
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae as pv
from pyro_vae.data import batches

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
PATHS = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {"PYTHONFAULTHANDLER": "1", **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found; the folder that they shared."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [*TORCHRUN, str(HERE / "distributed_worker.py"), str(folder)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{r}.pt") for r in (0, 1)], folder


def assert_same(a, b, tolerance=0.0):
    assert a["weights"].keys() == b["weights"].keys() and len(a["rows"]) == len(b["rows"])
    for name, value in a["weights"].items():
        assert torch.allclose(value, b["weights"][name], tolerance, tolerance), name
    for one, other in zip(a["rows"], b["rows"], strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    assert a["best_epoch"] == b["best_epoch"]


# ------------------------------------------------------------------ two are as one


@pytest.mark.parametrize("step", ["plain", "recorded"])
def test_two_processes_train_as_one_with_the_same_global_batch(two, step):
    """Fixed noise, float64, uneven shards; clipped, decayed, scheduled, warmed up; 32 steps."""
    (first, second), _ = two
    one = worker.same_as_one(compile="recorded" if step == "recorded" else False)
    assert one["rows"][-1]["loss"] < one["rows"][0]["loss"]
    assert_same(first[step], one, 1e-10)
    assert_same(first[step], second[step])
    other = worker.same_as_one(batch_size=8)  # the tolerance tells batch sizes apart
    with pytest.raises(AssertionError):
        assert_same(first[step], other, 1e-10)


def test_a_stream_is_shared_out_batch_by_batch(two):
    """Seven batches of 3 data, the last of 2, between two: as batches of 6, 6, 6 and 2."""
    (first, second), _ = two
    assert_same(first["stream"], worker.stream(6), 1e-10)
    assert_same(first["stream"], second["stream"])


# ------------------------------------------------------------------- two are two


def test_each_process_draws_noise_of_its_own(two):
    (first, second), _ = two
    first, second = (torch.stack(actual["noise"][-4:]) for actual in two[0])  # the steps' draws
    assert not torch.isclose(first, second).any()


def test_a_shuffling_loader_and_a_distributed_sampler_give_every_datum_once_an_epoch(two):
    for name in ("shuffled", "sampler"):
        first, second = (actual["loaders"][name] for actual in two[0])
        epochs = []
        for epoch in (slice(0, 4), slice(4, 8)):
            seen = sum(first[epoch] + second[epoch], [])
            assert sorted(seen) == list(range(24))
            epochs.append(seen)
        assert epochs[0] != epochs[1]


def test_a_loss_that_is_not_finite_in_one_process_is_named_by_all(two):
    messages = [actual["bad_share"] for actual in two[0]]
    assert messages[0] == messages[1]
    assert "not finite at site 'x', epoch 1, step 4" in messages[0]


def test_a_mixture_start_leaves_all_with_the_same_weights(two):
    (first, second), _ = two
    assert_same(first["start"], second["start"])
    assert first["start"]["rows"][1]["loss"] < first["start"]["rows"][0]["loss"]


def test_an_interrupt_of_one_stops_all_and_resumed_equals_uninterrupted_bit_for_bit(two):
    (first, second), folder = two
    for actual in (first, second):
        assert actual["resumed"]["interrupted"] == (True, 1)
        assert_same(actual["resumed"]["part"], actual["resumed"]["whole"])
    assert_same(first["resumed"]["whole"], second["resumed"]["whole"])
    lines = (folder / "part" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_a_run_of_two_goes_on_in_one(two):
    (first, _), folder = two
    pair = worker.digits_pair(seed=3)
    options = {"batch_size": 200, "schedule": "linear", "objective": pv.objectives.ELBO(warmup=3)}
    data = pv.data.load("digits", binarize="dynamic")
    run = worker.quiet(*pair, data, 3, out=folder / "part", resume=True, **options)
    assert worker.result(pair, run)["rows"] == first["resumed"]["part"]["rows"]


# ------------------------------------------------------------------ from the command line


def launch(*arguments, cwd):
    return subprocess.Popen(
        [*TORCHRUN, "-m", "pyro_vae", "fit", "vae", "--hidden", "[16]", "--latent_dim", "3",
         "--num_samples", "2", "--schedule", "constant", "--device", "cpu", "--compile", "false", *arguments],
        cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_under_torchrun_makes_one_run_that_ctrl_c_does_not_lose(tmp_path):
    process = launch("--epochs", "100000", "--out", "run", cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    for _ in range(1200):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # to the launcher, as a terminal's Ctrl-C
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0 and out.count("rerun with --resume") == 1, err[-3000:]
    before = metrics.read_text().splitlines()
    epochs = len(before) + 2
    process = launch("--epochs", str(epochs), "--out", "run", "--resume", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    assert out.count("log-likelihood") == 1 and out.count("report:") == 1
    bars = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("100%")]
    assert len({bar.split("|")[2].split("[")[0] for bar in bars}) == 1  # one bar
    lines = metrics.read_text().splitlines()
    assert lines[: len(before)] == before
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, epochs + 1))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["processes"] == 2
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "config.json", "metrics.jsonl", "checkpoint.pt", "results-test.json",
                     "report.html"}  # fmt: skip


# ----------------------------------------------- data larger than memory, in one process


class Endless:
    """Ten batches an epoch, of a source that has no end."""

    def __len__(self):
        return 10

    def __iter__(self):
        while True:
            x = torch.rand(4, 5, dtype=torch.float64)
            yield x, torch.zeros(4)


@pytest.mark.parametrize("kind", ["endless", "shuffled"])
def test_a_stream_resumes_at_its_batch_bit_for_bit(tmp_path, kind):
    """Random batches, and dropped in the middle of an epoch: the same ones come again."""
    dataset = TensorDataset(worker.x_of(40))
    data = Endless() if kind == "endless" else DataLoader(dataset, batch_size=4, shuffle=True)
    pairs = [worker.fixed_noise(seed) for seed in (0, 0, 1)]
    whole = worker.quiet(*pairs[0], data, 3, out=tmp_path / "whole")
    step, count = torch.optim.AdamW.step, [0]

    def interrupt(optimizer, *a, **k):
        count[0] += 1
        if count[0] == 14:
            os.kill(os.getpid(), signal.SIGINT)
        return step(optimizer, *a, **k)

    torch.optim.AdamW.step = interrupt
    try:
        part = worker.quiet(*pairs[1], data, 3, out=tmp_path / "part")
    finally:
        torch.optim.AdamW.step = step
    assert part.interrupted and len(part.history) == 1
    part = worker.quiet(*pairs[2], data, 3, out=tmp_path / "part", resume=True)
    assert_same(worker.result(pairs[2], part), worker.result(pairs[0], whole))


def test_lengths_that_are_not_true_are_said_in_one_line():
    class Short(Endless):
        def __iter__(self):
            return iter([torch.zeros(4, 5)] * 3)

    with pytest.raises(pv.UserError, match="a length of 10, but gave 3 batches"):
        list(batches(Short(), 4, "cpu").epoch(0))

    class Unsized(IterableDataset):
        def __iter__(self):
            yield torch.zeros(5)

    with pytest.raises(pv.UserError, match="DataLoader has no length: define __len__"):
        batches(DataLoader(Unsized()), 4, "cpu")
    with pytest.raises(pv.UserError, match="one data point at a time"):
        pv.data.as_data(Unsized())
    with pytest.raises(pv.UserError, match="their length is 0"):
        batches([], 4, "cpu")
