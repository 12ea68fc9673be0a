"""Frames, files and image folders become data, and what a run answers comes back in their form."""

import csv
import dataclasses
import doctest
import math
import re
import shlex
import shutil
import warnings

import numpy as np
import pytest
import torch
import yaml
from commands import main, parsed_fit
from PIL import Image

import pyro_vae as pv
from pyro_vae.conditionals import Columns
from pyro_vae.data.csv_files import read_csv
from pyro_vae.data.tables import write_csv
from pyro_vae.methods.command import reproduction
from pyro_vae.methods.new_data import read_new
from pyro_vae.methods.new_files import write_codes
from pyro_vae.methods.parser import join_words, split_words
from pyro_vae.train.weights import redraw_weights

SMALL = ["--hidden", "[8]", "--latent-dim", "2", "--epochs", "1", "--num-samples", "5"]
SMALL += ["--progress", "false"]
NAN = math.nan


def people(n=60):
    """Columns of every kind, with missing values, as `{name: values}`."""
    rng = np.random.default_rng(0)
    columns = {
        "height": rng.normal(170, 10, n).round(1).tolist(),
        "children": rng.poisson(2, n).tolist(),
        "city": rng.choice(["Bern", "Aarau", "Chur"], n).tolist(),
        "smoker": (rng.random(n) < 0.4).tolist(),
        "owner": rng.integers(0, 2, n).tolist(),
        "balance": rng.integers(-50, 50, n).tolist(),
    }
    for name, row in (("height", 1), ("city", 2), ("smoker", 3)):
        columns[name][row] = None
    return columns


def all_rows(columns, **options):
    return pv.data.from_frame(columns, valid=0, test=0, **options)


def test_every_column_gets_the_likelihood_of_its_type():
    data = all_rows(people())
    expected = (
        ("normal", 1), ("negative-binomial", 1), ("one-hot", 3), ("bernoulli", 2), ("normal", 1),
    )  # fmt: skip
    assert data.likelihood == Columns(expected)
    assert data.missing and data.x_shape == (8,)
    names = ["height", "children", "city=Aarau", "city=Bern", "city=Chur", "smoker", "owner"]
    assert data.table.names == [*names, "balance"]


def test_a_frame_becomes_x_and_x_the_frame_again():
    columns = people()
    data = all_rows(columns)
    x = data.train.x
    assert x[0, 2:5].tolist() == [float(columns["city"][0] == c) for c in ("Aarau", "Bern", "Chur")]
    assert x[2, 2:5].isnan().all() and x[1, 0].isnan() and x[3, 5].isnan()
    back = data.table.decode(x)
    assert back["city"].tolist() == columns["city"]
    assert back["children"].tolist() == columns["children"]
    assert back["owner"].tolist() == columns["owner"]
    heights = [NAN if v is None else v for v in columns["height"]]
    np.testing.assert_allclose(back["height"], heights, rtol=1e-6)


