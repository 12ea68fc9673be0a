"""Numbers of a pair: bounds, latents, clustering, classification, two-sample tests.

They are taken at beta = 1 and in eval mode. Data and results are in the units in which the pair was
trained; a `Run` knows the data and works in their original units.
"""

from .check import check_pair
from .classification import active_unit_features, classifier_baselines, classify
from .clustering import clustering_baselines, clustering_metrics
from .components import dead_components, merged_components
from .consensus import clustering_agreements, consensus_clustering
from .decoder_mixture import decoder_mixture
from .density import aggregate_posterior, fit_ex_post_prior
from .inputs import has_proper_likelihood
from .latents import (
    active_units,
    encode,
    entropy,
    mutual_information,
    occupancy,
    reconstruct,
    responsibilities,
    sample_posterior,
)
from .likelihood import elbo, elbo_terms, log_likelihood
from .profiles import ColumnProfile, column_profiles
from .streaming import MeanEstimate, mean_over_batches
from .two_sample import frechet_distance, mmd_two_sample_test
from .units import unit_activity, unit_kl

__all__ = [
    "ColumnProfile",
    "MeanEstimate",
    "active_unit_features",
    "active_units",
    "aggregate_posterior",
    "check_pair",
    "classifier_baselines",
    "classify",
    "clustering_agreements",
    "clustering_baselines",
    "clustering_metrics",
    "column_profiles",
    "consensus_clustering",
    "dead_components",
    "decoder_mixture",
    "elbo",
    "elbo_terms",
    "encode",
    "entropy",
    "fit_ex_post_prior",
    "frechet_distance",
    "has_proper_likelihood",
    "log_likelihood",
    "mean_over_batches",
    "merged_components",
    "mmd_two_sample_test",
    "mutual_information",
    "occupancy",
    "reconstruct",
    "responsibilities",
    "sample_posterior",
    "unit_activity",
    "unit_kl",
]
