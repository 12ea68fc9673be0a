"""Estimators against closed forms, hand computations, and the pair that they hold."""

import copy
import dataclasses
import functools
import pickle
import subprocess

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.base import clone

import pyro_vae as pv
from pyro_vae.estimators import (
    ConditionalVAE,
    GMVAEClusterer,
    SemiSupervisedVAEClassifier,
    VAETransformer,
)
from pyro_vae.estimators.classifier import _as_labels, _classes
from pyro_vae.estimators.clusterer import DRAWS
from pyro_vae.estimators.covariates import Covariates
from pyro_vae.estimators.networks import encoder_network, start_at_column_means
from pyro_vae.estimators.restarts import ClustererRuns, rows_by_weight
from pyro_vae.estimators.rows import Rows
from pyro_vae.estimators.training import Training
from pyro_vae.estimators.units import Units
from pyro_vae.estimators.weighting import Weighted
from pyro_vae.evaluate.likelihood import importance_bounds
from pyro_vae.methods.restarts import _evaluated
from pyro_vae.programs.calling import as_wrapper
from pyro_vae.programs.centers import CommonNoise

SHORT = {"max_iter": 3, "batch_size": 32, "random_state": 0, "device": "cpu"}
SCALES = np.array([1e-3, 1.0, 50.0, 1e4])


def table(n=120, seed=0):
    """Rows of three clusters, in columns of very different scales."""
    rng = np.random.RandomState(seed)
    centers = 4 * rng.randn(3, 4)
    return (centers[np.arange(n) % 3] + rng.randn(n, 4)) * SCALES + 10 * SCALES


def counts(n=90, seed=0):
    rng = np.random.RandomState(seed)
    return rng.poisson(rng.gamma(1.0, 3.0, (n, 12))).astype(float)


def weights(module, prefix=""):
    return {k.removeprefix(prefix): v.numpy() for k, v in module.state_dict().items()}


def moments(X):
    return X.mean(0), X.std(0)


def linear_vae(X, **options):
    """A VAE with linear decoder and encoder: log p(x) and E[x | x_obs] have closed forms."""
    options = {"max_iter": 30, "learning_rate": 1e-2, **options}
    return VAETransformer(2, **{**SHORT, **options}, hidden_layer_sizes=()).fit(X)


def linear_decoder(model, mean, sd):
    """`(W, b, covariance of x)` of a linear decoder, in the units of the table."""
    of_x = weights(model.p_x)
    W = of_x["head.maps.z.weight"] * sd[:, None]
    b = of_x["head.bias"] * sd + mean
    scale = model.p_x(z=torch.zeros(1, 2, dtype=torch.float64)).stddev.detach().numpy().ravel() * sd
    return W, b, scale


def log_normal(x, mean, covariance):
    """The log-density of a normal distribution whose columns have very different scales."""
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sd, sd)
    return multivariate_normal(cov=correlation).logpdf((x - mean) / sd) - np.log(sd).sum()


# ------------------------------------------------------------------- transformer


def test_transform_is_the_mean_of_the_guide_computed_by_hand():
    X = table()
    vae = VAETransformer(2, hidden_layer_sizes=(7, 5), **SHORT).fit(X)
    mean, sd = moments(X)
    w = weights(vae.guide_.factors["z"])
    h = np.maximum((X - mean) / sd @ w["trunk.first.maps.x.weight"].T + w["trunk.first.bias"], 0)
    h = np.maximum(h @ w["trunk.rest.1.weight"].T + w["trunk.rest.1.bias"], 0)
    loc = (h @ w["head.maps.features.weight"].T + w["head.bias"])[:, :2]
    np.testing.assert_allclose(vae.transform(X), loc, rtol=1e-9)


def test_inverse_transform_is_the_decoders_mean_in_the_units_of_x():
    X = table()
    vae = linear_vae(X)
    W, b, _ = linear_decoder(vae.model_, *moments(X))
    Z = np.random.RandomState(1).randn(6, 2)
    np.testing.assert_allclose(vae.inverse_transform(Z), Z @ W.T + b, rtol=1e-9)


def test_scores_are_the_closed_form_of_log_p_x_in_the_units_of_x():
    X = table()
    vae = linear_vae(X, max_iter=60)
    W, b, scale = linear_decoder(vae.model_, *moments(X))
    exact = log_normal(X, b, W @ W.T + np.diag(scale**2))
    np.testing.assert_allclose(vae.score_samples(X, num_samples=3000), exact, atol=0.15)
    assert vae.score(X) == pytest.approx(exact.mean(), abs=0.02)


def test_scores_are_the_pairs_log_likelihood_of_each_row_alone():
    X = table(20)
    vae = VAETransformer(2, hidden_layer_sizes=(8,), **SHORT).fit(X)
    mean, sd = moments(X)
    x = torch.from_numpy((X - mean) / sd)
    alone = [
        importance_bounds(vae.model_, vae.guide_, {"x": row[None]}, 50, None, 0).item() for row in x
    ]
    scores = vae.score_samples(X, num_samples=50) + np.log(sd).sum()
    np.testing.assert_allclose(scores, alone, rtol=1e-10)
    # and the noise has the right distribution: many samples agree with the library's own noise
    many = pv.evaluate.log_likelihood(vae.model_, vae.guide_, x, num_samples=500_000).numpy()
    scores = vae.score_samples(X, num_samples=20_000) + np.log(sd).sum()
    np.testing.assert_allclose(scores, many, atol=0.1)


