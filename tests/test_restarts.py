"""Restarts: whole runs, trained in sequence or in processes, of which one is chosen without labels."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from small_pairs import three_clusters

import pyro_vae as pv
from pyro_vae.methods import restarts
from pyro_vae.methods.seeds import restart_seeds
from pyro_vae.train import checkpoint, display, pool

SMALL = {
    "restarts": 3, "epochs": 3, "hidden": [8], "latent_dim": 2, "w_dim": 2, "num_components": 3,
    "initialize.epochs": 2, "vaes": 1, "fits": 1, "draws": 1, "batch_size": 40,
}  # fmt: skip
FILES = ("config.yaml", "config.json", "metrics.jsonl", "checkpoint.pt")


def small(data=None, **more):
    return pv.method("gmvae", data or three_clusters(), **{**SMALL, **more})


def untimed(history):
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "data_per_second")} for r in history
    ]


def weights(run):
    return [t for m in (run.model, run.guide) for t in m.state_dict().values()]


def same_run(a, b):
    equal = all(map(torch.equal, weights(a), weights(b)))
    return equal and untimed(a.history) == untimed(b.history) and a.restarts == b.restarts


@pytest.fixture(scope="module")
def in_sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restarts") / "run"
    return small().fit(folder, progress=False, workers=1)


# ----------------------------------------------------------------------------- the choice


def test_a_restart_is_a_run_of_its_seed_and_the_one_that_agrees_most_is_kept(in_sequence):
    seeds = restart_seeds(0, 3)
    assert len(set(seeds)) == 3 and in_sequence.restarts["seeds"] == seeds
    scores, clusters = [], []
    for seed in seeds:
        run = small(seed=seed, restarts=1).fit(progress=False)
        x = run.data.valid.x
        log_p = pv.evaluate.log_likelihood(run.model, run.guide, x, 100)
        scores.append(float((log_p - run.data.log_abs_det_jacobian(x)).mean()))  # original units
        y = pv.evaluate.responsibilities(run.model, run.guide, run.data.train.x)
        clusters.append(y.argmax(-1))
        if seed == seeds[in_sequence.restarts["chosen"]]:
            assert untimed(run.history) == untimed(in_sequence.history)
            assert all(map(torch.equal, weights(run), weights(in_sequence)))
    assert in_sequence.restarts["scores"] == scores
    pairs = [adjusted_rand_score(clusters[m], clusters[n]) for m, n in ((0, 1), (0, 2), (1, 2))]
    agreement = [(pairs[0] + pairs[1]) / 2, (pairs[0] + pairs[2]) / 2, (pairs[1] + pairs[2]) / 2]
    assert in_sequence.restarts["agreements"] == pytest.approx(agreement)
    best = max(range(3), key=lambda n: (agreement[n], scores[n]))
    assert in_sequence.restarts["chosen"] == best


A, B = [0, 0, 1, 1], [0, 1, 0, 1]
# Of 6 pairs of data, A and B each join 2, and none is joined by both: their index is
# (0 - 2/3) / (2 - 2/3) = -1/2.


def summary_of(*clusterings, scores=(-3.0, -2.0, -1.0, -4.0)):
    found = zip(clusterings, scores, strict=False)
    return restarts._summary(
        {n: restarts.Restart(n, 1, score, "ELBO", c) for n, (c, score) in enumerate(found)}
    )


def test_the_restart_is_kept_whose_clusters_agree_most_with_the_others():
    summary = summary_of(A, B, [1, 1, 0, 0])
    assert summary["agreements"] == pytest.approx([(1 - 0.5) / 2, -0.5, (1 - 0.5) / 2])
    assert summary["stability"] == pytest.approx((1 - 0.5 - 0.5) / 3)
    assert summary["chosen"] == 2  # of the two that agree as much, the one with the higher score
    assert summary_of(A, A, B)["chosen"] == 1


def test_of_two_restarts_or_two_that_found_clusters_the_score_decides():
    assert (summary_of(A, B)["chosen"], summary_of(A, B)["agreements"]) == (1, None)
    assert summary_of(A, B)["stability"] == pytest.approx(-0.5)
    one = [0, 0, 0, 0]  # all data in one cluster: such restarts agree, and say nothing
    assert summary_of(one, A, one)["chosen"] == 2 and summary_of(one, A, one)["agreements"] is None
    summary = summary_of(one, A, A, B)
    assert summary["chosen"] == 2 and summary["agreements"][0] is None
    assert summary_of(one, one, one)["stability"] is None  # nothing was clustered


def test_labels_change_nothing():
    runs = [small(three_clusters(labels)).fit(progress=False) for labels in (True, False)]
    assert same_run(*runs)


def test_a_score_that_is_not_finite_is_never_chosen():
    found = {
        n: restarts.Restart(n, 1, score, "ELBO", None)
        for n, score in enumerate((float("nan"), -9.0, float("-inf")))
    }
    assert restarts._summary(found)["chosen"] == 1
    same = summary_of(A, A, A, A, scores=(float("nan"), -9.0, -8.0, -7.0))
    assert same["chosen"] == 3 and same["agreements"][0] is None


def test_a_model_without_components_has_restarts_and_no_stability():
    run = pv.method("vae", three_clusters(), hidden=[4], latent_dim=2, epochs=1, restarts=2)
    found = run.fit(progress=False).restarts
    assert found["stability"] is None and len(found["scores"]) == 2


def test_scores_without_a_likelihood_are_the_elbo():
    x = torch.rand(60, 5)
    data = pv.data.from_arrays(x, likelihood="continuous-bernoulli")
    run = pv.method("vae", data, hidden=[4], latent_dim=2, epochs=1, restarts=2)
    assert run.fit(progress=False).restarts["criterion"].startswith("importance-weighted")
    data = pv.data.from_arrays(torch.rand(60, 5).round(), valid=0.0)
    run = pv.method("vae", data, hidden=[4], latent_dim=2, epochs=1, restarts=2).fit(progress=False)
    assert "train split" in run.restarts["criterion"]


def test_results_and_their_table_have_the_stability(in_sequence):
    results = in_sequence.evaluate("test", num_samples=5)
    assert results["restarts"] == in_sequence.restarts
    value = f"{in_sequence.restarts['stability']:.2f}"
    assert f"Stability {value}" in " ".join(str(results).split())
    assert f"stability {value}" in repr(in_sequence)


# ----------------------------------------------------------------------------- processes


def test_processes_train_what_this_process_trains_bit_for_bit(in_sequence, tmp_path, capfd):
    run = small().fit(tmp_path / "run", progress=True, workers=2)
    assert same_run(run, in_sequence)
    shown = capfd.readouterr().err
    assert "3 of 3 restarts finished: 100%" in shown and "15/15" in shown


@pytest.mark.slow  # a worker never imports the main module: pytest's, in the test above
def test_a_script_without_a_main_guard_trains_in_processes(in_sequence, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_restarts
        print("begin")
        run = test_restarts.small().fit("run", progress=False, workers=2)
        print(run.restarts["scores"])
    """)
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines == ["begin", str(in_sequence.restarts["scores"])]  # the script ran once


