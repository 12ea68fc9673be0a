"""Sparse counts: the numbers of the dense matrix, and never more dense rows than a batch."""

import numpy as np
import pytest
import torch
from scipy import sparse

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.data.sparse import SparseRows

NET = MLP((6,))
RNG = np.random.default_rng(0)
DENSE = RNG.poisson(0.7, (90, 12)).astype(np.float32)
DENSE[:, 0] += 1  # no row is empty
MATRIX = sparse.csr_matrix(DENSE)
Y = np.arange(90) % 3


def pair(likelihood="negative-binomial", seed=0):
    torch.manual_seed(seed)
    model = pv.models.MixtureVAE((12,), 3, 2, likelihood=likelihood, network=NET)
    return model, pv.guides.Guide(model, network=NET)


class LastColumns(pv.data.Condition):
    def __call__(self, x, y):
        return x[:, :-3], x[:, -3:]


def weights(run):
    return [v for m in (run.model, run.guide) for v in m.state_dict().values()]


@pytest.fixture
def dense_rows(monkeypatch):
    """The numbers of rows that became dense at once."""
    sizes, dense = [], SparseRows.dense

    def recording(self, rows):
        sizes.append(len(rows))
        return dense(self, rows)

    monkeypatch.setattr(SparseRows, "dense", recording)
    monkeypatch.setattr(type(MATRIX), "toarray", _refuse_large(type(MATRIX).toarray))
    return sizes


def _refuse_large(toarray):
    def small(self, *arguments, **options):
        assert self.shape[0] <= 20, "the whole matrix became dense"
        return toarray(self, *arguments, **options)

    return small


@pytest.mark.parametrize("form", ["coo_matrix", "csr_array"])
def test_a_sparse_matrix_has_the_run_of_the_dense_one(form):
    dense = pv.data.from_arrays(DENSE, Y, valid=20, test=10)
    held = pv.data.from_arrays(getattr(sparse, form)(MATRIX), Y, valid=20, test=10)
    assert held.likelihood == dense.likelihood and held.x_shape == dense.x_shape
    for split in ("train", "valid", "test"):
        a, b = (d.observed_split(split) for d in (dense, held))
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
    options = {"epochs": 2, "batch_size": 16, "compile": False, "progress": False}
    runs = [pv.fit(*pair(), d, **options) for d in (dense, held)]
    for a, b in zip(*map(weights, runs), strict=True):
        assert torch.equal(a, b)
    results = [run.evaluate("test", num_samples=3) for run in runs]
    assert {**results[0]} == {**results[1]}


def test_no_more_rows_than_a_batch_are_dense_in_training(dense_rows, monkeypatch):
    monkeypatch.setattr(pv.train.inputs, "VALUES_PER_CHECK", 16 * 12)
    held = pv.data.from_arrays(MATRIX, valid=0, test=0, library_size=True)
    pv.fit(*pair(held.likelihood), held, epochs=2, batch_size=16, progress=False)
    assert max(dense_rows) == 16 and len(dense_rows) > 12


def test_new_sparse_rows_are_encoded_by_parts(dense_rows, monkeypatch):
    monkeypatch.setattr(pv.methods.new_data, "SPARSE_ROWS", 20)
    monkeypatch.setattr(pv.evaluate.streaming, "SPARSE_ROWS", 20)
    model, guide = pair()
    run = pv.Run(model, guide, data=pv.data.from_arrays(MATRIX, valid=0, test=0))
    expected = pv.evaluate.encode(model, guide, DENSE)["z"]
    torch.testing.assert_close(run.encode(MATRIX)["z"], expected)
    torch.testing.assert_close(run.encode(DENSE)["z"], expected)
    result = run.evaluate(data=MATRIX, num_samples=2)
    assert result["data"] == 90 and result["units"] == {"z": 2}
    estimate = pv.evaluate.mean_over_batches(pv.evaluate.elbo, model, guide, MATRIX)
    assert estimate.num_data == 90 and max(dense_rows) <= 20


def test_a_method_clusters_sparse_counts(tmp_path):
    small = {"hidden": [6], "latent_dim": 2, "w_dim": 2, "epochs": 1, "initialize.epochs": 1}
    small |= {"compile": False, "fits": 1, "num_components": 3, "vaes": 1, "library_size": True}
    runs = []
    for x in (MATRIX, DENSE):
        method = pv.method("gmvae", pv.data.from_arrays(x, Y), **small)
        runs.append(method.fit(progress=False))
    for a, b in zip(*map(weights, runs), strict=True):
        assert torch.equal(a, b)
    runs[0].save(tmp_path / "run")
    again = pv.load(tmp_path / "run", data=pv.data.from_arrays(MATRIX, Y))
    torch.testing.assert_close(again.encode(MATRIX)["z"], runs[0].encode(DENSE)["z"])
    assert runs[0].evaluate("test", 2)["clustering"] == runs[1].evaluate("test", 2)["clustering"]