def test_samples_have_the_moments_of_the_model():
    X = table()
    vae = linear_vae(X)
    W, b, scale = linear_decoder(vae.model_, *moments(X))
    draws = vae.sample(40_000)
    sd = np.sqrt(np.diag(W @ W.T) + scale**2)
    np.testing.assert_allclose((draws.mean(0) - b) / sd, 0, atol=0.03)
    covariance = (W @ W.T + np.diag(scale**2)) / np.outer(sd, sd)
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(sd, sd), covariance, atol=0.04)


def test_partial_fit_is_an_epoch_in_the_units_of_the_first_rows():
    X = table()
    vae = VAETransformer(2, **SHORT)
    for _ in range(30):
        vae.partial_fit(X)
    assert vae.n_iter_ == 30 and len(vae.loss_curve_) == 30
    assert np.mean(vae.loss_curve_[-3:]) < np.mean(vae.loss_curve_[:3]) - 0.3
    before = vae.inverse_transform(np.zeros((1, 2)))
    vae.learning_rate = 1e-12
    vae.partial_fit(1000 * X)
    np.testing.assert_allclose(vae.inverse_transform(np.zeros((1, 2))), before, rtol=1e-6)


def test_partial_fit_keeps_the_state_of_the_optimizer_between_calls():
    """Three calls, one of them pickled in between, are three epochs by one AdamW object."""
    X, options = table(), {**SHORT, "batch_size": 50}
    vae = VAETransformer(2, **options).partial_fit(X)
    model, guide = copy.deepcopy((vae.model_, vae.guide_))
    fresh = VAETransformer(2, **options).partial_fit(X)
    for _ in range(2):
        vae = pickle.loads(pickle.dumps(vae)).partial_fit(X)
    state = fresh._optimizer_state
    data = Training(Rows(X)).data(vae._units)
    adam = None

    def same_adam(parameters):
        nonlocal adam
        if adam is None:
            adam = torch.optim.AdamW(parameters, vae.learning_rate, weight_decay=0.0, fused=True)
            adam.load_state_dict(state)
        return adam

    seed = np.random.RandomState(0).randint(2**31 - 1)
    for epoch in (1, 2):
        pv.fit(
            model, guide, data, 1, optimizer=same_adam, batch_size=50, seed=seed + epoch,
            compile=False, progress=False, device="cpu",
        )  # fmt: skip
    steps = {float(s["step"]) for s in vae._optimizer_state["state"].values()}
    assert steps == {9.0}  # 3 calls of 3 steps: 120 rows
    for one, other in zip(model.parameters(), vae.model_.parameters(), strict=True):
        assert torch.equal(one, other)


# ------------------------------------------------------------- units and likelihoods


@pytest.mark.parametrize(
    "X, name",
    [
        (table(), "NormalLikelihood"),
        (np.random.RandomState(0).randint(0, 2, (30, 3)), "Bernoulli"),
        (counts(), "NegativeBinomial"),
        (np.random.RandomState(0).randint(0, 5, (60, 6)), "Binomial"),  # grades
        (np.random.RandomState(0).randint(0, 17, (60, 64)), "Binomial"),  # gray levels
        (np.random.RandomState(0).poisson(5, (300, 1)), "NegativeBinomial"),
        (np.random.RandomState(0).poisson([5, 2], (300, 2)), "NegativeBinomial"),
        (np.random.RandomState(0).poisson(5, (300, 4)), "NegativeBinomial"),
        (np.random.RandomState(0).randint(1990, 2020, (30, 2)), "NormalLikelihood"),  # years
    ],
)
def test_likelihood_is_chosen_by_the_values(X, name):
    assert type(Units.of(Rows(np.asarray(X, dtype=float)), "auto").likelihood).__name__ == name


def test_a_larger_count_than_those_of_training_has_a_density():
    X = np.random.RandomState(0).poisson(5, (200, 1))
    vae = VAETransformer(1, hidden_layer_sizes=(4,), **SHORT).fit(X)
    assert np.isfinite(vae.score_samples([[X.max() + 1]])).all()


def test_probabilities_of_integers_have_no_units():
    X = np.random.RandomState(0).randint(0, 5, (60, 6)).astype(float)
    vae = VAETransformer(2, hidden_layer_sizes=(4,), **SHORT).fit(X)
    x = torch.from_numpy(X / 4)
    expected = pv.evaluate.log_likelihood(vae.model_, vae.guide_, x, num_samples=20_000).numpy()
    np.testing.assert_allclose(vae.score_samples(X, num_samples=20_000), expected, atol=0.4)
    assert vae.sample(200).max() <= 4 and (vae.sample(20) == vae.sample(20).round()).all()


