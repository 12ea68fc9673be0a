"""Runs where the training data are not at hand: new data are read as those were."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.methods.new_data import NewData
from pyro_vae.train.schema import data_of_schema, schema_of

N = 40


def table():
    rng = np.random.default_rng(0)
    return {
        "height": 170 + 10 * rng.normal(size=N),
        "children": rng.poisson(2, N),
        "smoker": rng.choice(["yes", "no"], N),
        "group": rng.choice(["u", "v", "w"], N),
    }


def gray(*shape):
    return np.random.default_rng(1).integers(0, 256, (N, *shape), dtype=np.uint8)


def counts():
    return np.random.default_rng(2).poisson(1.0, (N, 4))


def covariates():
    return torch.from_numpy(50_000 + 1e4 * np.random.default_rng(3).normal(size=(N, 2)))


def sparse_counts():
    from scipy.sparse import csr_matrix

    return csr_matrix(counts())


def with_covariates():
    data = pv.data.from_arrays({"x": torch.rand(N, 3) * 9, "c": covariates()}, valid=0, test=0)
    return pv.data.standardize(pv.data.standardize(data), "c")


#: `{kind: (data, new data)}`.
KINDS = {
    "table": (
        lambda: pv.data.standardize(pv.data.from_frame(table(), "group", valid=0, test=0)),
        lambda: ({name: values[:7] for name, values in table().items()}, {}),
    ),
    "gray images": (
        lambda: pv.data.from_arrays(gray(1, 4, 4), valid=0, test=0),
        lambda: (gray(1, 4, 4)[:7], {}),
    ),
    "binary images": (
        lambda: pv.data.prepare(pv.data.from_arrays(gray(6), valid=0, test=0), "static"),
        lambda: (gray(6)[:7], {}),
    ),
    "8-bit counts": (
        lambda: pv.data.from_arrays(counts(), valid=0, test=0),
        lambda: (counts().astype(np.uint8)[:7], {}),
    ),
    "sparse counts": (
        lambda: pv.data.from_arrays(sparse_counts(), valid=0, test=0),
        lambda: (sparse_counts()[:7], {}),
    ),
    "covariates": (with_covariates, lambda: (torch.rand(7, 3), {"c": covariates()[:7]})),
    "labels as the condition": (
        lambda: pv.data.from_arrays(torch.rand(N, 3), torch.arange(N) % 3, 0, 0).with_condition(
            pv.data.Labels(3)
        ),
        lambda: (torch.rand(7, 3), {"y": torch.arange(7) % 3}),
    ),
    "quadrants": (
        lambda: pv.data.from_arrays(gray(1, 4, 4), valid=0, test=0).with_condition(
            pv.data.Quadrants(1, (1, 4, 4))
        ),
        lambda: (gray(1, 4, 4)[:7], {}),
    ),
    "float64": (
        lambda: pv.data.standardize(
            pv.data.from_arrays(1e9 + torch.rand(N, 3).double(), valid=0, test=0)
        ),
        lambda: (1e9 + torch.rand(7, 3).double(), {}),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_reads_new_data_as_the_training_data_were(kind):
    make_data, make_new = KINDS[kind]
    torch.manual_seed(0)
    data = make_data()
    schema = schema_of(data)
    without_rows = data_of_schema(json.loads(json.dumps(schema)), "a reason")
    model = pv.models.VAE(data.x_shape, 2, likelihood="normal")
    x, others = make_new()
    read = [
        list(NewData(model, None, known, x, others, True).splits())
        for known in (data, without_rows)
    ]
    assert len(read[0]) == len(read[1]) > 0
    for ours, theirs in zip(*read, strict=True):
        assert ours.arrays().keys() == theirs.arrays().keys()
        for name, value in ours.arrays().items():
            torch.testing.assert_close(theirs.arrays()[name], value, rtol=0, atol=0)
    assert schema_of(without_rows) == schema
    assert without_rows.fingerprint() == json.loads(json.dumps(data.fingerprint()))
    assert without_rows.x_shape == data.x_shape and without_rows.c_shape == data.c_shape
    assert without_rows.likelihood == data.likelihood
    assert without_rows.class_names == data.class_names


def test_a_schema_has_no_value_of_the_data():
    x = torch.tensor([[0.123456789, 5.0], [7.0, 9.25]]).repeat(10, 1)
    text = json.dumps(schema_of(pv.data.from_arrays(x, valid=0, test=0)))
    assert "0.1234" not in text and "9.25" not in text


def test_means_and_scales_survive_a_schema_exactly():
    x = torch.rand(N, 3, generator=torch.Generator().manual_seed(0)) * 1e5 + 1 / 3
    data = pv.data.standardize(pv.data.from_arrays(x, valid=0, test=0))
    again = data_of_schema(json.loads(json.dumps(schema_of(data))), "a reason")
    for ours, theirs in zip(data.scaling, again.scaling, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(again.unstandardize(data.train.x), data.unstandardize(data.train.x))


def first_column(x, y):
    return x[:, 1:], x[:, :1]


@pytest.mark.parametrize(
    "data",
    [
        lambda: pv.data.from_arrays(torch.rand(N, 3), valid=0, test=0).with_condition(first_column),
        lambda: pv.data.from_frame({("a", 1): [0.5, 1.5], ("b", 2): [2.5, 3.5]}, valid=0, test=0),
    ],
)
def test_what_json_cannot_hold_has_no_schema(data):
    assert schema_of(data()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": {}}, {"arrays": {"x": ["float16", [3]]}}, {"arrays": {"x": ["float32", [-1]]}},
        {"condition": {"class_path": "Columns", "init_args": {}}}, {"scaling": [[1.0]]},
        {"likelihood": {"class_path": "MLP", "init_args": {"hidden": [3]}}}, {"names": 3},
        {"table": {"columns": [["a", "date", []]], "labels": None}}, {"condition": 3},
        {"table": {"columns": 3}}, {"likelihood": {"class_path": "os", "init_args": {}}},
    ],
)  # fmt: skip
def test_a_damaged_schema_is_one_line(change):
    schema = schema_of(pv.data.from_arrays(torch.rand(N, 3), valid=0, test=0))
    with pytest.raises(pv.UserError, match="the schema of the data is damaged"):
        data_of_schema({**schema, **change}, "a reason")


# ------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a table that was moved away, and a copy of the run with the table."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "table.csv"
    pv.data.tables.write_csv(path, table())
    options = {"labels": "group", "num_components": 3, "epochs": 2, "initialize": None}
    method = pv.method("gmvae", path, hidden=[8], compile=False, **options)
    trained = method.fit(folder / "run", progress=False, device="cpu")
    trained.export(folder / "model.safetensors")
    path.rename(folder / "moved.csv")
    return trained, folder


def same_frame(a, b):
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]))


@pytest.mark.parametrize("name", ["run", "model.safetensors"])
def test_a_run_works_on_new_data_without_its_training_data(run, name):
    trained, folder = run
    loaded = pv.load(folder / name)
    new = {column: values[:9] for column, values in table().items()}
    same_frame(loaded.encode(new), trained.encode(new))
    same_frame(loaded.reconstruct(new), trained.reconstruct(new))
    assert torch.equal(loaded.log_likelihood(new, 5), trained.log_likelihood(new, 5))
    same_frame(loaded.sample_frame(6), trained.sample_frame(6))
    assert torch.equal(loaded.sample(4, "component", y=1), trained.sample(4, "component", y=1))
    ours, theirs = (
        loaded.evaluate(data=new, num_samples=5),
        trained.evaluate(data=new, num_samples=5),
    )
    assert ours["elbo"] == theirs["elbo"] and ours["log_likelihood"] == theirs["log_likelihood"]
    assert ours["clustering"]["this model"] == theirs["clustering"]["this model"]
    holes = {**new, "height": np.where(np.arange(9) < 3, np.nan, new["height"])}
    same_frame(loaded.impute(holes, steps=3), trained.impute(holes, steps=3))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("run", "table.csv does not exist"), ("model.safetensors", "an export has no data")],
)
def test_what_needs_the_training_data_says_why_they_are_not_here(run, name, reason, tmp_path):
    loaded = pv.load(run[1] / name)
    for function in (
        loaded.evaluate,
        lambda: loaded.sample(source="aggregate"),
        lambda: loaded.sample(source="ex-post"),
        lambda: loaded.sheet("traverse"),
        lambda: loaded.report(tmp_path / "report.html"),
        lambda: loaded.explore(tmp_path / "explore.html"),
    ):
        with pytest.raises(pv.UserError, match=f"not here .*{reason}"):
            function()
    assert "rows are not here" in repr(loaded.data)
    for function in (pv.method, lambda name, data: pv.fit(loaded.model, loaded.guide, data, 1)):
        with pytest.raises(pv.UserError, match=f"this needs the training data .*{reason}"):
            function("vae", loaded.data)


def test_a_run_without_its_data_is_exported_as_with_them(run, tmp_path):
    trained, folder = run
    paths = [
        r.export(tmp_path / f"{i}.safetensors")
        for i, r in enumerate((trained, pv.load(folder / "run")))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    z = torch.linspace(-1, 1, 3)[:, None].expand(3, trained.config["model.latent_dim"])
    for part, inputs in (("encoder", trained.data.test.x[:3]), ("decoder", z)):  # of shapes alone
        programs = [
            torch.export.load(getattr(r, f"export_{part}")(tmp_path / f"{part}{i}.pt2")).module()
            for i, r in enumerate((trained, pv.load(folder / "run")))
        ]
        theirs, ours = (program(inputs) for program in programs)
        torch.testing.assert_close(theirs, ours)


def test_the_export_command_writes_what_the_other_commands_take(run, tmp_path, capsys):
    trained, folder = run
    place = tmp_path / "run"
    shutil.copytree(folder / "run", place)
    assert main(["export", str(place), "--license", "CC0-1.0"]) == 0
    assert capsys.readouterr().out.strip() == str(place / "export" / "model.safetensors")
    card = (place / "export" / "README.md").read_text()
    assert "CC0-1.0" in card and all(
        f"`{c.name}` ({c.kind}" in card for c in trained.data.table.columns
    )
    assert main(["sample", str(place / "export"), "--num", "3"]) == 0
    for part in ("encoder", "decoder"):
        assert main(["export", str(place), "--part", part]) == 0
        torch.export.load(place / f"{part}.pt2")
    capsys.readouterr()
    for words, message in (
        ([], "exists already: name another path (export --out)"),
        (["--part", "encodr"], "unknown part 'encodr'; did you mean 'encoder'?"),
        (["--part", "decoder", "--license", "MIT"], "--license is for the model card"),
        (["--part", "decoder", "--out", str(tmp_path / "a.bin")], "must be a file NAME.pt2"),
    ):
        assert main(["export", str(place), *words]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_the_commands_take_a_run_without_its_data_and_an_export(run, tmp_path, capsys):
    trained, folder = run
    new = tmp_path / "new.csv"
    pv.data.tables.write_csv(new, {name: values[:5] for name, values in table().items()})
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copy(folder / "model.safetensors", shared)
    for place in (folder / "run", shared / "model.safetensors"):
        assert main(["encode", str(place), "--data", str(new)]) == 0
        assert main(["evaluate", str(place), "--data", str(new), "--num-samples", "3"]) == 0
        assert main(["sample", str(place), "--num", "3"]) == 0
        assert main(["evaluate", str(place)]) == 1
    for name in ("codes.csv", "samples.csv"):
        assert (shared / f"model-{name}").read_text() == (folder / "run" / name).read_text()
    assert len((shared / "model-codes.csv").read_text().splitlines()) == 6
    assert main(["encode", str(folder / "run")]) == 1
    assert "table.csv does not exist" in capsys.readouterr().err


def test_a_pair_on_arrays_is_loaded_with_its_units(tmp_path):
    data = pv.data.standardize(pv.data.from_arrays(100 + 9 * torch.randn(N, 3), valid=8, test=0))
    model = pv.models.VAE((3,), 2, likelihood="normal", network=pv.conditionals.MLP((8,)))
    run = pv.fit(model, pv.guides.Guide(model), data, 1, out=tmp_path / "run", progress=False)
    loaded = pv.load(tmp_path / "run")
    new = 100 + 9 * torch.randn(5, 3)
    assert torch.equal(loaded.encode(new)["z"], run.encode(new)["z"])
    assert torch.equal(loaded.sample(5), run.sample(5))
    with pytest.raises(pv.UserError, match="in the memory of the program that trained the pair"):
        loaded.evaluate()
    assert pv.load(tmp_path / "run", data=data).evaluate("valid", 3)["elbo"] == pytest.approx(
        run.evaluate("valid", 3)["elbo"]
    )


@pytest.mark.parametrize("saved", [True, False])
def test_a_classifier_has_error_rates_on_new_data_without_its_training_data(tmp_path, saved):
    data = pv.data.load("digits", num_labels=50)
    method = pv.method("m2", data, hidden=[8], epochs=1, compile=False)
    run = method.fit(progress=False, device="cpu")
    path = run.save(tmp_path / "run") if saved else run.export(tmp_path / "model.safetensors")
    # the name of a data set is in the configuration: as where it cannot be downloaded
    schema = schema_of(run.data)
    loaded = pv.load(path)
    loaded.data = data_of_schema(schema, "a reason")
    new = (data.test.x[:50], data.test.y[:50])
    ours = loaded.evaluate(data=new, num_samples=2)["classification"]
    theirs = run.evaluate(data=new, num_samples=2)["classification"]
    assert ours["num_labels"] == theirs["num_labels"] == 50
    assert ours["errors"]["this model"]["new"] == theirs["errors"]["this model"]["new"]


@pytest.mark.parametrize("name", ["run", "model.safetensors"])
def test_the_path_of_a_file_is_new_data_and_data_are_not(run, name, tmp_path):
    """`Data` have columns and splits of their own: their rows would be taken by position."""
    loaded, path = pv.load(run[1] / name), tmp_path / "new.csv"
    new = {column: values[:9] for column, values in reversed(table().items())}
    pv.data.tables.write_csv(path, new)
    same_frame(loaded.encode(path), run[0].encode(new))
    assert torch.equal(loaded.log_likelihood(path, 3), run[0].log_likelihood(new, 3))
    with pytest.raises(pv.UserError, match="new data are no Data"):
        loaded.encode(pv.data.load(path, labels="group"))
    same_frame(loaded.encode(str(path)), run[0].encode(new))


def test_rows_whose_names_are_missing_are_numbered_with_a_warning(tmp_path):
    rows = {"id": [f"r{i}" for i in range(N)], **table()}
    pv.data.tables.write_csv(tmp_path / "table.csv", rows)
    method = pv.method("vae", tmp_path / "table.csv", index="id", epochs=1, hidden=[4])
    method.fit(tmp_path / "run", progress=False)
    new = {"name" if column == "id" else column: values for column, values in rows.items()}
    pv.data.tables.write_csv(tmp_path / "new.csv", new)
    assert main(["encode", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "codes.csv").read_text().splitlines()[1].startswith("r0,")
    with pytest.warns(UserWarning, match="no column 'id', which named the rows"):
        pv.load(tmp_path / "run").encode(new)
    assert main(["encode", str(tmp_path / "run"), "--data", str(tmp_path / "new.csv")]) == 0
    assert (tmp_path / "run" / "codes.csv").read_text().splitlines()[0].startswith("row,")


def test_samples_of_components_are_numbered_in_the_table(run, tmp_path):
    out = tmp_path / "c.csv"
    arguments = ["sample", str(run[1] / "run"), "--source", "component", "--num", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0].startswith("component,") and len(lines) == 7
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "0", "1", "1", "2", "2"]


def test_runs_without_their_data_are_not_compared(run):
    folder = run[1] / "run"
    with pytest.raises(pv.UserError, match="table.csv does not exist"):
        pv.comparison.compare_runs({folder: pv.load(folder)})


# ------------------------------------------------------------------- what a reviewer found


def test_inputs_of_other_types_and_own_likelihoods_are_loaded_without_a_schema(tmp_path):
    class Own(pv.conditionals.NormalLikelihood):
        pass

    data = pv.data.from_frame({"h": [0.5, 1.5, 2.5], "v": [1.25, 0.5, 3.5]}, likelihood=Own())
    assert schema_of(data) is None
    arrays = {"x": torch.rand(N, 3), "mask": torch.rand(N) > 0.5}
    assert schema_of(pv.data.from_arrays(arrays, valid=0, test=0)) is None


@pytest.mark.parametrize("change", ["order", "category", "class"])
def test_a_file_with_other_columns_categories_or_classes_is_not_the_training_data(change, tmp_path):
    """Its sizes and its mean are the same."""
    rows = table()
    pv.data.tables.write_csv(tmp_path / "t.csv", rows)
    options = {"labels": "group", "hidden": [4], "epochs": 1, "initialize": None}
    method = pv.method("gmvae", tmp_path / "t.csv", num_components=2, **options)
    run = method.fit(tmp_path / "run", progress=False)
    saved = pv.load(tmp_path / "run").save(tmp_path / "saved")
    other = dict(rows)
    if change == "order":
        other = {name: rows[name] for name in reversed(rows)}
    else:
        name, old, new = {"category": ("smoker", "no", "zno"), "class": ("group", "u", "z")}[change]
        other[name] = [new if value == old else value for value in rows[name]]
    pv.data.tables.write_csv(tmp_path / "t.csv", other)
    for folder in (tmp_path / "run", saved):
        loaded = pv.load(folder)
        with pytest.raises(pv.UserError, match="was trained on other data"):
            loaded.evaluate()
        same_frame(loaded.encode(rows), run.encode(rows))


def test_data_in_float64_are_the_training_data_again(tmp_path):
    """They stay float64 until they are standardized, and a pair trains on them in float32."""
    np.save(tmp_path / "x.npy", 1e9 + np.random.default_rng(0).random((60, 3)))
    options = {"hidden": [4], "latent_dim": 2, "epochs": 1, "compile": False}
    run = pv.method("vae", tmp_path / "x.npy", **options).fit(tmp_path / "run", progress=False)
    assert run.data.train.x.dtype == torch.float64
    loaded = pv.load(tmp_path / "run")
    assert loaded.evaluate(num_samples=3)["elbo"] == run.evaluate(num_samples=3)["elbo"]
    data = pv.data.load(str(tmp_path / "x.npy"))
    exported = pv.load(run.export(tmp_path / "model.safetensors"), data=data)
    assert len(exported.data.train) == 48


def test_a_loaded_export_can_be_saved_and_loaded(run, tmp_path):
    trained, folder = run
    again = pv.load(pv.load(folder / "model.safetensors").save(tmp_path / "saved"))
    new = {column: values[:9] for column, values in table().items()}
    same_frame(again.encode(new), trained.encode(new))


def test_the_file_of_a_pair_built_by_hand_is_not_overwritten(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(N, 3)))
    model = pv.models.VAE((3,), 2, likelihood="normal", network=pv.conditionals.MLP((4,)))
    data = pv.data.load(str(path))
    pv.fit(model, pv.guides.Guide(model), data, 1, out=tmp_path / "run", progress=False)
    np.save(path, 1 + np.load(path))
    content = path.read_bytes()
    arguments = ["impute", str(tmp_path / "run"), "--data", str(path), "--out", str(path)]
    assert main(arguments) == 1
    assert path.read_bytes() == content


def test_an_error_in_a_row_can_be_pickled():
    error = pickle.loads(pickle.dumps(pv.errors.RowError("before ", 3, " after")))
    assert str(error) == "before row 3 after" and str(error.at_line(5)) == "before line 5 after"


def test_classes_are_meant_by_numbers_of_any_type_and_several_at_once():
    data = pv.data.from_frame(table(), "group", valid=0, test=0)
    method = pv.method("m2", data, hidden=[4], latent_dim=2, epochs=1, compile=False)
    run = method.fit(progress=False)
    assert run.class_names == ("u", "v", "w")
    expected = run.sample(2, y=1)
    for y in ("v", np.int64(1), "1"):
        assert torch.equal(run.sample(2, y=y), expected)
    for y in ([0, 1], torch.tensor([0, 1]), np.array([0, 1])):
        assert run.sample(2, y=y).shape == expected.shape


def test_whole_numbers_beside_missing_labels_are_names_as_integers():
    labels = [1.0, None, 3.0, 5.0] * 10
    data = pv.data.from_frame({"h": np.linspace(0, 1, N), "k": labels}, "k", valid=0, test=0)
    assert [str(name) for name in data.class_names] == ["1", "3", "5"]
    assert data.train.y.tolist()[:4] == [0, -1, 1, 2]