def test_data_that_no_process_can_load_are_trained_on_here():
    data = three_clusters()
    x = torch.cat([data.train.x, data.train.x])
    conditioned = pv.data.from_arrays(x, c=x[:, :2])
    conditioned = dataclasses.replace(conditioned, condition=lambda x, y: (x, x[:, :2]))
    method = pv.method("cvae", conditioned, hidden=[4], latent_dim=2, epochs=1, restarts=2)
    assert pool._pickled(method) is None
    assert len(method.fit(progress=False, workers=2).restarts["scores"]) == 2


def test_short_runs_need_no_processes():
    cpu = torch.device("cpu")
    assert restarts._seconds(small()) * 2 < pool.PROCESS_SECONDS
    assert pool.num_processes(3, 1.0, cpu) == 1
    with pool.num_workers(2), pool.num_workers(None):
        assert pool.num_processes(3, 1.0, cpu) == 2
        assert pool.num_processes(1, 1.0, cpu) == 1
        assert pool.num_processes(3, 1.0, torch.device("meta")) == 1
    with pytest.raises(pv.UserError, match="workers must be an integer >= 1, got 0"):
        small().fit(progress=False, workers=0)


def test_several_processes_for_one_run_are_refused():
    with pytest.raises(pv.UserError, match="workers=2 has no effect without restarts"):
        small(restarts=1).fit(progress=False, workers=2)


@pytest.mark.slow
def test_the_error_of_a_process_is_one_line_and_leaves_no_files(tmp_path):
    method = small(lr=1e30)
    with pytest.raises(pv.UserError, match=r"^restart \d: .*not finite"):
        method.fit(tmp_path / "run", progress=False, workers=2)


@pytest.mark.slow
def test_a_process_that_is_killed_is_an_error_of_one_line(tmp_path, monkeypatch):
    train = pool._Worker.train

    def train_and_kill(worker, *arguments):
        train(worker, *arguments)
        worker.process.kill()

    monkeypatch.setattr(pool._Worker, "train", train_and_kill)
    with pytest.raises(pv.UserError, match="ended with status -9.*workers=1"):
        small(epochs=500).fit(tmp_path / "run", progress=False, workers=2)