def test_decoder_starts_at_the_means_of_the_columns():
    X = counts()
    vae = VAETransformer(2, learning_rate=1e-12, hidden_layer_sizes=(4,), **SHORT).fit(X)
    with torch.no_grad():
        vae.model_.p_x.head.maps["features"].weight.zero_()
    start = vae.inverse_transform(np.zeros((1, 2)))[0]
    np.testing.assert_allclose(start, X.mean(0), rtol=0.02)  # exp(15 tanh(log(mean) / 15))


def test_constant_columns_and_columns_of_any_scale_are_reconstructed():
    X = np.column_stack([table(), np.full(120, 7.0)])
    vae = VAETransformer(2, **SHORT).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert abs(vae.inverse_transform(vae.transform(X))[:, 4] - 7).max() < 3


def test_columns_that_are_constant_up_to_rounding_are_only_centered():
    size = 20_000  # a sum of so many has a rounding error of 1e-12
    C = np.column_stack([np.full(size, 0.1), np.arange(size) / size, np.full(size, -1e6 / 3)])
    weights = None, np.linspace(0.1, 3, size)
    for weight in weights:
        covariates = Covariates.of(C, weight)
        assert covariates.scale[[0, 2]].tolist() == [1, 1]
        np.testing.assert_allclose(covariates.mean[[0, 2]], C[0, [0, 2]], rtol=1e-15)
        assert np.abs(covariates.encode(C).numpy()[:, [0, 2]]).max() < 1e-9
        sd = C[:, 1].std() if weight is None else np.sqrt(np.cov(C[:, 1], aweights=weight, ddof=0))
        assert covariates.scale[1] == pytest.approx(sd, rel=1e-12)
        units = Units.of(Rows(C), "normal", weight)
        np.testing.assert_array_equal(units.scale, covariates.scale)
    X = np.column_stack([np.full(size, 3.0), np.arange(size) % 7])
    for weight in weights:
        units = Units.of(Rows(X), "poisson", weight)
        assert units.log_moments[1][0] == 1 and units.log_moments[1][1] < 1
        assert np.abs(units.encoder_values(X)[:, 0]).max() < 1e-12


def test_precision_is_that_of_the_input():
    X = table()
    for dtype in (np.float32, np.float64):
        vae = VAETransformer(2, **SHORT).fit(X.astype(dtype))
        results = vae.transform(X[:3]), vae.score_samples(X[:3]), vae.sample(3)
        assert {result.dtype for result in results} == {np.dtype(dtype)}


# --------------------------------------------------------------------------- weights


NETWORK = pv.conditionals.MLP((6,))


def with_common_noise(guide, num_rows):
    return as_wrapper(CommonNoise(num_rows)(guide), guide)


MODELS = {
    "vae": lambda: pv.models.VAE((4,), 2, "normal", NETWORK),
    "gmvae": lambda: pv.models.GMVAE((4,), 3, 2, 2, "normal", NETWORK),
    "m2": lambda: pv.models.M2((4,), 3, 2, "normal", NETWORK),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_row_of_weight_k_has_the_loss_of_k_rows(name):
    model = MODELS[name]().double()
    guide = pv.guides.Guide(model, network=NETWORK).double()
    x, repeats = torch.randn(9, 4, dtype=torch.float64), 1 + torch.arange(9) % 3
    loss = pv.objectives.ELBO().differentiable_loss
    weighted = loss(
        Weighted(model), with_common_noise(Weighted(guide), 9), x=x, weight=repeats.double()
    )
    repeated = loss(
        model, with_common_noise(guide, int(repeats.sum())), x=x.repeat_interleave(repeats, 0)
    )
    torch.testing.assert_close(weighted, repeated, rtol=1e-12, atol=0)


def test_units_of_weighted_rows_are_those_of_repeated_rows():
    X, repeats = table(), np.arange(120) % 4
    weighted = Units.of(Rows(X), "normal", repeats.astype(float))
    repeated = Units.of(Rows(np.repeat(X, repeats, axis=0)), "normal")
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.scale, repeated.scale, rtol=1e-12)


def test_a_row_of_weight_k_has_the_semi_supervised_loss_of_k_rows():
    X, y, repeats = table(), np.arange(120) % 3, np.where(np.arange(120) < 40, 5, 1)
    y[40:] = -1  # a third of the rows has a label, and 200 / 280 of the weight
    classifier = SemiSupervisedVAEClassifier(2, **SHORT).fit(X, y)

    def loss(X, y, sample_weight):
        rows, labels = classifier._check_labeled(X, y, reset=False)
        weight = classifier._check_weight(sample_weight, rows)
        training = classifier._training(rows, labels, weight)
        objective = classifier._objective(training, False)
        objective.count_labels(training.data(classifier._units).train.y)
        assert objective.labelled_fraction == pytest.approx(200 / 280, rel=1e-12)
        model, guide, inputs = classifier.model_, classifier.guide_, {"y": training.y}
        if weight is not None:
            model, guide = Weighted(model), Weighted(guide)
            inputs["weight"] = torch.from_numpy(weight)
        x = classifier._units.to_model(X)
        guide = with_common_noise(guide, len(x))
        return objective.differentiable_loss(model, guide, x=x, **inputs).item()

    repeated = loss(np.repeat(X, repeats, axis=0), np.repeat(y, repeats), None)
    assert loss(X, y, repeats) * repeats.mean() == pytest.approx(repeated, rel=1e-10)


