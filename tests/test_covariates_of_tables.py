"""Columns of a table as the covariates c of a conditional model: read, standardized, written."""

import csv

import numpy as np
import pytest
import torch
from commands import main

import pyro_vae as pv

SEX = ["f", "m", "f", "m", "m", "f", "f", "m", "m", "f"] * 4
AGE = [20, 35, 50, 41, 27, 66, 58, 33, 24, 47] * 4


def people(num=40):
    rng = np.random.default_rng(0)
    columns = {
        "sex": SEX[:num],
        "height": rng.normal(170, 10, num).tolist(),
        "age": AGE[:num],
        "weight": rng.normal(70, 8, num).tolist(),
    }
    return columns


def by_hand(sex, age):
    """c in the order of `covariates=["age", "sex"]`: age, sex=f, sex=m."""
    return torch.tensor([[float(a), s == "f", s == "m"] for s, a in zip(sex, age, strict=True)])


@pytest.fixture(scope="module")
def run():
    data = pv.data.from_frame(people(), covariates=["age", "sex"], valid=0, test=0)
    return pv.method("cvae", data, latent_dim=2, hidden=[8], epochs=2).fit(progress=False)


def test_covariates_are_c_and_no_part_of_x():
    data = pv.data.from_frame(people(), covariates=["age", "sex"], valid=0.25, test=0)
    assert data.table.names == ["height", "weight"]
    by_row = {round(h, 3): k for k, h in enumerate(people()["height"])}
    for name in ("train", "valid"):
        split = getattr(data, name)
        rows = [by_row[round(h, 3)] for h in split.x[:, 0].tolist()]
        expected = by_hand([SEX[k] for k in rows], [AGE[k] for k in rows])
        torch.testing.assert_close(split.c, expected)


def test_a_method_standardizes_numbers_and_no_categories(run):
    c = run.data.train.c
    assert torch.equal(c[:, 1:].sum(1), torch.ones(40)) and set(c[:, 1].tolist()) == {0, 1}
    age = np.array(AGE, float)
    np.testing.assert_allclose(
        c[:, 0].sort().values, np.sort((age - age.mean()) / age.std()), atol=1e-5
    )


def test_new_frames_bring_their_covariates(run):
    new = {**people(6), "sex": ["m"] * 6, "age": [30] * 6}
    codes = run.encode(new)
    x = torch.tensor([new["height"], new["weight"]]).T
    c = by_hand(new["sex"], new["age"])
    expected = run.encode(x, c=c)["z"]
    np.testing.assert_allclose(np.stack([codes["z_0"], codes["z_1"]], 1), expected, rtol=1e-5)
    age = (30 - np.mean(AGE)) / np.std(AGE)
    inputs = {"x": run.data.standardize_values(x), "c": torch.tensor([[age, 0.0, 1.0]] * 6).float()}
    of_pair = pv.evaluate.encode(run.model, run.guide, **inputs)["z"]
    torch.testing.assert_close(expected, of_pair, rtol=1e-4, atol=1e-5)
    own = run.log_likelihood({**new, "age": [60] * 6}, num_samples=5)
    assert not torch.allclose(run.log_likelihood(new, num_samples=5), own)


def test_samples_are_for_the_covariates_of_a_frame(run):
    c = {"age": [30, 60, 45], "sex": ["m", "f", "m"]}
    x = run.sample(c=c, seed=3)
    torch.testing.assert_close(x, run.sample(c=by_hand(c["sex"], c["age"]), seed=3))
    frame = run.sample_frame(c=c, seed=3)
    assert list(frame) == ["height", "weight", "age", "sex"]
    assert frame["sex"].tolist() == ["m", "f", "m"] and frame["age"].tolist() == [30, 60, 45]
    np.testing.assert_allclose(frame["height"], x[:, 0], rtol=1e-5)
    assert run.sheet(c=c).x.shape == (3, 2)


