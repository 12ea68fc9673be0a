"""The command, as a person runs it: a process, its output, its files, its exit status."""

import errno
import json
import math
import os
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
import yaml
from commands import COMMANDS, main
from PIL import Image
from presets import has
from sampling import covering, in_turn

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.methods import configure
from pyro_vae.methods.options import as_flag, resolve
from pyro_vae.report import summary

SMALL = ["--epochs", "2", "--hidden", "[16]", "--num-samples", "5", "--model.latent-dim", "3"]
START = ["--initialize.epochs", "2", "--vaes", "1", "--restarts", "2", "--initialize.fits", "1"]


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
    wide = {**os.environ, "COLUMNS": "200"}  # for the whole progress bar
    done = command("fit", "gmvae", *SMALL, *START, "--out", "run", cwd=folder, env=wide)
    return folder, done


def test_fit_prints_a_table_and_writes_the_run_folder(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    for words in ("ELBO", "log-likelihood", "KL of y", "accuracy", "k-means", "Gaussian mixture"):
        assert words in done.stdout
    assert "epoch" in done.stderr and "data/s" in done.stderr  # the progress bar
    run = folder / "run"
    config = json.loads((run / "config.json").read_text())
    config_file = yaml.safe_load((run / "config.yaml").read_text())
    assert config_file["method"] == "gmvae" and config_file["network"]["init_args"]["hidden"] == [
        16
    ]
    assert config["data"]["binarize"] == "none" and config["data"]["sizes"]["test"] == 360
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((run / "results-test.json").read_text())["split"] == "test"
    assert torch.load(run / "checkpoint.pt", weights_only=True)["format"]


def test_the_report_is_one_self_contained_page_with_its_pictures(finished):
    page = (finished[0] / "run" / "report.html").read_text()
    assert page.count("<svg") >= 10 and page.count("data:image/png;base64,") >= 3
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for words in (
        "Training",
        "Components",
        "Reconstructions and samples",
        "Paths",
        "Latent space",
        "k-means",
    ):
        assert words in page


def test_evaluate_and_sample_work_from_the_run_folder_alone(finished, capsys):
    run = finished[0] / "run"  # of another process
    assert main(["evaluate", str(run), "--split", "valid", "--num_samples", "7"]) == 0
    out = capsys.readouterr().out
    assert "180 valid data" in out and "7 samples" in out
    assert main(["sample", str(run), "--num", "9", "--y", "3"]) == 0
    assert np.load(run / "samples.npz")["x"].shape == (9, 1, 8, 8)
    assert (run / "samples.png").read_bytes()[:4] == b"\x89PNG"


def test_new_data_in_a_file_have_the_numbers_of_the_same_data_as_a_split(
    finished, tmp_path, capsys
):
    run = pv.load(finished[0] / "run")
    path, test = tmp_path / "new.npz", run.data.test
    np.savez(path, x=test.x.numpy(), y=test.y.numpy())
    assert (
        main(["evaluate", str(finished[0] / "run"), "--data", str(path), "--num-samples", "5"]) == 0
    )
    printed = capsys.readouterr().out
    assert "360 new data points" in printed and "standard error" in printed
    expected = run.evaluate("test", num_samples=5)
    for name in ("elbo", "log_likelihood"):
        assert f"{expected[name]:.2f}" in printed
    assert f"{expected['clustering']['this model']['nmi']:.3f}" in printed
    for wrong, message in (
        (
            ["--data", str(path), "--split", "test"],
            "takes a split of the run's data or data=, not both",
        ),
        (["--data", "digits"], "digits is a data set, not a file"),
        (["--data", str(tmp_path / "none.npz")], "none.npz"),
    ):
        assert main(["evaluate", str(finished[0] / "run"), *wrong]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_one_row_of_new_data_has_bounds_and_no_clustering(finished, tmp_path, capsys):
    run = pv.load(finished[0] / "run")
    path, test = tmp_path / "one.npz", run.data.test
    np.savez(path, x=test.x[:1].numpy(), y=test.y[:1].numpy())
    assert (
        main(["evaluate", str(finished[0] / "run"), "--data", str(path), "--num-samples", "5"]) == 0
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 data point is too few for statements about 10 components, which take 20:" in printed
    for words in ("accuracy", "One of the 10 components", "in use.", "active"):
        assert words not in printed
    assert "1 new data points ELBO" in printed


def test_the_same_command_with_resume_goes_on(finished, tmp_path, capsys):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    same = [*SMALL, *START, "--out", str(tmp_path / "run"), "--resume", "--progress", "false"]
    assert main(["fit", "gmvae", *same]) == 0
    for change, message in (
        (["--restarts", "3"], "was started with restarts=2, not 3"),
        (["--w_dim", "10"], "was started with model.w_dim=2, not 10"),  # the class's own default
        (["--seed", "4"], "was started with seed=0, not 4"),
        (["--data", "arcs"], "was started with data=digits, not arcs"),
        (["--objective", "STL"], "was started with objective=ELBO, not STL"),
    ):
        assert main(["fit", "gmvae", *same, *change]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0]


def test_a_per_data_point_guide_is_evaluated_on_its_training_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["fit", "vae-per-datum", *SMALL, "--out", "run", "--progress", "false"]
    assert main(run) == 0 and "1257 train data" in capsys.readouterr().out
    assert main(["evaluate", "run", "--num-samples", "5"]) == 0
    assert "1257 train data" in capsys.readouterr().out  # the split by default
    assert main(["evaluate", "run", "--split", "test"]) == 1
    assert "evaluated on the train split alone" in capsys.readouterr().err


SHAPES = {
    "component": (["--num", "5"], (50, 1, 8, 8)),
    "aggregate": (["--num", "9"], (9, 1, 8, 8)),
    "ex-post": (["--num", "9", "--latent", "w"], (9, 1, 8, 8)),
    "interpolate": (["--num", "3", "--steps", "4"], (12, 1, 8, 8)),
    "traverse": (["--num", "2", "--latent", "w"], (18, 1, 8, 8)),
    "impute": (["--num", "2", "--steps", "3", "--observed", "left"], (32, 1, 8, 8)),
}


@pytest.mark.parametrize("source", SHAPES)
def test_every_source_writes_its_own_picture_and_arrays(source, finished, capsys):
    run = finished[0] / "run"
    options, shape = SHAPES[source]
    assert main(["sample", str(run), "--source", source, *options]) == 0
    arrays = np.load(run / f"{source}.npz")
    assert arrays["x"].shape == shape and np.isfinite(arrays["x"]).all()
    assert (run / f"{source}.png").read_bytes()[:4] == b"\x89PNG"
    if source == "impute":
        rows = arrays["x"].reshape(8, 4, 1, 8, 8)  # observed, two completions, the data point
        assert np.array_equal(rows[:, 3], arrays["truth"]) and arrays["mask"].sum() == 32
        for k in (1, 2):
            assert np.array_equal(rows[:, k, ..., :4], rows[:, 3, ..., :4])
            assert not np.array_equal(rows[:, k, ..., 4:], rows[:, 3, ..., 4:])
    if source == "traverse":
        assert arrays["units"].shape == arrays["activity"].shape == (2,)
    capsys.readouterr()


def test_the_splits_of_a_data_set_are_encoded_with_their_labels(finished, tmp_path):
    pd = pytest.importorskip("pandas")

    folder, out = finished[0] / "run", tmp_path / "codes.csv"
    digits = pv.data.load("digits")
    assert main(["encode", str(folder), "--out", str(out)]) == 0
    table = pd.read_csv(out)
    labels = [int(y) for part in digits.splits().values() for y in part.y]
    assert list(table["label"]) == labels and table["split"].value_counts()["test"] == 360
    assert main(["encode", str(folder), "--split", "test", "--out", str(out)]) == 0
    expected, test = pv.load(folder).encode(digits.test.x), pd.read_csv(out)
    assert list(test.columns[:3]) == ["split", "row", "label"] and len(test) == 360
    np.testing.assert_allclose(test[["z_0", "z_1", "z_2"]], expected["z"], atol=1e-5)
    assert (test["y"] == expected["y"].argmax(-1).numpy()).all()
    pd.testing.assert_frame_equal(test, table[table["split"] == "test"].reset_index(drop=True))


def test_a_guide_with_a_row_per_data_point_encodes_its_own_data(tmp_path):
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    method = pv.method("vae-per-datum", pv.data.from_arrays(x), latent_dim=2, hidden=[4], epochs=1)
    run = method.fit(progress=False)
    index = torch.arange(len(run.data.train))
    expected = pv.evaluate.encode(run.model, run.guide, run.data.train.x, index=index)["z"]
    assert torch.equal(run.encode()["z"], expected)
    with pytest.raises(pv.UserError, match="on the train split alone"):
        run.encode(split="test")


def test_splits_and_new_data_are_not_encoded_together(finished, capsys):
    folder = str(finished[0] / "run")
    assert main(["encode", folder, "--split", "test", "--data", "new.csv"]) == 1
    assert "leave out --data or --split" in capsys.readouterr().err
    run = pv.load(folder)
    with pytest.raises(pv.UserError, match="leave out x or split"):
        run.encode(run.data.test.x, split="test")
    with pytest.raises(pv.UserError, match="c: new inputs go with new data, x="):
        run.encode(c=run.data.test.x)


def test_a_second_fit_into_the_same_folder_loses_nothing(finished, capsys):
    run = finished[0] / "run"
    before = (run / "checkpoint.pt").read_bytes()
    assert main(["fit", "gmvae", "--out", str(run)]) == 1
    assert "already contains a run" in capsys.readouterr().err
    assert (run / "checkpoint.pt").read_bytes() == before


def test_resume_starts_a_run_that_was_stopped_before_its_folder_was_written(tmp_path, capsys):
    """The message of an interruption is "rerun with --resume": it must hold at any moment."""
    run = tmp_path / "run"
    start = ["fit", "gmvae", *SMALL, *START, "--progress", "false"]
    assert main([*start, "--out", str(run), "--resume"]) == 0
    assert "run folder" in capsys.readouterr().out
    assert main(["fit", "--out", str(run), "--resume", "--progress", "false"]) == 0  # its method
    method = pv.method("vae", "digits", latent_dim=2, hidden=[4], epochs=1)
    assert method.fit(tmp_path / "new", resume=True, progress=False).best_epoch == 1


def test_a_run_that_is_not_of_a_method_is_not_resumed_by_the_command_line(tmp_path, capsys):
    model = pv.models.VAE((3,), 1, "normal", pv.conditionals.MLP((4,)))
    pv.fit(model, pv.guides.Guide(model), torch.randn(9, 3), 1, out=tmp_path, progress=False)
    for words in (["vae"], []):
        assert main(["fit", *words, "--resume", "--out", str(tmp_path)]) == 1
        assert "already contains a run; it is not of a method" in capsys.readouterr().err
    with pytest.raises(pv.UserError, match="already contains a run; it is not of a method"):
        pv.method("vae", "digits", epochs=1).fit(tmp_path, resume=True)


def test_ctrl_c_and_resume_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        "vae",
        *SMALL[2:],
        "--epochs",
        "400",
        "--schedule",
        "constant",
        "--compile",
        "recorded",
    ]
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
    assert process.returncode == 130 and "--resume to continue" in out
    epochs = len(metrics.read_text().splitlines()) + 2
    assert main(["fit", "vae", "--out", "stopped", "--resume", "--epochs", str(epochs)]) == 0
    assert main(["fit", *options, "--epochs", str(epochs), "--out", "whole"]) == 0
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()
        ]
        for n in ("stopped", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == epochs


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=7))
def test_every_listed_method_fits_from_the_command_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"--initialize.epochs": "1", "--initialize.vaes": "1", "--initialize.fits": "1"}
    small |= dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    known = methods.defaults(name)
    extra = [
        word for option, value in small.items() for word in (option, value)
        if has(name, option[2:], known) or option == "--num-samples"
    ]  # fmt: skip
    assert main(["fit", name, *extra, "--progress", "false"]) == 0
    out = capsys.readouterr().out
    assert "ELBO" in out and (tmp_path / "runs" / f"{name}-digits-0" / "report.html").exists()