# ----------------------------------------------------------------------------- interruptions


def interrupt_after(monkeypatch, epochs):
    """Ctrl-C after so many epochs, counted over all restarts."""
    seen = [0]
    show = display.PartsBar.show_epoch

    def show_epoch(self, index, row):
        show(self, index, row)
        seen[0] += self._part == "restart"
        if seen[0] == epochs:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(display.PartsBar, "show_epoch", show_epoch)


@pytest.mark.parametrize(
    "workers, epochs",
    [(1, 1), (1, 8), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 4), (2, 3)))],
)
def test_an_interrupted_run_resumes_to_the_same_result(
    workers, epochs, in_sequence, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs)
        run = small().fit(out, progress=True, workers=workers)
        assert run.interrupted
    assert not (out / "checkpoint.pt").exists()
    with pytest.raises(pv.UserError, match="already contains a run"):
        small().fit(out, progress=False)
    with pytest.raises(pv.UserError, match="not finished: rerun with --resume"):
        pv.load(out, data=three_clusters())
    finished = {f: f.read_bytes() for f in out.glob("restarts/*/restart.json")}
    assert bool(finished) == (epochs == 8)  # by then the first restart had its five epochs
    resumed = small().fit(out, resume=True, progress=False, workers=1)
    assert same_run(resumed, in_sequence) and not resumed.interrupted
    assert all(f.read_bytes() == content for f, content in finished.items())


