"""Gaussian mixtures fitted to codes: scikit-learn's numbers, from the same starts."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

import pyro_vae as pv
from pyro_vae.models import mixture_fits
from pyro_vae.models.mixture_fits import Mixtures, fit_mixture, fit_mixture_from

random = np.random.RandomState


def clusters(num=4, size=3, each=60, distance=3.0, seed=0):
    """`[num * each, size]` points around centers, of which each cluster has correlations of its own."""
    draw = random(seed)
    centers = distance * draw.randn(num, size) + 100.0
    roots = np.eye(size) + 0.5 * draw.randn(num, size, size)
    parts = [c + draw.randn(each, size) @ r.T for c, r in zip(centers, roots, strict=True)]
    return np.concatenate(parts)


def assert_same(found, expected, rtol=1e-7):
    """A mixture of this library and one of scikit-learn are equal."""
    np.testing.assert_allclose(found.weights, expected.weights_, rtol=rtol)
    np.testing.assert_allclose(found.means, expected.means_, rtol=rtol)
    np.testing.assert_allclose(found.covariances, expected.covariances_, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("fits, num", [(1, 4), (3, 6)])
@pytest.mark.parametrize("chunk", [mixture_fits.CHUNK_NUMBERS, 1])
def test_a_fit_is_that_of_scikit_learn(fits, num, chunk, monkeypatch):
    """Also where the rows come in several chunks, and their features are computed anew."""
    x = clusters()
    monkeypatch.setattr(mixture_fits, "CHUNK_NUMBERS", chunk)
    if chunk == 1:
        monkeypatch.setattr(mixture_fits, "KEPT_NUMBERS", 0)
    expected = GaussianMixture(num, n_init=fits, reg_covar=1e-2, max_iter=200, random_state=7).fit(
        x
    )
    found = fit_mixture(x, num, fits, 1e-2, 7, 200)
    assert_same(found, expected)
    assert float(found.log_likelihood) == pytest.approx(expected.lower_bound_, abs=1e-9)
    new = clusters(seed=1)
    np.testing.assert_allclose(found.responsibilities(new), expected.predict_proba(new), atol=1e-7)


def test_a_fit_stops_at_the_iterations_that_it_is_given():
    x, maximal = clusters(distance=1.0), 4
    with pytest.warns(match="did not converge"):
        expected = GaussianMixture(4, max_iter=maximal, reg_covar=1e-2, random_state=0).fit(x)
    assert_same(fit_mixture(x, 4, 1, 1e-2, 0, maximal), expected)


def test_fits_do_not_depend_on_those_beside_them():
    """Some end before others, which go on."""
    x = clusters(6, 2, distance=1.5)
    members = random(0).dirichlet(np.ones(6), size=(5, len(x)))
    prepared = mixture_fits._Codes(x, 30)
    start = prepared.maximized([torch.as_tensor(members)], 1e-2)
    together = prepared.fitted(start, 1e-2, 300)
    for n, one in enumerate(members):
        alone = fit_mixture_from(x, one, 1e-2, 300)
        for a, b in zip(vars(alone).values(), vars(together[n]).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_of_many_fits_the_likeliest_is_found():
    draw = random(0)
    centers = 8 * draw.randn(12, 2)
    x = np.repeat(centers, 30, 0) + draw.randn(360, 2)
    settings = {"means_init": centers, "reg_covar": 1e-3, "max_iter": 200, "random_state": 0}
    from_truth = GaussianMixture(12, **settings).fit(x)
    one, many = (
        [float(fit_mixture(x, 12, fits, 1e-3, seed, 200).log_likelihood) for seed in range(6)]
        for fits in (1, 12)
    )
    assert min(one) < from_truth.lower_bound_ - 0.01  # one fit may end elsewhere
    assert min(many) > from_truth.lower_bound_ - 1e-3


def test_the_first_components_are_the_moments_of_the_responsibilities():
    x, y = random(0).normal(size=(40, 3)), np.arange(40) % 2
    prepared = mixture_fits._Codes(x, 4)
    halves = np.full((40, 2), 0.5)  # of soft ones: the whole, twice
    found = prepared.maximized([torch.as_tensor(np.stack([np.eye(2)[y], halves]))], 0.1)
    for k in range(2):
        part = x[y == k]
        assert float(found.weights[0, k]) == pytest.approx(0.5)
        np.testing.assert_allclose(found.means[0, k], part.mean(0), atol=1e-13)
        expected = np.cov(part.T, bias=True) + 0.1 * np.eye(3)
        np.testing.assert_allclose(found.covariances[0, k], expected, atol=1e-13)
    np.testing.assert_allclose(
        found.covariances[1, 1], np.cov(x.T, bias=True) + 0.1 * np.eye(3), atol=1e-13
    )


def test_em_from_responsibilities_finds_the_solution_that_they_belong_to():
    x = np.repeat(random(0).normal(size=(3, 2)) * 6, 50, 0) + random(1).normal(size=(150, 2))
    fitted = GaussianMixture(3, reg_covar=1e-2, tol=1e-9, max_iter=500, random_state=0).fit(x)
    again = fit_mixture_from(x, fitted.predict_proba(x), 1e-2, max_iter=500)
    assert_same(again, fitted, rtol=1e-4)
    empty = np.zeros((150, 4))
    empty[:, :3] = fitted.predict_proba(x)  # a component without data does no harm
    found = fit_mixture_from(x, empty, 1e-2, 500)
    np.testing.assert_allclose(found.means[:3], fitted.means_, atol=1e-2)
    np.testing.assert_allclose(found.weights, [*fitted.weights_, 0], atol=1e-3)


def test_responsibilities_far_from_all_components_are_those_of_the_nearest():
    mixture = Mixtures(
        torch.tensor([0.5, 0.5]).double(), torch.tensor([[0.0], [1.0]]).double(),
        torch.ones(2, 1, 1).double(), torch.tensor(0.0),
    )  # fmt: skip
    x = torch.tensor([[0.5], [-1e3], [1e3]])
    expected = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]).double()
    torch.testing.assert_close(mixture.responsibilities(x), expected)


def test_codes_that_are_equal_have_fewer_clusters_than_components():
    x = np.repeat([[0.0, 0.0], [5.0, 1.0]], 10, 0)
    found = fit_mixture(x, 3, 2, 1e-2, 0)
    assert found.covariances.isfinite().all() and float(found.weights.sum()) == pytest.approx(1)
    np.testing.assert_allclose(found.responsibilities(x).sum(1), 1)


def test_what_has_no_mixture_gets_one_line():
    with pytest.raises(pv.UserError, match="3 components needs as many .* or more, not 2"):
        fit_mixture(np.zeros((2, 1)), 3, 1, 1e-2, 0)
    with pytest.raises(pv.UserError, match="only to codes that are finite"):
        fit_mixture(np.array([[0.0], [np.nan]]), 1, 1, 1e-2, 0)
    with pytest.raises(pv.UserError, match="singular: raise reg_covar"):
        fit_mixture(np.zeros((5, 2)), 1, 1, 0.0, 0)