def test_the_labelled_fraction_leaves_out_rows_without_weight_and_rows_held_out():
    y = torch.tensor([0, 1, -1, -1, -1, 0])
    training = Training(Rows(table(6)), y, weight=np.array([2.0, 0.0, 1.0, 3.0, 4.0, 1.0]))
    assert training.labelled_fraction == pytest.approx(3 / 11)
    training = dataclasses.replace(training, held_out=np.array([4]))
    assert training.labelled_fraction == pytest.approx(3 / 7)
    assert dataclasses.replace(training, weight=None).labelled_fraction == pytest.approx(3 / 5)


def test_an_unknown_label_of_a_row_with_a_weight_raises():
    X, y, weight = table(), np.arange(120) % 3, 1.0 + np.arange(120) % 2
    classifier = SemiSupervisedVAEClassifier(2, **SHORT).partial_fit(X, y)
    y[0] = 7
    with pytest.raises(pv.UserError, match=r"labels \[7\] are not among the classes"):
        classifier.partial_fit(X, y, sample_weight=weight)
    weight[0] = 0
    classifier.partial_fit(X, y, sample_weight=weight)
    first = SemiSupervisedVAEClassifier(2, **SHORT).partial_fit(X, y, sample_weight=weight)
    assert first.classes_.tolist() == [0, 1, 2]


def test_rows_of_weight_zero_do_not_choose_the_likelihood():
    X, weight = np.vstack([counts(), np.full((1, 12), -0.5)]), np.ones(91)
    weight[90] = 0
    assert type(Units.of(Rows(X), "auto").likelihood).__name__ == "NormalLikelihood"
    assert type(Units.of(Rows(X), "auto", weight).likelihood).__name__ == "NegativeBinomial"


def test_covariates_of_weighted_rows_have_the_units_of_repeated_rows():
    C, repeats = table(), np.arange(120) % 4
    weighted = Covariates.of(C, repeats.astype(float))
    repeated = Covariates.of(np.repeat(C, repeats, axis=0))
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.scale, repeated.scale, rtol=1e-12)
    classes = np.array(list("abcd"))[repeats]
    assert Covariates.of(classes, repeats.astype(float)).categories.tolist() == ["b", "c", "d"]
    model = ConditionalVAE(2, **SHORT).fit(C, classes, sample_weight=repeats)
    assert model.categories_.tolist() == ["b", "c", "d"]


@pytest.mark.parametrize(
    "estimator",
    [
        VAETransformer(2, **SHORT),
        ConditionalVAE(2, **SHORT),
        SemiSupervisedVAEClassifier(2, validation_fraction=0, **SHORT),
    ],
)
def test_rows_of_weight_zero_do_not_exist(estimator):
    X, y, weight = table(), np.arange(120) % 3 * 1.0, (np.arange(120) % 5 > 0).astype(float)
    if isinstance(estimator, ConditionalVAE):
        y[::5] += 100
    all_rows = estimator.fit(X, y, sample_weight=weight).loss_curve_
    kept = weight > 0
    np.testing.assert_allclose(estimator.fit(X[kept], y[kept]).loss_curve_, all_rows, rtol=1e-10)


def test_weights_move_the_model_toward_the_heavy_rows():
    X = np.random.RandomState(0).randn(200, 2)
    X[100:] += 6
    heavy = np.where(np.arange(200) < 100, 9.0, 1.0)
    vae = VAETransformer(1, max_iter=40, learning_rate=1e-2, random_state=0).fit(X, None, heavy)
    np.testing.assert_allclose(vae.sample(4000).mean(0), [0.6, 0.6], atol=0.4)


# -------------------------------------------------------------------------- clusterer


@pytest.fixture(scope="module")
def clusterer():
    options = {"n_init": 2, "max_iter": 30, "hidden_layer_sizes": (32,), "learning_rate": 1e-2}
    options |= {"batch_size": 64, "random_state": 0, "device": "cpu"}
    return GMVAEClusterer(3, **options).fit(table())


@pytest.mark.slow
def test_clusters_of_columns_of_very_different_scales_are_found(clusterer):
    metrics = pv.evaluate.clustering_metrics(np.arange(120) % 3, clusterer.labels_)
    assert metrics["accuracy"] > 0.95 and len(set(clusterer.labels_)) == 3


