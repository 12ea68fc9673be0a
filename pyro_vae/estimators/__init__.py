"""Estimators with the interface of scikit-learn: for pipelines, grid searches and data frames."""

from typing import TYPE_CHECKING

from .._lazy import lazy_attributes

if TYPE_CHECKING:
    from .classifier import SemiSupervisedVAEClassifier
    from .clusterer import GMVAEClusterer
    from .conditional import ConditionalVAE
    from .transformer import VAETransformer

__all__ = [
    "ConditionalVAE",
    "GMVAEClusterer",
    "SemiSupervisedVAEClassifier",
    "VAETransformer",
]
__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "classifier": ["SemiSupervisedVAEClassifier"],
        "clusterer": ["GMVAEClusterer"],
        "conditional": ["ConditionalVAE"],
        "transformer": ["VAETransformer"],
    },
)
