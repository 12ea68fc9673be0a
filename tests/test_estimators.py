"""scikit-learn's own checks of every estimator."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae.estimators import (
    ConditionalVAE,
    GMVAEClusterer,
    SemiSupervisedVAEClassifier,
    VAETransformer,
)

SMALL = {"hidden_layer_sizes": (8,), "batch_size": 100, "random_state": 0, "device": "cpu"}
ESTIMATORS = [
    VAETransformer(max_iter=2, **SMALL),
    GMVAEClusterer(3, latent_dim=2, n_init=1, max_iter=2, **SMALL),
    SemiSupervisedVAEClassifier(2, max_iter=30, **SMALL),
    ConditionalVAE(max_iter=2, **SMALL),
]
EXPECTED = {}


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda e: EXPECTED.get(type(e), {}))
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)