def test_a_shared_run_without_its_data_takes_frames_with_covariates(run, tmp_path):
    shared = pv.load(run.export(tmp_path))
    new = people(3)
    np.testing.assert_allclose(shared.encode(new)["z_0"], run.encode(new)["z_0"], rtol=1e-5)
    c = {"age": [30], "sex": ["m"]}
    torch.testing.assert_close(shared.sample(c=c), run.sample(c=c))
    assert "`age` (count)" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": None}, "these data have no column 'age', a covariate; their columns: sex, height"),
        ({"sex": ["m", None, "f"]}, r"covariate 'sex' has 1 missing values \(first: row 1\)"),
        ({"sex": ["m", "x", "f"]}, r"unknown category of column 'sex' 'x'; known: f, m \(row 1\)"),
        ({"age": ["a", "b", "c"]}, "column 'age' has text; expected numbers"),
    ],
)
def test_new_frames_without_their_covariates_are_refused(run, change, message):
    new = {name: values for name, values in {**people(3), **change}.items() if values is not None}
    with pytest.raises(pv.UserError, match=message):
        run.encode(new)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariates": "sex"}, r"covariates must be a list of columns, such as \['sex'\]"),
        ({"covariates": ["sexx"]}, "unknown column of the data 'sexx'; did you mean 'sex'"),
        ({"covariates": ["sex,age"]}, r"covariates takes one name .*\(--covariates sex age\)"),
        ({"covariates": ["sex", "sex"]}, "covariates has the column 'sex' twice"),
        ({"covariates": ["sex"], "labels": "sex"}, "'sex' is used twice: in covariates"),
        ({"covariates": ["sex"], "drop": ["sex"]}, "'sex' is used twice: in covariates"),
        ({"covariates": ["sex", "age", "height", "weight"]}, "no columns for x"),
        ({"covariates": 3}, "covariates must be a list of columns, not 3"),
    ],
)
def test_wrong_covariates_are_refused(options, message):
    with pytest.raises(pv.UserError, match=message):
        pv.data.from_frame(people(), **options)


def test_missing_covariates_are_refused():
    frame = {**people(), "age": [*AGE[:-1], None]}
    with pytest.raises(
        pv.UserError, match=r"covariate 'age' has 1 missing values \(first: row 39\)"
    ):
        pv.data.from_frame(frame, covariates=["age"])


def test_a_frame_is_no_covariates_of_arrays():
    data = pv.data.from_arrays(torch.randn(20, 2), c=torch.randn(20, 1), valid=0, test=0)
    trained = pv.method("cvae", data, latent_dim=1, hidden=[4], epochs=1).fit(progress=False)
    with pytest.raises(pv.UserError, match="no columns of a frame: pass an array c"):
        trained.sample(c={"age": [1.0]})


def test_all_columns_that_cannot_be_used_are_named_at_once():
    names = [f"name {i}" for i in range(40)]
    frame = {**people(), "id": names, "empty": [None] * 40, "other": names}
    with pytest.raises(
        pv.UserError, match="2 other columns cannot be used either: 'empty', 'other'"
    ):
        pv.data.from_frame(frame)


