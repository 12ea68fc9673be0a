"""The densities that a run reports are of x in its original units."""

import dataclasses
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Columns, IgnoreMissing, MultivariateNormal
from pyro_vae.methods.command import reproduction

SCALES = torch.tensor([1000.0, 0.5, 3.0])
NET = MLP((4,))
QUIET = {"progress": False, "compile": False}


def table(missing: bool = False) -> torch.Tensor:
    """Columns of different scales `[60, 3]`."""
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * SCALES + 5
    if missing:
        x[::4, 0] = x[1::5, 2] = math.nan
    return x


def trained(data: pv.data.Data, likelihood: object = "normal") -> pv.Run:
    torch.manual_seed(0)
    model = pv.models.VAE((3,), 1, likelihood, NET)
    return pv.fit(model, pv.guides.Guide(model, network=NET), data, epochs=2, **QUIET)


@pytest.mark.parametrize("missing", [False, True])
def test_evaluate_and_log_likelihood_report_the_same_density(missing):
    x = table(missing)
    likelihood = pv.conditionals.IgnoreMissing("normal") if missing else "normal"
    data = pv.data.standardize(pv.data.from_arrays(x, valid=0, test=20, missing=missing))
    run = trained(data, likelihood)
    original = data.unstandardize(data.test.x)
    expected = float(run.log_likelihood(original, num_samples=50, seed=run.seed).double().mean())
    inputs = {"x": data.test.x}
    terms = pv.evaluate.elbo_terms(run.model, run.guide, **inputs, num_samples=10, seed=run.seed)
    observed = ~data.test.x.isnan()
    log_volume = (observed * data.scaling[1].log()).sum(1).mean()
    for result in (run.evaluate("test", 50), run.evaluate(data=original, num_samples=50)):
        assert result["log_likelihood"] == pytest.approx(expected, abs=1e-4)
        reconstruction = float(terms["x"].mean() - log_volume)
        assert result["terms"]["x"] == pytest.approx(reconstruction, abs=1e-4)
        assert result["terms"]["z"] == pytest.approx(float(terms["z"].mean()), abs=1e-4)
        assert result["elbo"] == pytest.approx(sum(result["terms"].values()), abs=1e-4)


def test_batches_of_new_data_are_reported_in_original_units():
    run = trained(pv.data.standardize(pv.data.from_arrays(table(), valid=0, test=20)))
    x = table()[:20]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=7)
    batched, whole = (run.evaluate(data=d, num_samples=500) for d in (loader, x))
    assert batched["log_likelihood"] == pytest.approx(whole["log_likelihood"], abs=0.2)


def test_the_density_of_what_a_condition_selects_has_the_scales_of_its_columns():
    class LastColumn(pv.data.Condition):
        def __call__(self, x, y):
            return x[:, :-1], x[:, -1:]

    data = pv.data.standardize(pv.data.from_arrays(table(), valid=0, test=0))
    x = data.with_condition(LastColumn()).observed_split("train").x
    log_volume = data.with_condition(LastColumn()).log_abs_det_jacobian(x)
    torch.testing.assert_close(log_volume, data.scaling[1][:2].float().log().sum().expand(60))


def test_a_site_of_the_data_with_another_name_is_reported_as_the_density_of_x():
    class Model(torch.nn.Module):
        def forward(self, data):
            with pyro.plate("data", len(data)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                x = dist.Normal(z.unsqueeze(-1), torch.ones(3)).to_event(1)
                pyro.sample("obs", x, obs=data)

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, data):
            with pyro.plate("data", len(data)):
                pyro.sample("z", dist.Normal(self.weight * data.sum(-1), 0.5))

    data = pv.data.standardize(pv.data.from_arrays(table(), valid=0, test=20))
    result = pv.fit(Model(), Guide(), data, epochs=1, **QUIET).evaluate(num_samples=20)
    assert set(result["terms"]) == {"x", "z"}
    assert result["elbo"] == pytest.approx(sum(result["terms"].values()), abs=1e-4)
    assert "KL of obs" not in str(result)


