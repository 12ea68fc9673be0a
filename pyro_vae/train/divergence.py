"""What to say of a run whose loss or weights are not finite: which site, and what may help."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..data.minibatches import row_slices
from ..programs import trace_pair
from ..programs.contexts import eval_mode
from ..programs.inspection import ignores_missing
from ..programs.traces import Traces
from ..programs.values import parameter_problem, support_problem
from . import distributed
from .inputs import Inputs

ROWS = 256  # of a batch at once, while the site is looked for


def describe_divergence(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    inputs: Inputs,
    batch: Mapping[str, torch.Tensor],
) -> tuple[str, str]:
    """Where a value is not finite, and why. All processes take part.

    Args:
        model, guide: the pair, with the weights that gave the value.
        inputs: the `Inputs` of the pair.
        batch: the batch of the step.

    Returns:
        `(where, why)`: "at site 'x'", with the values of discrete latents for which it is so ("for
        y = 3"), and the array that is not finite or what may help.
    """
    missing = {"x"} if ignores_missing(model) else set()  # where NaN is no fault
    arrays = []
    for name, value in batch.items():
        bad = value.isinf() if name in missing else ~value.isfinite()
        arrays += [name] if bad.any() else []
    arrays = sum(distributed.gathered(arrays), [])
    site, problem = _first_site(model, guide, inputs, batch)
    where = f"at site {site}" if site else "in its weighting"
    if arrays:
        return where, f"the batch has NaN or infinite values in {arrays[0]!r}"
    return where, problem or "a lower lr or clip_norm= may help"


def _first_site(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    inputs: Inputs,
    batch: Mapping[str, torch.Tensor],
) -> tuple[str | None, str | None]:
    """The first site with a log-probability that is not finite, in any process, and what is wrong there.

    Both in words; None where it is not known.
    """
    sites: list[tuple[str, str | None]] = []
    try:
        rows = inputs.for_pair(batch)
        for some in row_slices(len(next(iter(rows.values()))), ROWS):
            part = {n: v[some].to(inputs.device) for n, v in rows.items()}
            with torch.no_grad(), eval_mode(model, guide):
                traces = trace_pair(model, guide, part)
            both = [*traces.guide.items(), *traces.model.items()]
            for name, site in both:
                is_finite = torch.isfinite(traces.log_prob(site))
                if not is_finite.all():
                    text = f"{name!r}{_assignment(traces, ~is_finite)}"
                    sites.append((text, _problem(name, site, traces)))
    except (RuntimeError, ValueError):  # a program may raise on values that are not finite
        pass
    sites = sum(distributed.gathered(sites), [])
    return sites[0] if sites else (None, None)


def _problem(name: str, site: dict[str, Any], traces: Traces) -> str | None:
    """What is wrong with the parameters or the values of a site whose log-prob is not finite."""
    if "runs" in site:  # gathered: each of its runs has a distribution
        return None
    problem = parameter_problem(site)
    if problem:
        return f"its {problem[0]} {problem[1]}"
    return support_problem(name, traces.model.get(name))


def _assignment(traces: Traces, is_bad: torch.Tensor) -> str:
    """The values of enumerated latents for which a number is bad, if it is not for all of them."""
    parts = []
    for latent, dim in traces.enumerated.items():
        if is_bad.dim() < -dim or is_bad.shape[dim] == 1:
            continue
        bad_values = is_bad.movedim(dim, 0).flatten(1).any(1)
        if not bad_values.all():
            numbers = ", ".join(map(str, bad_values.nonzero().flatten().tolist()))
            parts.append(f"{latent} = {numbers}")
    return f" for {' and '.join(parts)}" if parts else ""
