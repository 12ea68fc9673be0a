"""Estimators among scikit-learn's tools: frames, pipelines, searches, copies, seeds, errors."""

import pickle
import warnings
from dataclasses import dataclass

import numpy as np
import pyro
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import pyro_vae as pv
from pyro_vae.estimators import (
    ConditionalVAE,
    GMVAEClusterer,
    SemiSupervisedVAEClassifier,
    VAEImputer,
    VAETransformer,
)
from pyro_vae.estimators.base import convergence_warnings

SHORT = {"max_iter": 2, "hidden_layer_sizes": (8,), "random_state": 0, "device": "cpu"}
ALL = {
    "transformer": VAETransformer(2, **SHORT),
    "clusterer": GMVAEClusterer(2, n_init=1, **SHORT),
    "classifier": SemiSupervisedVAEClassifier(2, **SHORT),
    "conditional": ConditionalVAE(2, **SHORT),
    "imputer": VAEImputer(2, **SHORT),
}
X = np.random.RandomState(0).randn(60, 3) * [1, 10, 1000]
y = (X[:, 0] > 0).astype(int)
every = pytest.mark.parametrize("name", ALL)


def answers(estimator):
    """What a fitted estimator says of X, as arrays."""
    if isinstance(estimator, ConditionalVAE):
        return [estimator.score_samples(X, y), estimator.sample(y)]
    names = ("transform", "predict_proba", "score_samples")
    results = [getattr(estimator, name)(X) for name in names if hasattr(estimator, name)]
    return [*results, np.array(estimator.loss_curve_)]


def equal(a, b):
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


@every
def test_a_pickled_estimator_gives_the_same_answers(name):
    estimator = clone(ALL[name]).fit(X, y)
    assert equal(answers(pickle.loads(pickle.dumps(estimator))), answers(estimator))


@every
def test_an_int_and_a_random_state_give_the_same_run_and_none_another(name):
    first = answers(clone(ALL[name]).fit(X, y))
    again = clone(ALL[name]).set_params(random_state=np.random.RandomState(0)).fit(X, y)
    assert equal(answers(again)[:1], first[:1])
    other = clone(ALL[name]).set_params(random_state=None).fit(X, y)
    assert not np.array_equal(other.loss_curve_, again.loss_curve_)


