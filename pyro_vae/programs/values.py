"""Whether the parameters and the values of a site are such as its distribution can have."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch.distributions import Independent, constraints
from torch.distributions.utils import lazy_property

from .._pyro_internals import mask_of
from ..errors import UserError
from .sites import Site, base_constraint, base_distribution, is_latent, row_mask, states_support

WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)
ROUNDINGS = 16  # by which a number may be beyond a bound
REMEDIES = {  # of a parameter outside its domain, as an error message has them
    "between 0 and 1": "torch.sigmoid makes it so, and logits= takes any number",
    "above 0": ".exp() or torch.nn.functional.softplus makes it so",
}


def check_values(
    guide: Mapping[str, Site], model: Mapping[str, Site], batch: Mapping[str, Any]
) -> None:
    """Raise unless parameters, shapes and draws of one run of a pair suit the distributions.

    Args:
        guide, model: `{name: site}`, discrete latents sampled.
        batch: what they were run on.

    Raises:
        UserError: one line with the site.
    """
    for kind, sites in (("guide", guide), ("model", model)):
        for name, site in sites.items():
            problem = parameter_problem(site)
            if problem:
                raise UserError(f"{problem[0]} of {name!r} in the {kind} {problem[1]}")
            _check_shape(name, kind, site, batch)
    for name in guide:
        problem_of_draws = support_problem(name, model.get(name))
        if problem_of_draws:
            raise UserError(problem_of_draws)


def parameter_problem(site: Site) -> tuple[str, str] | None:
    """`(parameter, what is wrong with it)` of a site's distribution; None if all is well.

    NaN is not looked at: it comes from elsewhere. A bound holds up to rounding, and masked rows may
    have any parameters.
    """
    mask = row_mask(site)
    for parameter, constraint, value in _parameters(base_distribution(site["fn"])):
        ok = _holds(constraint, value) | value.isnan()
        if torch.is_tensor(mask) and ok.dim() >= mask.dim():
            ok = or_masked(ok, mask)
        wrong = value.expand(ok.shape)[~ok]
        if len(wrong):
            domain = _in_words(constraint)
            remedy = f": {REMEDIES[domain]}" if domain in REMEDIES else ""
            return parameter, f"is {wrong[0].item():.6g}, and must be {domain}{remedy}"
    return None


def support_problem(name: str, site: Site | None) -> str | None:
    """What is wrong with the values of a continuous latent in the model, drawn by a guide."""
    if site is None or not is_latent(site):
        return None
    fn, value = site["fn"], site["value"]
    support = support_of(fn)
    constraint = base_constraint(support)
    bounds = _bounds(constraint).values()
    if support.is_discrete or fn.has_enumerate_support or not bounds:
        return None
    if any(bound.dim() > 0 and bound.shape != value.shape for bound in bounds):
        return None  # bounds of components, say
    ok = or_masked(_holds(constraint, value) | value.isnan(), row_mask(site))
    if ok.all():
        return None
    family = type(base_distribution(fn, transforms=False)).__name__
    domain = _in_words(constraint)
    return (
        f"the guide draws {name!r} outside its support in the model ({family}): "
        f"{value[~ok][0].item():.6g}, and it must be {domain}; a distribution there, such as "
        "LogNormal for positive numbers or a TransformedDistribution, has no such draws"
    )


def support_of(fn: Any) -> constraints.Constraint:
    """The support of a distribution; that of one which states none is the reals."""
    support: constraints.Constraint = fn.support if states_support(fn) else constraints.real
    return support


def inside(fn: Any, value: torch.Tensor) -> torch.Tensor:
    """Which values lie in the support: `[*batch_shape]`, or finer within an event."""
    if isinstance(fn, MaskedDistribution):
        mask = mask_of(fn)
        if mask is False:
            return torch.ones(fn.batch_shape, dtype=torch.bool, device=value.device)
        ok = inside(fn.base_dist, value)
        return ok if mask is True else or_masked(ok, torch.as_tensor(mask).expand(fn.batch_shape))
    if isinstance(fn, WRAPPERS):
        return inside(fn.base_dist, value)
    return support_of(fn).check(value)


def or_masked(ok: torch.Tensor, mask: bool | torch.Tensor | None) -> torch.Tensor:
    """Which values are right, or masked: those need not be."""
    if mask is None or mask is True:
        return ok
    mask = torch.as_tensor(mask, device=ok.device)
    return ok | ~mask.reshape(mask.shape + (1,) * (ok.dim() - mask.dim()))


def _check_shape(name: str, kind: str, site: Site, batch: Mapping[str, Any]) -> None:
    """Raise where a value has another shape than the distribution, and is broadcast in silence.

    What is observed for every row, a soft constraint, may have fewer dimensions.
    """
    rows, event = tuple(site["fn"].batch_shape), tuple(site["fn"].event_shape)
    value = site["value"]
    shape, numel = tuple(value.shape), value.numel()
    of_rows = shape[: len(shape) - len(event)]
    if numel == 1 or (shape[len(of_rows) :] == event and _is_for_rows(of_rows, rows, value, batch)):
        return
    raise UserError(
        f"the value of {name!r} in the {kind} has shape {list(shape)}, its distribution "
        f"{list(rows)} + {list(event)}: rows, and the shape of a row; .to_event(n) takes the last n "
        "dimensions to the row"
    )


def _is_for_rows(
    own: tuple[int, ...], rows: tuple[int, ...], value: torch.Tensor, batch: Mapping[str, Any]
) -> bool:
    """Whether the leading dimensions of a value are those of the rows, or none and it is no data."""
    if len(own) == len(rows):
        return all(n in (1, m) for n, m in zip(own, rows, strict=True))
    data = (v for v in batch.values() if torch.is_tensor(v) and v.dim())
    return not any(len(v) == len(value) and v.numel() == value.numel() for v in data)


def _parameters(fn: Any) -> Iterator[tuple[str, Any, torch.Tensor]]:
    """`(name, constraint, value)` of the parameters that a distribution was given."""
    try:
        stated = dict(fn.arg_constraints)
    except NotImplementedError:
        return
    for name, constraint in stated.items():
        kinds = (vars(kind).get(name) for kind in type(fn).__mro__)
        is_lazy = any(isinstance(kind, lazy_property) for kind in kinds)
        if constraints.is_dependent(constraint) or (is_lazy and name not in vars(fn)):
            continue
        try:
            value = getattr(fn, name)
        except (AttributeError, NotImplementedError):  # of a user's distribution
            continue
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            yield name, base_constraint(constraint), value


def _holds(constraint: Any, value: torch.Tensor) -> torch.Tensor:
    """Which numbers lie within the bounds of their domain, up to rounding; all, if it has none."""
    if isinstance(constraint, type(constraints.simplex)):
        constraint = constraints.nonnegative  # the sum is the distribution's own doing
    ok = torch.ones_like(value, dtype=torch.bool)
    for end, bound in _bounds(constraint).items():
        bound = bound.to(value)
        slack = ROUNDINGS * torch.finfo(value.dtype).eps * bound.abs().clamp(min=1)
        ok = ok & (value >= bound - slack if end == "lower" else value <= bound + slack)
    return ok


def _bounds(constraint: Any) -> dict[str, torch.Tensor]:
    """`{"lower", "upper"}`, those that a domain has."""
    found = {end: vars(constraint).get(f"{end}_bound") for end in ("lower", "upper")}
    bounds = {end: torch.as_tensor(bound) for end, bound in found.items() if bound is not None}
    # one number is of any shape: bounds of a mixture are those of its components
    one = {end: bound.unique() for end, bound in bounds.items()}
    return {end: one[end][0] if len(one[end]) == 1 else bound for end, bound in bounds.items()}


def _in_words(constraint: Any) -> str:
    """The domain of a number: "must be ..."."""
    if isinstance(constraint, type(constraints.simplex)):
        return "at least 0"
    bounds = _bounds(constraint)
    if any(bound.dim() for bound in bounds.values()):
        return "within its bounds"
    low, high = (f"{bounds[end].item():g}" if end in bounds else "" for end in ("lower", "upper"))
    if low and high:
        return f"between {low} and {high}"
    if low:
        is_open = isinstance(constraint, type(constraints.positive))
        return f"above {low}" if is_open else f"at least {low}"
    return f"below {high}" if high else str(constraint)