def test_the_run_that_explains_held_out_rows_best_is_kept(clusterer):
    seed = np.random.RandomState(0).randint(2**31 - 1)  # of the first run
    data = Training(Rows(table())).hold_out(0.1, seed).data(clusterer._units)
    held_out = pv.evaluate.log_likelihood(
        clusterer.model_, clusterer.guide_, data.valid.x, num_samples=20_000
    )
    assert len(data.valid) == 12 and len(clusterer.scores_) == 2
    assert clusterer.scores_.max() == pytest.approx(held_out.mean().item(), abs=0.1)


def test_runs_with_row_weights_are_pairs_without_them_in_the_end():
    weight = np.where(np.arange(120) < 100, 1.0, 0.0)
    options = {"n_init": 1, "max_iter": 2, "hidden_layer_sizes": (8,), "random_state": 0}
    weighted = GMVAEClusterer(2, **options, device="cpu").fit(table(), sample_weight=weight)
    assert isinstance(weighted.model_, pv.models.GMVAE) and len(weighted.scores_) == 1
    np.testing.assert_allclose(
        weighted.weights_, weighted.predict_proba(table())[:100].mean(0), rtol=1e-10
    )


def test_a_run_is_chosen_by_the_weighted_mean_of_the_rows_held_out():
    weight = np.arange(120) % 4 * 1.0
    estimator = GMVAEClusterer(2, n_init=3, hidden_layer_sizes=(8,), max_iter=1, random_state=0)
    rows = estimator._check(table(), reset=True)
    training = Training(rows, weight=estimator._check_weight(weight, rows)).hold_out(0.2, 0)
    estimator._units = Units.of(rows, "auto", training.weight)
    runs = ClustererRuns(estimator, training, 0, 3)
    pair = runs._build()
    run = pv.Run(*pair, data=runs.data, config=runs.config)
    x, held_out = runs.data.valid.x, weight[training.held_out]
    bound = pv.evaluate.log_likelihood(*pair, x, num_samples=100).numpy()
    score = _evaluated(run, runs.valid_weight).score
    assert score == pytest.approx(np.average(bound, weights=held_out), rel=1e-12)
    assert abs(score - bound.mean()) > 1e-3
    repeated = np.repeat(np.arange(len(x)), held_out.astype(int))
    assert score == pytest.approx(bound[repeated].mean(), rel=1e-12)
    # the clusters that are compared: rows in proportion to their weights
    weight = torch.tensor([1.0, 0.0, 3.0, 2.0])
    assert rows_by_weight(weight, 100).tolist() == [0, 2, 2, 3]
    counts = torch.bincount(rows_by_weight(weight.repeat(50), 120).remainder(4), minlength=4)
    assert counts.tolist() == [20, 0, 60, 40]
    fitted = clone(estimator).fit(table(), sample_weight=weight.repeat(30).numpy())
    assert len(fitted.scores_) == 3 and np.isfinite(fitted.stability_)