def test_covariates_on_the_command_line(tmp_path, capsys):
    path, rows, out = tmp_path / "people.csv", tmp_path / "rows.csv", tmp_path / "run"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(people())
        writer.writerows(zip(*people().values(), strict=True))
    small = ["--hidden", "[8]", "--epochs", "1", "--num-samples", "5", "--progress", "false"]
    fit = ["fit", "cvae", "--data", str(path), "--covariates", "sex", "age", *small]
    assert main([*fit, "--out", str(out)]) == 0
    rows.write_text("age,note,sex\n30,a,m\n60,b,f\n")
    assert main(["sample", str(out), "--c", str(rows)]) == 0
    with open(out / "samples.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["sex"], row["age"]) for row in written] == [("m", "30"), ("f", "60")]
    rows.write_text("age,sex\n30,m\n60,x\n")
    capsys.readouterr()
    assert main(["sample", str(out), "--c", str(rows)]) == 1
    assert "unknown category of column 'sex' 'x'; known: f, m (line 3)" in capsys.readouterr().err


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("library_size", [False, True])
def test_covariates_of_anndata_are_columns_of_obs(sparse, library_size):
    anndata = pytest.importorskip("anndata")
    from scipy.sparse import csr_matrix

    counts = np.random.default_rng(1).poisson(3.0, (40, 5)) + 1.0
    adata = anndata.AnnData(csr_matrix(counts) if sparse else counts)
    adata.obs["batch"], adata.obs["type"] = SEX, ["t", "b"] * 20
    options = {"library_size": library_size, "valid": 0, "test": 0}
    data = pv.data.from_anndata(adata, labels="type", covariates=["batch"], **options)
    assert (data.sparse is not None) == sparse
    c = torch.tensor([[s == "f", s == "m"] for s in SEX]).float()
    arrays = pv.data.from_arrays(torch.tensor(counts), c=c, **options)
    torch.testing.assert_close(data.observed_split("train").c, arrays.train.c)
    runs = [
        pv.method("cvae", each, latent_dim=2, hidden=[8], epochs=1).fit(progress=False)
        for each in (data, arrays)
    ]
    codes = runs[0].encode(adata)
    expected = runs[1].encode(torch.tensor(counts), c=c)["z"]
    np.testing.assert_allclose(codes[["z_0", "z_1"]].to_numpy(), expected, rtol=1e-4, atol=1e-5)
    given = runs[0].sample(c=adata.obs[:4], seed=1)
    torch.testing.assert_close(given, runs[1].sample(c=c[:4], seed=1))


def test_the_explorer_names_covariates_by_their_columns(run, tmp_path):
    pytest.importorskip("plotly")
    run.explore(tmp_path / "explore.html")
    page = (tmp_path / "explore.html").read_text()
    assert "age 20, sex f" in page and "that of data point" not in page


def test_a_list_of_covariates_may_be_an_array():
    data = pv.data.from_frame(people(), covariates=np.array(["age", "sex"]))
    assert data.c_shape == (3,)


def test_edited_covariates_are_other_data():
    def prints(**change):
        frame = {**people(), **change}
        data = pv.data.from_frame(frame, covariates=["age", "sex"])
        return data.fingerprint(), pv.data.standardize(data, "c").fingerprint()

    own = prints()
    assert own == prints()
    assert all(a != b for a, b in zip(own, prints(age=AGE[::-1]), strict=True))
    assert all(a != b for a, b in zip(own, prints(age=[a + 1 for a in AGE]), strict=True))
    swapped = ["f" if sex == "m" else "m" for sex in SEX]
    assert all(a != b for a, b in zip(own, prints(sex=swapped), strict=True))


def test_a_comparison_of_runs_does_not_read_numbers_of_other_covariates(tmp_path):
    path, out = tmp_path / "t.csv", tmp_path / "run"
    columns = {**people(), "age": AGE}

    def write():
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])

    write()
    options = {"covariates": ["age"], "drop": ["sex"], "hidden": [4], "epochs": 1}
    pv.method("cvae", str(path), **options).fit(out=out, progress=False)
    pv.comparison.compare_runs({out: pv.load(out)}, "test", 5, num_gap_data=0)
    columns["age"] = AGE[::-1]
    write()
    with pytest.raises(pv.UserError, match="was trained on other data .values of c."):
        pv.comparison.compare_runs({out: pv.load(out)}, "test", 5, num_gap_data=0)


def test_covariates_are_written_as_they_are_used(run):
    frame = run.sample_frame(c={"age": [30.7, 60.1], "sex": ["m", "f"]})
    assert frame["age"].tolist() == [30.7, 60.1]


def test_a_table_with_covariates_has_no_other_condition():
    data = pv.data.from_frame(people(), covariates=["age"], labels="sex")
    with pytest.raises(
        pv.UserError, match="covariates, age, which condition='labels' would not take"
    ):
        pv.method("cvae", data, condition="labels").fit(progress=False)


def test_a_variable_and_a_covariate_of_one_name_are_refused():
    anndata = pytest.importorskip("anndata")
    adata = anndata.AnnData(np.ones((4, 2)))
    adata.var_names, adata.obs["batch"] = ["batch", "g"], list("abab")
    with pytest.raises(pv.UserError, match="'batch' is a column of obs and a variable, too"):
        pv.data.from_anndata(adata, covariates=["batch"])