@every
def test_global_state_is_as_it_was(name):
    torch.manual_seed(5)
    np.random.seed(5)
    estimator = clone(ALL[name])
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()
    filters = list(warnings.filters)
    answers(estimator.fit(X, y))
    if hasattr(estimator, "sample") and name != "conditional":
        estimator.sample(3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.get_num_threads() == before[2] and warnings.filters == filters
    assert torch.get_default_dtype() == torch.float32
    assert not len(list(pv_store()))


def pv_store():
    import pyro

    return pyro.get_param_store().keys()


@every
def test_the_curve_has_an_entry_for_each_epoch(name):
    estimator = clone(ALL[name]).fit(X, y)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 2
    automatic = clone(ALL[name]).set_params(max_iter="auto")
    assert [automatic._epochs(steps) for steps in (1, 10, 100, 10**6)] == (
        [500, 100, 20, 20] if name == "clusterer" else [500, 200, 20, 20]
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_go_in_and_come_out(library):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})
    for name in ("transformer", "clusterer", "imputer"):
        estimator = clone(ALL[name]).set_output(transform=library)
        result = estimator.fit(frame).transform(frame)
        assert isinstance(result, frames.DataFrame)
        assert list(result.columns) == list(estimator.get_feature_names_out())
        assert list(estimator.feature_names_in_) == ["a", "b", "c"]
        assert np.array_equal(np.asarray(result), clone(ALL[name]).fit(X).transform(X))
    assert list(clone(ALL["imputer"]).fit(frame).get_feature_names_out()) == ["a", "b", "c"]
    labels = frames.Series(["low" if value else None for value in y])
    classifier = clone(ALL["classifier"]).fit(frame, labels)
    assert classifier.classes_.tolist() == ["low"]
    covariates = frames.DataFrame({"group": ["low" if value else "high" for value in y]})
    assert clone(ALL["conditional"]).fit(frame, covariates).categories_.tolist() == ["high", "low"]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_covariates_have_the_column_names_of_fit_in_their_order(library):
    frames = pytest.importorskip(library)
    C = frames.DataFrame({"a": X[:, 0], "b": 10 * X[:, 1]})
    model = clone(ALL["conditional"]).fit(X, C)
    assert model.covariate_names_in_.tolist() == ["a", "b"]
    for other in (C[["b", "a"]], C[["a"]], C.rename(**renamed(library, {"b": "d"}))):
        for ask in (model.sample, lambda C: model.score_samples(X, C)):
            with pytest.raises(pv.UserError, match="column names of C .* expected 'a', 'b', got '"):
                ask(other)
    with pytest.warns(UserWarning, match="C does not have column names") as caught:
        scores = model.score_samples(X, np.asarray(C))
    assert caught[0].filename == __file__
    assert np.array_equal(scores, model.score_samples(X, C))
    unnamed = clone(ALL["conditional"]).fit(X, np.asarray(C))
    assert unnamed.covariate_names_in_ is None
    with pytest.warns(UserWarning, match="C has column names, but was fitted without"):
        assert np.array_equal(unnamed.score_samples(X, C), scores)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one column has one order
        classes = frames.DataFrame({"group": ["low" if value else "high" for value in y]})
        of_classes = clone(ALL["conditional"]).fit(X, classes)
        assert of_classes.sample(["low"]).shape == (1, 3)
        assert len(of_classes.sample(classes["group"])) == 60
    with pytest.raises(pv.UserError, match="expected 'group', got 'kind'"):
        of_classes.sample(classes.rename(**renamed(library, {"group": "kind"})))


def renamed(library, names):
    """The arguments of a frame's `rename`."""
    return {"columns" if library == "pandas" else "mapping": names}


def test_the_index_of_a_frame_is_kept():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abc"), index=[f"row {i}" for i in range(60)])
    estimator = clone(ALL["transformer"]).set_output(transform="pandas").fit(frame)
    assert estimator.transform(frame).index.equals(frame.index)


def test_a_pipeline_and_a_grid_search_run():
    pipeline = make_pipeline(clone(ALL["imputer"]), clone(ALL["transformer"]), LogisticRegression())
    missing = np.where(np.random.RandomState(1).rand(*X.shape) < 0.1, np.nan, X)
    search = GridSearchCV(pipeline, {"vaetransformer__latent_dim": [1, 2]}, cv=2)
    search.fit(missing, y)
    assert search.predict(missing).shape == (60,)
    unsupervised = GridSearchCV(clone(ALL["transformer"]), {"latent_dim": [1, 2]}, cv=2).fit(X)
    scores = unsupervised.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and unsupervised.best_score_ == scores.max()


@pytest.mark.slow
def test_a_search_in_processes_gives_the_same_scores():
    searches = [
        GridSearchCV(clone(ALL["transformer"]), {"latent_dim": [1, 2]}, cv=2, n_jobs=jobs).fit(X)
        for jobs in (1, 2)
    ]
    first, second = (search.cv_results_["mean_test_score"] for search in searches)
    np.testing.assert_allclose(first, second, rtol=1e-12)


@every
def test_the_answer_for_a_row_does_not_depend_on_other_rows(name):
    estimator = clone(ALL[name]).fit(X, y)
    if name == "conditional":
        alone = np.array([estimator.score_samples(X[i : i + 1], y[i : i + 1])[0] for i in range(9)])
        np.testing.assert_allclose(estimator.score_samples(X, y)[:9], alone, rtol=1e-10)
        return
    for method in ("transform", "predict_proba", "score_samples"):
        if hasattr(estimator, method):
            function = getattr(estimator, method)
            alone = np.concatenate([function(X[i : i + 1]) for i in range(9)])
            np.testing.assert_allclose(function(X)[:9], alone, rtol=1e-10)