@pytest.mark.slow
def test_runs_in_processes_are_those_of_one_process(monkeypatch):
    options = {"n_init": 2, "max_iter": 2, "hidden_layer_sizes": (8,), "random_state": 0}
    one = GMVAEClusterer(2, **options, device="cpu").fit(table())
    monkeypatch.setattr(pv.train.pool, "PROCESS_SECONDS", 0.0)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **o: started.append(1) or popen(*a, **o))
    other = GMVAEClusterer(2, **options, device="cpu").fit(table())
    assert len(started) == 2
    assert other.loss_curve_ == one.loss_curve_ and (other.scores_ == one.scores_).all()
    assert (other.labels_ == one.labels_).all() and other.stability_ == one.stability_
    for a, b in zip(one.model_.parameters(), other.model_.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_powers_of_two_as_units_change_no_cluster(clusterer):
    again = GMVAEClusterer(**clusterer.get_params()).fit(table() * 2.0 ** np.array([9, -3, 0, 20]))
    assert (again.labels_ == clusterer.labels_).all()
    assert again.loss_curve_ == clusterer.loss_curve_


def test_probabilities_are_the_pairs_responsibilities(clusterer):
    X = table()
    mean, sd = moments(X)
    found = clusterer.predict_proba(X)
    x, pair = torch.from_numpy((X - mean) / sd), (clusterer.model_, clusterer.guide_)
    expected = pv.evaluate.responsibilities(*pair, x, num_samples=2000).numpy()
    assert abs(found - expected).mean() < 0.03 and abs(found - expected).max() < 0.4
    alone = [  # exactly: with the same noise, a row at a time
        pv.evaluate.responsibilities(*pair, row[None], num_samples=DRAWS) for row in x[:10]
    ]
    np.testing.assert_allclose(found[:10], torch.cat(alone).numpy(), rtol=1e-8)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert (clusterer.predict(X) == clusterer.labels_).all()
    np.testing.assert_allclose(clusterer.weights_, found.mean(0), rtol=1e-12)


def test_samples_of_a_component_are_assigned_to_it(clusterer):
    for component in range(3):
        X, clusters = clusterer.sample(200, component=component)
        assert (clusters == component).all()
        assert (clusterer.predict(X) == component).mean() > 0.8
    _, clusters = clusterer.sample(3000)
    np.testing.assert_allclose(np.bincount(clusters) / 3000, 1 / 3, atol=0.04)  # uniform p(y)
    with pytest.raises(pv.UserError, match="component must be 0 to 2, got 3"):
        clusterer.sample(1, component=3)


# ------------------------------------------------------------------------- classifier


UNLABELED = {
    "-1": lambda y: np.where(np.arange(len(y)) % 2, y, -1),
    "NaN": lambda y: np.where(np.arange(len(y)) % 2, y.astype(float), np.nan),
    "None": lambda y: [("abc"[k] if i % 2 else None) for i, k in enumerate(y)],
    "strings and -1": lambda y: [("abc"[k] if i % 2 else -1) for i, k in enumerate(y)],
}


@functools.cache
def curve_of_minus_ones():
    classifier = SemiSupervisedVAEClassifier(2, **{**SHORT, "max_iter": 15})
    return classifier.fit(table(), UNLABELED["-1"](np.arange(120) % 3)).loss_curve_


@pytest.mark.parametrize("kind", UNLABELED)
def test_unlabeled_rows_are_marked_in_several_ways(kind):
    X, y = table(), np.arange(120) % 3
    classifier = SemiSupervisedVAEClassifier(2, **{**SHORT, "max_iter": 15})
    classifier.fit(X, UNLABELED[kind](y))
    expected = [0, 1, 2] if kind in ("-1", "NaN") else ["a", "b", "c"]
    assert classifier.classes_.tolist() == expected
    true = y if kind in ("-1", "NaN") else np.array(list("abc"))[y]
    assert classifier.score(X, true) > 0.95
    assert classifier.loss_curve_ == curve_of_minus_ones()  # the same labels: the same model


def columns_with_missing_labels():
    """Columns of labels whose second and last are missing, and the classes of the others."""
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    series, text, numbers = pandas.Series, ["b", None, "a", None], [3, None, 1, None]
    with_na = np.array(["b", pandas.NA, "a", np.nan], dtype=object)
    truth, categories = [True, None, False, None], polars.Series(text, dtype=polars.Categorical)
    for y in (series(text, dtype="string"), series(text, dtype="category"), with_na, categories):
        yield y, ["a", "b"]
    for y in (with_na.tolist(), series(with_na), pandas.DataFrame({"y": with_na})):
        yield y, ["a", "b"]
    for dtype in ("Int64", "category"):
        yield series(numbers, dtype=dtype), [1, 3]
    yield polars.Series(numbers), [1, 3]
    yield series([3, -1, 1, None], dtype="Int8"), [1, 3]
    yield np.ma.array([3, 7, 1, 7], mask=[False, True, False, True]), [1, 3]
    yield series(truth, dtype="boolean"), [False, True]
    yield polars.Series(truth), [False, True]


def test_missing_values_of_every_kind_of_column_are_missing_labels():
    for y, expected in columns_with_missing_labels():
        labels = _as_labels(y)
        assert [label is None for label in labels] == [False, True, False, True]
        classes = _classes(labels, y).tolist()
        assert classes == expected and {type(c) for c in classes} == {type(expected[0])}
    X, truth = table(), np.arange(120) % 2
    y = pytest.importorskip("pandas").Series(truth, dtype="Int64")
    y[60:] = None
    classifier = SemiSupervisedVAEClassifier(2, **SHORT).fit(X, y)
    assert classifier.predict(X).dtype == np.int64


@pytest.mark.parametrize("text", ["nan", "-1"])
def test_text_that_numpy_makes_of_missing_labels_raises(text):
    missing = np.nan if text == "nan" else -1
    for y in (np.array(["a", missing, "b"]), np.array(["a", text, "b"])):
        with pytest.raises(pv.UserError, match=f"y has the text '{text}' in a numpy array of text"):
            _as_labels(y)
        assert _as_labels(y.astype(object)).tolist() == ["a", text, "b"]
    assert _as_labels(["a", text, missing, "b"]).tolist() == ["a", text, None, "b"]


def test_missing_covariates_raise():
    with pytest.raises(pv.UserError, match="C has the text 'nan' in a numpy array of text"):
        Covariates.of(np.array(["a", np.nan]))
    pandas = pytest.importorskip("pandas")
    for dtype in ("string", "category", "object"):
        column = pandas.Series(["a", None, "b"], dtype=dtype)
        with pytest.raises(pv.UserError, match="C has missing values"):
            Covariates.of(column)
        with pytest.raises(pv.UserError, match="C has classes that training had not"):
            Covariates.of(["a", "b"]).encode(column)


def test_probabilities_are_those_of_the_guide_computed_by_hand():
    X, y = table(), np.arange(120) % 3
    classifier = SemiSupervisedVAEClassifier(2, hidden_layer_sizes=(7,), **SHORT).fit(X, y)
    mean, sd = moments(X)
    w = weights(classifier.guide_.factors["y"])
    h = np.maximum((X - mean) / sd @ w["trunk.first.maps.x.weight"].T + w["trunk.first.bias"], 0)
    logits = h @ w["head.maps.features.weight"].T + w["head.bias"]
    expected = np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True))
    np.testing.assert_allclose(classifier.predict_proba(X), expected, rtol=1e-8)


