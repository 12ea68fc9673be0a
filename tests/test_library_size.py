"""Counts with an observed library size: closed forms, encoders, data, and the command line."""

import csv

import numpy as np
import pytest
import torch
from commands import main, parsed_fit
from scipy import sparse, stats

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Columns, Conditional, LibrarySize, LogNormalize
from pyro_vae.conditionals.library_size import COUNTS

NET = MLP((8,))
SMALL = ["--hidden", "[4]", "--latent-dim", "2", "--epochs", "1"]
X = torch.poisson(
    torch.tensor([1.0, 4.0, 9.0, 2.0]).expand(40, 4), generator=torch.Generator().manual_seed(0)
)


def softmax(f):
    e = np.exp(f - f.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("counts", COUNTS)
def test_the_density_is_that_of_counts_with_the_library_size_as_offset(counts):
    """A fixed decoder f: the mean of count g is l softmax(f)_g, and l the sum of the row."""
    family = LibrarySize(counts, size=100.0)
    p = Conditional((4,), {"z": (2,)}, family, MLP(())).double()
    z = torch.randn(6, 2, dtype=torch.float64)
    x = X[:6].double() * torch.tensor([[1.0], [10], [100], [1], [7], [1]])
    parameters = p.head(z=z).detach().numpy()
    mean = x.sum(1, keepdim=True).numpy() * softmax(parameters[:, -4:])  # the log-mean is last
    if counts == "poisson":
        expected = stats.poisson(mean).logpmf(x)
    else:
        with torch.no_grad():
            p.unconditional_parameters["log_r"].copy_(torch.tensor([-1.0, 0.0, 0.5, 1.0]))
        r = np.exp(7 * np.tanh(np.array([-1.0, 0.0, 0.5, 1.0]) / 7))
        expected = stats.nbinom(r, r / (r + mean)).logpmf(x)
    if counts == "zero-inflated-negative-binomial":
        gate = 1 / (1 + np.exp(-parameters[:, :4]))
        expected = np.log(gate * (x.numpy() == 0) + (1 - gate) * np.exp(expected))
    fn = p(z=z)
    np.testing.assert_allclose(fn.log_prob(x).detach(), expected.sum(1), rtol=1e-9)
    expected_mean = 100 * softmax(parameters[:, -4:])
    if counts == "zero-inflated-negative-binomial":
        expected_mean = (1 - gate) * expected_mean  # extra zeros take their part of the total
        assert (fn.mean.sum(-1) < 95).all()
    else:
        np.testing.assert_allclose(fn.mean.sum(-1).detach(), np.full(6, 100.0), rtol=1e-9)
    np.testing.assert_allclose(fn.mean.detach(), expected_mean, rtol=1e-9)
    draws = fn.expand([3, 6]).sample((500,))
    assert draws.shape == (500, 3, 6, 4) and (draws >= 0).all()
    np.testing.assert_allclose(draws.mean((0, 1)), fn.mean.detach(), atol=25)


def test_the_evidence_is_that_of_a_quadrature():
    family = LibrarySize("poisson", size=16.0)
    model = pv.models.VAE((4,), 1, family, MLP(())).double()
    guide = pv.guides.PriorGuide(model)
    found = pv.evaluate.log_likelihood(model, guide, X[:3], num_samples=20_000)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    w, b = (v.detach().numpy() for v in (model.p_x.head.maps["z"].weight, model.p_x.head.bias))
    proportions = softmax(z.numpy()[:, None] * w.T + b)
    for row, value in zip(X[:3].numpy(), found, strict=True):
        log_p = stats.poisson(row.sum() * proportions).logpmf(row).sum(1)
        exact = np.log(np.trapezoid(np.exp(log_p) * stats.norm.pdf(z), z))
        assert float(value) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(
    "network", [None, NET, MLP(()), lambda n: torch.nn.Sequential(torch.nn.Linear(n, 5))]
)
def test_rows_that_differ_in_depth_alone_have_one_posterior(network):
    model = pv.models.MixtureVAE((4,), 3, 2, likelihood=LibrarySize("negative-binomial", 50.0))
    guide = pv.guides.Guide(model, network=network)
    codes = [pv.evaluate.encode(model, guide, depth * X)["z"] for depth in (1, 5, 200)]
    torch.testing.assert_close(codes[1], codes[0])
    torch.testing.assert_close(codes[2], codes[0])
    assert (codes[0][0] != codes[0][1]).all()
    raw = pv.guides.Guide(pv.models.VAE((4,), 2, likelihood="poisson"), network=NET)
    assert not torch.allclose(*(raw.factors["z"](x=d * X).mean for d in (1, 5)))


def test_the_encoder_sees_log_normalized_counts():
    q = Conditional((2,), {"x": (4,)}, network=LogNormalize(MLP(()), size=30.0))
    x = torch.tensor([[1.0, 2, 3, 0]])
    seen = torch.tensor([[5.0, 10, 15, 0]]).log1p()
    torch.testing.assert_close(q.features(x=x)["x"], seen)


@pytest.mark.parametrize("likelihood", ["poisson", Columns((("poisson", 2), ("normal", 2)))])
def test_the_encoder_sees_the_logarithms_of_counts(likelihood):
    model = pv.models.VAE((4,), 2, likelihood)
    q = pv.guides.Guide(model, network=MLP(())).factors["z"]
    x = torch.tensor([[45_000.0, 2, 3, 1]])
    seen = x.log1p() if likelihood == "poisson" else torch.cat([x[:, :2].log1p(), x[:, 2:]], 1)
    torch.testing.assert_close(q.features(x=x)["x"], seen)
    own = pv.guides.Guide(model, network=MLP(()), input_scaling={"x": (1.0, 2.0)}).factors["z"]
    torch.testing.assert_close(own.features(x=x)["x"], x)  # which the guide has scaled


@pytest.mark.slow
def test_the_recorded_step_is_the_plain_one():
    weights = []
    for compile in (False, "recorded"):
        torch.manual_seed(0)
        model = pv.models.VAE((4,), 2, LibrarySize("poisson", 16.0), NET)
        guide = pv.guides.Guide(model, network=NET)
        pv.fit(model, guide, X, epochs=2, batch_size=20, compile=compile, progress=False)
        weights.append(model.p_x.head.bias.detach())
    torch.testing.assert_close(*weights)


# ------------------------------------------------------------------------------------ data


def test_arrays_and_frames_of_counts_have_the_median_library_size():
    data = pv.data.from_arrays(X, library_size=True, valid=8, test=0)
    size = float(data.train.x.sum(1).median())
    assert data.likelihood == LibrarySize("negative-binomial", size)
    poisson = pv.data.from_arrays(X, library_size=True, likelihood="poisson", valid=8, test=0)
    assert poisson.likelihood == LibrarySize("poisson", size)
    columns = {f"gene {i}": X[:, i].long().numpy() for i in range(4)}
    frame = pv.data.from_frame(columns, library_size=True, valid=8, test=0)
    assert frame.likelihood == data.likelihood


def impute(model):
    observed = torch.tensor([True, True, True, False])
    return pv.impute(model, pv.guides.Guide(model, network=NET), X, observed, steps=1)


EMPTY, GAP = X.clone(), X.clone()
EMPTY[3] = 0
GAP[3, 1] = float("nan")


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: pv.data.from_arrays(EMPTY, library_size=True, valid=0, test=0),
            "1 of 40 rows have no counts",
        ),
        (lambda: pv.data.from_arrays(X / 3, library_size=True), "has the likelihood 'normal'"),
        (
            lambda: pv.data.from_arrays(GAP, library_size=True, missing=True),
            "without missing values",
        ),
        (
            lambda: pv.data.from_frame({"a": [1, 3, 2], "b": [0.5, 1.5, 2]}, library_size=True),
            "library_size= is for counts alone",
        ),
        (lambda: LibrarySize("normal"), "unknown likelihood of counts 'normal'"),
        (lambda: LibrarySize(size=0.0), "size must be positive"),
        (lambda: pv.models.VAE((1, 2, 2), 2, LibrarySize()), r"rows of counts \[N, G\]"),
        (lambda: pv.conditionals.IgnoreMissing(LibrarySize()), "missing counts has no library"),
        (
            lambda: pv.method("vae", X, library_size=True, likelihood="normal"),
            "library_size is for counts: the likelihood is one of poisson",
        ),
        (
            lambda: pv.diagnostics.bdmc(pv.models.VAE((4,), 2, LibrarySize()), num_data=2),
            "cannot be simulated for this",
        ),
        (lambda: impute(pv.models.VAE((4,), 2, LibrarySize(), NET)), "independent"),
    ],
)
def test_what_has_no_library_size_is_refused(make, message):
    with pytest.raises(pv.UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_extra_zeros_take_their_part_of_the_library_size():
    """The probability 1/4 of an extra zero, and a library size of 80: a mean total of 60."""
    m = torch.tensor([0.5, 0.25, 0.25])
    gate, log_r = torch.full((3,), 1 / 3).log(), torch.tensor(5.0).log().expand(3)
    counts = pv.distributions.ZeroInflatedNegativeBinomial(gate, m.log(), log_r)
    fn = pv.distributions.CountsOfRow(counts, size=80.0)
    torch.testing.assert_close(fn.mean, torch.tensor([30.0, 15, 15]))
    torch.manual_seed(0)
    assert float(fn.sample((20_000,)).sum(-1).mean()) == pytest.approx(60, abs=1)
    x = torch.tensor([30.0, 0, 10])  # the negative binomial has the library size 40 of the row
    p = stats.nbinom(5, 5 / (5 + 40 * m.numpy())).pmf(x.numpy())
    expected = np.log(0.25 * (x.numpy() == 0) + 0.75 * p).sum()
    assert float(fn.log_prob(x)) == pytest.approx(expected, rel=1e-5)


NEW_EMPTY = np.array([[0, 1, 2, 3], [0, 0, 0, 0], [4, 0, 0, 0]])


@pytest.mark.parametrize("form", ["array", "sparse", "anndata", "loader"])
@pytest.mark.parametrize("function", ["encode", "reconstruct", "log_likelihood", "evaluate"])
def test_a_new_row_without_counts_is_refused_as_in_training(form, function):
    whole, new = X.numpy().astype(int), NEW_EMPTY
    if form == "sparse":
        whole, new = (sparse.csr_matrix(v) for v in (whole, new))
    if form == "anndata":
        cells = pytest.importorskip("anndata").AnnData
        whole, new = (cells(sparse.csr_matrix(v.astype(np.float32))) for v in (whole, new))
    data = pv.data.as_data(whole)
    model = pv.models.VAE((4,), 2, LibrarySize(size=16.0), NET)
    run = pv.Run(model, pv.guides.Guide(model, network=NET), data=data)
    new = torch.utils.data.DataLoader(torch.tensor(new), 2) if form == "loader" else new
    with pytest.raises(pv.UserError, match="x has rows without counts, and so without a") as error:
        run.evaluate(data=new) if function == "evaluate" else getattr(run, function)(new)
    assert "\n" not in str(error.value)


def test_a_pair_by_hand_refuses_rows_without_counts():
    model = pv.models.VAE((4,), 2, LibrarySize(size=16.0), NET)
    guide = pv.guides.Guide(model, network=NET)
    for make in (
        lambda: pv.fit(model, guide, EMPTY, epochs=1, progress=False),
        lambda: pv.evaluate.elbo(model, guide, EMPTY),
        lambda: pv.evaluate.log_likelihood(model, guide, EMPTY, num_samples=2),
    ):
        with pytest.raises(pv.UserError, match="rows of whole numbers from 0, not all of them 0"):
            make()


@pytest.mark.parametrize("name", [None, "poisson"])
def test_a_method_trains_with_a_library_size_and_is_loaded_again(name, tmp_path):
    chosen = {} if name is None else {"likelihood": name}
    options = {"hidden": [8], "latent_dim": 2, "epochs": 1, "library_size": True, **chosen}
    method = pv.method("vampprior", X, num_components=3, **options)
    run = method.fit(out=tmp_path / "run", progress=False)
    family = run.model.p_x.family
    assert family == LibrarySize(name or "negative-binomial", float(X.sum(1).median()))
    codes = run.encode(X)["z"]
    torch.testing.assert_close(run.encode(7 * X)["z"], codes)
    again = pv.load(tmp_path / "run", data=X)
    torch.testing.assert_close(again.encode(X)["z"], codes)
    means = run.reconstruct(X)
    torch.testing.assert_close(means.sum(1), torch.full((40,), family.size))
    assert run.sample(5).shape == (5, 4)


def test_a_table_of_counts_trains_from_the_command_line(tmp_path, capsys):
    path, out = tmp_path / "counts.csv", tmp_path / "run"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "d"], *X.long().tolist()])
    name = "zero-inflated-negative-binomial"
    fit = ["fit", "vae", "--data", str(path), "--library-size", "true", "--out", str(out)]
    assert main([*fit, "--likelihood", name, "--print-config"]) == 0
    config = tmp_path / "config.yaml"
    config.write_text(capsys.readouterr().out)
    options, *_ = parsed_fit(["--config", str(config), *SMALL])
    method = pv.methods.Method(options)
    family = method.model.p_x.family
    assert isinstance(family, LibrarySize) and family.counts == name
    assert main([*fit, "--likelihood", "normal"]) == 1
    assert "library_size is for counts" in capsys.readouterr().err and not out.exists()


def test_the_size_is_the_middle_of_the_totals_of_an_even_number_of_rows():
    x = torch.tensor([[60.0, 40]] * 10 + [[500.0, 500]] * 10)
    data = pv.data.from_arrays(x, library_size=True, valid=0, test=0)
    assert data.likelihood.size == 550