@pytest.mark.slow
def test_a_comparison_has_the_densities_of_the_runs():
    data = pv.data.standardize(pv.data.from_arrays(table(), valid=20, test=20))
    vae = partial(pv.models.VAE, (3,), 2, "normal", NET)
    guides = {"amortized": partial(pv.guides.Guide, network=NET)}
    options = {"seeds": 1, "epochs": 1, "num_samples": 20, "num_gap_data": 20, **QUIET}
    few = {"annealing": False}
    here, plain = (
        pv.compare(vae, guides, d, gap_options=few, **options)
        for d in (data, dataclasses.replace(data, scaling=None))
    )
    log_volume = float(data.scaling[1].log().sum())
    for name in ("valid_elbo", "elbo", "log_likelihood", "gap_log_likelihood"):
        assert here.rows[0][name] == pytest.approx(plain.rows[0][name] - log_volume, abs=1e-3)
    for name in ("approximation", "amortization", "ess"):
        assert here.rows[0][name] == pytest.approx(plain.rows[0][name], abs=1e-3)
    grids = [result.posteriors["amortized"].log_likelihood for result in (here, plain)]
    torch.testing.assert_close(grids[0], grids[1] - log_volume)


def test_what_stays_in_the_units_of_training_says_so(tmp_path):
    run = trained(pv.data.standardize(pv.data.from_arrays(table(), valid=20, test=20)))
    assert "of standardized x" in repr(run) and "of standardized x" in str(run)
    run.report(tmp_path / "report.html", num_samples=10)
    assert "of the standardized columns" in (tmp_path / "report.html").read_text()
    plain = trained(pv.data.from_arrays(table(), valid=20, test=20))
    assert "standardized" not in repr(plain) + str(plain)


# ------------------------------------------------------- a condition takes columns of x


class LastColumn(pv.data.Condition):
    """The last column is given; the data are shown whole."""

    def __call__(self, x, y):
        return x[:, :-1], x[:, -1:]

    def join(self, x, c):
        return torch.cat([x, c], -1)


@pytest.fixture(scope="module")
def given_a_column():
    data = pv.data.from_arrays(table(), valid=0, test=20).with_condition(LastColumn())
    options = {"latent_dim": 1, "epochs": 2, "hidden": [4]}
    return pv.method("cvae", data, **options).fit(progress=False)