def test_labels_are_never_held_out(monkeypatch):
    X, y, splits = table(), np.arange(120) % 3, []
    y[20:] = -1
    data = Training.data
    monkeypatch.setattr(Training, "data", lambda *a: splits.append(data(*a)) or splits[-1])
    SemiSupervisedVAEClassifier(2, **SHORT).fit(X, y)
    assert len(splits[0].valid) == 12 and (splits[0].valid.y == -1).all()
    assert int((splits[0].train.y >= 0).sum()) == 20


def test_classes_of_partial_fit_are_those_of_all_calls():
    X, y = table(), np.arange(120) % 3
    classifier = SemiSupervisedVAEClassifier(2, **SHORT)
    classifier.partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2]).partial_fit(X, y)
    assert classifier.predict_proba(X).shape == (120, 3) and classifier.n_iter_ == 2
    with pytest.raises(pv.UserError, match=r"labels \[7\] are not among the classes"):
        classifier.partial_fit(X, np.full(120, 7))


@pytest.mark.parametrize(
    "y, message",
    [
        (np.full(120, -1), "no row has a label"),
        (np.arange(120) % 3 + 0.5, "Unknown label type: continuous"),
        (np.arange(100), "y has 100 labels for 120 rows"),
        ([("a" if i % 2 else 3) for i in range(120)], "labels are strings and numbers"),
    ],
)
def test_labels_that_are_wrong_raise(y, message):
    with pytest.raises(ValueError, match=message):
        SemiSupervisedVAEClassifier(2, **SHORT).fit(table(), y)


# ------------------------------------------------------------------------ conditional


def test_conditional_scores_are_the_closed_form_of_log_p_x_given_c():
    rng = np.random.RandomState(0)
    C = 100 * rng.randn(150, 2)
    X = C @ rng.randn(2, 4) / 100 * SCALES + table(150)
    options = {**SHORT, "max_iter": 60, "learning_rate": 1e-2, "hidden_layer_sizes": ()}
    model = ConditionalVAE(2, **options).fit(X, C)
    mean, sd = moments(X)
    c = (C - C.mean(0)) / C.std(0)
    W, b, scale = linear_decoder_of_c(model.model_, mean, sd)
    prior = model.model_.p_z(c=torch.from_numpy(c))
    loc, var = prior.mean.detach().numpy(), prior.variance.detach().numpy()
    V = weights(model.model_.p_x)["head.maps.c.weight"] * sd[:, None]
    exact = [
        log_normal(X[i], W @ loc[i] + V @ c[i] + b, W @ np.diag(var[i]) @ W.T + np.diag(scale**2))
        for i in range(150)
    ]
    scores = model.score_samples(X, C, num_samples=3000)
    np.testing.assert_allclose(scores, exact, atol=0.4)
    assert scores.mean() == pytest.approx(np.mean(exact), abs=0.03)


def linear_decoder_of_c(model, mean, sd):
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    of_x = weights(model.p_x)
    scale = model.p_x(z=zeros, c=zeros).stddev.detach().numpy().ravel() * sd
    return of_x["head.maps.z.weight"] * sd[:, None], of_x["head.bias"] * sd + mean, scale


def test_one_column_of_integers_strings_or_booleans_is_a_class():
    X, y = table(), np.arange(120) % 2
    options = {**SHORT, "max_iter": 5, "learning_rate": 1e-2}
    of_integers = ConditionalVAE(2, **options).fit(X, y)
    names = np.array(["no", "yes"])
    of_strings = ConditionalVAE(2, **options).fit(X, names[y][:, None])
    of_booleans = ConditionalVAE(2, **options).fit(X, y == 1)
    assert of_strings.categories_.tolist() == ["no", "yes"]
    assert of_integers.loss_curve_ == of_strings.loss_curve_ == of_booleans.loss_curve_
    draws = of_strings.sample(["yes", "no"] * 10, random_state=0)
    assert (draws == of_integers.sample([1, 0] * 10, random_state=0)).all()
    with pytest.raises(pv.UserError, match="C has classes that training had not: maybe"):
        of_strings.sample(["maybe"])
    assert ConditionalVAE(2, **options).fit(X, y * 1.0).categories_ is None


def test_samples_follow_their_covariates():
    C = np.linspace(-1, 1, 200)[:, None]
    X = np.hstack([3 * C, -50 * C]) + np.random.RandomState(0).randn(200, 2) * [0.1, 1]
    options = {**SHORT, "max_iter": 60, "learning_rate": 1e-2}
    model = ConditionalVAE(1, **options).fit(X, C)
    means = [model.sample(np.full((500, 1), c)).mean(0) for c in (-0.8, 0.8)]
    np.testing.assert_allclose(means, [[-2.4, 40], [2.4, -40]], rtol=0.25)


# ----------------------------------------------------------------------------- sparse