@pytest.mark.slow
def test_processes_stop_when_the_one_that_started_them_is_killed(in_sequence, tmp_path):
    code = "import test_restarts as t; t.small(epochs=20000).fit('run', progress=False, workers=2)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    locks = [tmp_path / "run" / "restarts" / n / ".lock" for n in "01"]
    wait_until(lambda: all(lock.exists() and lock.read_text() for lock in locks))
    workers = [int(lock.read_text().split()[1]) for lock in locks]
    process.kill()
    process.wait()
    wait_until(lambda: not any(running(pid) for pid in workers))


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_until(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("timeout")


# ----------------------------------------------------------------------------- the run folder


def test_a_run_of_restarts_says_why_it_ended(in_sequence):
    assert in_sequence.stop_reason == "epochs" and not in_sequence.interrupted
    run = small(restarts=2, epochs=40, patience=1, lr=0.5).fit(progress=False, workers=1)
    assert run.stop_reason == "patience" and len(run.history) < 40


def test_the_run_folder_is_a_run_and_so_is_each_restart(in_sequence):
    out, data = in_sequence.out, three_clusters()
    loaded = pv.load(out, data=data)
    assert same_run(loaded, in_sequence) and loaded.config == in_sequence.config
    record = checkpoint.read_json(out / "config.json")
    state = checkpoint.load(out / "checkpoint.pt")
    checkpoint.check_config(out, state)
    assert record["config"]["restarts"] == 3 and record["restarts"] == in_sequence.restarts
    for n, seed in enumerate(in_sequence.restarts["seeds"]):
        restart = pv.load(out / "restarts" / str(n), data=data)
        assert restart.config["seed"] == seed and restart.restarts is None
        same = all(map(torch.equal, weights(restart), weights(in_sequence)))
        assert same == (n == in_sequence.restarts["chosen"])


def test_resuming_a_finished_run_changes_nothing(in_sequence):
    before = {name: (in_sequence.out / name).read_bytes() for name in FILES}
    again = small().fit(in_sequence.out, resume=True, progress=False)
    assert same_run(again, in_sequence)
    assert {name: (in_sequence.out / name).read_bytes() for name in FILES} == before


@pytest.mark.slow
def test_a_constant_schedule_is_extended_in_every_restart(tmp_path):
    options = {"schedule": "constant", "validate_every": 1}
    small(**options).fit(tmp_path / "run", progress=False)
    longer = small(**options, epochs=5).fit(tmp_path / "run", resume=True, progress=False)
    assert same_run(longer, small(**options, epochs=5).fit(progress=False))


def test_a_copy_has_the_restarts_of_its_run_and_cannot_be_resumed(in_sequence, tmp_path):
    data = three_clusters()
    copy = pv.load(in_sequence.save(tmp_path / "copy"), data=data)
    assert same_run(copy, in_sequence)
    with pytest.raises(pv.UserError, match="its restarts were removed"):
        small().fit(tmp_path / "copy", resume=True, progress=False)
    in_memory = small(restarts=2).fit(progress=False)
    assert same_run(pv.load(in_memory.save(tmp_path / "saved"), data=data), in_memory)


def test_a_run_that_fails_before_it_trains_leaves_no_files(tmp_path):
    method = small()
    method.config["initialize.epochs"] = -1
    with pytest.raises(pv.UserError, match="epochs must be an integer"):
        method.fit(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(tmp_path):
    from pyro_vae.train.folder import RunFolder

    with RunFolder(tmp_path / "run") as folder:
        folder.claim()
        with pytest.raises(pv.UserError, match="is in use by another run"):
            small().fit(tmp_path / "run", progress=False)


def test_a_comparison_has_seeds_and_no_restarts():
    with pytest.raises(pv.UserError, match="trains each pair once per seed"):
        pv.methods.compare_guides("gmvae", settings={"restarts": 2})


def test_a_damaged_result_is_computed_again(in_sequence, tmp_path):
    shutil.copytree(in_sequence.out, tmp_path / "run")
    (tmp_path / "run" / "restarts" / "1" / "restart.json").write_text("{")
    again = small().fit(tmp_path / "run", resume=True, progress=False)
    assert same_run(again, in_sequence)
    result = json.loads((tmp_path / "run" / "restarts" / "1" / "restart.json").read_text())
    assert result["score"] == in_sequence.restarts["scores"][1]


# ----------------------------------------------------------------------------- hooks


def test_callbacks_are_called_in_every_restart_and_change_nothing(in_sequence):
    calls = []
    method = small()
    run = method.fit(
        progress=False,
        callbacks=[lambda run, metrics: calls.append((run.config["seed"], metrics["epoch"]))],
    )
    seeds = restart_seeds(0, 3)
    assert calls == [(seed, epoch) for seed in seeds for epoch in (1, 2, 3)]
    assert same_run(run, in_sequence)


def test_restarts_that_a_callback_stopped_are_continued(tmp_path, in_sequence):
    short = small().fit(
        tmp_path / "run", progress=False, callbacks=[lambda run, metrics: metrics["epoch"] == 2]
    )
    assert len(short.history) == 2
    run = small().fit(tmp_path / "run", resume=True, progress=False, workers=1)
    assert same_run(run, in_sequence)


def test_the_last_weights_of_the_chosen_restart_are_kept(in_sequence):
    best = [w.clone() for w in weights(in_sequence)]
    chosen = in_sequence.restarts["seeds"][in_sequence.restarts["chosen"]]
    alone = small(seed=chosen, restarts=1).fit(progress=False)
    assert all(map(torch.equal, weights(alone.use("last")), weights(in_sequence.use("last"))))
    assert all(map(torch.equal, best, weights(in_sequence.use("best"))))


# ------------------------------------------------------------------------ the time limit


def test_restarts_share_the_time_that_is_left(monkeypatch):
    now = 100.0
    monkeypatch.setattr(pool.time, "monotonic", lambda: now)
    budget = pool.TimeBudget(12.0)
    assert budget.seconds_for_next(3) == pytest.approx(4)
    now += 2  # the first one ended early: the others have its time
    assert budget.seconds_for_next(2) == pytest.approx(5)
    now += 20
    assert budget.seconds_for_next(1) == pool.MIN_SECONDS
    in_two_processes = pool.TimeBudget(12.0, 2)
    assert [in_two_processes.seconds_for_next(n) for n in (5, 4, 3)] == pytest.approx([4, 6, 6])
    assert pool.TimeBudget(None).seconds_for_next(3) is None


@pytest.mark.slow
def test_a_time_limit_holds_for_all_restarts_together(tmp_path):
    options = {"epochs": 10**6, "max_time": 0.6, "compile": False}
    method = small(**options)
    started = time.monotonic()
    limits, train_restart = [], restarts.train_restart

    def recording(one, *arguments):
        limits.append(one.config["max_time"])
        return train_restart(one, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restarts, "train_restart", recording)
        run = method.fit(tmp_path / "run", progress=False, workers=1)
    seconds = time.monotonic() - started
    assert limits[0] == pytest.approx(0.2, rel=0.1) and sum(limits) < 0.9
    assert run.stop_reason == "max_time" and len(run.restarts["scores"]) == 3
    assert seconds < 60  # three limits and their evaluations; epochs would take days
    for n in range(3):
        rows = (tmp_path / "run" / "restarts" / str(n) / "metrics.jsonl").read_text().splitlines()
        assert len(rows) < 10**4