@pytest.mark.parametrize("name", ["transformer", "clusterer", "conditional", "imputer"])
@pytest.mark.parametrize("num_samples", [60, 256])  # of one part, and of several
def test_copies_of_a_row_in_a_long_table_have_one_density(name, num_samples):
    estimator = clone(ALL[name]).fit(X, y)
    given = (np.zeros(200, int),) if name == "conditional" else ()
    scores = estimator.score_samples(X[[7] * 200], *given, num_samples)
    np.testing.assert_allclose(scores, scores[0], rtol=1e-10)


@pytest.mark.parametrize("name", ["transformer", "clusterer", "classifier", "conditional"])
def test_a_masked_value_is_missing(name):
    masked = np.ma.masked_array(X, X > 1e3)
    with pytest.raises(ValueError, match="contains NaN"):
        clone(ALL[name]).fit(masked, y)
    whole = np.ma.masked_array(X, False)
    assert equal(answers(clone(ALL[name]).fit(whole, y)), answers(clone(ALL[name]).fit(X, y)))


def test_masked_values_are_imputed_and_hide_what_is_under_them():
    hidden = np.ma.masked_array(X.copy(), X > 1)
    hidden.data[hidden.mask] = 1e6
    expected = clone(ALL["imputer"]).fit_transform(np.where(X > 1, np.nan, X))
    np.testing.assert_array_equal(clone(ALL["imputer"]).fit_transform(hidden), expected)


def test_masked_weights_are_refused():
    weight = np.ma.masked_array(np.ones(60), np.arange(60) < 3)
    with pytest.raises(pv.UserError, match="sample_weight has masked values"):
        clone(ALL["transformer"]).fit(X, sample_weight=weight)


@pytest.mark.parametrize(
    "covariates, message",
    [
        (np.array([np.nan, *[0, 1] * 29, 0], dtype=object), "C has missing values"),
        (np.array([0, np.nan] * 30, dtype=object), "C has missing values"),
        (np.ma.masked_array(["a", "b"] * 30, [0, 1] * 30), "C has missing values"),
        (np.ma.masked_array([0, 1] * 30, [0, 1] * 30), "Input C contains NaN"),
        (np.arange(60).astype("datetime64[D]"), "C has dates"),
    ],
)
def test_missing_covariates_are_no_class(covariates, message):
    with pytest.raises(ValueError, match=message):
        clone(ALL["conditional"]).fit(X, covariates)


def test_a_number_of_samples_and_a_component_are_whole():
    with pytest.raises(pv.UserError, match="num_samples must be an integer >= 1, got 0"):
        clone(ALL["transformer"]).fit(X).score_samples(X, 0)
    with pytest.raises(pv.UserError, match="component must be 0 to 1, got 0.5"):
        clone(ALL["clusterer"]).fit(X).sample(3, component=0.5)


C = pv.conditionals


@pytest.mark.parametrize(
    "likelihood",
    [C.IgnoreMissing("normal"), C.Columns((("normal", 3),)), C.MultivariateNormal(), C.StudentT()],
)
@pytest.mark.parametrize("estimator", [VAETransformer, VAEImputer])
def test_densities_of_real_numbers_do_not_depend_on_units(likelihood, estimator):
    """A change of units moves every log-density by its Jacobian, and nothing else."""
    if estimator is VAEImputer and isinstance(likelihood, C.MultivariateNormal):
        with pytest.raises(pv.UserError, match="entries that depend on each other"):
            estimator(likelihood=likelihood).fit(X)
        return
    units, shift = np.array([1.0, 1e2, 1e-3]), np.array([1e4, 0.0, -1.0])
    options = {**SHORT, "likelihood": likelihood}
    plain = estimator(2, **options).fit(X).score_samples(X)
    other = estimator(2, **options).fit(X * units + shift).score_samples(X * units + shift)
    np.testing.assert_allclose(other, plain - np.log(units).sum(), atol=1e-4)


