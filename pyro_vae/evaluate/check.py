"""`check_pair`: what is wrong with a model and a guide, in one line with the site and shapes."""

import torch

from ..errors import UserError
from ..programs import forget_layout, layout_of, trace_pair
from ..programs.contexts import eval_mode, fork_rng
from ..programs.modules import device_of
from .inputs import check_support, data_sites, observed


def check_pair(model, guide, x, **others):
    """Raise, in one line with the site and the shapes, where a model and a guide do not fit.

    Runs guide and model once on `x [N, ...]` and checks: shapes; one data plate, at dim -1, of N
    rows; that the guide samples every latent that cannot be summed, and none that is not there;
    event shapes on both sides; values within supports; finite log-probabilities.

    Args:
        x: a batch, as observed.
        others: further observed values and `index`, by name.

    Raises:
        UserError: with what is wrong.
    """
    batch = observed(model, x, others, guide)
    x = batch["x"]
    device = device_of(model, guide, default=x.device)
    batch = {k: v.to(device) for k, v in batch.items()}
    forget_layout(model)  # the program may have been mended since
    with (
        torch.no_grad(),
        eval_mode(model, guide),
        fork_rng(device),  # lazy parameters are drawn now, from the caller's stream
    ):
        layout = layout_of(model, guide, batch)
        for site in layout.discrete_sites:
            if site.configured == "parallel" and layout.discrete != "parallel":
                raise UserError(
                    f"{site.name!r} is enumerated in parallel, but the pair does not broadcast over "
                    f'its values: {layout.problem}; "sequential" enumeration, or none, needs no '
                    "broadcasting"
                )
        traces = trace_pair(model, guide, batch)
    for name, site in data_sites(traces.model).items():
        check_support(site, name, site["value"])
    for kind, sites in (("guide", traces.guide), ("model", traces.model)):
        for name, site in sites.items():
            log_prob = traces.log_prob(site)
            if torch.isnan(log_prob).any() or torch.isposinf(log_prob).any():
                raise UserError(f"the log-probability of {name!r} in the {kind} is not finite")