def test_integers_that_vary_less_than_counts_do_are_real_numbers():
    rng = np.random.default_rng(0)
    columns = {
        "income": rng.gamma(14, 3_000, 80).astype(int),
        "year": rng.integers(2015, 2024, 80),
        "children": rng.poisson(2, 80),
        "constant": np.full(80, 5),
    }
    kinds = {c.name: c.kind for c in all_rows(columns).table.columns}
    assert kinds == {"income": "count", "year": "real", "children": "count", "constant": "real"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("missing", [False, True])
def test_a_decoder_of_counts_starts_at_their_mean_and_dispersion(missing):
    """At weights of zero, p(x | z) of a column is a negative binomial with the column's moments."""
    rng = np.random.default_rng(0)
    income, children = rng.gamma(14, 3_000, 2000).astype(int), rng.poisson(2, 2000)
    height = rng.normal(170, 10, 2000)
    if missing:
        height[3] = NAN
    data = all_rows({"height": height, "income": income, "children": children})
    model, _ = pv.method("vae", data, latent_dim=2, hidden=[8], seed=0).build()
    with torch.no_grad():
        model.p_x.head.maps["features"].weight.zero_()
        mean = dict(
            zip(data.table.names, model.p_x(z=torch.zeros(1, 2)).mean[0].tolist(), strict=True)
        )
        draws = dict(zip(data.table.names, model(size=20_000).T, strict=True))
    redraw_weights(model.p_x)  # as of the second of several first VAEs
    with torch.no_grad():
        model.p_x.head.maps["features"].weight.zero_()
        again = model.p_x(z=torch.zeros(1, 2)).mean[0]
    assert again[data.table.names.index("income")].item() == pytest.approx(mean["income"])
    train = data.table.decode(data.train.x)
    for name in ("income", "children"):
        assert mean[name] == pytest.approx(train[name].mean(), rel=1e-4)
    assert draws["income"].std().item() == pytest.approx(train["income"].std(), rel=0.03)


@pytest.mark.filterwarnings("ignore")
def test_incomes_as_counts_are_learned_as_well_as_incomes_as_real_numbers():
    """The density of integers is about that of real numbers: the two log-likelihoods are close."""
    rng = np.random.default_rng(0)
    income = rng.gamma(14, 3_000, 300).astype(int)
    columns = {"income": income, "height": (160 + income / 4500 + rng.normal(0, 3, 300)).round(1)}
    scores = [
        pv.method(
            "vae", pv.data.from_frame(columns, kinds=kinds), latent_dim=1, hidden=[16], epochs=30
        ).fit(progress=False).evaluate("test")["log_likelihood"]
        for kinds in ({}, {"income": "real"})
    ]  # fmt: skip
    assert scores[0] == pytest.approx(scores[1], abs=1.0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheets_text_files_are_read_in_their_encodings(encoding, separator, tmp_path):
    lines = ["größe,ort", "1.5,Zürich", "2.5,Bern"]
    text = "\n".join(line.replace(",", separator) for line in lines)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert read_csv(tmp_path / "t.csv") == {"größe": [1.5, 2.5], "ort": ["Zürich", "Bern"]}
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(pv.UserError, match="save it in UTF-8, which spreadsheets call"):
        read_csv(tmp_path / "l.csv")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("index", [[], ["--index", "id"]])
def test_codes_of_a_split_have_the_rows_of_the_file(index, tmp_path):
    rng = np.random.default_rng(0)
    columns = {"id": [f"s{i}" for i in range(40)]} if index else {}
    write_csv(tmp_path / "t.csv", {**columns, "a": rng.normal(size=40), "b": rng.normal(size=40)})
    run, file, out = (str(tmp_path / name) for name in ("run", "t.csv", "codes.csv"))
    assert main(["fit", "vae", "--data", file, *index, *SMALL, "--out", run]) == 0
    assert main(["encode", run, "--out", out]) == 0
    whole = read_csv(tmp_path / "codes.csv")
    name = "id" if index else "row"
    codes = dict(zip(whole[name], whole["z_0"], strict=True))
    seen = []
    for split, size in (("train", 32), ("valid", 4), ("test", 4)):
        assert main(["encode", run, "--split", split, "--out", out]) == 0
        part = read_csv(tmp_path / "codes.csv")
        assert list(part)[:2] == ["split", name] and set(part["split"]) == {split}
        assert len(part[name]) == size
        np.testing.assert_allclose([codes[row] for row in part[name]], part["z_0"], atol=1e-5)
        seen += list(part[name])
    assert sorted(seen) == sorted(codes)


def test_columns_of_one_kind_have_one_likelihood():
    assert all_rows({"a": [0.5, 1.0], "b": [-1, 2]}).likelihood == "normal"
    assert all_rows({"a": [0, 7], "b": [1, 9]}).likelihood == "negative-binomial"
    assert all_rows({"a": [True, False], "b": [1, 0]}).likelihood == "bernoulli"


def test_only_real_columns_of_a_mixed_table_are_standardized():
    data = pv.data.standardize(all_rows(people()))
    raw = all_rows(people()).train.x
    x = data.train.x
    real = data.table.is_real
    torch.testing.assert_close(x[:, ~real], raw[:, ~real], equal_nan=True)
    assert x[:, real].nanmean(0).abs().max() < 1e-5
    sd = np.nanstd(x[:, real].numpy(), 0)
    np.testing.assert_allclose(sd, 1, rtol=1e-5)
    torch.testing.assert_close(data.standardize_values(people()), x, equal_nan=True)


@pytest.mark.parametrize(
    "columns, options, message",
    [
        ({"a": ["x", 1]}, {}, "column 'a' has values of the type int, str"),
        ({"a": [None, None]}, {}, r"column 'a' has no values: .*drop=\['a'\] \(--drop a\)"),
        ({"a": [str(i) for i in range(300)]}, {}, "300 different texts in 300 rows: .*index='a'"),
        ({"a": [f"{i}/2020" for i in range(40)]}, {}, "40 different texts in 40 rows"),
        (
            {"a": [1, 2**25]},
            {"kinds": {"a": "count"}},
            r"counts up to 33554432 \(row 1\), which float32",
        ),
        (
            {"a b": [1, 2**25]},
            {"kinds": {"a b": "count"}},
            r"kinds=\{'a b': 'real'\} \(--kinds 'a b=real'\), or drop=\[",
        ),
        ({"a": [0.5, 1]}, {"drop": ["aa"]}, "unknown column of the data 'aa'; did you mean 'a'"),
        ({"a": [0.5, 1]}, {"drop": "a"}, r"drop must be a list of columns, such as \['a'\]"),
        ({"a": [0.5, 1]}, {"drop": ["a"]}, "no columns for x"),
        ({"a": [1, 0]}, {"drop": ["a"], "labels": "a"}, "column 'a' is used twice: in drop"),
        (
            {"a": [1, 0]},
            {"drop": ["a"], "kinds": {"a": "real"}},
            "column 'a' is used twice: in drop",
        ),
        ({"a": [0.5, 1]}, {"kinds": {"a": "count"}}, "values that are no counts"),
        ({"a": [0.5, 1]}, {"kinds": {"a": "counts"}}, "did you mean 'count'"),
        ({"a": [0.5, 1]}, {"labels": "b"}, "unknown column of the data 'b'"),
        ({"a": [0.5, 1], "b": [1, 2]}, {"labels": "a"}, "labels 'a' have fractions"),
        ({"a": [1, 0]}, {"labels": "a"}, "no columns for x"),
        ({"a": np.zeros((2, 2))}, {}, r"column 'a' has shape \[2, 2\]"),
        ({"a": np.zeros(2, "datetime64[s]")}, {}, "column 'a' has values of the type datetime"),
        ({"a": np.zeros(2, complex)}, {}, "column 'a' has values of the type complex"),
        ({"a": [1.0, math.inf]}, {}, "1 infinite values"),
        ({"a": [1.0, 2.0], "b": [1.0]}, {}, "column 'b' has 1 rows, and 'a' has 2"),
        ({"a": [1.0, 2.0], "i": ["x"]}, {"index": "i"}, "column 'i' has 1 rows"),
        (np.zeros((2, 2)), {}, "a frame is a DataFrame or {column: values}, not ndarray"),
        ("people.csv", {}, "a frame is a DataFrame or {column: values}, not str"),
    ],
)
def test_a_bad_column_is_named_in_one_line(columns, options, message):
    with pytest.raises(pv.UserError, match=message) as error:
        pv.data.from_frame(columns, valid=0, test=0, **options)
    assert "\n" not in str(error.value)


def test_integers_of_any_size_are_numbers():
    """Those that 64 bits do not hold are floats, as in numpy."""
    data = pv.data.from_frame({"a": [10**30, 1, 2]}, valid=0, test=0, likelihood="normal")
    assert torch.equal(data.train.x[:, 0], torch.tensor([1e30, 1, 2]))


def test_new_values_are_checked_against_the_columns():
    table = all_rows(people()).table
    new = people()
    assert torch.equal(table.encode(dict(reversed(new.items()))).isnan(), table.encode(new).isnan())
    new["city"][0] = "Berne"
    with pytest.raises(
        pv.UserError, match="category of column 'city' 'Berne'; did you mean 'Bern'"
    ):
        table.encode(new)
    new = people()
    new["owner"][0] = 3
    with pytest.raises(pv.UserError, match="had the values 0 and 1, and now 3"):
        table.encode(new)
    del new["owner"]
    with pytest.raises(pv.UserError, match="these data have no column 'owner'"):
        table.encode(new)
    new = people()
    new["height"] = ["tall"] * len(new["height"])
    with pytest.raises(pv.UserError, match="column 'height' has text"):
        table.encode(new)


def test_labels_are_classes_in_order_and_minus_one_without():
    columns = {"a": [0.5, 1.5, 2.5], "kind": ["dog", None, "cat"]}
    data = all_rows(columns, labels="kind")
    assert data.train.y.tolist() == [1, -1, 0] and data.num_classes == 2
    data = all_rows({"a": [0.5, 1.5, 2.5], "y": [-1, 7, 3]}, labels="y")
    assert data.train.y.tolist() == [-1, 1, 0] and data.table.labels.categories == (3, 7)


def groups(n=60):
    """Two groups of rows far apart, and the name of each row's group as its label."""
    center = [-3.0 + 6.0 * (i % 2) for i in range(n)]
    noise = np.random.default_rng(0).normal(0, 0.3, (2, n))
    columns = {"a": (center + noise[0]).tolist(), "b": (center + noise[1]).tolist()}
    return columns | {"kind": [("low", "high")[i % 2] for i in range(n)]}


def test_a_class_with_a_name_is_sampled_and_encoded_by_it(tmp_path, capsys):
    path, out = tmp_path / "groups.csv", tmp_path / "run"
    write_csv(path, groups())
    small = ["--hidden", "[16]", "--latent-dim", "1", "--lr", "0.01", "--num-samples", "5"]
    options = ["--data", str(path), "--labels", "kind", "--out", str(out), "--progress", "false"]
    options += ["--epochs", "100", "--batch-size", "16"]
    assert main(["fit", "m2", *options, *small]) == 0
    run = pv.load(out)
    assert run.data.class_names == run.class_names == ("high", "low")
    codes = run.encode(groups())
    assert codes["y"].tolist() == groups()["kind"]
    for name, number, sign in (("high", 0, 1), ("low", 1, -1)):
        x = run.sample(20, y=name, mean=True, seed=1)
        assert torch.equal(x, run.sample(20, y=number, mean=True, seed=1))
        assert (sign * x > 1).all()
    assert run.sheet("prior", y=1).title == "samples, y = low"
    assert run.sheet("component", num=2).labels == ["high", "low"]
    assert main(["encode", str(out)]) == main(["sample", str(out), "--y", "low", "--num", "4"]) == 0
    assert read_csv(out / "codes.csv")["y"] == groups()["kind"]
    assert max(read_csv(out / "samples.csv")["a"]) < 0
    assert main(["sample", str(out), "--mean", "true"]) == 0
    for columns in (read_csv(out / "samples.csv"), run.sample_frame(64, mean=True)):
        assert set(columns["kind"]) == {"high", "low"}
        for a, kind in zip(columns["a"], columns["kind"], strict=True):
            assert (a > 0) == (kind == "high")
    assert main(["sample", str(out), "--source", "aggregate", "--mean", "true"]) == 0
    columns = read_csv(out / "aggregate.csv")
    assert all((a > 0) == (k == "high") for a, k in zip(columns["a"], columns["kind"], strict=True))
    capsys.readouterr()
    for wrong, message in (
        ("hihg", "did you mean 'high'?"),
        ("2", "unknown class 2; known: high"),
        ("01", "unknown class '01'; known: high, low"),
    ):
        assert main(["sample", str(out), "--y", wrong]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_clusters_have_numbers_though_labels_have_names():
    data = pv.data.from_frame(groups(), labels="kind")
    options = {"hidden": [8], "latent_dim": 1, "epochs": 1}
    run = pv.method("m2-clustering", data, **options).fit(progress=False)
    assert run.data.class_names == ("high", "low") and run.class_names is None
    assert set(run.encode(groups())["y"].tolist()) <= set(range(10))
    assert run.sheet("component", num=2).classes(data)["component"][:3] == [0, 0, 1]
    assert set(run.sheet(num=9).classes(data)) == {"component"}
    assert "kind" not in run.sample_frame(2)
    with pytest.raises(pv.UserError, match="y must be a number, got 'low': the components of this"):
        run.sample(y="low")


def test_labels_that_are_numbers_are_named_by_them(tmp_path):
    columns = groups() | {"kind": [(3, 1)[i % 2] for i in range(60)]}
    data = pv.data.from_frame(columns, labels="kind")
    options = {"hidden": [8], "latent_dim": 1, "epochs": 1, "condition": "labels"}
    run = pv.method("cvae", data, **options).fit(progress=False)
    assert run.class_names == (1, 3)
    for y, number in ((1, 0), (3, 1), ("3", 1)):
        of_y = run.sheet("prior", num=5, y=y)
        assert of_y.c.tolist() == [number] * 5 and of_y.title == f"samples, y = {y}"
        assert of_y.classes(data) == {"kind": [(1, 3)[number]] * 5}
    assert run.sample_frame(3)["kind"] == [1, 3, 1]  # every class in turn
    for source in ("aggregate", "interpolate", "traverse"):
        sheet = run.sheet(source, num=2)
        assert sheet.arrays(data)["y"].tolist() == sheet.c.argmax(1).tolist()
        sheet.write(tmp_path / source, data)
        assert read_csv(tmp_path / f"{source}.csv")["kind"] == sheet.classes(data)["kind"]
    for y in (0, 2):
        with pytest.raises(pv.UserError, match=f"unknown class {y}; known: 1, 3"):
            run.sample(y=y)


def addresses(path, n=40):
    """A table with a column of numbers with commas, one of names and one of codes with digits."""
    rng = np.random.default_rng(0)
    columns = {
        "id": [f"u{i}" for i in range(n)],
        "zip": [("01234", "8001", "1000")[i % 3] for i in range(n)],
        "price": [f"1,{i:03d}" for i in range(n)],
        "year.built": rng.integers(1990, 2000, n).tolist(),
        "size": rng.normal(100, 9, n).round(1).tolist(),
    }
    columns["zip"][4] = columns["size"][5] = None
    write_csv(path, columns)
    return columns


def test_columns_are_dropped_and_their_kinds_set_from_the_command_line(tmp_path, capsys):
    path, out = tmp_path / "table.csv", tmp_path / "run"
    columns = addresses(path)
    words = ["--drop", "id", "price", "--kinds", "zip=category", "year.built=real"]
    fit = ["fit", "vae", "--data", str(path), *words, *SMALL]
    assert main([*fit, "--out", str(out)]) == 0
    run = pv.load(out)
    kinds = [(c.name, c.kind) for c in run.data.table.columns]
    assert kinds == [("zip", "category"), ("year.built", "real"), ("size", "real")]
    assert run.data.table.columns[0].categories == ("01234", "1000", "8001")
    assert run.config["drop"] == ["id", "price"]
    assert run.config["kinds"] == {"zip": "category", "year.built": "real"}
    options = {"drop": ["id", "price"], "kinds": {"zip": "category", "year.built": "real"}}
    same = pv.data.load(str(path), **options)
    assert same.table == run.data.table and same.mean_of_x() != run.data.mean_of_x()
    method = pv.method("vae", str(path), hidden=[8], latent_dim=2, epochs=1, **options)
    assert method.data.mean_of_x() == run.data.mean_of_x()
    assert main(["fit", "--resume", "--out", str(out), "--progress", "false"]) == 0
    assert main(["encode", str(out)]) == main(["impute", str(out)]) == 0  # not the dropped columns
    lines = (out / "imputed.csv").read_text().splitlines()
    assert all("." not in cell or len(cell) < 12 for line in lines for cell in line.split(","))
    imputed = read_csv(out / "imputed.csv", text=columns)
    assert imputed["id"] == columns["id"] and imputed["price"] == columns["price"]
    assert imputed["zip"][:4] == columns["zip"][:4] and imputed["zip"][4] in (
        "01234",
        "1000",
        "8001",
    )
    words = ["--drop", "id", "--kinds", "zip=category", "--drop=price", "--kinds=year.built=real"]
    repeated = parsed_fit([*fit[1:4], *words, *SMALL])[0]
    assert all(repeated[name] == run.config[name] for name in ("drop", "kinds"))
    again = reproduction(run.config, run.data)
    assert "--drop id price --kinds zip=category year.built=real " in again
    assert pv.methods.Method(parsed_fit(shlex.split(again)[2:])[0]).config == run.config


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "leave the column out, drop=['price'] (--drop price)"),
        (["--drop", "price"], "leave it out, drop=['id'] (--drop id), or name the rows by it"),
        (["--drop"], "drop needs columns of a table, such as --drop id name"),
        (
            ["--drop", "id", "price", "zap"],
            "unknown column of the data 'zap'; did you mean 'zip'?",
        ),
        (
            ["--kinds", "zip=category", "--kinds", "size=real", "zip=real"],
            "kinds has 'zip' twice, as category and as real",
        ),
        (["--kinds", "zip"], "kinds takes COLUMN=KIND, such as zip=category, not 'zip'"),
        (
            ["--drop", '["id", "price", "sise"]'],
            "column of the data 'sise'; did you mean 'size'?",
        ),
        (["--drop", "id", "price", "--kinds", "size=reel"], "kind of column 'reel'; did you mean"),
        (
            ["--drop", "price", "id,size"],
            "drop takes one name for each column: drop=['id', 'size'] (--drop id size), not",
        ),
        (["new.csv"], "'new.csv' belongs to no option: data are named by --data new.csv"),
    ],
)
def test_words_that_name_no_columns_give_one_line(words, message, tmp_path, capsys):
    addresses(tmp_path / "table.csv")
    out = str(tmp_path / "run")
    assert main(["fit", "vae", "--data", str(tmp_path / "table.csv"), *words, "--out", out]) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "zeros in front" not in line]  # a warning of the zip codes
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [("drop", []), ("drop", ["null"]), ("drop", ["[q]"]), ("drop", ["--a", "b"]), ("kinds", {}),
     ("drop", ["a", "null"]), ("kinds", {"{a": "real"}), ("kinds", {"a=b": "real"})],
)  # fmt: skip
def test_the_words_of_a_command_are_read_as_they_were(option, value):
    tokens = join_words([f"--{option}", *split_words(option, value)])
    assert yaml.safe_load("=".join(tokens).removeprefix(f"--{option}=")) == value


