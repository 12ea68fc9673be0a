"""A run's folder: what is damaged, edited, in use, gone or full is said in one line, and not lost."""

import errno
import json
import os
import resource
import shutil
import signal
import threading
import time
import warnings

import pytest
import torch
from test_train import _stop_after, quiet, same_tensors, weights, without_seconds

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.train import checkpoint, load_weights
from pyro_vae.train.folder import RunFolder

NET = MLP((8,))
X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def data(name="bits", x=X):
    return pv.data.from_arrays(x, valid=12, test=0, name=name, likelihood="bernoulli")


def pair(seed=0, network=NET):
    torch.manual_seed(seed)
    m = pv.models.VAE((6,), 2, network=network)
    return m, pv.guides.Guide(m, network=network)


BITS = data()


def fit(pair, epochs=2, data=BITS, **options):
    return quiet(*pair, data, epochs, **{"batch_size": 16, "compile": False, **options})


def refused(match, function, *arguments, **options):
    with pytest.raises(pv.UserError, match=match) as e:
        function(*arguments, **options)
    assert "\n" not in str(e.value)


# ------------------------------------------------------------------- damage


def test_a_changed_byte_anywhere_in_a_checkpoint_is_detected(tmp_path):
    """80 bytes over the file, one at a time: an error, or a value that is the same."""
    fit(pair(), out=tmp_path)
    path = tmp_path / "checkpoint.pt"
    good, state = path.read_bytes(), checkpoint.load(path)
    refusals = 0
    for position in range(0, len(good), max(1, len(good) // 80)):
        damaged = bytearray(good)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            actual = checkpoint.load(path)
        except pv.UserError as e:
            assert "damaged" in str(e) or "not a checkpoint" in str(e)
            refusals += 1
        else:  # padding and the archive's own bookkeeping
            assert checkpoint.digest(actual) == checkpoint.digest(state)
    assert refusals > 20


def test_a_changed_weight_is_damage_though_the_archive_is_whole(tmp_path):
    fit(pair(), out=tmp_path)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    next(iter(state["best"]["modules"][0].values())).view(-1)[0] += 1e-3
    torch.save(state, path)
    refused("checkpoint.pt is damaged", load_weights, *pair(), path)
    refused("checkpoint.pt is damaged", fit, pair(), 3, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    "field, value",
    [
        ("progress", {"save": 3}),
        ("progress", None),
        ("history", "[1]"),
        ("history", "{"),
        ("settings", "[]"),
        ("rng", torch.zeros(3)),
        ("rng", torch.zeros(3, dtype=torch.uint8)),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("weights", {"modules": [], "free": [], "frozen": [], "more": 1}),
        ("best", {"modules": [{"a": 1}], "free": [], "frozen": []}),
        ("config", "3"),
    ],
)
def test_a_checkpoint_with_malformed_fields_is_refused(tmp_path, field, value):
    fit(pair(), out=tmp_path)
    path = tmp_path / "checkpoint.pt"
    state = checkpoint.load(path)
    checkpoint.save(path, {**state, field: value})
    refused("is not a whole checkpoint: its|does not fit this run", fit, pair(), 3, out=tmp_path,
            resume=True)  # fmt: skip


def test_moments_of_another_shape_are_refused(tmp_path):
    fit(pair(), out=tmp_path)
    path = tmp_path / "checkpoint.pt"
    state = checkpoint.load(path)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    checkpoint.save(path, state)
    refused("does not fit this run: exp_avg has shape", fit, pair(), 3, out=tmp_path, resume=True)


# ------------------------------------------------------------------- configuration


def test_an_edited_configuration_is_refused_wherever_the_run_is_opened(tmp_path):
    fit(pair(), out=tmp_path, config={"method": "vae", "settings": {"activation": "relu"}})
    path = tmp_path / "config.json"
    config, state = checkpoint.read_json(path), checkpoint.load(tmp_path / "checkpoint.pt")
    assert config["settings"] == {"activation": "relu"} and state["progress"]["epoch"] == 2
    path.write_text(json.dumps(config))  # the same content, laid out otherwise
    load_weights(*pair(), tmp_path / "checkpoint.pt")
    config["settings"]["activation"] = "tanh"
    path.write_text(json.dumps(config))
    message = "settings.activation is 'tanh', the run was trained with 'relu'"
    refused(message, checkpoint.check_config, tmp_path)
    refused(message, load_weights, *pair(), tmp_path / "checkpoint.pt")
    refused(message, fit, pair(), 3, out=tmp_path, resume=True)
    del config["settings"]
    path.write_text(json.dumps(config))
    refused("settings is absent", checkpoint.check_config, tmp_path)
    path.write_text("[]")
    refused("was edited since training", checkpoint.check_config, tmp_path)


def test_runs_with_an_edited_configuration_are_not_compared(tmp_path):
    from pyro_vae.comparison import compare_runs

    m, g = pair()
    fit((m, g), out=tmp_path, config={"method": "vae"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "method": "iwae"}))
    settings = {"method": "vae", "objective": "elbo", "seed": 0}
    refused("method is 'iwae'", compare_runs, {tmp_path: (m, g, data(), settings)}, split="valid")


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"data": data("other")}, r"other data \(name: bits, not other\)"),
        ({"data": data(x=1 - X)}, r"other data \(mean of x: "),
        ({"data": data(x=X[:50])}, r"other data \(sizes: "),
        ({"data": [X[:30], X[30:]]}, r"other data \(name: bits, not stream\)"),
        ({"seed": 5}, "seed=0, not 5"),
        ({"weight_decay": 0.1}, "weight_decay=0.0, not 0.1"),
        ({"objective": pv.objectives.ELBO(beta=2.0)}, "objective="),
        ({"initialize": lambda *a: None}, "initialize=None, not"),
        ({"observed": ("x", "y")}, r"observed=\['x'\], not \['x', 'y'\]"),
    ],
)
def test_resuming_with_another_setting_or_other_data_is_refused(tmp_path, changed, message):
    fit(pair(), out=tmp_path)
    refused(message, fit, pair(), 3, **changed, out=tmp_path, resume=True)


