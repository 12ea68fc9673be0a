"""`VAEImputer` against the closed form of a model with a linear decoder."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import pyro_vae as pv
from pyro_vae.estimators import VAEImputer, imputer

SCALES = np.array([1.0, 10.0, 100.0, 1e-3])


def table(n=300):
    """Correlated columns of different scales, and the same with a quarter of the values missing."""
    rng = np.random.RandomState(0)
    X = (rng.randn(n, 2) @ rng.randn(2, 4) + 0.3 * rng.randn(n, 4) + 5) * SCALES
    missing = rng.rand(n, 4) < 0.25
    missing[missing.all(1)] = False
    return X, np.where(missing, np.nan, X)


@pytest.fixture(scope="module")
def fitted():
    options = {"hidden_layer_sizes": (), "learning_rate": 1e-2, "batch_size": 64, "device": "cpu"}
    return VAEImputer(2, max_iter=60, random_state=0, **options).fit(table()[1])


@pytest.fixture(scope="module")
def moments(fitted):
    """Mean and covariance of x under the model, in the units of the table."""
    units, p_x = fitted._units, fitted.model_.p_x
    with torch.no_grad():
        sd = p_x(z=torch.zeros(1, 2, dtype=torch.float64)).base_dist.base_dist.stddev[0].numpy()
        W = p_x.head.maps["z"].weight.numpy() * units.scale[:, None]
        b = p_x.head.bias.numpy() * units.scale + units.mean
    return b, W @ W.T + np.diag((sd * units.scale) ** 2)


def test_weights_of_one_change_nothing():
    X, holes = table(60)
    for rows in (X, holes):
        plain, weighted = (
            VAEImputer(2, hidden_layer_sizes=(8,), max_iter=3, random_state=0, device="cpu").fit(
                rows, sample_weight=w
            )
            for w in (None, np.ones(60))
        )
        np.testing.assert_allclose(weighted.loss_curve_, plain.loss_curve_, rtol=1e-6)
        np.testing.assert_allclose(weighted.transform(holes), plain.transform(holes), rtol=1e-4)


def conditional(x, mean, covariance):
    """E[x_miss | x_obs] and the covariance of x_miss given x_obs."""
    missing = np.isnan(x)
    gain = covariance[np.ix_(missing, ~missing)] @ np.linalg.inv(
        covariance[np.ix_(~missing, ~missing)]
    )
    mean_missing = mean[missing] + gain @ (x[~missing] - mean[~missing])
    rest = covariance[np.ix_(missing, missing)] - gain @ covariance[np.ix_(~missing, missing)]
    return mean_missing, rest


def test_missing_values_are_filled_by_their_conditional_mean(fitted, moments, monkeypatch):
    monkeypatch.setattr(imputer, "NUM_SAMPLES", 20_000)
    X = table()[1][:20]
    filled = fitted.transform(X)
    observed = ~np.isnan(X)
    assert (filled[observed] == X[observed]).all() and np.isfinite(filled).all()
    for row, x in zip(filled, X, strict=True):
        missing = np.isnan(x)
        if missing.any():
            mean, _ = conditional(x, *moments)
            np.testing.assert_allclose((row[missing] - mean) / SCALES[missing], 0, atol=0.1)


def test_an_imputer_trained_on_complete_rows_knows_rows_with_missing_values():
    """The encoder has seen hidden values: 512 importance samples reach the model's own mean."""
    rng = np.random.RandomState(1)
    X = rng.multivariate_normal([0, 0], [[1, 9.5], [9.5, 100]], size=600)
    estimator = VAEImputer(2, hidden_layer_sizes=(32,), max_iter=60, random_state=0, device="cpu")
    estimator.learning_rate = 5e-3
    estimator.fit(X)
    new = X[:200].copy()
    new[:, 1] = np.nan
    x = estimator._units.to_model(new)
    with torch.no_grad():  # the model's E[x_1 | x_0] by quadrature over z
        z = torch.linspace(-6, 6, 161, dtype=torch.float64)
        z = torch.cartesian_prod(z, z)
        p_x = estimator.model_.p_x(z=z).base_dist.base_dist
        log_p = -0.5 * z.square().sum(-1)
        log_p = log_p + torch.distributions.Normal(p_x.mean[:, 0], p_x.stddev[:, 0]).log_prob(
            x[:, :1]
        )
        mean = log_p.softmax(-1) @ p_x.mean[:, 1]
    exact = estimator._to_table(torch.stack([x[:, 0], mean], 1))[:, 1]
    assert np.sqrt(np.mean((estimator.transform(new)[:, 1] - exact) ** 2)) < 0.5  # sd of x_1: 10