def test_arrays_have_no_columns_to_drop(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(12))
    for options in ({"drop": ["a"]}, {"kinds": {"a": "real"}}):
        with pytest.raises(pv.UserError, match="= is not an option of x.npy"):
            pv.data.load(str(tmp_path / "x.npy"), **options)
        with pytest.raises(pv.UserError, match="= is of files, and digits is not one"):
            pv.data.load("digits", **options)


# ------------------------------------------------------------------------- pandas and polars


FRAMES = ("pandas", "polars")


def as_frame(library, columns):
    module = pytest.importorskip(library)
    frame = module.DataFrame(columns)
    if library == "pandas":
        frame.index = [f"row {i}" for i in range(len(frame))]
        frame["city"] = frame["city"].astype("category")
        frame["smoker"] = frame["smoker"].astype("boolean")
    return frame


@pytest.mark.parametrize("library", FRAMES)
def test_a_run_on_a_frame_answers_in_frames(library, tmp_path):
    frame = as_frame(library, people())
    data = pv.data.from_frame(frame)
    assert torch.equal(data.table.encode(frame).isnan(), all_rows(people()).train.x.isnan())
    run = pv.method("vae", data, hidden=[8], latent_dim=2, epochs=1).fit(progress=False)
    codes = run.encode(frame)
    assert list(codes.columns) == ["z_0", "z_1"] and type(codes) is type(frame)
    x = run.data.standardize_values(frame)
    expected = pv.evaluate.encode(run.model, run.guide, x)["z"]
    np.testing.assert_allclose(codes.to_numpy(), expected.numpy(), rtol=1e-5)
    filled = run.impute(frame, steps=5)
    assert len(run.impute(frame, num_samples=3, steps=5)) == 3
    means, samples = run.reconstruct(frame), run.sample_frame(9)
    for answer in (filled, means, samples):
        assert list(answer.columns) == list(frame.columns)
        assert type(answer) is type(frame)
    columns = people()
    for name, values in columns.items():
        kept = [
            (a, b) for a, b in zip(filled[name].to_list(), values, strict=True) if b is not None
        ]
        assert all(a == b for a, b in kept)
    assert filled["height"].to_numpy().min() > 100  # in centimeters
    assert set(samples["city"].to_list()) <= {"Bern", "Aarau", "Chur"}
    if library == "pandas":
        assert list(codes.index) == list(frame.index) == list(filled.index)
        joined = frame.join(codes)
        assert joined.loc["row 7", "z_0"] == codes["z_0"].iloc[7]
    assert math.isfinite(run.evaluate(data=frame, num_samples=5)["log_likelihood"])
    run.report(tmp_path / "report.html", num_samples=5)


@pytest.mark.parametrize("library", FRAMES)
def test_a_column_that_names_the_rows_stays_with_them(library):
    columns = {**people(), "name": [f"person {i}" for i in range(60)]}
    frame = as_frame(library, columns)
    data = pv.data.from_frame(frame, index="name")
    run = pv.method("vae", data, hidden=[8], latent_dim=2, epochs=1).fit(progress=False)
    codes = run.encode(frame[::-1])
    names = codes.index if library == "pandas" else codes["name"]
    assert list(names) == columns["name"][::-1]


def test_nullable_and_integer_columns_of_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "count": pd.array([3, None, 0], dtype="Int64"),
            "byte": np.array([200, 3, 1], dtype="uint8"),
            "text": pd.array(["a", None, "b"], dtype="string"),
            "grade": pd.Categorical([1, 2, 1], categories=[1, 2, 3]),
        }
    )
    data = pv.data.from_frame(frame, valid=0, test=0)
    assert [c.kind for c in data.table.columns] == ["count", "count", "category", "category"]
    assert data.train.x[:, 1].tolist() == [200, 3, 1]  # counts, not gray levels
    assert data.train.x.shape == (3, 7) and data.train.x[1, 0].isnan()
    frame["when"] = pd.to_datetime(["2020-01-01"] * 3)
    with pytest.raises(pv.UserError, match="column 'when' has values of the type Timestamp"):
        pv.data.from_frame(frame)


# -------------------------------------------------------------------------- arrays and loaders


def test_arrays_and_loaders_are_taken_in_original_units():
    torch.manual_seed(0)
    x = 100 + 15 * torch.randn(80, 3)
    run = pv.method("vae", pv.data.from_arrays(x), hidden=[8], latent_dim=2, epochs=1)
    run = run.fit(progress=False)
    mean, sd = run.data.scaling
    codes = run.encode(x)["z"]
    expected = pv.evaluate.encode(run.model, run.guide, (x - mean) / sd)["z"]
    torch.testing.assert_close(codes, expected)
    loader = torch.utils.data.DataLoader(x, batch_size=32)
    torch.testing.assert_close(run.encode(loader)["z"], codes)
    torch.testing.assert_close(run.encode(x.numpy())["z"], codes)
    means = run.reconstruct(x)
    assert (means.mean(0) - 100).abs().max() < 20
    numbers = run.evaluate(data=x, num_samples=5)
    whole = torch.utils.data.DataLoader(x, batch_size=80)  # one batch: the draws of the array
    assert run.evaluate(data=whole, num_samples=5)["elbo"] == pytest.approx(numbers["elbo"])
    assert run.evaluate(data=loader, num_samples=5)["data"] == 80


def test_bytes_are_counts_where_the_run_has_counts():
    rng = np.random.default_rng(0)
    counts = rng.poisson(20, (60, 4))
    run = pv.method("vae", pv.data.from_arrays(counts), hidden=[8], latent_dim=1, epochs=1)
    run = run.fit(progress=False)
    codes, small = run.encode(counts)["z"], counts.astype(np.uint8)
    loader = torch.utils.data.DataLoader(torch.from_numpy(small), batch_size=25)
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(small))
    for x in (small, torch.from_numpy(small), {"x": small}, loader, dataset):
        torch.testing.assert_close(run.encode(x)["z"], codes)
    assert len(run.encode(torch.utils.data.DataLoader(dataset, batch_size=25))["z"]) == 60


def test_batches_of_new_data_have_different_draws():
    torch.manual_seed(0)
    x = torch.randn(80, 3)
    x[::3, 1] = NAN
    run = pv.method("vae", pv.data.from_arrays(x, missing=True), hidden=[8], latent_dim=1, epochs=1)
    run = run.fit(progress=False)
    row = torch.tensor([[1.0, NAN, 1.0]]).repeat(40, 1)
    loader = torch.utils.data.DataLoader(row, batch_size=10)
    assert len(run.impute(loader, steps=2)[0, :, 1].unique()) == 40
    log_likelihood = run.log_likelihood(loader, num_samples=2)
    assert len(log_likelihood.unique()) == 40
    again = run.log_likelihood(loader, num_samples=2)
    assert torch.equal(log_likelihood, again)  # the seed fixes all of them