def test_resuming_with_another_architecture_of_the_same_shapes_is_refused(tmp_path):
    fit(pair(), out=tmp_path)
    other = pair(network=MLP((8,), activation="tanh"))
    refused(
        "another pair .*network.activation=relu, not tanh", fit, other, 3, out=tmp_path, resume=True
    )


def test_a_run_that_lost_its_checkpoint_is_not_started_over_but_an_unbegun_one_is(tmp_path):
    fit(pair(), out=tmp_path / "a")
    (tmp_path / "a" / "checkpoint.pt").unlink()
    refused("has a run without its checkpoint.pt", fit, pair(), out=tmp_path / "a", resume=True)

    def killed(*arguments):
        raise KeyboardInterrupt  # in the start, before the first epoch

    with pytest.raises(KeyboardInterrupt):
        fit(pair(), out=tmp_path / "b", initialize=killed)
    assert len(fit(pair(), out=tmp_path / "b", resume=True).history) == 2
    assert len(fit(pair(), out=tmp_path / "c", resume=True).history) == 2


# ------------------------------------------------------------------- two at once


def test_a_second_run_on_a_folder_is_refused_while_the_first_one_trains(tmp_path):
    message = rf"is in use by another run \(process {os.getpid()} on"

    others = pair(), pair()  # made here: it takes from torch's global stream

    def second(*arguments):
        for other, resume in zip(others, (False, True), strict=True):
            refused(message, fit, other, out=tmp_path, resume=resume)

    whole = fit(pair(), out=tmp_path, initialize=second)
    assert without_seconds(whole.history) == without_seconds(fit(pair()).history)
    assert not (tmp_path / ".lock").exists()


def test_a_refused_resume_leaves_the_settings_of_a_folder_in_use(tmp_path):
    data = pv.data.from_arrays(torch.rand(40, 3))
    options = {"hidden": [4], "latent_dim": 2, "compile": False, "schedule": "constant"}
    pv.method("vae", data, epochs=1, **options).fit(tmp_path / "run", progress=False)
    before = (tmp_path / "run" / "config.yaml").read_text()
    busy = RunFolder(tmp_path / "run")
    busy.claim()
    with pytest.raises(pv.UserError, match="in use"):
        pv.method("vae", data, epochs=3, **options).fit(
            tmp_path / "run", resume=True, progress=False
        )
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    busy.lock.release()
    pv.method("vae", data, epochs=3, **options).fit(tmp_path / "run", resume=True, progress=False)
    run = pv.load(tmp_path / "run", data=data)
    assert run.config["epochs"] == 3 == len(run.history)