def test_draws_have_the_conditional_mean_and_covariance(fitted, moments):
    X = table()[1]
    x = X[np.isnan(X).sum(1) == 2][:1]
    missing = np.isnan(x[0])
    draws = fitted.impute(x, n_imputations=4000, steps=100)[:, 0]
    assert (draws[:, ~missing] == x[0, ~missing]).all()
    mean, covariance = conditional(x[0], *moments)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((draws[:, missing].mean(0) - mean) / sd, 0, atol=0.08)
    found = np.cov(draws[:, missing].T) / np.outer(sd, sd)
    np.testing.assert_allclose(found, covariance / np.outer(sd, sd), atol=0.1)


def test_scores_are_of_the_observed_values_in_their_units(fitted, moments):
    X, (mean, covariance) = table()[1][:80], moments
    exact = []
    for x in X:
        seen = ~np.isnan(x)
        sd = np.sqrt(np.diag(covariance)[seen])
        correlation = covariance[np.ix_(seen, seen)] / np.outer(sd, sd)
        z = (x[seen] - mean[seen]) / sd
        exact.append(multivariate_normal(cov=correlation).logpdf(z) - np.log(sd).sum())
    scores = fitted.score_samples(X, num_samples=5000)
    np.testing.assert_allclose(scores, exact, atol=0.3)
    assert scores.mean() == pytest.approx(np.mean(exact), abs=0.02)


def test_draws_depend_on_the_seed_alone(fitted):
    X = table()[1][:20]
    one, again, other = (fitted.impute(X, 2, steps=5, random_state=s) for s in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    drawing = VAEImputer(**{**fitted.get_params(), "max_iter": 1, "sample_posterior": True})
    drawing.fit(table()[1])
    assert np.array_equal(drawing.transform(X), drawing.impute(X, 1)[0])


def test_correlated_columns_are_filled_better_than_by_their_means():
    X, with_missing = table()
    options = {"max_iter": 60, "learning_rate": 1e-2, "hidden_layer_sizes": (32,)}
    filled = VAEImputer(2, random_state=0, device="cpu", **options).fit_transform(with_missing)
    missing = np.isnan(with_missing)
    error = ((filled - X) / X.std(0))[missing]
    assert np.sqrt((error**2).mean()) < 0.65  # by means: 0.98


def test_draws_of_binary_and_count_columns_are_binary_and_counts():
    rng = np.random.RandomState(0)
    for X in (rng.randint(0, 2, (60, 4)), rng.poisson(rng.gamma(1, 4, (60, 4)))):
        X = np.where(rng.rand(60, 4) < 0.2, np.nan, X)
        fitted = VAEImputer(2, max_iter=2, random_state=0, device="cpu").fit(X)
        draws = fitted.impute(X, 2, steps=5)
        assert (draws == draws.round()).all() and draws.min() >= 0
        assert np.isfinite(fitted.transform(X)).all()


def test_a_column_without_observed_values_raises_one_line():
    X = np.random.randn(30, 3)
    X[:, 1] = np.nan
    with pytest.raises(pv.UserError, match="column 1 of X has no observed value: drop it"):
        VAEImputer(max_iter=1).fit(X)
