"""The command, as a person runs it: a process, its output, its files, its exit status."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import methods, summary
from pyro_vae.cli import main

SMALL = ["--epochs", "2", "--hidden", "[16]", "--num_samples", "5", "--latent_dim", "3"]


def command(*arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", "pyro_vae", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run of the main job, small."""
    folder = tmp_path_factory.mktemp("cli")
    settings = ["--initialisation", '{"epochs": 2, "restarts": 2, "fits": 1}']
    done = command("fit", "gmvae", *SMALL, *settings, "--out", "run", cwd=folder)
    return folder, done


def test_fit_prints_a_table_and_writes_the_run_folder(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    for words in ("ELBO", "log-likelihood", "KL of y", "accuracy", "k-means", "Gaussian mixture"):
        assert words in done.stdout
    assert "epoch" in done.stderr and "data/s" in done.stderr  # the progress bar
    run = folder / "run"
    config = json.loads((run / "config.json").read_text())
    assert config["method"] == "gmvae" and config["settings"]["hidden"] == [16]
    assert config["data"]["binarise"] == "none" and config["data"]["sizes"]["test"] == 360
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((run / "results-test.json").read_text())["split"] == "test"
    assert torch.load(run / "checkpoint.pt", weights_only=True)["format"]


def test_the_report_is_one_self_contained_page_with_its_pictures(finished):
    page = (finished[0] / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 7
    assert not re.search(r'(src|href)="(?!data:)', page)
    for words in (
        "Training",
        "Components",
        "Reconstructions",
        "Samples",
        "Paths",
        "Latent space",
        "k-means",
    ):
        assert words in page


def test_evaluate_and_sample_work_from_the_run_folder_alone(finished):
    folder, _ = finished
    done = command("evaluate", "run", "--split", "valid", "--num_samples", "7", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "180 valid data" in done.stdout and "7 samples" in done.stdout
    done = command("sample", "run", "--num", "9", "--y", "3", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert np.load(folder / "run" / "samples.npz")["x"].shape == (9, 1, 8, 8)
    assert (folder / "run" / "samples.png").read_bytes()[:4] == b"\x89PNG"


def test_the_same_command_with_resume_goes_on(finished, tmp_path, capsys):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    same = [*SMALL, "--initialisation", '{"epochs": 2, "restarts": 2, "fits": 1}']
    same += ["--out", str(tmp_path / "run"), "--resume", "true", "--progress", "false"]
    assert main(["fit", "gmvae", *same]) == 0
    assert main(["fit", "gmvae", *same, "--initialisation", '{"restarts": 3}']) == 1
    assert "was started with initialisation=" in capsys.readouterr().err


def test_a_guide_with_a_row_per_datum_is_judged_on_its_own_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["fit", "vae-per-datum", *SMALL, "--out", "run", "--progress", "false"]
    assert main(run) == 0 and "1257 train data" in capsys.readouterr().out
    assert main(["evaluate", "run"]) == 1
    assert "judged on the train split alone" in capsys.readouterr().err


SHAPES = {
    "component": (["--num", "5"], (50, 1, 8, 8)),
    "aggregate": (["--num", "9"], (9, 1, 8, 8)),
    "ex-post": (["--num", "9", "--latent", "w"], (9, 1, 8, 8)),
    "interpolate": (["--num", "3", "--steps", "4"], (12, 1, 8, 8)),
    "traverse": (["--num", "2", "--latent", "w"], (18, 1, 8, 8)),
    "complete": (["--num", "2", "--steps", "3", "--observed", "left"], (32, 1, 8, 8)),
}


@pytest.mark.parametrize("source", SHAPES)
def test_every_source_writes_its_own_picture_and_arrays(source, finished, capsys):
    run = finished[0] / "run"
    options, shape = SHAPES[source]
    assert main(["sample", str(run), "--source", source, *options]) == 0
    arrays = np.load(run / f"{source}.npz")
    assert arrays["x"].shape == shape and np.isfinite(arrays["x"]).all()
    assert (run / f"{source}.png").read_bytes()[:4] == b"\x89PNG"
    if source == "complete":
        rows = arrays["x"].reshape(8, 4, 1, 8, 8)  # observed, two completions, the datum
        assert np.array_equal(rows[:, 3], arrays["truth"]) and arrays["mask"].sum() == 32
        for k in (1, 2):
            assert np.array_equal(rows[:, k, ..., :4], rows[:, 3, ..., :4])
            assert not np.array_equal(rows[:, k, ..., 4:], rows[:, 3, ..., 4:])
    if source == "traverse":
        assert arrays["units"].shape == arrays["activity"].shape == (2,)
    capsys.readouterr()


def test_a_second_fit_into_the_same_folder_loses_nothing(finished):
    folder, _ = finished
    before = (folder / "run" / "checkpoint.pt").read_bytes()
    done = command("fit", "gmvae", "--out", "run", cwd=folder)
    assert done.returncode == 1 and "holds a run already" in done.stderr
    assert (folder / "run" / "checkpoint.pt").read_bytes() == before


def test_ctrl_c_and_resume_lose_nothing(tmp_path):
    options = ["vae", *SMALL[2:], "--epochs", "400", "--schedule", "constant"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pyro_vae", "fit", *options, "--out", "stopped"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    for _ in range(1200):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "nothing is lost" in out
    epochs = len(metrics.read_text().splitlines()) + 2
    done = command(
        "fit", "vae", "--out", "stopped", "--resume", "--epochs", str(epochs), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    whole = command("fit", *options, "--epochs", str(epochs), "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()
        ]
        for n in ("stopped", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == epochs


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_listed_method_fits_from_the_command_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extra = []
    if methods.METHODS[name].settings.get("initialise") == "mixture":
        extra = ["--initialisation", '{"epochs": 1, "restarts": 1, "fits": 1}']
    if methods.METHODS[name].settings.get("initialise") == "stack":
        extra = ["--initialisation", '{"epochs": 1}']
    assert main(["fit", name, *SMALL, *extra, "--progress", "false"]) == 0
    out = capsys.readouterr().out
    assert "ELBO" in out and (tmp_path / "runs" / f"{name}-digits-0" / "report.html").exists()


def test_what_is_said_of_the_mixture_start_goes_over_the_methods_own():
    own = methods.CLUSTERING["initialisation"]
    found = methods.settings("gmvae", {"initialisation": {"restarts": 1}})
    assert found["initialisation"] == {**own, "restarts": 1}
    assert methods.settings("gmvae")["initialisation"] == own  # and leaves it as it was
    large = methods.settings("gmvae", {"initialisation": {"fits": 9}}, "mnist")
    assert large["initialisation"] == {**methods.CLUSTERING_LARGE["initialisation"], "fits": 9}
    with pytest.raises(pv.UserError, match="did you mean 'weight_decay'"):
        methods.settings("vade", {"initialisation": {"weight_decy": 0.1}})


def test_list_names_model_guide_and_paper(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name, method in methods.METHODS.items():
        assert re.search(
            rf"^{name} .*{method.model.__name__}.*{re.escape(method.paper)}$", out, re.M
        )


def test_arcs_and_a_users_npz_file_are_data_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "gmvae", *SMALL, "--data", "arcs", "--latent_dim", "2", "--initialise",
                 "none", "--num_components", "5", "--epochs", "1", "--progress", "false"]) == 0  # fmt: skip
    x = np.random.default_rng(0).normal(size=(60, 4))
    np.savez("mine.npz", x=x, y=np.arange(60) % 3)
    assert main(["fit", "vae", *SMALL, "--data", "mine.npz", "--progress", "false"]) == 0
    assert (tmp_path / "runs" / "vae-mine-0" / "report.html").exists()
    capsys.readouterr()


class _Evil:
    def __reduce__(self):
        return (print, ("pickle was executed",))


BAD = {
    "misspelt model": (["fit", "gmvea"], "unknown model 'gmvea'; did you mean 'gmvae'?"),
    "misspelt data": (["fit", "vae", "--data", "digit"], "did you mean 'digits'?"),
    "misspelt likelihood": (
        ["fit", "vae", "--likelihood", "bernouli"],
        "did you mean 'bernoulli'?",
    ),
    "misspelt option": (["fit", "vae", "--epoch", "3"], "--epoch"),
    "not a number": (["fit", "vae", "--epochs", "many"], "epochs"),
    "misspelt network": (["fit", "vae", "--network", "cnn"], "unknown network 'cnn'"),
    "misspelt activation": (["fit", "vae", "--activation", "rellu"], "did you mean 'relu'?"),
    "misspelt split": (
        ["evaluate", "trained", "--split", "nothing"],
        "unknown split 'nothing'",
    ),
    "a split that is an attribute": (["evaluate", "trained", "--split", "name"], "unknown split"),
    "not a run": (["evaluate", "run"], "is this a run folder?"),
    "no such run": (["sample", "nowhere"], "is this a run folder?"),
    "grey in Bernoulli": (
        ["fit", "vae", "--likelihood", "bernoulli", "--binarise", "none"],
        "outside the support of its Bernoulli",
    ),
    "resume nothing": (["fit", "vae", "--resume"], "is this a run folder?"),
    "no file": (["fit", "vae", "--data", "no.npz"], "no.npz does not exist"),
    "NaN": (
        ["fit", "vae", "--data", "nan.npz"],
        "x has 1 NaN or infinite values, in 1 rows (first: row 7)",
    ),
    "labels": (["fit", "vae", "--data", "labels.npz"], "labels must be whole numbers"),
    "object array": (["fit", "vae", "--data", "evil.npz"], "not an .npz file of plain arrays"),
    "not an npz": (["fit", "vae", "--data", "text.npz"], "not an .npz file of plain arrays"),
    "no x": (["fit", "vae", "--data", "nox.npz"], "has no array x"),
    "conv on vectors": (
        ["fit", "vae", "--data", "arcs", "--network", "conv"],
        "needs data of shape (C, L), (C, H, W)",
    ),
    "no command": ([], "command"),
    "misspelt initialisation": (
        ["fit", "gmvae", "--initialisation", '{"fit": 3}'],
        "unknown setting of initialisation 'fit'; did you mean 'fits'?",
    ),
    "no restarts": (
        ["fit", "gmvae", "--initialisation", '{"restarts": 0}'],
        "restarts takes whole numbers from 1, not 0",
    ),
    "restarts in words": (
        ["fit", "gmvae", "--initialisation", '{"restarts": "many"}'],
        "restarts takes whole numbers from 1, not 'many'",
    ),
    "no samples": (["fit", "vae", "--num_samples", "0"], "num_samples takes whole numbers from 1"),
    "no samples to judge by": (
        ["evaluate", "trained", "--num_samples", "0"],
        "num_samples takes whole numbers from 1, not 0",
    ),
    "no components": (["fit", "gmvae", "--num_components", "0"], "num_components takes whole"),
    "no latent": (["fit", "vae", "--latent_dim", "0"], "latent_dim takes whole numbers from 1"),
    "negative latent": (["fit", "vade", "--latent_dim", "-1"], "latent_dim takes whole numbers"),
    "no w": (["fit", "gmvae", "--w_dim", "0"], "w_dim takes whole numbers from 1, not 0"),
    "no particles": (["fit", "vae", "--num_particles", "0"], "num_particles takes whole numbers"),
    "no width": (["fit", "vae", "--hidden", "[0]"], "hidden takes whole numbers from 1, not (0,)"),
    "negative width": (["fit", "vae", "--hidden", "[8, -3]"], "hidden takes whole numbers from 1"),
    "no channels": (
        ["fit", "vae", "--network", "conv", "--channels", "[0]"],
        "channels takes whole numbers from 1, not (0,)",
    ),
    "no convolutions": (
        ["fit", "vae", "--network", "conv", "--channels", "[]"],
        "needs channels and a hidden layer",
    ),
    "nothing behind the convolutions": (
        ["fit", "vae", "--network", "conv", "--hidden", "[]"],
        "needs channels and a hidden layer",
    ),
    "negative warm-up": (["fit", "vae", "--warmup", "-1"], "warmup must not be negative: -1"),
    "negative start of warm-up": (
        ["fit", "vae", "--warmup", "5", "--warmup_from", "-1"],
        "warmup_from must not be negative: -1",
    ),
    "a weight of what the bound has not": (
        ["fit", "vae", "--objective", "iwae", "--warmup", "5"],
        "the objective iwae has no warmup; it has num_particles",
    ),
    "too much sleep": (
        ["fit", "vae", "--objective", "rws", "--sleep", "2"],
        "sleep weighs the sleep phase: 0 to 1, not 2",
    ),
    "an order that is none": (
        ["fit", "vae", "--objective", "renyi", "--alpha", ".inf"],
        "alpha of the Renyi bound is a number, or -inf: not inf",
    ),
    "free bits of nothing": (["fit", "vae", "--free_bits", '{"q": 1}'], "no latent 'q'"),
    "empty batches": (["fit", "vae", "--batch_size", "0"], "batch_size takes whole numbers from 1"),
    "no rate": (["fit", "vae", "--lr", "0"], "lr must be positive: 0"),
    "negative decay": (["fit", "vae", "--weight_decay", "-1"], "weight_decay must not be negative"),
    "negative norm": (["fit", "vae", "--clip_norm", "-1"], "clip_norm must be positive: -1"),
    "no patience": (["fit", "vae", "--patience", "0"], "patience takes whole numbers from 1"),
    "none drawn": (["sample", "trained", "--num", "0"], "the number of samples takes whole"),
    "no such component": (["sample", "trained", "--y", "99"], "the model has components 0..9"),
    "misspelt source": (["sample", "trained", "--source", "pryor"], "did you mean 'prior'?"),
    "misspelt half": (
        ["sample", "trained", "--source", "complete", "--observed", "lef"],
        "unknown half 'lef'; did you mean 'left'?",
    ),
    "a component of encodings": (
        ["sample", "trained", "--source", "aggregate", "--y", "3"],
        "y picks a component of the prior; it does not go with aggregate",
    ),
    "levels of a binomial": (
        ["fit", "vae", "--likelihood", "binomial", "--levels", "17"],
        "the likelihood 'binomial' has no levels",
    ),
    "levels that the data do not have": (
        ["fit", "vae", "--likelihood", "categorical"],
        "this likelihood has 256 grey levels: set levels=",
    ),
    "standardised binary images": (
        ["fit", "vae", "--binarise", "static", "--standardise", "true"],
        "is binarised or standardised already",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line_and_starts_nothing(
    case, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained").symlink_to(finished[0] / "run")
    x = np.zeros((50, 4))
    np.savez("labels.npz", x=x, y=np.linspace(0, 1, 50))
    np.savez("evil.npz", x=np.array([_Evil()], dtype=object))
    np.savez("nox.npz", z=x)
    (tmp_path / "text.npz").write_text("hello")
    x[7, 2] = np.nan
    np.savez("nan.npz", x=x)
    arguments, message = BAD[case]
    try:
        status = main(arguments)
    except SystemExit as e:
        status = e.code
    out = capsys.readouterr()
    lines = [line for line in out.err.splitlines() if line.strip()]
    assert status in (1, 2)
    assert len(lines) == 1 and lines[0].startswith("pyro-vae: ") and message in lines[0], lines
    assert "pickle was executed" not in out.out
    assert not (tmp_path / "runs").exists()


def test_a_damaged_or_foreign_run_folder_gives_one_line(finished, tmp_path, capsys):
    run = finished[0] / "run"
    copy = tmp_path / "copy"
    copy.mkdir()
    config = (run / "config.json").read_text()
    (copy / "config.json").write_text(config)
    (copy / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:1000])
    for arguments, message in [
        (["evaluate", str(copy)], "is not a checkpoint of this library: the file is damaged"),
        (["evaluate", str(run), "--split", "tests"], "split"),
        (["sample", str(run), "--y", "10"], "the model has components 0..9"),
        (["fit", "vae", "--out", str(run), "--resume", "true"], "holds a run of gmvae, not of vae"),
        (
            ["fit", "gmvae", "--out", str(run), "--resume", "true", "--latent_dim", "7"],
            "was started with latent_dim=3, not 7",
        ),
    ]:
        assert main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    (copy / "config.json").write_text(config[:50])
    assert main(["evaluate", str(copy)]) == 1
    assert "not valid JSON" in capsys.readouterr().err
    (copy / "config.json").write_text("{}")
    assert main(["evaluate", str(copy)]) == 1
    assert "was not written by pyro-vae fit" in capsys.readouterr().err


def test_ctrl_c_in_the_mixture_start_stops_and_resume_starts_it_again(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "pyro_vae", "fit", "gmvae", *SMALL, "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1200):
        if (tmp_path / "run" / "metrics.jsonl").exists():  # the default start takes half a minute
            break
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    settings["settings"]["initialisation"] = {"epochs": 1, "fits": 1}  # so that the test is short
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    done = command("fit", "gmvae", "--out", "run", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_score_is_not_called_a_bound():
    result = {"split": "test", "data": 2, "elbo": -3.0, "terms": {"x": -2.0, "z": -1.0}}
    result |= {"num_samples": 5, "active_units": {"z": 1}, "units": {"z": 4}}
    names = [name for name, _, _ in summary.rows({**result, "log_likelihood": -2.5})]
    assert names == ["ELBO", "log-likelihood", "E log p(x | ...)", "KL of z"]
    score = summary.rows({**result, "elbo_is_a_score": True})
    assert score[0][0] == "score" and "no likelihood" in score[0][2]
    assert score[-1] == ("KL of z", 1.0, "1 of 4 units active")


def test_few_labels_are_reported_beside_classifiers_with_the_same_ones(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--num_labels", "50", "--label_seed", "3", "--out", str(out)]
    assert main(["fit", "m2", *SMALL, *arguments, "--progress", "false"]) == 0
    told = capsys.readouterr().out
    assert "errors, 50 labels" in told and "entropy q(y | x)" in told and "k-means" not in told
    found = json.loads((out / "results-test.json").read_text())["classification"]
    assert found["num_labels"] == 50
    on_x = {"logistic regression on x", "SVM on x", "LabelSpreading on x"}
    assert set(found["errors"]) == {"this model", *on_x}
    for errors in found["errors"].values():
        assert set(errors) == {"labelled", "unlabelled", "test"}
        assert all(0 <= e <= 1 for e in errors.values())
    assert found["errors"]["SVM on x"]["test"] < 0.3
    page = (out / "report.html").read_text()
    for words in (
        "error with 50 training labels",
        "Classes by this model",
        "Analogies",
        "one row a class",
    ):
        assert words in page
    assert main(["evaluate", str(out), "--num_samples", "5", "--split", "valid"]) == 0
    assert "valid" in capsys.readouterr().out


def test_an_npz_file_says_by_minus_one_what_is_not_labelled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 4)) + 4 * np.eye(4)[y]
    np.savez("mine.npz", x=x, y=np.where(rng.random(90) < 0.5, y, -1))
    for name in ("m1", "m2"):
        assert main(["fit", name, *SMALL, "--data", "mine.npz", "--progress", "false"]) == 0
        lines = capsys.readouterr().out.splitlines()
        (head,) = [line for line in lines if line.startswith("errors, ")]
        assert head.split()[-2:] == ["labelled", "test"]  # the truth of the others is not known
    assert main(["fit", "shu-gmvae", *SMALL, "--data", "mine.npz", "--progress", "false"]) == 0
    told = capsys.readouterr().out
    assert "k-means" in told and "errors, " not in told  # it saw no label: its numbers are clusters
    np.savez("none.npz", x=x)
    assert main(["fit", "m2", *SMALL, "--data", "none.npz", "--progress", "false"]) == 1
    assert "needs labels y" in capsys.readouterr().err
    options = ["--num_labels", "5000"]
    assert main(["fit", "m2", *SMALL, *options, "--progress", "false"]) == 1
    assert "5000 labels to keep, of 1257" in capsys.readouterr().err
    options = ["--alpha", "1"]
    assert main(["fit", "vae", *SMALL, *options, "--progress", "false"]) == 1
    assert (
        "the objective elbo has no alpha; it has num_particles, warmup" in capsys.readouterr().err
    )
    options = ["--objective", "semi"]
    assert main(["fit", "m2", *SMALL, *options, "--progress", "false"]) == 1
    assert "did you mean 'semi-supervised'?" in capsys.readouterr().err


def test_every_objective_is_reached_by_name_with_its_own_options():
    for name, options, expected in (
        ("stl", {"warmup": 3}, {"name": "stl", "warmup": 3, "num_particles": 1}),
        ("iwae", {"num_particles": 3}, {"name": "iwae", "num_particles": 3}),
        ("dreg", {}, {"name": "dreg", "num_particles": 5}),
        ("renyi", {"alpha": 0.2}, {"name": "renyi", "num_particles": 5, "alpha": 0.2}),
        ("rws", {"sleep": 0.5}, {"name": "rws", "num_particles": 5, "sleep": 0.5}),
        ("elbo", {"leave_one_out": True}, {"name": "elbo", "leave_one_out": True, "warmup": {"z": 50}}),
        ("semi-supervised", {}, {"name": "semi-supervised", "alpha": 10.0}),
    ):  # fmt: skip
        # what the method says of its own objective, the semi-supervised one, falls away
        settings = methods.settings("m2", {"objective": name, **options})
        found = methods.objective(settings).describe()
        assert found == {**found, **expected}


def test_an_objective_is_chosen_from_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--objective", "renyi", "--alpha=-.inf", "--num_particles", "2", "--out", "run"]
    assert main(["fit", "shu-gmvae", *SMALL, *options, "--progress", "false"]) == 0
    found = json.loads(Path("run", "config.json").read_text())["fit"]["objective"]
    assert found == {"name": "renyi", "num_particles": 2, "alpha": -math.inf}