def test_an_option_of_the_start_goes_over_the_methods_own():
    own = {"initialize.epochs": 150, "initialize.vaes": 6, "initialize.lr": 3e-3}
    found = methods.configure("gmvae", "digits", {"vaes": 1})
    assert {k: found[k] for k in own} == {**own, "initialize.vaes": 1}
    assert {k: methods.defaults("gmvae")[k] for k in own} == own
    large = methods.configure("gmvae", "mnist", {"fits": 9})
    assert large["initialize.fits"] == 9 and large["initialize.epochs"] == 10
    with pytest.raises(pv.UserError, match="has no weight_decy"):
        methods.configure("vade", "digits", {"initialize.weight_decy": 0.1})


def test_list_names_model_guide_and_paper(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["method", "model", "guide", "paper"]
    header, *rows = out.splitlines()
    starts = [header.index(title) for title in ("method", "model", "guide", "paper")]
    for row, (name, method) in zip(rows, methods.METHODS.items(), strict=False):
        cells = [row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        assert cells == [name, method.model_name, method.guide, method.paper]
        assert all(row[start - 1] == " " for start in starts[1:])  # a blank between two columns


def test_arcs_and_a_users_npz_file_are_data_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "gmvae", *SMALL, "--data", "arcs", "--latent_dim", "2", "--initialize",
                 "null", "--num_components", "5", "--epochs", "1", "--progress", "false"]) == 0  # fmt: skip
    x = np.random.default_rng(0).normal(size=(60, 4))
    np.savez("mine.npz", x=x, y=np.arange(60) % 3)
    assert main(["fit", "vae", *SMALL, "--data", "mine.npz", "--progress", "false"]) == 0
    assert (tmp_path / "runs" / "vae-mine-0" / "report.html").exists()
    capsys.readouterr()


