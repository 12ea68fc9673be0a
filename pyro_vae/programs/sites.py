"""The kinds of sites in a trace, and which site or latent is meant by default."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, MaskedDistribution
from pyro.poutine import Trace
from torch.distributions import TransformedDistribution, constraints

from .._pyro_internals import DETERMINISTIC, SubsampleDistribution, mask_of
from .._torch_internals import MixtureSameFamilyConstraint
from ..errors import UserError, unknown_name_error

Site = dict[str, Any]  # a site of a Pyro trace, or the message of a handler

# A guide writes into the `infer` of a site that draws the unconstrained values of latents, one after
# the other in one vector, which latents these are.
UNCONSTRAINED_LATENTS = "unconstrained_latents"


def sites_in(trace: Trace) -> dict[str, Site]:
    """The sites of a trace by name."""
    nodes: Any = trace.nodes  # Pyro declares every entry of a site as optional
    return nodes


def observed_site(
    sites: Mapping[str, Site], site: str | None = None, x: torch.Tensor | None = None
) -> str:
    """The name of the site that observes the data.

    Args:
        sites: `{name: site}` of a model's trace.
        site: its name, where the model observes several. Default: see `choose_site`.
        x: the data.

    Raises:
        UserError: no such site, no observed site, or several of which none is singled out.
    """
    sources: dict[str, str | None] = {n: None for n, s in sites.items() if is_data(s)}
    if not sources:
        raise UserError("the model observes no data: no site has obs=")
    if x is not None:
        sources |= {n: "x" for n in sources if holds(sites[n]["value"], x)}
    return choose_site(sources, site)


def choose_site(sources: Mapping[str, str | None], site: str | None = None) -> str:
    """Of a model's observed sites, the one that is meant.

    That is `site`; else the only one; else the only one that observes the argument x itself, perhaps
    reshaped; else the one called `"x"`.

    Args:
        sources: `{name: argument}`: what each observed site observes, None where not known.

    Raises:
        UserError: no such site, or several of which none is singled out.
    """
    listed = ", ".join(map(repr, sources))
    if site is not None:
        if site not in sources:
            raise UserError(f"{site!r} is not an observed site; the model observes {listed}")
        return site
    of_x = [n for n, source in sources.items() if source == "x"]
    for candidates in (list(sources), of_x, [n for n in sources if n == "x"]):
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(f"the model observes several sites: pass site=, one of {listed}")


def check_data_plate(sites: Mapping[str, Site], ignored: Collection[str] = ()) -> None:
    """Raise unless every site lies in one plate, at dim -1.

    Args:
        sites: `{name: site}` of a trace.
        ignored: names of plates that do not count, such as one of particles.
    """
    for name, site in sites.items():
        if not is_random(site) or is_per_row(site, ignored):
            continue
        if -1 not in _plate_dims(site, ignored):
            raise outside_plate_error(name)
        raise UserError(f"site {name!r} lies in more than one plate: one data plate, at dim -1")


def is_per_row(site: Site, ignored: Collection[str] = ()) -> bool:
    """Whether a site lies in the data plate, at dim -1, and in no other plate.

    Args:
        site: of a trace.
        ignored: as in `check_data_plate`.
    """
    return _plate_dims(site, ignored) == {-1}


def is_in_several_plates(site: Site) -> bool:
    """Whether a site lies in the data plate, at dim -1, and in another plate."""
    return {-1} < _plate_dims(site, ignored=())


def _plate_dims(site: Site, ignored: Collection[str]) -> set[int]:
    return {f.dim for f in site["cond_indep_stack"] if f.vectorized and f.name not in ignored}


def outside_plate_error(name: str) -> UserError:
    """The error for a site that is not drawn once per data point."""
    return UserError(
        f"site {name!r} lies outside the data plate: terms per data point are not defined for it; "
        'sites of a row stand in a block `with pyro.plate("data", len(x)):`, in model and guide'
    )


def base_distribution(fn: Any, transforms: bool = True) -> Any:
    """The distribution within every wrapper: independent, masked, expanded, transformed.

    Args:
        transforms: False stops at a transformed distribution, whose values are other ones.
    """
    while hasattr(fn, "base_dist") and (transforms or not isinstance(fn, TransformedDistribution)):
        fn = fn.base_dist
    return fn


def states_support(fn: Any) -> bool:
    """Whether a distribution states its support; flows wrapped by users often do not."""
    try:
        return fn.support is not None
    except NotImplementedError:
        return False


def base_constraint(support: Any) -> Any:
    """The constraint of one number of a support: within independent ones and those of mixtures."""
    while isinstance(support, (constraints.independent, MixtureSameFamilyConstraint)):
        support = support.base_constraint
    return support


def with_mask_apart(site: Site) -> Site:
    """The site with the mask of its distribution, `fn.mask(...)`, as the site's own, `poutine.mask`.

    `unscaled_log_prob` is then the distribution's own: its probabilities have the sum one.
    """
    if not isinstance(site["fn"], MaskedDistribution):
        return site
    mask, bases = whole_mask(site)
    values = site.get("values", [site["value"]])
    log_probs = [fn.log_prob(value) for fn, value in zip(bases, values, strict=True)]
    return {**site, "mask": mask, "unscaled_log_prob": _stack_of(site)(log_probs, 0)}


def masked_as(site: Site, other: Site) -> Site:
    """The site, masked where another one is, too."""
    mask, own = row_mask(other), site["mask"]
    if mask is True:
        return site
    if own is not None and own is not True:
        mask = torch.as_tensor(mask) & torch.as_tensor(own)
    return {**site, "mask": mask}


def row_mask(site: Site) -> bool | torch.Tensor:
    """The mask of a site, that of its distribution included; True for one that has none."""
    mask = whole_mask(site)[0]
    return True if mask is None else mask


def whole_mask(site: Site) -> tuple[bool | torch.Tensor | None, list[Any]]:
    """The mask of a site, that of its distribution included; and the distributions without it."""
    mask, bases = site["mask"], distributions_of(site)
    while isinstance(bases[0], MaskedDistribution):
        own = _stack_of(site)([_as_tensor(mask_of(fn), fn) for fn in bases], 0)
        mask = (
            own if mask is None or mask is True else torch.as_tensor(mask, device=own.device) & own
        )
        bases = [fn.base_dist for fn in bases]
    return mask, bases


def _stack_of(site: Site) -> Any:
    """What makes one tensor of those of a site's runs."""
    return site["runs"][1] if "runs" in site else lambda tensors, event_dim: tensors[0]