def test_a_column_of_texts_may_have_digits_alone_in_a_new_file(tmp_path):
    rows = [(f"{v:.1f}", code, label) for v, code, label in zip(
        np.linspace(0, 1, 40), ["007", "a12", "true"] * 14, ["1", "b"] * 20, strict=False)]  # fmt: skip
    known, new = tmp_path / "known.csv", tmp_path / "new.csv"
    for path, part in ((known, rows), (new, rows[:1] + rows[6:7])):
        text = "\n".join(",".join(row) for row in part)
        path.write_text(f"v,code,label\n{text}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pv.method("vae", str(known), labels="label", hidden=[4], latent_dim=1, epochs=1)
        run = run.fit(progress=False)
    assert run.evaluate(data=new, num_samples=5)["data"] == 2
    frame = {"v": [0.0], "code": ["007"], "label": [1]}  # a label that was read as a number
    assert run.data.table.encode_labels(frame).tolist() == [0]
    assert run.data.table.encode(frame).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    frame = {"v": [0.0, 0.0], "code": ["007", "a12"], "label": [1.0, NAN]}  # as pandas reads it
    assert run.data.table.encode_labels(frame).tolist() == [0, -1]
    with pytest.raises(pv.UserError, match="category of column 'code' 7"):
        run.encode({"v": [0.0], "code": [7]})


def test_a_frame_without_the_column_that_named_the_rows_is_encoded(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(30.0), "b": np.arange(30.0) ** 2})
    frame.index = [f"row {i}" for i in range(30)]
    frame.to_csv(tmp_path / "table.csv")  # with its index, in a column without a name
    run = pv.method("vae", str(tmp_path / "table.csv"), hidden=[4], latent_dim=1, epochs=1)
    run = run.fit(progress=False)
    assert list(run.encode(frame).index) == list(frame.index)
    named = pandas.read_csv(tmp_path / "table.csv", index_col=0)
    assert list(run.encode(named).index) == list(frame.index)


def test_m2_without_labels_has_the_likelihood_of_the_table():
    x = np.random.default_rng(0).normal(size=(40, 3))
    run = pv.method("m2-clustering", x, hidden=[4], latent_dim=2, epochs=1).fit(progress=False)
    assert run.config["model.likelihood"] == "normal"
    assert pv.method("m2-clustering", "digits").config["model.likelihood"] == "bernoulli"


def test_log_likelihoods_are_those_of_the_original_units():
    """Against a model whose p(x) is a normal distribution in closed form: its decoder ignores z."""
    torch.manual_seed(0)
    x = torch.tensor([10.0, -3.0]) + torch.tensor([5.0, 0.1]) * torch.randn(50, 2)
    data = pv.data.standardize(pv.data.from_arrays(x))
    likelihood = pv.conditionals.NormalLikelihood(scale=1.0)
    model = pv.models.VAE((2,), 1, likelihood=likelihood, network=pv.conditionals.MLP(()))
    with torch.no_grad():
        for parameter in model.p_x.parameters():
            parameter.zero_()
    run = pv.Run(model, pv.guides.PriorGuide(model), data=data)
    mean, sd = data.scaling
    exact = torch.distributions.Normal(mean, sd).log_prob(x).sum(-1)
    torch.testing.assert_close(run.log_likelihood(x, num_samples=2), exact.float())


def test_clusters_of_a_mixture_are_probabilities_or_a_column():
    x = torch.randn(60, 3)
    options = {"hidden": [8], "latent_dim": 2, "epochs": 1, "num_components": 3, "initialize": None}
    run = pv.method("gmvae", pv.data.from_arrays(x), **options).fit(progress=False)
    probabilities = run.encode(x)["y"]
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(60))


def test_a_conditional_run_takes_its_covariates():
    c = torch.rand(60, 1)
    data = pv.data.from_arrays(torch.sin(c), c=c)
    run = pv.method("cvae", data, hidden=[8], latent_dim=2, epochs=1).fit(progress=False)
    assert run.encode(torch.sin(c), c=c)["z"].shape == (60, 2)
    images = torch.rand(40, 1, 4, 4)
    data = pv.data.from_arrays(images, binarize="static")
    data = data.with_condition(pv.data.Quadrants(1, (1, 4, 4)))
    run = pv.method("cvae", data, hidden=[8], latent_dim=2, epochs=1).fit(progress=False)
    assert run.encode(images)["z"].shape == (40, 2)


def test_what_a_run_cannot_take_raises_one_line():
    x = torch.randn(40, 3)
    run = pv.method("vae", pv.data.from_arrays(x), hidden=[8], latent_dim=2, epochs=1)
    run = run.fit(progress=False)
    with pytest.raises(pv.UserError, match="trained on arrays"):
        run.sample_frame(3)
    with pytest.raises(pv.UserError, match="the data of this run have .N, 3"):
        run.encode(torch.randn(4, 2))
    with pytest.raises(pv.UserError, match="not both"):
        run.evaluate("test", data=x)
    with pytest.raises(pv.UserError, match="takes 'b'"):
        run.encode(x, b=x)
    with pytest.raises(pv.UserError, match="new data are passed as data="):
        run.evaluate(x)
    with pytest.raises(
        pv.UserError,
        match=r"takes arrays \[N, 3\] without names, and these data are columns by name",
    ):
        run.encode({"a": [1.0], "b": [2.0], "c": [3.0]})
    with pytest.raises(pv.UserError, match=r"no-such.csv does not exist"):
        run.encode("no-such.csv")


# -------------------------------------------------------------------------------------- files


def write_people(path, n=60):
    from pyro_vae.data.tables import write_csv

    write_csv(path, {"name": [f"p{i}" for i in range(n)], **people(n)})


def test_a_csv_file_has_the_types_that_its_cells_have(tmp_path):
    write_people(tmp_path / "people.csv")
    data = pv.data.load(str(tmp_path / "people.csv"), index="name")
    kinds = {c.name: c.kind for c in data.table.columns}
    assert kinds == {
        "height": "real", "children": "count", "city": "category", "smoker": "boolean",
        "owner": "binary", "balance": "real",
    }  # fmt: skip
    (tmp_path / "odd.csv").write_text("a;b;c\n1.5;x;NA\n2;y;3\n")
    with pytest.raises(pv.UserError, match="people.csv has missing values"):
        pv.data.load(str(tmp_path / "people.csv"), index="name", missing=False)
    odd = read_csv(tmp_path / "odd.csv")
    assert odd == {"a": [1.5, 2.0], "b": ["x", "y"], "c": [None, 3]}