def test_sparse_and_dense_rows_give_the_same_numbers_to_the_last_bit():
    X, y = counts(), np.arange(90) % 3
    S = sparse.csr_matrix(X)
    vae = [VAETransformer(2, **SHORT).fit(v) for v in (X, S)]
    assert vae[0].loss_curve_ == vae[1].loss_curve_
    assert (vae[0].transform(X) == vae[1].transform(S)).all()
    assert (vae[0].score_samples(X) == vae[1].score_samples(S)).all()
    clusters = [GMVAEClusterer(2, n_init=1, **SHORT).fit(v) for v in (X, S)]
    assert (clusters[0].predict_proba(X) == clusters[1].predict_proba(S)).all()
    classes = [SemiSupervisedVAEClassifier(2, **SHORT).fit(v, y) for v in (X, S)]
    assert (classes[0].predict_proba(X) == classes[1].predict_proba(S)).all()
    conditional = [ConditionalVAE(2, **SHORT).fit(v, y) for v in (X, S)]
    assert (conditional[0].score_samples(X, y) == conditional[1].score_samples(S, y)).all()
    # weights too
    weighted = [VAETransformer(2, **SHORT).fit(v, sample_weight=y) for v in (X, S)]
    assert weighted[0].loss_curve_ == weighted[1].loss_curve_


def test_a_sparse_table_is_never_dense_as_a_whole(monkeypatch):
    S = sparse.random(12_000, 30, 0.05, "csr", random_state=0)
    S.data = np.ceil(4 * S.data)
    sizes, dense_rows = [], Rows.__getitem__

    def recorded(self, rows):
        block = dense_rows(self, rows)
        sizes.append(len(block))
        return block

    monkeypatch.setattr(Rows, "__getitem__", recorded)
    options = {"max_iter": 1, "batch_size": 5000, "hidden_layer_sizes": (4,), "device": "cpu"}
    vae = VAETransformer(**options).fit(S)
    vae.transform(S)
    vae.score_samples(S, num_samples=2)
    GMVAEClusterer(2, latent_dim=2, n_init=1, **options).fit(S)
    assert sum(sizes) > 50_000 and max(sizes) <= 10_000


def test_counts_beside_real_columns_are_seen_as_logarithms_and_start_at_their_mean():
    """Of columns of several kinds, with missing values."""
    rng = np.random.default_rng(0)
    X = np.stack([rng.normal(50, 9, 300), rng.poisson(rng.gamma(4, 10_000, 300))], 1)
    X[::7, 0], X[3::11, 1] = np.nan, np.nan
    likelihood = pv.conditionals.Columns((("normal", 1), ("negative-binomial", 1)))
    imputer = pv.estimators.VAEImputer(likelihood=likelihood, max_iter=1, random_state=0).fit(X)
    units, logs = imputer._units, np.log1p(X[:, 1])
    np.testing.assert_array_equal(units.is_count, [False, True])
    seen = units.encoder_values(X)
    real = (X[:, 0] - np.nanmean(X[:, 0])) / np.nanstd(X[:, 0])
    np.testing.assert_allclose(seen[:, 0], real, rtol=1e-6)
    np.testing.assert_allclose(seen[:, 1], (logs - np.nanmean(logs)) / np.nanstd(logs), rtol=1e-6)
    network = encoder_network((), units, missing=True)
    trunk, _ = network.build({"x": (2,)}, {"loc": (1,)})
    rows = units.to_model(X)
    out = trunk(x=rows)
    np.testing.assert_allclose(out["x"].numpy(), np.nan_to_num(seen), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out["missing"].numpy(), np.isnan(X))
    no_layer = pv.conditionals.MLP(())
    p_x = pv.conditionals.Conditional((2,), {"z": (1,)}, units.likelihood, no_layer)
    with torch.no_grad():
        p_x.head.maps["z"].weight.zero_()
    start_at_column_means(p_x, units)
    mean = p_x(z=torch.zeros(1)).mean
    assert float(mean[1]) == pytest.approx(np.nanmean(X[:, 1]), rel=1e-3)


def test_counts_below_zero_and_blocks_of_another_width_have_their_own_message():
    X = np.random.default_rng(0).poisson(3.0, (40, 2)).astype(float)
    blocks = pv.conditionals.Columns((("negative-binomial", 1), ("normal", 1)))
    X[0, 0] = -1
    with pytest.raises(pv.UserError, match="outside the support.*-1"):
        pv.estimators.VAETransformer(likelihood=blocks, max_iter=1).fit(X)
    with pytest.raises(pv.UserError, match="blocks of the likelihood have 2 columns, and x has 1"):
        pv.estimators.VAETransformer(likelihood=blocks, max_iter=1).fit(X[:, 1:])


def test_a_flow_needs_two_data_points():
    model = pv.models.VAE((4,), 2, network=pv.conditionals.MLP((4,)))
    guide = pv.guides.Guide(model, network=pv.conditionals.MLP((4,)))
    with pytest.raises(pv.UserError, match="two data points or more"):
        pv.evaluate.fit_ex_post_prior(model, guide, torch.ones(1, 4), kind="flow", num_components=1)