class Laplace(pyro.distributions.Laplace):
    """A user's distribution, which does not state its support."""

    @property
    def support(self):
        raise NotImplementedError


@dataclass(frozen=True)
class OfThree(C.Family):
    """A user's family, of three columns alone."""

    def parameter_shapes(self, shape):
        assert shape == (3,)
        return {"loc": shape}

    def __call__(self, shape, loc):
        return Laplace(loc, 1.0, validate_args=False).to_event(1)


def test_a_users_family_without_a_support_is_taken_as_it_is():
    estimator = VAETransformer(2, **SHORT, likelihood=OfThree()).fit(X)
    assert (estimator._units.scale == 1).all() and (estimator._units.mean == 0).all()
    assert estimator.transform(X).shape == (60, 2)


def test_of_several_likelihoods_the_real_columns_are_standardized():
    counts = np.random.default_rng(0).poisson(3.0, (60, 1)).astype(float)
    table = np.hstack([X[:, 1:] * 100, counts])
    likelihood = C.Columns((("normal", 2), ("poisson", 1)))
    estimator = VAETransformer(2, **{**SHORT, "max_iter": 50}, likelihood=likelihood).fit(table)
    units = estimator._units
    np.testing.assert_allclose(units.mean, [*table[:, :2].mean(0), 0.0])
    np.testing.assert_allclose(units.scale, [*table[:, :2].std(0), 1.0])
    np.testing.assert_allclose(units.log_volume, np.log(units.scale))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"batch_size": "all"}, "batch_size must be an integer >= 1, got 'all'"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and below 1"),
        ({"validation_fraction": "a"}, "validation_fraction must be at least 0 .* got 'a'"),
        ({"hidden_layer_sizes": 5}, "hidden_layer_sizes must be a tuple of integers"),
        ({"likelihood": "norml"}, "unknown likelihood 'norml'; did you mean 'normal'"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"hidden_layer_sizes": (0,)}, "hidden"),
        ({"device": "gpu7"}, "gpu7"),
    ],
)
def test_a_wrong_parameter_raises_one_line(options, message):
    with pytest.raises(pv.UserError, match=message) as error:
        clone(ALL["transformer"]).set_params(**options).fit(X)
    assert "\n" not in str(error.value)


def test_values_outside_the_support_raise_one_line():
    vae = clone(ALL["transformer"]).set_params(likelihood="bernoulli")
    with pytest.raises(pv.UserError, match="outside"):
        vae.fit(X)
    counts = clone(ALL["transformer"]).set_params(likelihood="poisson").fit(np.round(abs(X)))
    with pytest.raises(pv.UserError, match="outside"):
        counts.score_samples(X)


