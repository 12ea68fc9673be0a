"""The ways that the speed benchmarks compare compute the same numbers; the harness measures them."""

import importlib
import json
import os
import pkgutil
import re
import shlex
import time
import warnings
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch

import benchmarks
import pyro_vae as pv
from benchmarks import harness, quality, results
from benchmarks.speed import scaling, step, ways, workloads
from pyro_vae.conditionals import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

RESULTS = Path(results.__file__).parent / "results"


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_loss_and_gradients_by_hand_equal_the_pairs(name):
    make, by_hand = workloads.WORKLOADS[name]
    workloads.check(name, make, by_hand)
    with pytest.raises(RuntimeError, match="by hand"):
        workloads.check(name, make, lambda *a: by_hand(*a) + 1e-3)
    with pytest.raises(RuntimeError, match="by hand"):  # the value alone is not enough
        workloads.check(name, make, lambda *a: by_hand(*a) * 1.001 - 0.001 * by_hand(*a).detach())


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_a_recorded_step_equals_plain_pyro_bit_for_bit(name):
    # in float32: q(y | x) of M2 has differences of 540 nats for a gradient
    batch, results = {"x": workloads.batch_of(16)}, []
    pair = workloads.WORKLOADS[name][0]()
    parameters = [p for m in pair for p in m.parameters()]
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("error")
        for way in (PlainStep(ELBO(), pair), recorded := RecordedStep(ELBO(), pair, "recorded")):
            for p in parameters:
                p.grad = None
            if way is recorded:
                way.recording(batch)
            torch.manual_seed(1)
            results.append([way(batch), *(p.grad for p in parameters)])
    assert recorded.count == 1 and all(map(torch.equal, *results))


@pytest.mark.parametrize("name", ["mixture-vae", "gmvae"])
def test_enumeration_in_the_model_does_not_copy_x_per_component(name):
    peaks, settings = [], {**scaling.BASE, "hidden": 16, "batch": 32, "rows": 32}
    for components in (10, 100):
        point = scaling.Point(
            name, {**settings, "components": components}, "recorded", torch.device("cpu")
        )
        with pyro.validation_enabled(False):
            point.load()
            point.adam.zero_grad(set_to_none=True)
            peaks.append(scaling.peak(point.step, point.device))
    copy = 32 * scaling.X * 4 / 2**20  # MiB
    assert copy < peaks[0] and peaks[1] - peaks[0] < 90 * copy / 4


#: the compiled ways take half a minute each; the slow test below measures them
QUICK_WAYS = [w for w in (*ways.WAYS, step.PRODUCTS) if not w.endswith(("compile", "Inductor"))]


@pytest.mark.parametrize("way", QUICK_WAYS)
def test_every_way_of_the_step_benchmark_can_be_measured(way, monkeypatch):
    monkeypatch.setitem(step.WORKLOADS, "vae", (small_vae, workloads.vae_loss))
    block, facts = step.build("vae", 4, way, "cpu", 0.01)
    assert facts["first_call_s"] > 0 and block()["cpu_s"] > 0


def small_vae():
    net = MLP((8,), "softplus")
    model = pv.models.VAE((workloads.X,), 2, "bernoulli", net)
    return model, pv.guides.Guide(model, network=net)


def test_a_block_takes_about_the_seconds_asked_for():
    block = harness.block_of(partial(time.sleep, 0.001), 0.1, "cpu")
    started = time.perf_counter()
    seconds = block()["wall_s"]
    assert 0.001 <= seconds and time.perf_counter() - started >= 0.08


def test_the_recorded_command_leaves_out_the_result_file():
    argv = ["--seeds", "3", "--out", "x.json", "--settings", '{"lr": 0.1}']
    assert harness.command("benchmarks.m", argv) == (
        "python -m benchmarks.m --seeds 3 --settings '{\"lr\": 0.1}'"
    )


def test_mean_sd_and_ratio_are_the_textbooks():
    assert harness.mean_sd([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5)}
    assert harness.mean_sd([1.0]) == {"mean": 1.0, "sd": 0}
    assert harness.median_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == 3.0  # of the ratios


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_a_process_is_kept_on_as_many_cores_as_it_has_threads():
    """JAX counts the cores, and its CPU time grows with them."""
    before = os.sched_getaffinity(0)
    try:
        harness.pin(1)
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, before)


def counts():
    """A way whose blocks count calls in this process."""
    calls = []
    return lambda: calls.append(1) or {"wall_s": len(calls)}, {"first_call_s": 0.0}


def fails():
    raise ValueError("not on this machine")


@pytest.mark.slow
def test_ways_in_separate_processes_do_not_share_state_and_a_failure_is_reported():
    facts, blocks, errors = harness.alternate({"a": counts, "b": counts, "c": fails}, 2)
    assert facts["a"] == {"first_call_s": 0.0}
    assert blocks == {way: [{"wall_s": 2}, {"wall_s": 3}] for way in "ab"}  # after a warm-up block
    assert list(errors) == ["c"] and "ValueError: not on this machine" in errors["c"]


@pytest.mark.slow
def test_the_step_benchmark_measures_all_ways_and_writes_its_result(tmp_path, capsys):
    out = tmp_path / "step.json"
    step.main(["--quick", "--workloads", "vae", "--batches", "16", "--out", str(out)])
    result = json.loads(out.read_text())
    rows = {row["way"]: row for row in result["rows"]}
    assert set(ways.WAYS) | {step.PRODUCTS} <= set(rows)
    assert all("error" not in row for row in rows.values())
    assert rows[step.EAGER]["ratio_to_eager"] == 1
    assert result["command"].startswith("python -m benchmarks.speed.step --quick")
    assert re.search(r"vae, batch 16", capsys.readouterr().out)


def test_every_benchmark_can_be_imported():
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."):
        importlib.import_module(module.name)


QUALITY = sorted(
    module.name for module in pkgutil.iter_modules(quality.__path__) if module.name != "picture"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUALITY)
def test_quality_benchmarks_run_and_write_a_result_that_can_be_rendered(name, tmp_path):
    out = tmp_path / f"{name}.json"
    try:
        importlib.import_module(f"benchmarks.quality.{name}").main(["--quick", "--out", str(out)])
    finally:
        torch.set_default_dtype(torch.float32)
    result = json.loads(out.read_text())
    assert result["command"] == f"python -m benchmarks.quality.{name} --quick"
    assert results.render(out)[0] == f"## {name}"


class Parsed(Exception):
    """The command line was accepted."""


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(RESULTS.glob("*.json")) if path.stem != "tutorials"],  # no benchmark
    ids=lambda path: path.stem,
)
def test_recorded_commands_are_accepted(path, monkeypatch):
    def parse_alone(arguments, argv, parse=harness.parse):
        raise Parsed(parse(arguments, argv))

    monkeypatch.setattr(harness, "parse", parse_alone)
    for command in json.loads(path.read_text())["command"].split("; "):
        python, flag, module, *argv = shlex.split(command)
        assert (python, flag) == ("python", "-m")
        with pytest.raises(Parsed) as parsed:
            importlib.import_module(module).main(argv)
        (options,) = parsed.value.args
        pv.method(getattr(options, "method", "cvae"), **getattr(options, "settings", {}))


def test_the_rendered_results_are_those_of_the_result_files():
    text = (RESULTS.parent / "RESULTS.md").read_text()
    for path in RESULTS.glob("*.json"):
        assert "\n".join(results.render(path)) in text, path.name
