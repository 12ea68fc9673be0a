"""`check_pair`: what is wrong with a model and a guide, in one line with the site and shapes."""

import torch

from ..errors import UserError
from ..pair import device_of, eval_mode, parameters_of, takes, untouched
from ..programs import forget_layout, layout_of, trace_pair
from .likelihood import observed


def check_support(site, name, value):
    """Raise unless every value lies in the support of the site's law."""
    fn = site["fn"]
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if not getattr(base, "proper", True):
        return
    value = value.reshape(value.shape[:1] + tuple(fn.event_shape))
    ok = base.support.check(value)
    if ok.all():
        return
    bad = value[~ok.reshape(ok.shape + (1,) * (value.dim() - ok.dim())).expand_as(value)]
    law = type(base).__name__
    hint = ""
    if "Bernoulli" in law and "Continuous" not in law:
        hint = (
            '; binarise="dynamic" draws binary images, likelihood="binomial" or '
            '"continuous-bernoulli" takes grey ones, "grey-bernoulli" scores them all the same'
        )
    elif law in ("Poisson", "NegativeBinomial"):
        hint = "; counts are whole numbers (8-bit integers are taken as grey levels, over 255)"
    elif "Levels" in law:
        hint = f"; this likelihood has {base.levels} grey levels: set levels="
    raise UserError(
        f"{name} has values outside the support of its {law} likelihood ({base.support}), "
        f"e.g. {bad[0].item():.4g}{hint}"
    )


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
    batch = observed(model, x, others)
    for name, value in batch.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{name} has NaN or infinite values")
    for name in others:
        if name != "index" and not (takes(model, name) or takes(guide, name)):
            known = sorted({*parameters_of(model), *parameters_of(guide)})
            raise UserError(
                f"neither model nor guide takes {name!r}: their arguments are {', '.join(known)}"
            )
    device = device_of(model, guide, default=x.device)
    batch = {k: v.to(device) for k, v in batch.items()}
    forget_layout(model)  # the program may have been mended since
    with (
        torch.no_grad(),
        eval_mode(model, guide),
        untouched(device),  # lazy parameters are drawn now, from the caller's stream
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
    for name, site in traces.model.items():
        if site["is_observed"]:
            check_support(site, name, site["value"])
    for kind, sites in (("guide", traces.guide), ("model", traces.model)):
        for name, site in sites.items():
            log_prob = traces.log_prob(site)
            if torch.isnan(log_prob).any() or torch.isposinf(log_prob).any():
                raise UserError(f"the log-probability of {name!r} in the {kind} is not finite")