def _as_tensor(mask: bool | torch.Tensor, fn: Any) -> torch.Tensor:
    return mask if isinstance(mask, torch.Tensor) else torch.full(fn.batch_shape, mask)


def distributions_of(site: Site) -> list[Any]:
    """The distribution of a site, in each of the runs that a gathered site comes from."""
    return site["runs"][0] if "runs" in site else [site["fn"]]


def is_point(site: Site) -> bool:
    """Whether a site's distribution is a Delta."""
    return isinstance(base_distribution(site["fn"]), Delta)


def has_real_support(fn: Any) -> bool:
    """Whether a distribution is on the reals, or does not state its support."""
    return not states_support(fn) or isinstance(base_constraint(fn.support), type(constraints.real))


def holds(seen: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the observed value `seen` equals `value`, perhaps reshaped."""
    if seen.numel() != value.numel():
        return False
    a, b = seen.reshape(-1), value.reshape(-1).to(seen.dtype)
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def mean_of(name: str, fn: torch.distributions.Distribution) -> torch.Tensor:
    """The mean of a site's distribution `fn`.

    Raises:
        UserError: a distribution without a mean: unordered categories, or no closed form.
    """
    base = base_distribution(fn)
    try:
        if not isinstance(base, torch.distributions.Categorical):
            return fn.mean
    except NotImplementedError:
        pass
    raise UserError(f"the {type(base).__name__} distribution of {name!r} has no mean")


def choose_latent(names: Iterable[str], latent: str | None = None, preferred: str = "z") -> str:
    """The continuous latent that is meant: `latent`. Default: `preferred`, else the first.

    Args:
        names: the continuous latents, in the model's order.

    Raises:
        UserError: there is none, or none of this name.
    """
    names = list(names)
    if not names:
        raise UserError("this pair has no continuous latent")
    if latent is None:
        return preferred if preferred in names else names[0]
    if latent not in names:
        raise unknown_name_error("continuous latent", latent, names)
    return latent


def is_subsample(site: Mapping[str, Any]) -> bool:
    """Whether a site draws the subsample of a plate."""
    return isinstance(site["fn"], SubsampleDistribution)


def is_deterministic(site: Site) -> bool:
    """Whether a site is a recorded value, neither data nor a latent.

    Those of `pyro.deterministic` are, and latents that `poutine.reparam` writes as functions of
    others: Pyro makes both observed sites of a Delta whose mask is False.
    """
    if site["infer"].get(DETERMINISTIC):
        return True
    fn = site["fn"]
    is_masked = isinstance(fn, MaskedDistribution) and mask_of(fn) is False
    return bool(site["is_observed"]) and is_masked and is_point(site)


def is_factor(site: Site) -> bool:
    """Whether a site is `pyro.factor`'s: a term of the log-density without a value."""
    is_sample = site["type"] == "sample"
    return is_sample and isinstance(base_distribution(site["fn"]), pyro.distributions.Unit)


def is_random(site: Site) -> bool:
    """Whether a site is one of a value that has a distribution: data, or a latent."""
    if site["type"] != "sample":
        return False
    return not (is_subsample(site) or is_deterministic(site) or is_factor(site))


def is_data(site: Site) -> bool:
    """Whether a site holds data: observed, or observed before its value was hidden."""
    return is_random(site) and bool(site["is_observed"] or site["infer"].get("was_observed"))


def is_latent(site: Site) -> bool:
    """Whether a site is random and not data."""
    return is_random(site) and not is_data(site)