def test_a_lock_does_not_outlive_a_crash_of_its_process(tmp_path):
    read, write = os.pipe()
    process = os.fork()
    if not process:
        RunFolder(tmp_path).claim()
        os.fork()  # a worker, as a DataLoader's, which may live a little longer
        os.write(write, b"claimed")
        time.sleep(30)
        os._exit(0)
    assert os.read(read, 7) == os.read(read, 7) == b"claimed"
    refused("in use by another run", fit, pair(), out=tmp_path)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert (tmp_path / ".lock").exists()
    assert len(fit(pair(), out=tmp_path).history) == 2


def test_without_locks_in_the_file_system_runs_train_all_the_same(tmp_path, monkeypatch):
    from pyro_vae.train import lock

    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    assert len(fit(pair(), out=tmp_path).history) == 2
    monkeypatch.setattr(lock, "fcntl", None)
    assert len(fit(pair(), 3, out=tmp_path, resume=True).history) == 3


def test_a_run_is_not_replaced_without_being_asked(tmp_path):
    """Whatever is left of it: a whole run, one without its checkpoint, one without its metrics."""
    first = pair()
    fit(first, out=tmp_path / "a")
    for missing in ("config.json", "metrics.jsonl", "checkpoint.pt"):
        (tmp_path / "a" / missing).rename(tmp_path / missing)
        untrained = pair()
        before = weights(*untrained)
        refused(
            "a already contains a run; use resume=True to continue it or choose another directory$",
            fit, untrained, out=tmp_path / "a",
        )  # fmt: skip
        assert same_tensors(before, weights(*untrained))
        (tmp_path / missing).rename(tmp_path / "a" / missing)
    other = pair()
    load_weights(*other, tmp_path / "a" / "checkpoint.pt")
    assert same_tensors(weights(*first), weights(*other))


# ------------------------------------------------------------------- files that cannot be written


def test_a_folder_that_is_removed_while_training_is_written_again(tmp_path):
    out = tmp_path / "run"
    expected = fit(pair(), 4)
    count, step = [0], torch.optim.AdamW.step

    def remove(optimizer, *a, **k):
        count[0] += 1
        if count[0] == 7:
            shutil.rmtree(out)
        return step(optimizer, *a, **k)

    torch.optim.AdamW.step = remove
    m, g = pair()
    try:
        with pytest.warns(UserWarning, match="was removed while training; it is written again"):
            run = fit((m, g), 4, out=out)
    finally:
        torch.optim.AdamW.step = step
    assert without_seconds(run.history) == without_seconds(expected.history)
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert without_seconds(lines) == without_seconds(run.history)
    load_weights(*(other := pair(seed=3)), out / "checkpoint.pt")
    assert same_tensors(weights(m, g), weights(*other))
    assert len(fit(pair(), 5, out=out, resume=True).history) == 5


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_at_the_end_is_one_line_and_the_modules_hold_the_best_weights(
    tmp_path, monkeypatch
):
    expected, (m, g) = pair(), pair()
    fit(expected)
    save, count = checkpoint.save, []

    def fills(*arguments):
        count.append(1)
        return save(*arguments) if len(count) == 1 else full_disk()

    monkeypatch.setattr(checkpoint, "save", fills)
    refused("cannot write to .*No space left on device", fit, (m, g), out=tmp_path)
    assert same_tensors(weights(*expected), weights(m, g))
    monkeypatch.undo()
    assert len(fit(pair(), out=tmp_path, resume=True).history) == 2


