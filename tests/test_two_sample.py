"""Distances between two sets of data, against closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

import pyro_vae as pv
from pyro_vae.evaluate import frechet_distance, mmd_two_sample_test


def normal(n, d, seed, mean=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def expected_kernel(h, d, delta, variance):
    """E exp(-|u|^2 / 2h^2) for u ~ N(delta 1, variance I) in d dimensions."""
    s = h**2 + variance
    return (h**2 / s) ** (d / 2) * math.exp(-d * delta**2 / (2 * s))


@pytest.mark.parametrize("mean, scale", [(0.0, 1.0), (0.5, 1.0), (0.3, 1.6)])
def test_mmd_between_gaussians_is_its_closed_form_and_unbiased(mean, scale):
    d, h, n = 3, 1.5, 40
    truth = (
        expected_kernel(h, d, 0, 2)
        + expected_kernel(h, d, 0, 2 * scale**2)
        - 2 * expected_kernel(h, d, mean, 1 + scale**2)
    )
    actual = np.array([
        mmd_two_sample_test(normal(n, d, 2 * s), normal(n, d, 2 * s + 1, mean, scale),
                   num_permutations=1, bandwidth=h)["mmd2"]
        for s in range(400)
    ])  # fmt: skip
    assert abs(actual.mean() - truth) < 4 * actual.std() / 20
    if truth == 0:
        assert (actual < 0).mean() > 0.2  # unbiased, so often negative
    else:
        assert truth > 0.02


def test_mmd_is_the_plain_double_sum():
    x, o = normal(5, 2, 0), normal(4, 2, 1, 1.0)
    actual = mmd_two_sample_test(x, o, num_permutations=3)
    both = torch.cat([x, o])
    pairs = [(both[i] - both[j]).norm().item() for i in range(9) for j in range(i)]
    h = actual["bandwidth"]
    assert h == pytest.approx(np.median(pairs))

    def k(a, b):
        return math.exp(-((a - b) ** 2).sum().item() / (2 * h**2))

    value = (
        sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
        + sum(k(o[i], o[j]) for i in range(4) for j in range(4) if i != j) / 12
        - 2 * sum(k(a, b) for a in x for b in o) / 20
    )
    assert actual["mmd2"] == pytest.approx(value, abs=1e-12)


def test_p_values_are_uniform_under_the_null_and_small_under_another_distribution():
    p = [
        mmd_two_sample_test(normal(30, 2, 2 * s), normal(20, 2, 2 * s + 1), 99, seed=s)["p_value"]
        for s in range(300)
    ]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09
    far = mmd_two_sample_test(normal(60, 2, 0), normal(60, 2, 1, 1.0), 199)
    assert far["p_value"] == 1 / 200


def test_a_sample_does_not_differ_from_itself_and_large_samples_are_thinned():
    x = normal(50, 3, 0)
    assert mmd_two_sample_test(x, x, 99)["p_value"] > 0.9
    actual = mmd_two_sample_test(normal(500, 3, 0), normal(300, 3, 1), 9, max_data=40)
    assert (actual["data"], actual["other"]) == (40, 40)


def test_frechet_is_the_closed_form_of_the_fitted_gaussians():
    x, o = normal(400, 3, 0), normal(300, 3, 1, 0.5) @ normal(3, 3, 2)
    c1, c2 = (np.cov(s.numpy(), rowvar=False) for s in (x, o))
    means = ((x.mean(0) - o.mean(0)) ** 2).sum().item()
    truth = means + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(x, o, num_features=3) == pytest.approx(
        truth
    )  # a rotation changes nothing
    assert frechet_distance(x, o) == pytest.approx(truth)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(12)


def test_frechet_looks_at_the_components_of_the_first_argument():
    x, o = normal(400, 3, 0), normal(400, 3, 1)
    x[:, 0], o[:, 0] = 10 * x[:, 0], 10 * o[:, 0]
    moved = o.clone()
    moved[:, 2] += 5
    assert abs(frechet_distance(x, moved, 1) - frechet_distance(x, o, 1)) < 1
    assert frechet_distance(x, moved, 3) > frechet_distance(x, o, 3) + 20


def test_data_that_cannot_be_compared_raise():
    x = normal(10, 3, 0)
    for function in (mmd_two_sample_test, frechet_distance):
        with pytest.raises(pv.UserError, match=r"differ in shape: \[3\] and \[2\]"):
            function(x, x[:, :2])
        with pytest.raises(pv.UserError, match="at least two data"):
            function(x, x[:1])
        with pytest.raises(pv.UserError, match="NaN"):
            function(x, x / 0)
    with pytest.raises(pv.UserError, match="pass bandwidth="):
        mmd_two_sample_test(torch.zeros(9, 2), torch.zeros(9, 2))


@pytest.mark.parametrize("shift", [1e7, 1e8, 1e9])
def test_mmd_far_from_zero_is_that_at_zero(shift):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 3, generator=generator, dtype=torch.float64) + m for m in (0.0, 0.3))
    expected, actual = (mmd_two_sample_test(a + s, b + s) for s in (0.0, shift))
    for key in ("mmd2", "bandwidth"):
        assert actual[key] == pytest.approx(expected[key], rel=1e-5)
