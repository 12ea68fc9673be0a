"""Estimators with the interface of scikit-learn: for pipelines, grid searches and data frames."""

from typing import TYPE_CHECKING

from .._lazy import lazy_attributes

if TYPE_CHECKING:
    from .classifier import SemiSupervisedVAEClassifier
    from .clusterer import GMVAEClusterer
    from .conditional import ConditionalVAE
    from .imputer import VAEImputer
    from .transformer import VAETransformer

__all__ = [
    "ConditionalVAE",
    "GMVAEClusterer",
    "SemiSupervisedVAEClassifier",
    "VAEImputer",
    "VAETransformer",
]
__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "classifier": ["SemiSupervisedVAEClassifier"],
        "clusterer": ["GMVAEClusterer"],
        "conditional": ["ConditionalVAE"],
        "imputer": ["VAEImputer"],
        "transformer": ["VAETransformer"],
    },
)