def test_a_disk_that_is_full_for_a_while_costs_a_warning(tmp_path, monkeypatch):
    from pyro_vae.train import loop

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    write, count = checkpoint.write_atomically, []

    def fills(path, *arguments):
        count.append(path)
        return full_disk() if 3 < len(count) < 6 else write(path, *arguments)

    monkeypatch.setattr(checkpoint, "write_atomically", fills)
    with pytest.warns(UserWarning, match="No space left on device; training continues"):
        fit(pair(), 6, out=tmp_path)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["progress"]["epoch"] == 6
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_torchs_own_error_for_a_full_disk_is_a_reason_in_one_line(tmp_path):
    """A limit on the size of files: what torch then raises is not an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(tmp_path / "checkpoint.pt", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "checkpoint.pt"])
def test_a_folder_in_a_files_place_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    refused(f"{name} is a folder", fit, pair(), out=tmp_path)


def test_an_out_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("n" * 300), "a\0b"):
        refused("cannot write to", fit, pair(), out=out)
    for out in (tmp_path / ("n" * 300), "a\0b"):
        refused("cannot write to", fit, pair(), out=out, resume=True)
    refused("out must be the path of a folder, not 3", fit, pair(), out=3, resume=True)


def test_settings_that_are_refused_leave_no_folder(tmp_path):
    for options in ({"lr": float("inf")}, {"config": {"a": object()}}, {"observed": ("x", "y")}):
        refused("lr must|config must|observes 'y'", fit, pair(), out=tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()


def test_an_interrupted_run_leaves_its_folder_unlocked_and_a_thread_is_another_run(tmp_path):
    with _stop_after(steps=2):
        assert fit(pair(), out=tmp_path).interrupted
    with RunFolder(tmp_path) as folder:
        folder.claim()
        other = []
        thread = threading.Thread(target=lambda: other.append(_claims(tmp_path)))
        thread.start()
        thread.join()
        assert other == [False]  # the same process is another run, too
    assert _claims(tmp_path)


def _claims(path):
    with RunFolder(path) as folder:
        try:
            folder.claim()
        except pv.UserError:
            return False
        return True


def test_a_run_says_whose_epochs_weights_it_has_and_keeps_the_others(tmp_path):
    torch.manual_seed(0)
    x, net = torch.randn(130, 4), pv.conditionals.MLP((8,))
    model = pv.models.VAE((4,), 2, "normal", net)
    guide = pv.guides.Guide(model, network=net)
    options = {"batch_size": 32, "lr": 3e-2, "valid": x[100:], "progress": False}
    run = pv.fit(model, guide, x[:60], 60, **options)
    assert run.epoch == run.best_epoch < 60  # it overfits

    def weights(run):
        return [p.detach().clone() for p in run.model.parameters()]

    best, last = weights(run), weights(run.use("last"))
    assert run.epoch == 60 and "epoch 60 of 60" in repr(run)
    run.export(tmp_path / "export")
    assert "weights of epoch 60." in (tmp_path / "export" / "README.md").read_text()
    run.save(tmp_path / "saved")
    loaded = pv.load(tmp_path / "saved")
    for name, expected in (("best", best), ("last", last), ("best", best)):
        loaded.use(name)
        assert all(map(torch.equal, weights(loaded), expected))
    assert run.use("best").epoch == run.best_epoch


def test_a_run_without_an_epoch_says_so_where_it_is_opened(tmp_path):
    fit(pair(), out=tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.warns(UserWarning, match="has not been trained for an epoch yet: .* --resume"):
        pv.load(tmp_path, *pair(), data=BITS)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(pv.UserError, match="checkpoint.pt does not exist: .* --resume"):
        pv.load(tmp_path, *pair(), data=BITS)


def _interrupt(run, row):
    if row["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGINT)


def _fail(run, row):
    if row["epoch"] == 2:
        raise RuntimeError("the callback's own")


def _enough(run, row):
    return row["epoch"] == 2


@pytest.mark.parametrize(
    "callback, reason, advice",
    [
        (_interrupt, "interrupted", "was interrupted: it is at epoch 2 of 6; --resume"),
        (_fail, None, "has not ended: it is at epoch 2 of 6; --resume"),
        (_enough, "callback", None),
    ],
)
def test_a_folder_keeps_why_its_run_ended(tmp_path, callback, reason, advice):
    try:
        run = fit(pair(), 6, callbacks=[callback], out=tmp_path)
        assert run.stop_reason == reason
    except RuntimeError:
        assert callback is _fail
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = pv.load(tmp_path, *pair(), data=BITS)
    assert (loaded.stop_reason, loaded.interrupted) == (reason, reason == "interrupted")
    assert [advice in str(w.message) for w in caught] == ([] if advice is None else [True])
    fit(pair(), 6, out=tmp_path, resume=True)
    with warnings.catch_warnings(action="error"):
        assert pv.load(tmp_path, *pair(), data=BITS).stop_reason == "epochs"