class _Evil:
    def __reduce__(self):
        return (print, ("pickle was executed",))


def fit(*words):
    return ["fit", *words]


BAD = {
    "misspelt method": (fit("gmvea"), "unknown method 'gmvea'; did you mean 'gmvae'?"),
    "misspelt data": (fit("vae", "--data", "digit"), "did you mean 'digits'?"),
    "misspelt likelihood": (fit("vae", "--likelihood", "bernouli"), "did you mean 'bernoulli'?"),
    "misspelt option": (
        fit("vae", "--epoch", "3"),
        "vae has no option 'epoch'; did you mean --epochs?",
    ),
    "an option misspelt in a word": (fit("gmvae", "--componnts", "3"), "mean --num-components?"),
    "an option by a shared word": (fit("vae", "--num-latent", "3"), "mean --latent-dim?"),
    "another library's option": (fit("vae", "--learning-rate", "1"), "did you mean --lr?"),
    "a name near nothing": (fit("vae", "--foo", "1"), "'foo'; pyro-vae fit vae --help lists"),
    "misspelt option of a group": (
        fit("vae", "--network.hiden", "[3]"),
        "the network of vae, MLP, has no hiden; it has hidden, activation",
    ),
    "an option of other models": (
        fit("vae", "--model.w-dim", "3"),
        "the model of vae has no w_dim; it has latent_dim, likelihood",
    ),
    "an option of other models, short": (fit("vae", "--w_dim", "0"), "vae has no option 'w_dim'"),
    "an option of the other network": (
        fit("vae", "--channels", "[3]"),
        "vae has no option 'channels'; it is an option of Conv",
    ),
    "a guide's option without a guide": (
        fit("nn-baseline", "--discrete", "score_function"),
        "nn-baseline has no option 'discrete'",
    ),
    "a condition of none": (fit("vae", "--quadrants", "0"), "vae has no option 'quadrants'"),
    "an option of a start that there is not": (
        fit("vae", "--initialize.epochs", "3"),
        "vae has no option 'initialize.epochs'; it is an option of MixtureInitialization",
    ),
    "an objective's option at its default": (
        fit("vae", "--objective", "IWAE", "--objective.warmup", "0"),
        "the objective of vae, IWAE, has no warmup; it has num_particles",
    ),
    "misspelt objective": (fit("vae", "--objective", "iwae"), "did you mean 'IWAE'?"),
    "not a number": (fit("vae", "--epochs", "many"), "epochs must be an integer or null, got many"),
    "half an epoch": (fit("vae", "--epochs", "1.5"), "epochs must be an integer or null, got 1.5"),
    "a rate of text": (fit("vae", "--lr", "nan"), "lr must be a number, got nan"),
    "a rate without end": (fit("vae", "--lr", ".inf"), "lr must be positive and finite, got inf"),
    "a width alone": (
        fit("vae", "--hidden", "500"),
        "network.hidden must be a list, e.g. [64, 32], got '500'",
    ),
    "neither true nor false": (
        fit("vae", "--center", "3"),
        "center must be true or false or null, got 3",
    ),
    "a seed too large": (
        fit("vae", "--seed", "99999999999999999999"),
        "seed must be an integer from 0 to 4294967295",
    ),
    "a negative seed": (fit("vae", "--seed", "-1"), "seed must be an integer from 0"),
    "misspelt network": (fit("vae", "--network", "Cnv"), "unknown network 'Cnv'"),
    "misspelt activation": (fit("vae", "--activation", "rellu"), "did you mean 'relu'?"),
    "misspelt split": (["evaluate", "trained", "--split", "nothing"], "unknown split 'nothing'"),
    "a split that is an attribute": (["evaluate", "trained", "--split", "name"], "unknown split"),
    "misspelt option of evaluate": (
        ["evaluate", "trained", "--splitt", "test"],
        "unknown option of evaluate 'splitt'; did you mean 'split'?",
    ),
    "no run": (["sample"], "sample needs a run: pyro-vae sample RUN"),
    "a file for a run": (["encode", "table.csv"], "table.csv is a file, and no run folder"),
    "a spreadsheet": (fit("vae", "--data", "table.xlsx"), "save its sheet as a .csv file"),
    "pictures of a run": (
        fit("vae", "--data", "pictures"),
        "pictures/drawn is the folder of a run",
    ),
    "a table without labels for a CVAE": (
        fit("cvae", "--data", "numbers.csv"),
        "name columns of a table, covariates=['NAME'] (--covariates NAME) or labels='NAME' (--labels",
    ),
    "a CVAE without covariates": (
        fit("cvae", "--data", "numbers.csv", "--condition", "data"),
        "has no covariates c, which are columns of a table, covariates=['NAME']",
    ),
    "not a run": (["evaluate", "run"], "is this a run folder?"),
    "no such run": (["sample", "nowhere"], "is this a run folder?"),
    "gray in Bernoulli": (
        fit("vae", "--likelihood", "bernoulli", "--binarize", "none"),
        "outside the support of its Bernoulli",
    ),
    "resume nothing": (
        fit("--resume", "--out", "runs/new"),
        "runs/new has no run to resume: name a method to start one",
    ),
    "no file": (fit("vae", "--data", "no.npz"), "no.npz does not exist"),
    "a table of text": (fit("vae", "--data", "table.csv"), "table.csv has no rows below a header"),
    "a file of another kind": (
        fit("vae", "--data", "table.txt"),
        "nor a file (.csv, .tsv, .parquet, .npz, .npy, .h5ad) or a folder of images",
    ),
    "one array, renamed": (
        fit("vae", "--data", "array.npz"),
        "holds one array, not an .npz archive",
    ),
    "an empty file": (fit("vae", "--data", "empty.npz"), "not an .npz file: it is empty"),
    "a truncated file": (fit("vae", "--data", "cut.npz"), "not an .npz file of plain arrays"),
    "labels of text": (fit("vae", "--data", "words.npz"), "y has numbers of no kind"),
    "NaN": (
        fit("vae", "--data", "nan.npz"),
        "x has 1 NaN or infinite values, in 1 rows (first: row 7)",
    ),
    "labels": (fit("vae", "--data", "labels.npz"), "labels must be whole numbers"),
    "object array": (fit("vae", "--data", "evil.npz"), "it holds objects"),
    "not an npz": (
        fit("vae", "--data", "text.npz"),
        "text.npz is not an .npz file: its content is of another kind",
    ),
    "not an npy": (
        fit("vae", "--data", "text.npy"),
        "text.npy is not an .npy file: its content is of another kind",
    ),
    "no x": (fit("vae", "--data", "nox.npz"), "has no array x"),
    "conv on vectors": (
        fit("vae", "--data", "arcs", "--network", "Conv"),
        "needs data of shape (C, L), (C, H, W)",
    ),
    "no command": ([], "command"),
    "no method": (["fit"], "fit needs a method"),
    "out is a file": (fit("vae", "--out", "table.csv"), "cannot write to 'table.csv'"),
    "out is beneath a file": (
        fit("vae", "--out", "table.csv/run"),
        "cannot write to 'table.csv/run'",
    ),
    "out is too long": (
        fit("vae", "--out", "x" * 300),
        ": File name too long",
    ),
    "no configuration": (fit("--config", "no.yaml"), "no.yaml does not exist"),
    "a configuration of nothing": (fit("--config", "list.yaml"), "it has no line 'method: NAME'"),
    "a configuration that is no YAML": (fit("--config", "broken.yaml"), "is not valid YAML"),
    "a configuration with another option": (
        fit("--config", "other.yaml"),
        "the model of vae has no w_dim",
    ),
    "a configuration with a wrong type": (
        fit("--config", "type.yaml"),
        "epochs must be an integer or null, got many",
    ),
    "a configuration of another method": (
        fit("gmvae", "--config", "other.yaml"),
        "other.yaml is of the method vae, not of gmvae",
    ),
    "misspelt option of the start": (fit("gmvae", "--initialize.fit", "3"), "has no fit; it has"),
    "no restarts": (fit("gmvae", "--restarts", "0"), "restarts must be an integer >= 1, got 0"),
    "restarts in words": (
        fit("gmvae", "--restarts", "many"),
        "restarts must be an integer, got many",
    ),
    "no samples": (fit("vae", "--num_samples", "0"), "num_samples must be an integer >= 1"),
    "no samples to evaluate by": (
        ["evaluate", "trained", "--num_samples", "0"],
        "num_samples must be an integer >= 1, got 0",
    ),
    "no components": (fit("gmvae", "--num_components", "0"), "num_components must be an integer"),
    "no latent": (fit("vae", "--latent_dim", "0"), "latent_dim must be an integer >= 1"),
    "negative latent": (fit("vade", "--latent_dim", "-1"), "latent_dim must be an integer"),
    "no w": (fit("gmvae", "--w_dim", "0"), "w_dim must be an integer >= 1, got 0"),
    "no particles": (fit("vae", "--num_particles", "0"), "num_particles must be an integer"),
    "no width": (fit("vae", "--hidden", "[0]"), "hidden must be integers >= 1, got (0,)"),
    "negative width": (fit("vae", "--hidden", "[8, -3]"), "hidden must be integers >= 1"),
    "no channels": (
        fit("vae", "--network", "Conv", "--channels", "[0]"),
        "channels must be integers >= 1, got (0,)",
    ),
    "no convolutions": (
        fit("vae", "--network", "Conv", "--channels", "[]"),
        "needs channels and a hidden layer",
    ),
    "nothing behind the convolutions": (
        fit("vae", "--network", "Conv", "--hidden", "[]"),
        "needs channels and a hidden layer",
    ),
    "negative warm-up": (fit("vae", "--warmup", "-1"), "warmup must be non-negative, got -1"),
    "negative start of warm-up": (
        fit("vae", "--warmup", "5", "--warmup_start", "-1"),
        "warmup_start must be non-negative, got -1",
    ),
    "too much sleep": (
        fit("vae", "--objective", "RWS", "--sleep_weight", "2"),
        "sleep_weight weighs the sleep phase: 0 to 1, not 2",
    ),
    "an order that is none": (
        fit("vae", "--objective", "Renyi", "--alpha", ".inf"),
        "alpha of the Renyi bound is a number, or -inf: not inf",
    ),
    "free bits of nothing": (fit("vae", "--free_bits", '{"q": 1}'), "no latent 'q'"),
    "empty batches": (fit("vae", "--batch_size", "0"), "batch_size must be an integer >= 1"),
    "no rate": (fit("vae", "--lr", "0"), "lr must be positive, got 0"),
    "negative decay": (fit("vae", "--weight_decay", "-1"), "weight_decay must be non-negative"),
    "negative norm": (fit("vae", "--clip_norm", "-1"), "clip_norm must be positive, got -1"),
    "no patience": (fit("vae", "--patience", "0"), "patience must be an integer >= 1"),
    "another source's option": (
        ["sample", "trained", "--steps", "4"],
        "the source prior has no option steps; it is an option of interpolate, traverse, impute",
    ),
    "none drawn": (["sample", "trained", "--num", "0"], "num must be an integer >= 1, got 0"),
    "no such component": (["sample", "trained", "--y", "99"], "the model has components 0..9"),
    "misspelt source": (["sample", "trained", "--source", "pryor"], "did you mean 'prior'?"),
    "misspelt half": (
        ["sample", "trained", "--source", "impute", "--observed", "lef"],
        "unknown half 'lef'; did you mean 'left'?",
    ),
    "a component of encodings": (
        ["sample", "trained", "--source", "aggregate", "--y", "3"],
        "y picks a component of the prior; it does not go with aggregate",
    ),
    "levels of a binomial": (
        fit("vae", "--model.likelihood", "Binomial", "--model.likelihood.levels", "17"),
        "levels",
    ),
    "levels that the data do not have": (
        fit("vae", "--likelihood", "categorical"),
        "this likelihood has 256 gray levels: set levels=",
    ),
    "standardized binary images": (
        fit("vae", "--binarize", "static", "--standardize", "true"),
        "is binarized or standardized already",
    ),
    "a path of no steps": (
        ["sample", "trained", "--source", "interpolate", "--steps", "0"],
        "steps must be an integer >= 1, got 0",
    ),
    "help of no class": (
        ["fit", "vae", "--objective.help", "IWEA"],
        "unknown objective 'IWEA'; did you mean 'IWAE'?",
    ),
    "guides of runs": (["compare", "trained", "--guides", "full"], "--guides is for --model NAME"),
    "blanks between guides": (
        ["compare", "--model", "vae", "--guides", "diagonal, ful"],
        "unknown guide 'ful'; did you mean 'full'",
    ),
    "epochs set twice": (
        ["compare", "--model", "vae", "--epochs", "1", "--settings", '{"epochs": 1}'],
        "epochs is set twice",
    ),
    "a seed of samples too large": (
        ["sample", "trained", "--seed", "18446744073709551616"],
        "seed must be an integer in 0..2**62 - 1",
    ),
    "samples of no such split": (
        ["sample", "trained", "--split", "nothing"],
        "unknown split 'nothing'; known: train, valid, test",
    ),
    "a split of no covariates": (
        ["sample", "trained", "--split", "test"],
        "split has no effect: this model has no covariates to take from it",
    ),
    "samples beneath a file": (["sample", "trained", "--out", "table.csv/x"], "table.csv"),
    "a start of no warm-up": (
        fit("vae", "--warmup-start", "0.5"),
        "warmup_start=0.5 has no effect without warmup=",
    ),
    "a treatment of no discrete latent": (
        fit("vae", "--discrete", "score_function"),
        "guide.discrete=score_function has no effect without a discrete latent in the guide",
    ),
    "processes for one run": (
        fit("vae", "--workers", "4"),
        "workers=4 has no effect without restarts, or several VAEs of a MixtureInitialization (vaes)",
    ),
    "a folder of other data": (
        fit("vae", "--root", "x"),
        "root has no effect on the data digits: it is for mnist, fashion-mnist, kmnist",
    ),
    "a folder of other data to compare on": (
        ["compare", "--model", "vae", "--root", "x"],
        "root has no effect on the data digits",
    ),
    "steps of a guide without any": (
        fit("vae", "--refine.lr", "0.1"),
        "refine.lr=0.1 has no effect without refine.steps",
    ),
    "in a file, an option without effect": (
        fit("--config", "steps.yaml"),
        "refine.lr=0.1 has no effect without refine.steps",
    ),
    "in a file, no data": (
        fit("--config", "arrays.yaml"),
        "this configuration is of a run on arrays: --data sets a file to train on",
    ),
    "in a file, an option by two names": (
        fit("--config", "twice.yaml"),
        "model.latent_dim is set twice, as model.latent_dim and latent_dim",
    ),
    "a latent that fits no memory": (
        fit("vae", "--latent-dim", "1000000000000000"),
        "out of memory",
    ),
    "an integer of more than 64 bits": (
        fit("vae", "--batch-size", "99999999999999999999"),
        "batch_size is too large: 99999999999999999999",
    ),
    "an option unlike any": (
        ["evaluate", "trained", "--foo", "3"],
        "unknown option of evaluate 'foo'; known: run, split, num_samples, data, device, root",
    ),
    "no such device": (fit("vae", "--device", "gpu"), "unknown device 'gpu'; e.g. cpu, cuda"),
    "a device that does not compute": (
        ["evaluate", "trained", "--device", "meta"],
        "torch cannot compute on 'meta' here",
    ),
    "a null byte in a name": (fit("vae", "--out", "a\0b"), "null byte"),
    "a rate at which it diverges": (
        fit(
            "vae",
            "--out",
            "x",
            "--epochs",
            "1",
            "--lr",
            "1e30",
            "--compile",
            "false",
            "--progress",
            "false",
        ),
        "is not finite at site",
    ),
    "other data among the settings": (
        ["compare", "--model", "vae", "--settings", '{"data": "arcs"}'],
        "(--data), and no setting",
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
    np.savez("cut.npz", x=x)
    Path("cut.npz").write_bytes(Path("cut.npz").read_bytes()[:200])
    np.savez("words.npz", x=x, y=np.array(["a"] * 50))
    Path("text.npz").write_text("hello")
    Path("text.npy").write_text("hello")
    Path("empty.npz").write_text("")
    Path("table.csv").write_text("1,2")
    Path("numbers.csv").write_text("a,b\n" + "1.5,0.5\n2.5,1.5\n" * 20)
    Path("table.xlsx").write_text("")
    Path("pictures/drawn").mkdir(parents=True)
    Path("pictures/drawn/checkpoint.pt").write_text("")
    Image.new("L", (4, 4)).save("pictures/drawn/samples.png")
    np.save("array.npy", x)
    Path("array.npy").rename("array.npz")
    Path("list.yaml").write_text("[1, 2]")
    Path("broken.yaml").write_text("method: [")
    Path("other.yaml").write_text("method: vae\nmodel:\n  w_dim: 3\n")
    Path("type.yaml").write_text("method: vae\nepochs: many\n")
    Path("arrays.yaml").write_text("method: vae\ndata: null\n")
    Path("steps.yaml").write_text("method: vae\nrefine:\n  lr: 0.1\n")
    Path("twice.yaml").write_text("method: vae\nmodel:\n  latent_dim: 3\nlatent_dim: 4\n")
    x[7, 2] = np.nan
    np.savez("nan.npz", x=x)
    arguments, message = BAD[case]
    try:
        status = main(arguments)
    except SystemExit as e:
        status = e.code
    out = capsys.readouterr()
    lines = [line for line in out.err.splitlines() if line.strip()]
    assert status == 1
    assert len(lines) == 1 and lines[0].startswith("pyro-vae: ") and message in lines[0], lines
    assert "pickle was executed" not in out.out
    assert not (tmp_path / "runs").exists() and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vae", "--epoch", "3"], "did you mean --epochs?"),
        (["vae", "--hidden", "[0]"], "hidden must be integers >= 1"),
        (["vae", "--objective", "RWS", "--sleep_weight", "2"], "sleep_weight weighs"),
        (["gmvae", "--restarts", "0"], "restarts must be an integer >= 1"),
        (["vae", "--likelihood", "bernouli"], "did you mean 'bernoulli'?"),
        (["vae", "--num-samples", "0"], "num_samples must be an integer >= 1"),
        (["m2", "--discrete", "score"], "did you mean 'score_function'?"),
        (["vae", "--compile", "maybe"], "unknown compile 'maybe'; known: auto, True"),
    ],
)
def test_bad_options_raise_before_the_data_are_loaded(arguments, message, monkeypatch, capsys):
    def load(*args, **options):
        raise AssertionError("the data were loaded")

    monkeypatch.setattr(pv.data, "load", load)
    assert main(["fit", *arguments, "--data", "mnist"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("out", ["table.csv", "table.csv/run", "a\0b"])
def test_an_unusable_folder_is_refused_before_the_data_are_loaded(
    out, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pv.data, "load", None)
    Path("table.csv").write_text("1,2")
    assert main(["fit", "vae", "--out", out]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_numbers_that_cannot_be_written_are_printed_all_the_same(finished, monkeypatch, capsys):
    def fails(path, value):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(pv.train.checkpoint, "write_json", fails)
    assert main(["evaluate", str(finished[0] / "run"), "--num-samples", "3"]) == 0
    printed = capsys.readouterr()
    assert "log-likelihood" in printed.out
    assert "results-test.json was not written: Read-only file system" in printed.err


def test_a_damaged_or_foreign_run_folder_gives_one_line(finished, tmp_path, capsys):
    run = finished[0] / "run"
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:1000])
    for arguments, message in [
        (["evaluate", str(copy)], "is not a checkpoint of this library: the file is damaged"),
        (["evaluate", str(run), "--split", "tests"], "split"),
        (["sample", str(run), "--y", "10"], "the model has components 0..9"),
        (["fit", "vae", "--out", str(run), "--resume", "true"], "of the method gmvae, not of vae"),
        (
            ["fit", "gmvae", "--out", str(run), "--resume", "true", "--latent_dim", "7"],
            "was started with model.latent_dim=3, not 7",
        ),
    ]:
        assert main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    record = (run / "config.json").read_text()
    for text, message in (
        (record[:50], "not valid JSON"),
        ("{}", "is not the record of a run"),
        ("[]", "is not the record of a run"),
        ("3", "is not the record of a run"),
    ):
        (copy / "config.json").write_text(text)
        assert main(["evaluate", str(copy)]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    (copy / "config.json").write_text(record)
    config = (run / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("activation: relu", "activation: tanh"))
    assert main(["evaluate", str(copy)]) == 1
    assert "config.yaml was edited: network.activation=tanh" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_in_the_mixture_start_stops_and_resume_starts_it_again(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pyro_vae",
            "fit",
            "gmvae",
            *SMALL,
            "--out",
            "run",
        ],
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
    path = tmp_path / "run" / "config.yaml"  # edited, so that the test is short
    path.write_text(
        path.read_text().replace("epochs: 300", "epochs: 1").replace("fits: 30", "fits: 1")
    )
    done = command("fit", "gmvae", "--out", "run", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_score_is_not_called_a_bound():
    result = {"split": "test", "data": 2, "elbo": -3.0, "terms": {"x": -2.0, "z": -1.0}}
    result |= {"num_samples": 5, "active_units": {"z": 1}, "units": {"z": 4}}
    names = [name for name, _, _ in summary.rows({**result, "log_likelihood": -2.5})]
    assert names == ["ELBO", "log-likelihood", "E log p(x | ...)", "KL of z"]
    score = summary.rows({**result, "no_log_likelihood": "gray values in a Bernoulli"})
    assert score[0][0] == "score" and "gray values in a Bernoulli" in score[0][2]
    assert score[-1] == ("KL of z", 1.0, "1 of 4 units active")


def test_few_labels_are_reported_beside_classifiers_with_the_same_ones(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--num_labels", "50", "--label_seed", "3", "--out", str(out)]
    assert main(["fit", "m2", *SMALL, *arguments, "--progress", "false"]) == 0
    output = capsys.readouterr().out
    assert (
        "errors, 50 labels" in output and "entropy q(y | x)" in output and "k-means" not in output
    )
    actual = json.loads((out / "results-test.json").read_text())["classification"]
    assert actual["num_labels"] == 50
    on_x = {"logistic regression on x", "SVM on x", "LabelSpreading on x"}
    assert set(actual["errors"]) == {"this model", *on_x}
    for errors in actual["errors"].values():
        assert set(errors) == {"labeled", "unlabeled", "test"}
        assert all(0 <= e <= 1 for e in errors.values())
    assert actual["errors"]["SVM on x"]["test"] < 0.3
    page = (out / "report.html").read_text()
    for words in (
        "error with 50 training labels",
        "Classes by this model",
        "Analogies",
        "one row per class",
    ):
        assert words in page
    assert main(["evaluate", str(out), "--num_samples", "5", "--split", "valid"]) == 0
    assert "valid" in capsys.readouterr().out


def test_an_npz_file_says_by_minus_one_what_is_not_labeled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(180) % 3
    x = rng.normal(size=(180, 4)) + 4 * np.eye(4)[y]
    np.savez("mine.npz", x=x, y=np.where(rng.random(180) < 0.5, y, -1))
    for name in ("m1", "m2"):
        assert main(["fit", name, *SMALL, "--data", "mine.npz", "--progress", "false"]) == 0
        lines = capsys.readouterr().out.splitlines()
        (head,) = [line for line in lines if line.startswith("errors, ")]
        assert head.split()[-2:] == ["labeled", "test"]  # the truth of the others is not known
    two = ["--num-components", "2"]  # half of 18 test data have labels
    assert (
        main(["fit", "shu-gmvae", *SMALL, *two, "--data", "mine.npz", "--progress", "false"]) == 0
    )
    output = capsys.readouterr().out
    assert (
        "k-means" in output and "errors, " not in output
    )  # it saw no label: its numbers are clusters
    np.savez("none.npz", x=x)
    assert main(["fit", "m2", *SMALL, "--data", "none.npz", "--progress", "false"]) == 1
    assert "needs labels y" in capsys.readouterr().err
    options = ["--num_labels", "5000"]
    assert main(["fit", "m2", *SMALL, *options, "--progress", "false"]) == 1
    assert "5000 labels to keep, of 1257" in capsys.readouterr().err
    assert main(["fit", "vae", *SMALL, "--alpha", "1", "--progress", "false"]) == 1
    assert "vae has no option 'alpha'; it is an option of Renyi, Hybrid" in capsys.readouterr().err
    assert main(["fit", "m2", *SMALL, "--objective", "Semi", "--progress", "false"]) == 1
    assert "did you mean 'SemiSupervised'?" in capsys.readouterr().err


def test_every_objective_is_reached_by_name_with_its_own_options():
    for name, options, expected in (
        ("STL", {"warmup": 3}, {"name": "stl", "warmup": 3, "num_particles": 1}),
        ("IWAE", {"num_particles": 3}, {"name": "iwae", "num_particles": 3}),
        ("DReG", {}, {"name": "dreg", "num_particles": 5}),
        ("Renyi", {"alpha": 0.2}, {"name": "renyi", "num_particles": 5, "alpha": 0.2}),
        ("RWS", {"sleep_weight": 0.5}, {"name": "rws", "num_particles": 5, "sleep_weight": 0.5}),
        ("ELBO", {"leave_one_out_baseline": True, "discrete": "score_function"}, {"name": "elbo", "leave_one_out_baseline": True, "warmup": {"z": 50}}),
        ("SemiSupervised", {}, {"name": "semi-supervised", "alpha": 10.0}),
    ):  # fmt: skip
        # what the method says of its own objective, the semi-supervised one, falls away
        config = methods.configure("m2", "digits", {"objective": name, **options})
        actual = methods.make(config, "objective").describe()
        assert actual == {**actual, **expected}


def test_an_objective_is_chosen_from_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--objective", "Renyi", "--alpha=-.inf", "--objective.num_particles", "2"]
    options += ["--out", "run", "--progress", "false"]
    assert main(["fit", "shu-gmvae", *SMALL, *options]) == 0
    actual = json.loads(Path("run", "config.json").read_text())["fit"]["objective"]
    assert actual == {"name": "renyi", "num_particles": 2, "alpha": -math.inf}


# --------------------------------------------------------------------- one configuration


def printed(capsys, *arguments):
    assert main(["fit", *arguments, "--print-config"]) == 0
    return capsys.readouterr().out


def test_a_printed_configuration_is_read_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    changes = ["--model.num_components", "20", "--objective", "IWAE", "--num-particles", "8"]
    changes += ["--network", "Conv", "--network.channels", "[32,64]", "--epochs", "40"]
    text = printed(capsys, "gmvae", *changes)
    config = yaml.safe_load(text)
    assert config["model"]["num_components"] == 20 and config["epochs"] == 40
    assert config["objective"] == {"class_path": "IWAE", "init_args": {"num_particles": 8}}
    assert config["network"]["init_args"]["channels"] == [32, 64]
    Path("my.yaml").write_text(text)
    assert printed(capsys, "--config", "my.yaml") == text
    assert yaml.safe_load(printed(capsys, "--config", "my.yaml", "--lr", "0.5"))["lr"] == 0.5


@pytest.mark.parametrize("name, data", in_turn(methods.METHODS, ["digits", "mnist", "arcs"]))
def test_every_methods_configuration_is_read_again(name, data, tmp_path):
    config = methods.configure(name, data)
    path = tmp_path / "my.yaml"
    path.write_text(methods.to_yaml(config))
    assert methods.options.complete(methods.read_config(path)) == config


def test_the_configuration_of_a_run_repeats_it(finished, tmp_path):
    assert main(["fit", "--config", str(finished[0] / "run" / "config.yaml"), "--out",
                 str(tmp_path / "again"), "--num_samples", "5", "--progress", "false"]) == 0  # fmt: skip
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (finished[0] / "run", tmp_path / "again")
    ]
    assert losses[0] == losses[1]


def test_help_shows_the_methods_own_options_with_its_defaults(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "gmvae", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "--model.w-dim W_DIM size of w. (type: int, default: 2)",
        "--restarts RESTARTS whole runs from different seeds.",
        "--epochs EPOCHS passes over the training data. null: at least 200, and at least 2,000 steps. (type: int | null, default: 100)",
        "--resume",
    ):
        assert words in text
    assert "auxiliary" not in text and "quadrants are" not in text


HELP_OF_CLASSES = [
    f"--{group}.help {kind.__name__}"
    for group in ("network", "family", "prior", "objective", "initialize")
    for kind in methods.CLASSES[group]
]


@pytest.mark.parametrize(
    "words",
    [
        *(f"fit {name} --help" for name in list(methods.METHODS)[::3]),
        *(f"fit m2 {words}" for words in HELP_OF_CLASSES),
        *(f"{command} --help" for command in COMMANDS),
    ],
)
def test_every_option_has_a_help_in_plain_words(words, capsys):
    with pytest.raises(SystemExit):
        main(words.split())
    text = capsys.readouterr().out
    markup = r":math:|\\|`|<class|default: null|Optional|see above|\.py|None"
    assert re.findall(markup, text) == []
    for option, said in re.findall(r"^  --([\w.-]+)(.*(?:\n {10,}.*)*)", text, re.M):
        meaning = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)\s*$", "", " ".join(said.split()))
        meaning = re.sub(r"^(\[.*?\]|\{.*?\}|[A-Z_0-9]+)\s", "", meaning.strip() + " ")
        assert len(meaning.strip()) > 8, (option, said)


def test_help_leaves_out_what_has_no_effect_for_the_method(capsys):
    for name, present in (("vae", False), ("vade", False), ("m2", True), ("gmvae-v1", True)):
        with pytest.raises(SystemExit):
            main(["fit", name, "--help"])
        text = capsys.readouterr().out
        assert ("--guide.temperature" in text) == ("--guide.discrete" in text) == present


def test_the_programs_help_describes_every_subcommand(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for function in COMMANDS.values():
        assert function.__doc__.splitlines()[0] in text
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"pyro-vae {pv.__version__}\n"


# ------------------------------------------------------------------- the same in Python


def test_a_preset_in_python_is_the_command_to_the_last_bit(finished):
    overrides = {"epochs": 2, "hidden": [16], "latent_dim": 3}
    start = {"initialize.epochs": 2, "vaes": 1, "restarts": 2, "fits": 1}
    run = pv.methods.gmvae(pv.data.load("digits"), **overrides, **start).fit(progress=False)
    lines = (finished[0] / "run" / "metrics.jsonl").read_text().splitlines()
    assert [row["loss"] for row in run.history] == [json.loads(line)["loss"] for line in lines]
    state = torch.load(finished[0] / "run" / "checkpoint.pt", weights_only=True)
    ours = [m.state_dict() for m in (run.model, run.guide)]
    for theirs, own in zip(state["best"]["modules"], ours, strict=True):
        assert all(torch.equal(own[name], value) for name, value in theirs.items())


def test_a_run_folder_is_opened_again_and_saved(finished, tmp_path):
    run = pv.load(finished[0] / "run")
    assert run.config["method"] == "gmvae" and run.best_epoch == 2 and len(run.history) == 2
    assert "\n" not in repr(run) and len(repr(run)) < 200
    actual = run.evaluate("valid", num_samples=5)
    assert actual["elbo"] == pytest.approx(run.history[1]["elbo"], abs=3)  # other draws
    assert "180 valid data" in str(actual)
    assert run.sample(7).shape == (7, 1, 8, 8)
    again = pv.load(run.save(tmp_path / "copy"))
    x = run.data.test.x
    assert torch.equal(
        pv.evaluate.elbo(again.model, again.guide, x), pv.evaluate.elbo(run.model, run.guide, x)
    )


def test_a_run_without_a_folder_is_saved_and_opened(tmp_path):
    run = pv.method("m2", "digits", epochs=1, hidden=[8], latent_dim=2).fit(progress=False)
    again = pv.load(run.save(tmp_path / "run"))
    assert again.config == run.config and again.history == run.history
    x = run.data.test.x
    assert torch.equal(
        pv.evaluate.elbo(again.model, again.guide, x), pv.evaluate.elbo(run.model, run.guide, x)
    )
    with pytest.raises(pv.UserError, match="already contains a run"):
        run.save(tmp_path / "run")


def test_a_pair_built_by_hand_is_opened_from_its_folder(tmp_path):
    data = pv.data.load("digits")
    net = pv.conditionals.MLP((8,))
    model = pv.models.GMVAE(data.x_shape, 3, 2, likelihood="binomial", network=net)
    guide = pv.guides.SemiAmortized(model, pv.guides.Guide(model, network=net), steps=1)
    run = pv.fit(model, guide, data, 1, out=tmp_path / "run", progress=False)
    again = pv.load(tmp_path / "run")
    x = data.test.x[:20]
    assert torch.equal(
        pv.evaluate.elbo(again.model, again.guide, x), pv.evaluate.elbo(model, guide, x)
    )
    assert run.evaluate(num_samples=5)["elbo"] == again.evaluate(num_samples=5)["elbo"]
    with pytest.raises(pv.UserError, match="was trained on other data"):
        pv.load(tmp_path / "run", data=data.train.x)


class Mine(pv.models.VAE):
    """A class that the library cannot find again."""


def test_a_run_whose_configuration_was_edited_is_not_resumed(finished, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0] / "run", copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("activation: relu", "activation: tanh"))
    assert main(["fit", "gmvae", "--out", str(copy), "--resume", "--progress", "false"]) == 1
    assert "config.yaml was edited: network.activation=tanh" in capsys.readouterr().err


def test_a_pair_of_a_users_own_is_opened_with_its_modules(tmp_path):
    def pair():
        net = pv.conditionals.MLP((8,))
        model = Mine((4,), 2, "normal", net)
        return model, pv.guides.Guide(model, network=net)

    x = torch.randn(30, 4)
    model, guide = pair()
    pv.fit(model, guide, x, 1, out=tmp_path / "run", progress=False)
    with pytest.raises(pv.UserError, match="does not say how its pair was built"):
        pv.load(tmp_path / "run")
    again = pv.load(tmp_path / "run", *pair(), data=x)
    assert torch.equal(
        pv.evaluate.elbo(again.model, again.guide, x), pv.evaluate.elbo(model, guide, x)
    )


@pytest.mark.parametrize(
    "wrong, keyword, flag",
    [
        ("latentdim", "'latent_dim'", "--latent-dim"),
        ("vaess", "'vaes'", "--vaes"),
        ("epoch", "'epochs'", "--epochs"),  # the method's; also an option of initialize
        ("clip_norms", "'clip_norm'", "--clip-norm"),
        ("modle.latent_dim", "'latent_dim'", "--latent-dim"),
        ("num_particle", "'num_particles'", "--num-particles"),
    ],
)
def test_a_misspelt_option_is_answered_with_what_the_caller_can_write(wrong, keyword, flag, capsys):
    with pytest.raises(pv.UserError) as error:
        pv.method("gmvae", "digits", **{wrong: 3})
    assert f"did you mean {keyword}?" in str(error.value)
    configure("gmvae", "digits", {keyword.strip("'"): 3})
    assert main(["fit", "gmvae", f"--{wrong}", "3"]) == 1
    assert f"did you mean {flag}?" in capsys.readouterr().err


def test_an_unclear_option_is_answered_with_its_full_names(capsys):
    known = {"guide.scale": 1, "objective.scale": 1}
    message = r"say \*\*{'guide.scale': ...} or \*\*{'objective.scale': ...}$"
    with pytest.raises(pv.UserError, match=message):
        resolve("vae", "scale", known)
    with pytest.raises(pv.UserError, match="mean --guide.scale or --objective.scale"):
        resolve("vae", "scales", known, as_flag)


def test_overrides_in_python_are_refused_by_name():
    for overrides, message in (
        ({"num_component": 3}, "did you mean 'num_components'?"),
        ({"skip": True}, "gmvae has no option 'skip'"),
        ({"epochs": "many"}, "epochs must be an integer or null, got many"),
        ({"network": pv.conditionals.MLP}, "network takes a class by name"),
    ):
        with pytest.raises(pv.UserError) as error:
            pv.method("gmvae", "digits", **overrides)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_arrays_and_parts_are_taken_in_python():
    x = torch.rand(60, 4)
    method = pv.method("vae", x, network=pv.conditionals.MLP((6,), "tanh"), latent_dim=2, epochs=1)
    assert method.config["network.hidden"] == [6] and method.config["network.activation"] == "tanh"
    assert method.config["data"] is None and method.config["model.likelihood"] == "normal"
    assert len(method.fit(progress=False).history) == 1