def test_text_among_the_numbers_of_a_csv_file_is_not_passed_over(tmp_path):
    """A stray mark makes a category of its column, which a reader should know."""
    path = tmp_path / "marks.csv"
    path.write_text("age,kind\n31,a\n?,a\n40,b\n")
    with pytest.warns(UserWarning, match=r"column 'age' has numbers and text, such as '\?'"):
        data = pv.data.load(str(path))
    assert data.table.columns[0].categories == ("31", "40", "?")
    path.write_text("age,kind\n31,a\nNA,a\n40,b\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pv.data.load(str(path)).table.columns[0].kind == "count"


@pytest.mark.parametrize(
    "header, is_doubtful", [("0.5,0.1", True), ("2001,2002", True), ("0,1", False), (",0,1", False)]
)
def test_a_first_row_of_numbers_is_named(header, is_doubtful, tmp_path):
    """It may be a row of data, or years; pandas' own names are neither."""
    path = tmp_path / "table.csv"
    row = ",".join(["1"] * (header.count(",") + 1))
    path.write_text(f"{header}\n{row}\n{row}\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_csv(path)
    texts = [str(w.message) for w in caught]
    assert len(texts) == is_doubtful
    assert all("the first row was taken as the column names" in text for text in texts)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_comma_is_the_decimal_point_where_it_separates_no_columns(separator, tmp_path):
    path = tmp_path / "t.csv"
    rows = [("a", "b", "c"), ("-0,5", "1,250", "x 1,5"), ("NA", "2", "y"), ("1,25e2", "3,125", "x")]
    path.write_text("\n".join(separator.join(row) for row in rows))
    words = r"comma is read as the decimal point .* such as '-0,5' \(column 'a'\)"
    with pytest.warns(UserWarning, match=words):
        columns = read_csv(path)
    assert columns["a"] == [-0.5, None, 125] and columns["b"] == [1.25, 2, 3.125]
    assert columns["c"] == ["x 1,5", "y", "x"]


def test_other_forms_of_decimal_commas_are_read_and_unused_columns_do_not_count(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;note\n0,125;1.5\n12345,678;2.5\n,5;3.5\n")
    with pytest.warns(UserWarning, match="decimal point"):
        assert read_csv(path, used=["a"])["a"] == [0.125, 12345.678, 0.5]
    with pytest.raises(pv.UserError, match="signs or commas"):
        read_csv(path)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "a;b\n0,5;1.5\n1,25;2\n",
            "column 'a' has numbers with signs or commas, such as '0,5': write them with digits",
        ),
        ("a;b\n1,234;1\n5,678;2\n", "numbers with signs or commas, such as '1,234'"),
        (
            "a;b\n1.005,50;1\n2.005,75;2\n",
            "column 'a' has numbers with signs or commas, such as '1.0",
        ),
        ('a,b\n"0,5",1\n"1,5",2\n', "numbers with signs or commas, such as '0,5'"),
        ("a;b\n$1,234.5;1\n7.5;2\n", "signs or commas, such as '$1,234.5'"),
        ("a,b\n10%,1\n7%,2\n", "numbers with signs or commas, such as '10%'"),
        ("", "no rows below a header"),
        ("a,b\n", "no rows below a header"),
        ("a,b\n1,2\n3\n", "line 3 has 1 values, the header 2"),
        ('a,b\n\n1,"x\ny"\n\n3\n', "line 6 has 1 values, the header 2"),
        ("a,b\n1,2\n\n3,inf\n", "column 'b' has 1 infinite values (first: line 4)"),
        ("a,a\n1,2\n", "several columns 'a'"),
        (b"\xff\x00a", "not a CSV file in UTF-8"),
        ("a\n" + "\n".join(f"t{i}" for i in range(300)), "300 different texts"),
    ],
)
def test_a_bad_csv_file_gives_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["fit", "vae", "--data", str(path), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_new_files_with_wrong_cells_give_one_line_that_names_them(tmp_path, capsys):
    cities = "Köln", "Zürich", '"a, b"'
    rows = [f"{i % 7}.5,{i % 3}.5,{cities[i % 3]}" for i in range(60)]
    path, out = tmp_path / "good.csv", tmp_path / "run"
    path.write_text("\n".join(["u,v,city", *rows]))
    assert main(["fit", "vae", "--data", str(path), "--out", str(out), *SMALL]) == 0
    for cells, message in (
        ('1.5,"12,000",Köln', "column 'v' had numbers, and now '12,000' in line 62"),
        ("1.5,inf,Köln", "column 'v' has 1 infinite values (first: line 62)"),
        (
            "1.5,2.5,Bonn",
            "unknown category of column 'city' 'Bonn'; known: Köln, Zürich, 'a, b' (line 62)",
        ),
        ("1.5,,Köln", "x has 1 missing values, in 1 rows (first: line 62, column 'v')"),
    ):
        new = tmp_path / "new.csv"
        new.write_text("\n".join(["u,v,city", *rows, cells]))
        capsys.readouterr()
        assert main(["evaluate", str(out), "--data", str(new)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and "--missing" not in error


def counts_and_more(n=60):
    rng = np.random.default_rng(0)
    return {
        "h": rng.normal(50, 9, n).tolist(),
        "k": [("u", "v", "w")[i % 3] for i in range(n)],
        "a": rng.poisson(3, n).tolist(),
        "b": [i % 2 for i in range(n)],
    }


def test_a_wrong_value_in_a_new_table_is_named_by_column_and_row(tmp_path, capsys):
    path, out = tmp_path / "table.csv", tmp_path / "run"
    write_csv(path, counts_and_more())
    assert main(["fit", "vae", "--data", str(path), "--out", str(out), *SMALL]) == 0
    run = pv.load(out)
    outside = "has the value {} in row 5, outside the support of its likelihood"
    for column, wrong, message in (
        ("a", -1, "column 'a' (count) " + outside.format("-1")),
        ("a", 2.5, "column 'a' (count) " + outside.format("2.5")),
        ("a", 2**25, "column 'a' has counts up to 33554432 (row 5), which"),
        ("b", 3, "column 'b' had the values 0 and 1, and now 3 in row 5"),
        ("k", "z", "unknown category of column 'k' 'z'; known: u, v, w (row 5)"),
        ("h", math.inf, "column 'h' has 1 infinite values (first: row 5)"),
    ):
        new = counts_and_more(9)
        new[column][5] = wrong
        new["h"][2] = -1.0  # elsewhere the value is right
        for evaluate in (lambda x: run.evaluate(data=x, num_samples=2), run.impute):
            with pytest.raises(pv.UserError, match=re.escape(message)):
                evaluate(new)
        write_csv(tmp_path / "new.csv", new)
        capsys.readouterr()
        assert main(["evaluate", str(out), "--data", str(tmp_path / "new.csv")]) == 1
        error = capsys.readouterr().err
        assert message.replace("row 5", "line 7") in error and error.count("\n") == 1
    for library in FRAMES:
        columns = counts_and_more(9) | {"a": [0, 1, 2, -4, -4, 1, 1, 1, 1]}
        frame = pytest.importorskip(library).DataFrame(columns)
        with pytest.raises(pv.UserError, match="column 'a' .* has the value -4 in row 3, outside"):
            run.log_likelihood(frame, num_samples=2)


def test_a_wrong_label_of_a_new_table_is_named_by_its_row():
    data = pv.data.from_frame(groups(), labels="kind")
    new = groups(6) | {"kind": ["low", None, "high", None, "middle", "low"]}
    with pytest.raises(pv.UserError, match=r"label in column 'kind' 'middle'; .* \(row 4\)"):
        data.table.encode_labels(new)


def test_values_in_standardized_columns_are_named_in_their_units():
    rng = np.random.default_rng(0)
    frame = {"h": rng.uniform(50, 60, 60).tolist(), "v": rng.uniform(1, 2, 60).tolist()}
    model = pv.models.VAE((2,), 1, likelihood="continuous-bernoulli")
    data = pv.data.from_frame(frame, valid=0, test=0)
    scaling = torch.tensor([50.0, 1.0]), torch.tensor([10.0, 1.0])
    x = dataclasses.replace(data.train, x=(data.train.x - scaling[0]) / scaling[1])
    data = dataclasses.replace(data, train=x, scaling=scaling, likelihood="continuous-bernoulli")
    run = pv.fit(model, pv.guides.Guide(model), data, epochs=1, progress=False)
    frame["h"][7] = 62.5
    with pytest.raises(pv.UserError, match=r"'h' \(real\) has the value 62.5 in row 7, outside"):
        run.evaluate(data=frame, num_samples=2)


def test_a_method_that_needs_labels_names_the_option(tmp_path, capsys):
    path = tmp_path / "numbers.csv"
    path.write_text("\n".join(["u,v", *(f"{i}.5,{i % 3}.5" for i in range(30))]))
    assert main(["fit", "m2", "--data", str(path), "--out", str(tmp_path / "run"), *SMALL]) == 1
    assert "m2 needs labels y, and numbers has none: --labels COLUMN" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_completed_rows_can_be_assigned_and_hidden_columns_are_named(tmp_path, capsys):
    """A category is hidden as a whole; rows with missing values come first."""
    texts = {
        "full": [f"{'abc'[i % 3]},{i % 7}.5,{i % 5}.5,{i % 4}.5" for i in range(60)],
        "holes": [
            f"{'abc'[i % 3]},{i % 7}.5,{i % 5}.5,{'' if i % 20 == 9 else i}" for i in range(60)
        ],
    }
    completed = {}
    for name, rows in texts.items():
        path, out = tmp_path / f"{name}.csv", tmp_path / name
        path.write_text("\n".join(["kind,u,v,w", *rows]))
        assert main(["fit", "vae", "--data", str(path), "--out", str(out), *SMALL]) == 0
        capsys.readouterr()
        arguments = ["sample", str(out), "--source", "impute", "--num", "2", "--steps", "3"]
        assert main([*arguments, "--split", "train"]) == 0
        with open(out / "impute.csv") as file:
            completed[name] = list(csv.DictReader(file)), capsys.readouterr().out
    rows, said = completed["full"]
    assert said.startswith("hidden: v, w (--observed top)\n")
    assert [(r["row"], r["draw"]) for r in rows[:4]] == [
        ("0", "0"),
        ("0", "1"),
        ("0", "2"),
        ("1", "0"),
    ]
    assert all(r["kind"] == rows[i // 3 * 3]["kind"] for i, r in enumerate(rows))
    rows, said = completed["holes"]
    assert "hidden" not in said and rows[0]["w"] == "" and rows[1]["w"] != ""
    first = pv.load(tmp_path / "holes").data.train.x[int(rows[0]["row"])]
    assert first.isnan().any()


def test_completions_keep_columns_of_the_table_that_are_called_row_or_draw(tmp_path):
    path, out = tmp_path / "own.csv", tmp_path / "run"
    path.write_text(
        "\n".join(["row,u,draw", *(f"{i + 0.25},{i % 3}.5,{i % 4}.5" for i in range(60))])
    )
    assert main(["fit", "vae", "--data", str(path), "--out", str(out), *SMALL]) == 0
    assert main(["sample", str(out), "--source", "impute", "--num", "2", "--steps", "3"]) == 0
    with open(out / "impute.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["_row", "_draw", "row", "u", "draw"]
    assert [r["_draw"] for r in rows[:4]] == ["0", "1", "2", "0"]
    original = pv.load(out).data
    x = original.unstandardize(original.test.x)[int(rows[3]["_row"])]
    assert float(rows[3]["row"]) == pytest.approx(float(x[0]), rel=1e-5)


def test_a_file_is_completed_with_all_its_columns(tmp_path, capsys):
    """Observed values stay as they are, beside an index and labels that the model does not have."""
    path, out = tmp_path / "holes.csv", tmp_path / "run"
    lines = [
        f"r{i},{'' if i % 9 == 4 else 'abc'[i % 3]},{i / 8},{'' if i % 5 == 1 else i % 4},{'lh'[i > 30]}"
        for i in range(60)
    ]
    path.write_text("\n".join(["id,kind,u,draw,size", *lines]))
    options = ["--labels", "size", "--index", "id", *SMALL]
    assert main(["fit", "vae", "--data", str(path), "--out", str(out), *options]) == 0
    assert main(["impute", str(out), "--steps", "3"]) == 0
    assert capsys.readouterr().out.endswith(f"{out / 'imputed.csv'}\n")
    before, after = (list(csv.reader(p.open())) for p in (path, out / "imputed.csv"))
    assert after[0] == before[0] and len(after) == len(before)
    for old, new in zip(before[1:], after[1:], strict=True):
        assert new[1] in ("a", "b", "c") and new[3] in ("0", "1", "2", "3", "4", "5", "6")
        assert all(o in ("", n) for o, n in zip(old, new, strict=True))
    content = path.read_bytes()
    for command, target, message in (
        ("encode", path, "holds the data"),
        ("sample", path, "holds the data"),
        ("impute", path, "holds the data"),
        ("encode", out / "checkpoint.pt", "needs the ending .csv"),
        ("explore", out / "config.json", "the page is an .html file"),
        ("explore", out / "report.html", "and not the report"),
    ):
        capsys.readouterr()
        assert main([command, str(out), "--out", str(target)]) == 1
        assert message in capsys.readouterr().err
    assert path.read_bytes() == content
    several = tmp_path / "three.csv"
    assert main(["impute", str(out), "--num", "3", "--steps", "3", "--out", str(several)]) == 0
    rows = list(csv.DictReader(several.open()))
    assert [(r["row"], r["_draw"], r["id"]) for r in rows[58:62]] == [
        ("58", "1", "r58"), ("59", "1", "r59"), ("0", "2", "r0"), ("1", "2", "r1"),
    ]  # fmt: skip
    assert len(rows) == 180 and len({rows[1 + 60 * draw]["draw"] for draw in range(3)}) > 1
    run = pv.load(out)
    frame = {c: [r[i] for r in before[1:]] for i, c in enumerate(before[0])}
    frame["u"] = [float(v) for v in frame["u"]]
    frame["draw"] = [float(v) if v else NAN for v in frame["draw"]]
    frame["kind"] = [v or None for v in frame["kind"]]
    drawn = run.impute(frame, num_samples=3, steps=3)
    assert [int(v) for v in drawn[2]["draw"]] == [int(r["draw"]) for r in rows[120:]]


def test_an_array_is_completed_in_original_units(tmp_path, capsys):
    x = np.random.default_rng(0).normal(5e4, 1e3, (40, 3)).astype(np.float32)
    x[::4, 1] = np.nan
    path, out = tmp_path / "a.npy", tmp_path / "run"
    np.save(path, x)
    fit = ["fit", "vae", "--data", str(path), "--missing", "true", "--out", str(out), *SMALL]
    assert main(fit) == 0
    for num, shape in (("1", (40, 3)), ("2", (2, 40, 3))):
        assert main(["impute", str(out), "--num", num, "--steps", "3"]) == 0
        done = np.load(out / "imputed.npy")
        assert done.shape == shape and np.isfinite(done).all()
        observed = ~np.isnan(x)
        assert (done[..., observed] == x[observed]).all()
        assert (np.abs(done[..., ~observed] - 5e4) < 1e4).all()
    complete = tmp_path / "complete.npy"
    np.save(complete, np.nan_to_num(x, nan=5e4))
    capsys.readouterr()
    assert main(["impute", str(out), "--data", str(complete)]) == 1
    assert "no value of these data is missing" in capsys.readouterr().err


def test_the_names_that_pandas_writes_for_unnamed_columns_are_names(tmp_path):
    for header in ("0,1", ",0,1"):  # without and with the index
        rows = [f"{i},{i}.5,2.5" if header.startswith(",") else f"{i}.5,2.5" for i in range(20)]
        (tmp_path / "a.csv").write_text("\n".join([header, *rows]))
        data = pv.data.load(str(tmp_path / "a.csv"))
        assert sum(map(len, data.splits().values())) == 20 and data.table.names == ["0", "1"]


def test_a_csv_file_trains_samples_and_encodes_from_the_command_line(tmp_path, capsys):
    path, out = tmp_path / "people.csv", tmp_path / "run"
    write_people(path)
    fit = ["fit", "vae", "--data", str(path), "--index", "name", "--out", str(out), *SMALL]
    assert main(fit) == 0
    assert main(["sample", str(out), "--num", "5", "--mean", "false"]) == 0
    with open(out / "samples.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and rows[0]["city"] in ("Bern", "Aarau", "Chur")
    for source, places in (
        ("traverse", {"unit": "01", "value": 3}),
        ("interpolate", {"path": "01", "step": 3}),
    ):
        assert main(["sample", str(out), "--source", source, "--num", "2", "--steps", "3"]) == 0
        with open(out / f"{source}.csv") as file:
            placed = list(csv.DictReader(file))
        (group, names), (place, count) = places.items()
        assert [*placed[0]][:2] == [group, place] and len(placed) == 6
        assert {r[group] for r in placed} == set(names)
        assert len({r[place] for r in placed[:3]}) == count
    assert all(int(row["children"]) >= 0 for row in rows)
    assert main(["encode", str(out)]) == 0
    with open(out / "codes.csv") as file:
        codes = list(csv.DictReader(file))
    assert [row["name"] for row in codes] == [f"p{i}" for i in range(60)]
    run = pv.load(out)
    x = run.data.table.encode(read_csv(path))
    z = pv.evaluate.encode(run.model, run.guide, run.data.standardize_values(x))["z"]
    np.testing.assert_allclose([float(row["z_0"]) for row in codes], z[:, 0], rtol=1e-4, atol=1e-6)
    write_people(tmp_path / "new.csv", 7)
    capsys.readouterr()
    evaluate = ["evaluate", str(out), "--num-samples", "5", "--data", str(tmp_path / "new.csv")]
    assert main(evaluate) == 0
    assert "7 new data points" in capsys.readouterr().out
    new = [
        "encode",
        str(out),
        "--data",
        str(tmp_path / "new.csv"),
        "--out",
        str(tmp_path / "c.csv"),
    ]
    assert main(new) == 0
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 8
    assert main(["evaluate", str(out), "--num-samples", "5"]) == 0


def test_a_run_whose_file_has_changed_is_not_evaluated_on_it(tmp_path, capsys):
    """Other rows of the same shape: the splits and the units would be those of other data."""
    path, out = tmp_path / "x.npy", tmp_path / "run"
    rng = np.random.default_rng(0)
    np.save(path, rng.normal(size=(30, 3)))
    assert main(["fit", "vae", "--data", str(path), "--out", str(out), *SMALL]) == 0
    assert main(["evaluate", str(out), "--num-samples", "3"]) == 0
    content = path.read_bytes()
    np.save(path, 1 + rng.normal(size=(30, 3)))
    for command in (["evaluate"], ["sample", "--source", "aggregate"], ["explore"]):
        capsys.readouterr()
        assert main([command[0], str(out), *command[1:]]) == 1
        assert "was trained on other data (mean of x: " in capsys.readouterr().err
    changed = np.load(path)
    assert main(["encode", str(out)]) == 0  # as new data, in the units of the training
    assert "has changed since the training" in capsys.readouterr().err
    path.write_bytes(content)
    means = pv.load(out).encode(changed)["z"]
    with open(out / "codes.csv") as f:
        rows = [[float(cell) for cell in row[1:]] for row in list(csv.reader(f))[1:]]
    torch.testing.assert_close(torch.tensor(rows), means, rtol=1e-4, atol=1e-5)
    assert main(["encode", str(out)]) == 0
    assert main(["encode", str(out), "--data", "digits"]) == 1
    assert "digits is a data set, not a file" in capsys.readouterr().err
    with pytest.raises(pv.UserError, match="leave data= out for a run on a loader"):
        pv.load(out, data=[torch.ones(4, 3)])


@pytest.mark.parametrize("library", FRAMES)
def test_parquet_is_read_by_pandas_or_polars(library, tmp_path):
    pytest.importorskip("pyarrow")
    frame = as_frame(library, people())
    path = str(tmp_path / "people.parquet")
    frame.to_parquet(path) if library == "pandas" else frame.write_parquet(path)
    data = pv.data.load(path)
    torch.testing.assert_close(data.train.x, pv.data.from_frame(frame).train.x, equal_nan=True)
    (tmp_path / "bad.parquet").write_text("hello")
    with pytest.raises(pv.UserError, match="is not a Parquet file"):
        pv.data.load(str(tmp_path / "bad.parquet"))


def test_an_npy_file_is_x(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 3))
    np.save(tmp_path / "x.npy", x)
    data = pv.data.load(str(tmp_path / "x.npy"))
    assert len(data.train) + len(data.valid) + len(data.test) == 30 and data.name == "x"
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object))
    with pytest.raises(pv.UserError, match="it holds objects"):
        pv.data.load(str(tmp_path / "evil.npy"))
    with pytest.raises(pv.UserError, match="labels= is not an option of x.npy"):
        pv.data.load(str(tmp_path / "x.npy"), labels="y")
    with pytest.raises(pv.UserError, match="labels= is of files, and digits is not one"):
        pv.data.load("digits", labels="y")


def write_images(folder, size=(6, 5), mode="L"):
    rng = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (folder / kind).mkdir(parents=True)
        for i in range(12):
            shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels, mode=mode).save(folder / kind / f"{i:02d}.png")


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3)])
def test_an_image_folder_has_a_class_in_each_subfolder(mode, channels, tmp_path):
    write_images(tmp_path / "pets", mode=mode)
    data = pv.data.from_images(tmp_path / "pets", valid=0, test=0)
    assert (
        data.train.x.shape == (24, channels, 5, 6) and data.train.y.tolist() == [0] * 12 + [1] * 12
    )
    first = np.asarray(Image.open(tmp_path / "pets" / "cats" / "00.png"), dtype=np.float32) / 255
    first = first[..., None] if mode == "L" else first
    np.testing.assert_allclose(data.train.x[0].permute(1, 2, 0).numpy(), first, rtol=1e-6)
    assert data.likelihood == "continuous-bernoulli" and data.class_names == ("cats", "dogs")
    assert pv.data.prepare(data, binarize="static").class_names == ("cats", "dogs")
    assert pv.data.from_images(tmp_path / "pets", image_size=4).x_shape == (channels, 4, 4)


