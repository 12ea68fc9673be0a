"""A warning if the data vary less than the smallest scale of a normal likelihood."""

import math
import warnings

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import Independent

from ..conditionals import Conditional
from ..conditionals.families import LOG_SCALE_BOUND
from ..conditionals.likelihoods import STANDARDIZE
from ..data.arrays import column_means
from ..distributions import IgnoreMissing
from ..programs import trace_pair
from ..programs.contexts import eval_mode, fork_rng
from ..programs.interfaces import conditional_of
from ..programs.modules import device_of
from .inputs import Batch, PyroProgram

MARGIN = 2.0  # times the bound: below this the bound affects the scale


def warn_at_scale_floor(model: PyroProgram, guide: PyroProgram, batch: Batch) -> None:
    """Warn, in one line, if the lower bound of a learned normal scale limits log p(x).

    It does at the values of x whose fitted scale, or whose standard deviation over the batch, is
    less than twice the bound. Values that are constant do not count.

    Args:
        model: the generative program.
        guide: the guide of the model.
        batch: `{"x": [N, ...], ...}`, the inputs of the pair.
    """
    p_x = conditional_of(model, "x")
    if not isinstance(p_x, Conditional) or "log_scale" not in {
        *p_x.parameter_shapes,
        *p_x.unconditional_parameters,
    }:
        return  # a fixed scale, or one of a user-defined program, has no bound here
    with (
        torch.no_grad(),
        eval_mode(model, guide),
        fork_rng(device_of(model, guide)),
        pyro.validation_enabled(False),
    ):
        fn = trace_pair(model, guide, batch).model["x"]["fn"]
    base = fn
    while isinstance(base, (Independent, IgnoreMissing)):
        base = base.base_dist
    if not isinstance(base, dist.Normal):
        return
    floor, shape = math.exp(-LOG_SCALE_BOUND), tuple(fn.event_shape)
    scale = base.scale.expand(torch.broadcast_shapes(base.scale.shape, shape))
    scale = scale.reshape((-1,) + shape).log().mean(0).exp()
    x = batch["x"].reshape((-1,) + shape)
    if x.isnan().any():
        sd = column_means((x - column_means(x)) ** 2).sqrt()
    else:
        sd = x.std(0, correction=0)
    limited = (sd > 0) & (torch.minimum(scale, sd) < MARGIN * floor)
    if limited.any():
        warnings.warn(
            f"the scale of a normal likelihood cannot be less than {floor:.1e}, which limits "
            f"log p(x) at {int(limited.sum())} of {limited.numel()} values of x (their median "
            f"standard deviation: {sd[limited].median().item():.1e}): train on {STANDARDIZE}",
            stacklevel=2,
        )