def test_what_a_conditional_run_generates_has_original_units(given_a_column):
    run = given_a_column
    mean, sd = run.data.scaling
    split = run.data.observed_split("test")
    original = run.data.unstandardize(run.data.test.x)
    means = pv.evaluate.reconstruct(run.model, run.guide, split.x, c=split.c)
    expected = (means * sd[:2] + mean[:2]).float()
    torch.testing.assert_close(run.reconstruct(original), expected, rtol=1e-4, atol=1e-3)
    samples = run.sample(5, mean=False)
    assert samples.shape == (5, 3)  # joined with the column that is given, in its own units
    assert any(torch.isclose(samples[0, 2], x, atol=1e-4) for x in original[:, 2]) or any(
        torch.isclose(samples[0, 2], x, atol=1e-4)
        for x in run.data.unstandardize(run.data.train.x)[:, 2]
    )
    assert run.impute(original).shape == (1, 20, 2)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("as_array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_observed_values_of_float64_arrays_are_returned_as_they_came(as_array, standardize):
    rng = np.random.default_rng(0)
    x = 1e3 + rng.normal(size=(60, 3))
    x[::4, 1] = np.nan
    options = {"missing": True, "standardize": standardize, "hidden": [4], "epochs": 1}
    run = pv.method("vae", x, latent_dim=1, **options).fit(progress=False)
    drawn = run.impute(as_array(x), num_samples=2, steps=3)
    assert drawn.dtype == torch.float64 and not drawn.isnan().any()
    observed = torch.from_numpy(~np.isnan(x)).expand(2, -1, -1)
    assert torch.equal(drawn[observed], torch.from_numpy(x).expand(2, -1, -1)[observed])
    assert run.impute(torch.from_numpy(x).float(), steps=3).dtype == torch.float32


def test_new_data_of_a_conditional_run_are_scored_as_its_test_split(given_a_column, tmp_path):
    run = given_a_column
    original = run.data.unstandardize(run.data.test.x)
    known, new = run.evaluate("test", 20), run.evaluate(data=original, num_samples=20)
    assert new["log_likelihood"] == pytest.approx(known["log_likelihood"], abs=1e-4)
    assert new["elbo"] == pytest.approx(known["elbo"], abs=1e-4)
    log_likelihood = run.log_likelihood(original, num_samples=20, seed=run.seed).mean()
    assert float(log_likelihood) == pytest.approx(known["log_likelihood"], abs=1e-4)
    assert run.report(tmp_path / "report.html", num_samples=5)["elbo"] == pytest.approx(
        known["elbo"], abs=1e-4
    )


def test_a_frame_is_not_made_of_some_of_its_columns():
    frame = {name: table()[:, i].numpy() for i, name in enumerate("abc")}
    data = pv.data.from_frame(frame, valid=0, test=20).with_condition(LastColumn())
    run = pv.method("cvae", data, latent_dim=1, epochs=1, hidden=[4]).fit(progress=False)
    with pytest.raises(pv.UserError, match="the table has 3 columns of x"):
        run.reconstruct(frame)
    assert list(run.sample_frame(2)) == ["a", "b", "c"]  # `join` makes them whole


# ---------------------------------------------------------------------- covariates c


def incomes(n=80):
    """`(x [N, 2], c [N, 3])`: covariates in large units, a constant, and a class."""
    generator = torch.Generator().manual_seed(0)
    income = 5e4 + 1.5e4 * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    is_owner = (torch.arange(n) % 3 == 0).double().unsqueeze(1)
    return income / 1e4 + noise, torch.cat([income, torch.full_like(income, 0.1), is_owner], 1)


SMALL = {"latent_dim": 1, "epochs": 2, "hidden": [4]}


@pytest.fixture(scope="module")
def given_incomes():
    x, c = incomes()
    data = pv.data.from_arrays(x, c=c, valid=0, test=20)
    return pv.method("cvae", data, **SMALL).fit(progress=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("likelihood", ["normal", IgnoreMissing("normal"), MultivariateNormal()])
def test_a_likelihood_of_real_numbers_does_not_depend_on_their_units(likelihood):
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    units, shift = torch.tensor([1.0, 100.0, 0.01]), torch.tensor([1e4, 0.0, -1.0])
    options = {"latent_dim": 2, "hidden": [4], "epochs": 2, "seed": 0}

    def score(values):
        data = pv.data.from_arrays(values, likelihood=likelihood)
        run = pv.method("vae", data, **options).fit(progress=False)
        return run.log_likelihood(values, num_samples=20)

    plain, other = score(x), score(x * units + shift)
    torch.testing.assert_close(other, plain - units.log().sum(), atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_of_several_likelihoods_the_real_columns_are_standardized():
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((60, 1), 3.0), generator=generator)
    x = torch.cat([torch.randn(60, 2, generator=generator) * 100, counts], 1)
    likelihood = Columns((("normal", 2), ("poisson", 1)))
    data = pv.data.from_arrays(x, likelihood=likelihood, valid=0, test=0)
    run = pv.method("vae", data, latent_dim=1, hidden=[4], epochs=1).fit(progress=False)
    mean, sd = run.data.scaling
    torch.testing.assert_close(mean.float(), torch.tensor([*x[:, :2].mean(0), 0.0]))
    torch.testing.assert_close(sd.float(), torch.tensor([*x[:, :2].std(0, unbiased=False), 1.0]))
    assert torch.equal(run.data.train.x[:, 2].sort().values, counts[:, 0].sort().values)


def test_covariates_are_standardized_by_the_training_split(given_incomes):
    data = given_incomes.data
    mean, sd = data.c_scaling
    assert given_incomes.config["standardize_c"] is True
    assert sd[1:].tolist() == [1.0, 1.0] and mean[2] == 0  # a constant, and a class as it is
    columns = data.train.c.double()
    assert abs(columns[:, 0].mean()) < 1e-6 and columns[:, 0].std(correction=0) == pytest.approx(1)
    assert columns[:, 1].abs().max() < 1e-6 and set(columns[:, 2].tolist()) == {0.0, 1.0}
    own = pv.data.from_arrays(*incomes()[:1], c=(incomes()[1] - mean) / sd, valid=0, test=20)
    same = pv.method("cvae", own, standardize_c=False, **SMALL).fit(progress=False)
    assert same.data.c_scaling is None
    for key in ("elbo", "log_likelihood"):
        expected = given_incomes.evaluate(num_samples=20)[key]
        assert same.evaluate(num_samples=20)[key] == pytest.approx(expected, abs=1e-4)


def test_new_covariates_have_original_units(given_incomes):
    run, (x, c) = given_incomes, incomes()
    mean, sd = run.data.c_scaling
    standardized, inner = run.data.standardize_values(x), ((c - mean) / sd).float()
    codes = pv.evaluate.encode(run.model, run.guide, standardized, c=inner)
    torch.testing.assert_close(run.encode(x, c=c), codes)
    torch.testing.assert_close(run.encode({"x": x, "c": c}), codes)
    loader = torch.utils.data.DataLoader([{"x": a, "c": b} for a, b in zip(x, c, strict=True)], 32)
    torch.testing.assert_close(run.encode(loader), codes)
    drawn = pv.sample(run.model, 80, c=inner, mean=False)
    expected = run.data.unstandardize(drawn)
    assert torch.equal(run.sample(c=c.tolist(), mean=False), expected)
    saved = run.sheet(num=80, c=c).arrays(run.data)["c"]
    np.testing.assert_allclose(saved, c.numpy(), rtol=1e-6)
    assert run.sample(7, c=c[:2]).shape == (7, 2) and run.sample().shape == (64, 2)


def test_covariates_of_sparse_counts_are_standardized():
    sparse = pytest.importorskip("scipy.sparse")
    counts = torch.poisson(torch.full((40, 3), 2.0)).numpy()
    c = incomes(40)[1]
    runs = [
        pv.method("cvae", pv.data.from_arrays(x, c=c, valid=0, test=10), **SMALL).fit(
            progress=False
        )
        for x in (counts, sparse.csr_matrix(counts))
    ]
    torch.testing.assert_close(runs[0].data.c_scaling, runs[1].data.c_scaling)
    codes = [
        run.encode(x, c=c) for run, x in zip(runs, (counts, sparse.csr_matrix(counts)), strict=True)
    ]
    torch.testing.assert_close(codes[0], codes[1])


def test_a_run_with_standardized_covariates_is_loaded_and_reproduced(given_incomes, tmp_path):
    x, c = incomes()
    data = pv.data.from_arrays(x, c=c, valid=0, test=20)
    given_incomes.save(tmp_path / "run")
    loaded = pv.load(tmp_path / "run", data=data)
    torch.testing.assert_close(loaded.encode(x, c=c), given_incomes.encode(x, c=c))
    assert "standardize_c" not in reproduction(loaded.config, loaded.data)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda run: run.sample(c=[[1.0, 2.0]]), r"c has shape \[1, 2\].*have \[N, 3\]"),
        (lambda run: run.sample(c=torch.zeros(0, 3)), "at least one row"),
        (lambda run: run.sample(y=1, c=[[1.0, 2.0, 0.0]]), "not both"),
        (lambda run: pv.data.standardize(run.data, "c"), "standardized already"),
        (lambda run: pv.data.standardize(run.data, "z"), "unknown array to standardize"),
        (
            lambda run: pv.data.standardize(pv.data.from_arrays(table()), "c"),
            "has no covariates c to standardize",
        ),
    ],
)
def test_covariates_that_do_not_fit_give_one_line(call, message, given_incomes):
    with pytest.raises(pv.UserError, match=message) as error:
        call(given_incomes)
    assert "\n" not in str(error.value)