def test_an_image_folder_trains_from_the_command_line(tmp_path):
    write_images(tmp_path / "pets")
    out = tmp_path / "run"
    assert main(["fit", "vae", "--data", f"{tmp_path / 'pets'}/", "--out", str(out), *SMALL]) == 0
    assert main(["sample", str(out), "--num", "4"]) == 0
    assert np.load(out / "samples.npz")["x"].shape == (4, 1, 5, 6)
    assert main(["encode", str(out)]) == 0


def test_new_images_of_another_kind(tmp_path, capsys):
    """Gray images are colored for a model of color; others are refused in one line."""
    write_images(tmp_path / "pets", mode="RGB")
    write_images(tmp_path / "gray")
    write_images(tmp_path / "large", size=(9, 9), mode="RGB")
    out = tmp_path / "run"
    assert main(["fit", "vae", "--data", str(tmp_path / "pets"), "--out", str(out), *SMALL]) == 0
    run = pv.load(out)
    gray = pv.data.from_images(tmp_path / "gray", valid=0, test=0).train.x
    codes = run.encode(str(tmp_path / "gray"))["z"]
    torch.testing.assert_close(codes, run.encode(gray.expand(-1, 3, -1, -1))["z"])
    (tmp_path / "new.csv").write_text("a,b\n1,2\n")
    capsys.readouterr()
    for name, message in (
        ("large", "have [N, 3, 5, 6]: images are resized by a training with image_size="),
        ("new.csv", "takes images [3, 5, 6], and these data are columns by name (a, b)"),
    ):
        assert main(["encode", str(out), "--data", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_codes_of_an_image_folder_name_the_file_of_each_row(tmp_path):
    write_images(tmp_path / "pets")
    out, new = tmp_path / "run", tmp_path / "new" / "deep"
    assert main(["fit", "vae", "--data", str(tmp_path / "pets"), "--out", str(out), *SMALL]) == 0
    assert main(["encode", str(out)]) == 0
    codes = read_csv(out / "codes.csv")
    kinds = [f"{kind}/{i:02d}.png" for kind in ("cats", "dogs") for i in range(12)]
    assert list(codes)[:2] == ["file", "z_0"] and codes["file"] == kinds
    new.mkdir(parents=True)
    for i, name in enumerate(("b.PNG", "a.png", "c,d.png")):
        shutil.copy(tmp_path / "pets" / "dogs" / f"{i:02d}.png", new / name)
    assert main(["encode", str(out), "--data", str(new.parent)]) == 0
    copied = read_csv(out / "codes.csv")
    assert copied["file"] == ["deep/a.png", "deep/b.PNG", "deep/c,d.png"]
    of_dogs = [codes["z_0"][kinds.index(f"dogs/{i:02d}.png")] for i in (1, 0, 2)]
    np.testing.assert_allclose(copied["z_0"], of_dogs, rtol=1e-4)


def test_subfolders_name_the_classes_of_a_conditional_run(tmp_path, drawn):
    write_images(tmp_path / "pets")
    out, label = tmp_path / "run", ["--condition", "labels"]
    options = ["--data", str(tmp_path / "pets"), "--out", str(out), *label, *SMALL]
    assert main(["fit", "cvae", *options]) == 0
    assert ">dogs<" in (out / "report.html").read_text()
    assert main(["sample", str(out), "--y", "dogs", "--num", "3"]) == 0
    run = pv.load(out)
    assert run.sheet("prior", num=3, y="dogs").c.tolist() == [1, 1, 1]
    dogs = run.sample(3, y=1, seed=0, mean=True).numpy()
    np.testing.assert_array_equal(np.load(out / "samples.npz")["x"], dogs)


def test_the_subfolders_of_new_images_are_the_classes_of_the_run(tmp_path, capsys):
    write_images(tmp_path / "pets")
    options = {"hidden": [8], "latent_dim": 2, "epochs": 1, "condition": "labels"}
    run = pv.method("cvae", str(tmp_path / "pets"), **options).fit(tmp_path / "run", progress=False)
    (tmp_path / "new").mkdir()
    shutil.copytree(tmp_path / "pets" / "dogs", tmp_path / "new" / "dogs")
    (x, y), _ = read_new(run, tmp_path / "new")
    assert x.shape == (12, 1, 5, 6) and y.tolist() == [1] * 12
    known = run.log_likelihood(x, y=y, num_samples=3)
    assert torch.equal(run.log_likelihood((x, [1] * 12), num_samples=3), known)
    shutil.copytree(tmp_path / "pets" / "cats", tmp_path / "new" / "birds")
    with pytest.warns(UserWarning, match="'birds' is none of the classes cats, dogs: images in it"):
        (_, y), _ = read_new(run, tmp_path / "new")
    assert y.tolist() == [-1] * 12 + [1] * 12
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "new")]) == 1
    assert "every data point needs a label" in capsys.readouterr().err