SUPPORTS = {  # values that a likelihood takes, and one that it refuses
    "auto": (np.arange(180).reshape(30, 6) % 5, 5, "e.g. 1.25; x is X / 4"),
    "negative-binomial": (np.arange(90).reshape(30, 3) % 7, -1, "e.g. -1; counts are"),
    "poisson": (np.arange(90).reshape(30, 3) % 7, 0.5, "e.g. 0.5; counts are"),
    "bernoulli": (np.arange(90).reshape(30, 3) % 4 // 2, 0.5, "e.g. 0.5; binarize"),
    "continuous-bernoulli": (np.arange(90).reshape(30, 3) / 90, 1.5, "e.g. 1.5"),
}


@pytest.mark.parametrize("likelihood", SUPPORTS)
def test_new_values_outside_the_support_raise_as_those_of_training(likelihood):
    table, value, message = SUPPORTS[likelihood]
    table, classes = table.astype(float), np.arange(30) % 2
    wrong, missing = table.copy(), table.copy()
    wrong[-1, 1], missing[0, 0] = value, np.nan
    wrong_and_missing = np.where(np.isnan(missing), np.nan, wrong)
    first = 2 * list(SUPPORTS).index(
        likelihood
    )  # two of the estimators; all of them for the default
    names = list(ALL) if likelihood == "auto" else [[*ALL, *ALL][first], [*ALL, *ALL][first + 1]]
    for name in names:
        estimator = clone(ALL[name]).set_params(likelihood=likelihood, max_iter=1)
        estimator.fit(missing if name == "imputer" else table, classes)
        for method in ("transform", "predict", "predict_proba", "score_samples", "score", "impute"):
            if not hasattr(estimator, method):
                continue
            new, right = (wrong, table) if name != "imputer" else (wrong_and_missing, missing)
            others = {"y": classes} if name == "conditional" or method == "score" else {}
            function = getattr(estimator, method)
            with pytest.raises(pv.UserError, match=f"x has values outside the .* {message}"):
                function(new, **others)
            function(right, **others)
        if hasattr(estimator, "partial_fit"):
            with pytest.raises(pv.UserError, match=f"x has values outside the .* {message}"):
                estimator.partial_fit(wrong, classes)


def test_a_collapsed_run_is_a_convergence_warning_without_a_foreign_remedy():
    noise = np.random.RandomState(0).randn(100, 3)
    with pytest.warns(ConvergenceWarning, match="posterior collapse") as caught:
        VAETransformer(2, **{**SHORT, "max_iter": 20}).fit(noise)
    assert "objective" not in str(caught[0].message)


def test_warnings_before_a_failure_reach_the_caller():
    """They may say why it fails."""
    with (
        pytest.warns(UserWarning, match="a remedy for what follows"),
        pytest.raises(pv.UserError, match="it fails"),
        convergence_warnings(),
    ):
        warnings.warn("a remedy for what follows", stacklevel=2)
        raise pv.UserError("it fails")


def test_nothing_is_imported_from_scikit_learn_with_the_package():
    import subprocess
    import sys

    code = "import sys, pyro_vae; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "weight, message",
    [
        (np.ones(3), r"must be a number, or \[20\], not of shape \[3\]"),
        (np.ones((20, 2)), r"not of shape \[20, 2\]"),
        (np.linspace(-1, 1, 20), "sample_weight must be non-negative"),
        (np.zeros(20), "every sample_weight is zero"),
        (np.full(20, np.nan), "sample_weight contains NaN"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        VAETransformer(2, max_iter=1).fit(np.random.rand(20, 3), sample_weight=weight)


def test_one_weight_for_all_rows_is_no_weight():
    fits = [VAETransformer(2, max_iter=1, random_state=0) for _ in range(2)]
    x = np.random.rand(20, 3)
    assert fits[0].fit(x, sample_weight=2.0).loss_curve_ == fits[1].fit(x).loss_curve_


def test_rows_without_a_label_do_not_count_in_the_accuracy():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    X = rng.normal(size=(60, 3)) + 4 * y[:, None]
    few = np.where(np.arange(60) < 20, y, -1)
    classifier = pv.estimators.SemiSupervisedVAEClassifier(max_iter=5, random_state=0).fit(X, few)
    right = classifier.predict(X) == y
    assert classifier.score(X, few) == right[:20].mean()
    weight = np.arange(60.0)
    expected = np.average(right[:20], weights=weight[:20])
    assert classifier.score(X, few, weight) == pytest.approx(expected)
    with pytest.raises(pv.UserError, match="no row has a label"):
        classifier.score(X, np.full(60, -1))


def test_whole_numbers_that_float32_cannot_tell_apart_are_no_counts():
    X = 2.0**60 * (1 + np.random.default_rng(0).random((50, 3)))
    scores = [
        pv.estimators.VAETransformer(2, max_iter=2, random_state=0).fit(X * s).score(X * s)
        + 3 * np.log(s)
        for s in (1.0, 2.0**-60)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_columns_that_are_no_numbers_and_missing_values_have_a_remedy():
    pandas = pytest.importorskip("pandas")
    numbers = np.random.default_rng(0).normal(size=20)
    days = pandas.date_range("2026-01-01", periods=20)
    for other in (days, days - days[0], ["a", "b"] * 10, pandas.Categorical(["a", "b"] * 10)):
        frame = pandas.DataFrame({"n": numbers, "other": other})
        with pytest.raises(pv.UserError, match=r"not numbers, 'other' \(.*\): encode or drop them"):
            pv.estimators.VAETransformer(max_iter=1).fit(frame)
    frame = pandas.DataFrame({"n": numbers, "m": np.where(numbers > 0, numbers, np.nan)})
    with pytest.raises(pv.UserError, match="VAEImputer fills in missing values"):
        pv.estimators.GMVAEClusterer(2, max_iter=1).fit(frame)


def test_a_lazy_frame_is_refused_in_one_line():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.5, 0.1, 0.2]})
    estimators = pv.estimators
    for call in (
        lambda: estimators.VAETransformer(max_iter=1).fit(frame.lazy()),
        lambda: estimators.ConditionalVAE(max_iter=1).fit(frame, frame.lazy()),
        lambda: pv.data.from_frame(frame.lazy()),
    ):
        with pytest.raises(pv.UserError, match=r"pass frame.collect\(\)"):
            call()


def test_labels_of_both_signs_are_no_single_class():
    """-1 is a missing label: one class was left, and its score was 1.0 on noise."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), rng.choice([-1, 1], 40)
    classifier = SemiSupervisedVAEClassifier(max_iter=1, random_state=0)
    for labels in (y, y.astype(float), y.tolist()):
        with pytest.raises(pv.UserError, match="y has -1 and 1, .* number the two classes 0 and 1"):
            classifier.fit(X, labels)
    partly = np.where(y == 1, 1, rng.choice([-1, 0], 40))
    assert classifier.fit(X, partly).classes_.tolist() == [0, 1]
    objects = np.array([*partly, None], dtype=object)[:-1]  # numpy's own integers
    assert {type(label) for label in objects} == {np.int64}
    assert classifier.fit(X, objects).classes_.tolist() == [0, 1]
    classifier.partial_fit(X, y)  # a batch of known classes may have one of them alone
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.score(X, partly, sample_weight=np.ones(3))
    with pytest.warns(UserWarning, match="labels are -1 and 1, and -1 means not labeled"):
        pv.data.from_arrays(X, y)
    with pytest.warns(UserWarning, match="labels 'y' are -1 and 1, and -1 means not labeled"):
        pv.data.from_frame({"a": X[:, 0], "b": X[:, 1], "y": y}, labels="y")


def test_numbers_in_a_column_of_objects_are_covariates_and_no_classes():
    rng = np.random.default_rng(0)
    X, c = rng.normal(size=(40, 2)), rng.normal(size=40)
    options = {"max_iter": 1, "random_state": 0}
    numbers = ConditionalVAE(**options).fit(X, c)
    objects = ConditionalVAE(**options).fit(X, c.astype(object))
    assert numbers.categories_ is None and objects.categories_ is None
    new = np.array([0.5, 0.6])
    np.testing.assert_array_equal(objects.sample(new.astype(object)), numbers.sample(new))


def test_a_tensor_with_a_graph_is_data_to_an_estimator():
    X = torch.randn(30, 2, requires_grad=True)
    assert VAETransformer(max_iter=1, random_state=0).fit_transform(X).shape[0] == 30


def test_anndata_are_no_matrix_to_an_estimator():
    anndata = pytest.importorskip("anndata")
    adata = anndata.AnnData(np.ones((30, 3), np.float32))
    with pytest.raises(pv.UserError, match="X is an AnnData object: pass its matrix, adata.X"):
        VAETransformer(max_iter=1).fit(adata)