def test_covariates_taken_from_standardized_columns_are_not_given(given_a_column):
    with pytest.raises(pv.UserError, match="are columns of x, which are standardized"):
        given_a_column.sample(c=[[1.0]])


def test_samples_of_the_aggregate_posterior_have_the_covariates_of_its_data_points(tmp_path):
    """z | c ~ N(c, 0.4^2), x | z, c ~ N(z - c, 0.3^2): x is N(0, 0.5^2), if z and c belong together."""

    class Model(torch.nn.Module):
        covariates, observes = {"c": (1,)}, ("x", "c")

        def __init__(self):
            super().__init__()
            self.offset = torch.nn.Parameter(torch.tensor(0.0))

        def forward(self, x=None, c=None, size=None):
            with pyro.plate("data", len(c)):
                z = pyro.sample("z", dist.Normal(c.expand(-1, 2), 0.4).to_event(1))
                mean = z - c + 0 * self.offset
                return pyro.sample("x", dist.Normal(mean, 0.3).to_event(1), obs=x)

    def exact_posterior(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(c + 0.64 * x, 0.24).to_event(1))

    generator = torch.Generator().manual_seed(0)
    c = 3 * torch.randn(2000, 1, generator=generator)
    x = 0.5 * torch.randn(2000, 2, generator=generator)
    run = pv.Run(Model(), exact_posterior, data=pv.data.from_arrays(x, c=c, valid=0, test=0))
    sheet = run.sheet("aggregate", num=4000, mean=False)
    assert sheet.x.std(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)  # of other rows: 4.2
    assert run.sample(4000, "prior", mean=False).std() == pytest.approx(0.5, abs=0.03)
    assert sheet.c.std() == pytest.approx(3.0, abs=0.2)  # what the picture is joined with