@pytest.mark.parametrize("library_size", [False, True])
def test_a_conditional_model_of_sparse_counts_is_conditioned_on_labels(library_size, tmp_path):
    anndata = pytest.importorskip("anndata")
    cells = anndata.AnnData(MATRIX.copy(), obs={"type": np.array(list("abc"))[Y]})
    options = {"hidden": [6], "latent_dim": 2, "epochs": 1, "compile": False}
    sets = [pv.data.from_arrays(x, Y, library_size=library_size) for x in (DENSE, MATRIX)]
    sets.append(pv.data.from_anndata(cells, labels="type", library_size=library_size))
    runs = [pv.method("cvae", data, **options).fit(progress=False) for data in sets]
    assert {run.config["condition"] for run in runs} == {"labels"} and runs[1].data.sparse
    new = [(DENSE[:9], Y[:9]), (MATRIX[:9], Y[:9]), cells[:9]]
    one_hot = torch.eye(3)[torch.from_numpy(Y[:9])]
    model, guide = runs[0].model, runs[0].guide
    codes = pv.evaluate.encode(model, guide, DENSE[:9], c=one_hot)["z"]
    for run, rows in zip(runs, new, strict=True):
        for a, b in zip(weights(run), weights(runs[0]), strict=True):
            assert torch.equal(a, b)
        assert {**run.evaluate("test", num_samples=2)} == {**runs[0].evaluate("test", 2)}
        found = run.encode(rows)
        found = found["z"] if isinstance(found, dict) else torch.tensor(found.to_numpy())
        torch.testing.assert_close(found, codes)
        a, b = (r.log_likelihood(x, num_samples=2) for r, x in ((run, rows), (runs[0], new[0])))
        torch.testing.assert_close(a, b)
        results = [r.evaluate(data=x, num_samples=2) for r, x in ((run, rows), (runs[0], new[0]))]
        assert results[0]["elbo"] == pytest.approx(results[1]["elbo"])
        assert torch.equal(run.sample(4, y=1), runs[0].sample(4, y=1))
        with pytest.raises(pv.UserError, match="conditions on labels, and these data have none"):
            run.encode(DENSE)
    runs[1].save(tmp_path / "run")
    again = pv.load(
        tmp_path / "run", data=pv.data.from_arrays(MATRIX, Y, library_size=library_size)
    )
    torch.testing.assert_close(again.encode(new[1])["z"], codes)


def test_a_condition_of_sparse_rows_is_applied_to_dense_rows():
    condition = LastColumns()
    data = pv.data.from_arrays(MATRIX, valid=20, test=10).with_condition(condition)
    assert data.x_shape == (9,) and data.c_shape == (3,) and data.sparse is not None
    dense = pv.data.from_arrays(DENSE, valid=20, test=10).with_condition(condition)
    for split in ("train", "valid", "test"):
        a, b = (d.observed_split(split) for d in (data, dense))
        assert torch.equal(a.x, b.x) and torch.equal(a.c, b.c)
    assert data.with_condition(None).x_shape == (12,)
    with pytest.raises(pv.UserError, match=r"Labels\(3\) conditions on labels 0..2; found -1..1"):
        pv.data.from_arrays(MATRIX, Y - 1).with_condition(pv.data.Labels(3))
    with pytest.raises(pv.UserError, match="has the condition .*LastColumns.* already"):
        pv.data.prepare(
            pv.data.from_arrays(MATRIX, Y).with_condition(condition), condition="labels"
        )


def test_arrays_by_name_beside_a_sparse_matrix_need_no_covariates():
    data = pv.data.from_arrays({"x": MATRIX, "ys": Y}, valid=0, test=0)
    assert data.observed_names(["x"]) == ("x", "ys")


def test_covariates_belong_to_their_rows():
    c = torch.arange(90.0).unsqueeze(1)
    data = pv.data.from_arrays(MATRIX, c=c, valid=20, test=10)
    assert data.c_shape == (1,)
    for split in ("train", "valid"):
        part = data.observed_split(split)
        assert torch.equal(part.x, torch.from_numpy(DENSE[part.c[:, 0].long()]))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: pv.data.from_arrays(MATRIX / 3), "holds other numbers: pass x.toarray"),
        (lambda: pv.data.from_arrays(-MATRIX), "holds other numbers: pass x.toarray"),
        (lambda: pv.data.from_arrays(MATRIX * 2**25), "which float32 cannot tell"),
        (lambda: pv.data.from_arrays(MATRIX, binarize="static"), "sparse: pass x.toarray"),
        (lambda: pv.data.standardize(pv.data.from_arrays(MATRIX)), "sparse: pass x.toarray"),
    ],
)
def test_what_cannot_stay_sparse_is_refused(make, message):
    with pytest.raises(pv.UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_sparse_data_print_their_covariates():
    counts = sparse.csr_matrix(np.eye(6, dtype=int))
    data = pv.data.from_arrays(counts, c=torch.randn(6, 2), valid=0, test=0)
    assert repr(data) == "Data('data': 6 train; x [6], c [2], sparse)"