def test_images_that_do_not_fit_are_named(tmp_path):
    write_images(tmp_path / "pets")
    with pytest.raises(pv.UserError, match="has no images"):
        (tmp_path / "empty").mkdir()
        pv.data.load(str(tmp_path / "empty"))
    (tmp_path / "pets" / "cats" / "99.png").write_text("no image")
    with pytest.raises(pv.UserError, match="99.png cannot be read as an image"):
        pv.data.load(str(tmp_path / "pets"))
    Image.new("I;16", (6, 5)).save(tmp_path / "pets" / "cats" / "99.png")
    with pytest.raises(pv.UserError, match="99.png has more than 8 bits per value: convert it"):
        pv.data.load(str(tmp_path / "pets"))
    with pytest.raises(pv.UserError, match="image_size must be at most 4096, got 100000"):
        pv.data.load(str(tmp_path / "pets"), image_size=100_000)
    Image.new("L", (9, 9)).save(tmp_path / "pets" / "cats" / "99.png")
    with pytest.raises(
        pv.UserError, match="99.png is 9 x 9, .* is 6 x 5: a training with image_size="
    ):
        pv.data.load(str(tmp_path / "pets"))
    assert pv.data.load(str(tmp_path / "pets"), image_size=8).x_shape == (1, 8, 8)
    (tmp_path / "pets" / "cats" / "99.png").unlink()
    Image.new("L", (6, 5)).save(tmp_path / "pets" / "99.png")
    with pytest.raises(pv.UserError, match="images in subfolders, which are classes, and 99.png"):
        pv.data.load(str(tmp_path / "pets"))


# ------------------------------------------------------------------------------------ AnnData


def cells(sparse=True):
    anndata = pytest.importorskip("anndata")
    pd = pytest.importorskip("pandas")
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (40, 6)).astype(np.float32)
    adata = anndata.AnnData(csr_matrix(counts) if sparse else counts)
    adata.var_names = [f"gene {i}" for i in range(6)]
    adata.obs_names = [f"cell {i}" for i in range(40)]
    adata.obs["type"] = pd.Categorical(["T", "B"] * 20)
    adata.layers["scaled"] = np.log1p(counts)
    return adata, counts


def test_the_example_of_from_anndata_runs():
    """The default run of the examples skips it: anndata may not be installed."""
    pytest.importorskip("anndata")
    text = pv.data.from_anndata.__doc__.replace("# doctest: +SKIP", "")
    example = doctest.DocTestParser().get_doctest(text, {}, "from_anndata", None, None)
    assert len(example.examples) == 5
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("sparse", [True, False])
def test_anndata_are_counts_with_labels_of_obs(sparse):
    adata, counts = cells(sparse)
    data = pv.data.from_anndata(adata, labels="type", valid=0, test=0)
    assert torch.equal(data.observed_split("train").x, torch.from_numpy(counts))
    assert (data.sparse is not None) == sparse  # batches of counts become dense
    assert data.likelihood == "negative-binomial"
    assert data.train.y.tolist() == [1, 0] * 20
    layer = pv.data.from_anndata(adata, layer="scaled", valid=0, test=0)
    assert layer.likelihood == "normal"
    np.testing.assert_allclose(layer.train.x, np.log1p(counts), rtol=1e-6)
    with pytest.raises(pv.UserError, match="unknown layer 'scale'; did you mean 'scaled'"):
        pv.data.from_anndata(adata, layer="scale")
    run = pv.method("vae", data, hidden=[8], latent_dim=2, epochs=1).fit(progress=False)
    codes = run.encode(adata[:, ::-1])  # variables in another order
    assert list(codes.index) == list(adata.obs_names)
    np.testing.assert_allclose(codes, run.encode(counts)["z"], rtol=1e-5)
    assert list(run.sample_frame(3).columns) == list(adata.var_names)


def test_the_library_size_of_anndata_is_an_offset():
    adata, counts = cells()
    data = pv.data.from_anndata(adata, library_size=True, valid=0, test=0)
    size = float(torch.from_numpy(counts.sum(1)).median())
    assert data.likelihood == pv.conditionals.LibrarySize("negative-binomial", size)
    run = pv.method("vae", data, hidden=[8], latent_dim=2, epochs=1).fit(progress=False)
    assert run.encode(adata).shape == (40, 2)
    adata.X = adata.X.multiply(np.arange(40)[:, None] > 0).tocsr()
    with pytest.raises(pv.UserError, match="1 of 40 rows have no counts"):
        pv.data.from_anndata(adata, library_size=True, valid=0, test=0)


def test_an_h5ad_file_trains_from_the_command_line(tmp_path, capsys):
    adata, _ = cells()
    path, out = str(tmp_path / "cells.h5ad"), str(tmp_path / "run")
    adata.write_h5ad(path)
    assert main(["fit", "vae", "--data", path, "--labels", "type", "--out", out, *SMALL]) == 0
    assert main(["encode", out]) == 0
    assert (tmp_path / "run" / "codes.csv").read_text().splitlines()[1].startswith("cell 0,")
    (tmp_path / "bad.h5ad").write_text("hello")
    assert main(["fit", "vae", "--data", str(tmp_path / "bad.h5ad"), *SMALL]) == 1
    assert "is not an .h5ad file" in capsys.readouterr().err


def test_samples_of_a_table_are_draws_and_of_images_means():
    torch.manual_seed(0)
    run = pv.method("vae", pv.data.from_frame(people()), hidden=[4], latent_dim=1, epochs=1)
    run = run.fit(progress=False)
    frame = run.sample_frame(200)
    assert set(frame["smoker"].tolist()) == {False, True}
    assert len(set(frame["height"].tolist())) > 190
    counts = run.sample(200)[:, run.data.table.names.index("children")]
    assert torch.equal(counts, counts.round()) and len(counts.unique()) > 2
    assert torch.equal(run.sample(200, mean=False), run.sample(200))
    images = pv.method("vae", "digits", hidden=[4], latent_dim=1, epochs=1).fit(progress=False)
    assert torch.equal(images.sample(5), images.sample(5, mean=True))