def test_a_density_without_the_covariates_is_not_put_in_the_place_of_a_conditional_prior(
    given_incomes,
):
    with pytest.raises(pv.UserError, match="z depends on the covariates.*prior or aggregate"):
        given_incomes.sample(source="ex-post")


def test_new_covariates_of_bytes_are_numbers_where_those_of_the_run_are():
    x = torch.randn(60, 2)
    c = torch.arange(60).reshape(60, 1) % 7
    run = pv.method("cvae", pv.data.from_arrays(x, c=c), **SMALL).fit(progress=False)
    expected = run.log_likelihood(x, c=c, num_samples=5)
    actual = run.log_likelihood(x, c=c.to(torch.uint8), num_samples=5)
    torch.testing.assert_close(actual, expected)


def test_a_condition_that_arranges_the_columns_has_the_scales_of_what_the_model_observes():
    x = table() + torch.tensor([0.0, 50.0, 500.0])
    data = pv.data.from_arrays(x, valid=0, test=20)
    data = data.with_condition(lambda x, y: (x.flip(1), x[:, :1]))
    run = pv.method("cvae", data, **SMALL).fit(progress=False)
    observed = run.data.observed_split("test").x
    original = run.data.test.x * run.data.scaling[1] + run.data.scaling[0]
    torch.testing.assert_close(run.data.unstandardize(observed), original.flip(1).float())


@pytest.mark.parametrize(
    "answer", ["encode", "reconstruct", "impute", "log_likelihood", "evaluate"]
)
def test_logarithms_of_counts_are_no_counts_to_any_answer(answer):
    """The encoder takes any numbers: codes of log1p(x) would look like those of x."""
    counts = torch.poisson(torch.full((60, 3), 4.0), generator=torch.Generator().manual_seed(0))
    run = trained(pv.data.from_arrays(counts, valid=0, test=20), "poisson")
    getattr(run, answer)(**{"data" if answer == "evaluate" else "x": counts})
    with pytest.raises(pv.UserError, match="outside the support of its Poisson.*whole numbers"):
        getattr(run, answer)(**{"data" if answer == "evaluate" else "x": counts.log1p()})
