"""Diagnostics of a guide: importance weights, annealing, gaps, surgery, calibration, posteriors.

Data and results are in the units in which the pair was trained; a `Run` knows the data and works in
their original units.
"""

from .ais import ais, bdmc
from .calibration import simulation_based_calibration
from .gaps import inference_gaps
from .grid import posterior_grid
from .importance import importance_diagnostics, importance_weights
from .nuts import nuts_posterior
from .surgery import elbo_surgery

__all__ = [
    "ais",
    "bdmc",
    "elbo_surgery",
    "importance_diagnostics",
    "importance_weights",
    "inference_gaps",
    "nuts_posterior",
    "posterior_grid",
    "simulation_based_calibration",
]