def test_a_run_without_a_test_split_reports_the_validation_split():
    x, c = torch.randn(60, 3), torch.rand(60, 2)
    run = pv.method("cvae", pv.data.from_arrays(x, c=c, test=0), hidden=[4], latent_dim=1, epochs=1)
    run = run.fit(progress=False)
    assert run.evaluate(num_samples=2)["split"] == "valid"
    assert run.sample(5).shape == (5, 3) and run.sheet("traverse").x.shape[1:] == (3,)


def test_texts_of_two_rows_each_are_categories_and_so_is_what_is_declared_or_asked_for():
    twice, once = [f"t{i // 2}" for i in range(60)], [f"t{i}" for i in range(60)]
    assert pv.data.from_frame({"a": twice}).table.names == sorted(f"a=t{i}" for i in range(30))
    assert len(pv.data.from_frame({"a": once}, kinds={"a": "category"}).table.names) == 60
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.Categorical(once)})
    assert len(pv.data.from_frame(frame).table.names) == 60


def test_whole_numbers_that_name_rows_are_warned_of():
    rng = np.random.default_rng(0)
    n = 60
    frame = {"id": [*range(5000, 5000 + n)], "h": rng.normal(size=n), "n": rng.poisson(3, n)}
    with pytest.warns(
        UserWarning, match="column 'id' has another whole number in each row.*--index id"
    ):
        pv.data.from_frame(frame)
    incomes = {**frame, "id": rng.permutation(10**6)[:n]}  # all differ, and are no row numbers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.data.from_frame(incomes)
        pv.data.from_frame(frame, index="id")
        pv.data.from_frame(frame, kinds={"id": "real"})


def test_counts_that_became_floats_are_warned_of():
    n = 60
    visits = [None if i % 7 == 0 else float(i % 5) for i in range(n)]
    frame = {"visits": visits, "h": np.linspace(0.5, 1.25, n)}
    with pytest.warns(UserWarning, match="'visits' has whole numbers and missing .* visits=count"):
        assert pv.data.from_frame(frame).table.columns[0].kind == "real"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = pv.data.from_frame(frame, kinds={"visits": "count"})
    assert data.table.columns[0].kind == "count"


def test_zeros_in_front_of_numbers_are_warned_of_and_kept_in_a_category(tmp_path):
    path = tmp_path / "table.csv"
    rows = [(f"0{3000 + i % 4}", 0.5 * i) for i in range(40)]
    path.write_text("zip,h\n" + "".join(f"{z},{h}\n" for z, h in rows))
    with pytest.warns(UserWarning, match="zeros in front, such as '03000'.*--kinds zip=category"):
        pv.data.load(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = pv.data.load(str(path), kinds={"zip": "category"})
    assert data.table.columns[0].categories == ("03000", "03001", "03002", "03003")


def test_imputed_files_keep_what_the_model_does_not_use_as_it_is_written(tmp_path, capsys):
    path, heights = tmp_path / "t.csv", [170.25, 181.1, 160.9, 175.3] * 8
    rows = [f" a ,{h},{('NA', 'x', '-', '')[i % 4]}" for i, h in enumerate(heights)]
    rows[2] = rows[2].replace("160.9", "")
    path.write_text("\n".join(["who,height,note", *rows]) + "\n")
    options = {"drop": ["who", "note"], "hidden": [4], "latent_dim": 1, "epochs": 1}
    pv.method("vae", str(path), **options).fit(tmp_path / "run", progress=False)
    assert main(["impute", str(tmp_path / "run")]) == 0
    written = (tmp_path / "run" / "imputed.csv").read_text().splitlines()
    drawn = written[3].split(",")[1]
    assert written[:3] + written[4:] == ["who,height,note", *rows[:2], *rows[3:]]
    assert written[3] == rows[2].replace(",,", f",{drawn},", 1)
    assert np.float32(drawn) == pytest.approx(float(drawn), rel=1e-9) and len(drawn) < 12


def test_numbers_in_a_csv_file_have_the_digits_of_their_type(tmp_path):
    values = [0.1, float(np.float32(0.1)), -2.5, 1e300, 12345678.9, float("nan"), 3.0]
    write_csv(tmp_path / "a.csv", {"x": values, "y": np.array(values), "z": np.float32(values)})
    lines = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]
    assert [line[0] for line in lines] == ["0.1", "0.1", "-2.5", "1e+300", "12345678.9", "", "3.0"]
    assert [line[1] for line in lines] == [line[0] for line in lines]
    assert lines[4][2] == "12345679.0"


def test_a_cvae_of_images_with_classes_says_what_it_conditions_on(tmp_path):
    write_images(tmp_path / "pets")
    options = {"hidden": [8], "latent_dim": 2, "epochs": 1}
    with pytest.warns(Warning, match=r"a quadrant of each image; condition='labels'"):
        method = pv.method("cvae", str(tmp_path / "pets"), **options)
        assert method.data.c_shape is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.method("cvae", "digits", **options).data  # noqa: B018
        pv.method("cvae", str(tmp_path / "pets"), quadrants=1, **options).data  # noqa: B018


def test_what_is_no_dict_of_kinds_and_no_list_of_classes_gives_one_line(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    for kinds in (["a"], "a=real"):
        for read in (
            pv.data.load,
            lambda path, kinds: pv.data.from_frame({"a": [1.5]}, kinds=kinds),
        ):
            with pytest.raises(pv.UserError, match="kinds must be a dict of columns, such as"):
                read(str(tmp_path / "t.csv"), kinds=kinds)
    write_images(tmp_path / "pets")
    for names, message in (("cats", "must be a list of subfolders"), (["cats", "cats"], "twice")):
        with pytest.raises(pv.UserError, match=f"class_names.* {message}"):
            pv.data.from_images(tmp_path / "pets", class_names=names)


def test_counts_beyond_the_reach_of_a_likelihood_of_counts_are_real_numbers():
    """A rate of counts is bounded at e^15 = 3.3e6: the mean of a larger column would be cut off."""
    rng = np.random.default_rng(0)
    frame = {
        "revenue": rng.poisson(8e6 * np.exp(0.3 * rng.normal(size=60))).tolist(),
        "sold": rng.poisson(4e4 * np.exp(0.3 * rng.normal(size=60))).tolist(),
    }
    data = all_rows(frame)
    assert [column.kind for column in data.table.columns] == ["real", "count"]
    with pytest.raises(
        pv.UserError, match="'revenue' has counts with a mean of .*kinds={'revenue'"
    ):
        all_rows(frame, kinds={"revenue": "count"})
    x = torch.tensor(frame["revenue"]).float().unsqueeze(1)
    assert pv.data.from_arrays(x).likelihood == "normal"
    method = pv.method("vae", pv.data.from_arrays(x, likelihood="poisson"), hidden=[4], epochs=1)
    with pytest.warns(UserWarning, match="counts have column means up to 8.*are bounded at 3.3e"):
        method.build()


def test_row_names_in_a_column_named_label_stay_beside_the_classes(tmp_path):
    random = np.random.default_rng(0)
    rows = ["label,kind,a,b"]
    rows += [
        f"row{i},{'uv'[i % 2]},{a:.3f},{b:.3f}"
        for i, (a, b) in enumerate(random.normal(size=(40, 2)))
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    options = {"index": "label", "labels": "kind", "hidden": [4], "latent_dim": 2, "epochs": 1}
    run = pv.method("vae", str(tmp_path / "t.csv"), **options).fit(tmp_path / "run", progress=False)
    write_codes(run, None, tmp_path / "codes.csv", split="test")
    with open(tmp_path / "codes.csv") as file:
        codes = list(csv.DictReader(file))
    assert list(codes[0]) == ["split", "label", "_label", "z_0", "z_1"]
    for row in codes:
        assert row["_label"] == "uv"[int(row["label"].removeprefix("row")) % 2]


def test_sparse_columns_of_pandas_are_columns():
    pandas = pytest.importorskip("pandas")
    values = np.array([0, 0, 3, 1, 0] * 6)
    for kind in ("int64", "float64", "bool"):
        plain = pandas.DataFrame({"a": values.astype(kind), "b": values[::-1].astype(kind)})
        sparse = plain.astype(pandas.SparseDtype(kind, 0))
        data = [pv.data.from_frame(frame, valid=0, test=0) for frame in (plain, sparse)]
        assert data[0].table.columns == data[1].table.columns
        torch.testing.assert_close(data[1].train.x, data[0].train.x)


@pytest.mark.parametrize(
    "text", ["2024-{m:02}-{d:02}", "{d}.{m}.2024", "{m}/{d}/24", "2024-{m:02}-{d:02}T10:00"]
)
def test_dates_as_text_are_no_categories_unless_asked_for(text):
    """119 days in 300 rows had become 119 columns, without a word."""
    days = [text.format(d=1 + i % 28, m=1 + i % 5) for i in range(300)]
    frame = {"a": np.linspace(0, 1, 300), "signup": days}
    with pytest.raises(
        pv.UserError, match=r"column 'signup' has \d+ dates: convert it .*--drop signup"
    ):
        pv.data.from_frame(frame)
    assert pv.data.from_frame(frame, kinds={"signup": "category"}).train.x.shape[1] == 1 + len(
        set(days)
    )
    few = {**frame, "signup": [day if i < 3 else days[0] for i, day in enumerate(days)]}
    assert pv.data.from_frame(few).train.x.shape[1] == 4
    versions = {**frame, "signup": [f"v{i % 30}.1.2" for i in range(300)]}
    assert pv.data.from_frame(versions).train.x.shape[1] == 31
