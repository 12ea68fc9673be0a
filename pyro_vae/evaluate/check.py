"""`check_pair`: what is wrong with a model and a guide, in one line with the site and shapes."""

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger

from ..errors import UserError
from ..pair import accepting, device_of, eval_mode, is_deterministic, is_subsample, untouched
from ..traces import enumerate_discrete
from .inputs import check_support, data_sites, observed


def _samples(trace):
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample"}
    return {n: s for n, s in sites.items() if not (is_subsample(s) or is_deterministic(s))}


def _run(kind, program, batch):
    try:
        return poutine.trace(program).get_trace(**batch)
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as e:
        text = str(e).strip()
        line = text.splitlines()[0] if text else type(e).__name__
        if "plate" in line and "hape" in line:
            line += " (is .to_event(...) missing?)"
        shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in batch.items())
        raise UserError(f"the {kind} fails on {shapes}: {type(e).__name__}: {line}") from e


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
    configured = [poutine.infer_config(accepting(p), enumerate_discrete) for p in (model, guide)]
    with (
        torch.no_grad(),
        eval_mode(model, guide),
        untouched(device),  # lazy parameters are drawn now, from the caller's stream
        pyro.validation_enabled(False),
    ):
        guide_trace = _run("guide", EnumMessenger(first_available_dim=-2)(configured[1]), batch)
        replayed = poutine.replay(configured[0], trace=guide_trace)
        model_trace = _run("model", EnumMessenger()(replayed), batch)
        q, p = _samples(guide_trace), _samples(model_trace)
        _check_sites(p, q, len(x))
        for name, site in data_sites(p).items():
            check_support(site, name, site["value"])
        for kind, trace, sites in (("guide", guide_trace, q), ("model", model_trace, p)):
            _run_log_prob(kind, trace)
            for name, site in sites.items():
                _check_log_prob(kind, name, site, len(x), {**q, **p})


def _check_sites(p, q, n):
    for name, site in q.items():
        if name not in p:
            if site["infer"].get("is_auxiliary"):
                continue
            raise UserError(
                f"the guide samples {name!r}, which the model never does ({', '.join(p)})"
            )
        if p[name]["is_observed"]:
            raise UserError(f"the guide samples {name!r}, which the model observes")
        a, b = tuple(p[name]["fn"].event_shape), tuple(site["fn"].event_shape)
        if a != b:
            raise UserError(
                f"{name!r} has event shape {list(a)} in the model, {list(b)} in the guide"
            )
    for name, site in p.items():
        if site["is_observed"] or name in q:
            continue
        if not site["fn"].has_enumerate_support:
            raise UserError(f"the guide never samples {name!r}, and it cannot be summed exactly")
    sizes = {}
    for kind, sites in (("model", p), ("guide", q)):
        for name, site in sites.items():
            frames = [f for f in site["cond_indep_stack"] if f.vectorized]
            if [f.dim for f in frames] != [-1]:
                dims = [f.dim for f in frames] or "none"
                raise UserError(
                    f"{name!r} in the {kind} must lie in one data plate, at dim -1; its plates: {dims}"
                )
            sizes.setdefault(frames[0].full_size or frames[0].size, (name, kind))
            if frames[0].size != n and len(site["value"]) != n:
                raise UserError(
                    f"the data plate at {name!r} in the {kind} has {frames[0].size} rows, the batch {n}"
                )
    if len(sizes) > 1:
        told = "; ".join(
            f"{size} at {name!r} in the {kind}" for size, (name, kind) in sizes.items()
        )
        raise UserError(f"the data plates have different sizes: {told}")


def _run_log_prob(kind, trace):
    try:
        trace.compute_log_prob()
    except (ValueError, RuntimeError) as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        raise UserError(f"in the {kind}: " + "; ".join(lines[:2])) from e


def _check_log_prob(kind, name, site, n, every):
    log_prob = site["log_prob"]
    if log_prob.shape[-1:] != (n,):
        raise UserError(
            f"log-probability of {name!r} in the {kind} has shape {list(log_prob.shape)}, not [..., {n}]: "
            f"value {list(site['value'].shape)}, law {list(site['fn'].batch_shape)} + "
            f"{list(site['fn'].event_shape)}; is .to_event(...) missing?"
        )
    enumerated = {s["infer"].get("_enumerate_dim") for s in every.values()}
    for dim in range(-log_prob.dim(), -1):
        if log_prob.shape[dim] > 1 and dim not in enumerated:
            raise UserError(
                f"log-probability of {name!r} in the {kind} has shape {list(log_prob.shape)}, a number "
                f"for each of {log_prob.shape[dim]} values at dim {dim}: is .to_event(...) missing?"
            )
    if torch.isnan(log_prob).any() or torch.isposinf(log_prob).any():
        raise UserError(f"the log-probability of {name!r} in the {kind} is not finite")
