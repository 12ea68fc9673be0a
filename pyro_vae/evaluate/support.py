"""Whether data lie in the support of a model's likelihoods."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from torch.distributions import constraints

from ..distributions import CategoricalLevels, DiscretizedLogistic
from ..distributions.proper import is_proper
from ..errors import SupportError
from ..guides import PriorGuide
from ..programs import few_rows, layout_of, trace_pair
from ..programs.calling import as_keyword_program
from ..programs.contexts import eval_mode, fork_rng
from ..programs.modules import device_of
from ..programs.sites import Site, base_distribution, is_factor, is_random, sites_in
from ..programs.values import WRAPPERS, inside, or_masked, support_of

ROWS_PER_RUN = 1000  # of the model, where supports differ between data points


class Support:
    """The supports of a pair's likelihoods, read from one run of the model on two rows.

    If a support is the same for all data points and the observed value is an array of the batch,
    unchanged, all its values are compared with the support at once. Otherwise (a binomial with a
    number of trials per data point, a value that the model transforms, a mask) the model is run on
    all rows.

    Attributes:
        improper: why p(x) is not a probability, in a few words and as an error says it; or None.
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object] | None,
        batch: dict[str, torch.Tensor],
    ) -> None:
        self.model, self.guide = model, guide
        self.device = device_of(model, guide, default=batch["x"].device)
        pair = model, PriorGuide(model) if guide is None else guide
        self.divisible = layout_of(*pair, batch).divisible
        rows = {k: v.to(self.device) for k, v in few_rows(*pair, batch, 2).items()}
        trace = self._run(rows)
        self.improper = _why_improper(trace)
        self.fixed: dict[str, tuple[str, torch.Size, constraints.Constraint]] = {}
        self.traced = False
        for name, site in data_sites(trace).items():
            constraint, source = _fixed_support(site), _source(site["value"], rows)
            if constraint is None or source is None:
                self.traced = True
            else:
                self.fixed[name] = source, site["value"].shape[1:], constraint
        self.shapes = {name: value.shape[1:] for name, value in rows.items()}

    def check(self, batch: dict[str, torch.Tensor]) -> None:
        """Check that every observed value of the batch lies in the support of its distribution.

        Raises:
            SupportError: with the site, an example, and the remedy.
        """
        traced = self.traced or any(
            value.shape[1:] != self.shapes.get(name, value.shape[1:])
            for name, value in batch.items()
        )
        for source, shape, constraint in self.fixed.values():
            if traced:
                break
            traced = not constraint.check(batch[source].reshape(-1, *shape)).all()
        if traced:  # after a failure too: the run decides, and names the site
            for sites in self._runs(batch):
                for name, site in data_sites(sites).items():
                    check_support(site, name, site["value"])

    def _runs(self, batch: dict[str, torch.Tensor]) -> list[dict[str, Site]]:
        """The sites of runs that together cover the batch."""
        if len(batch["x"]) <= ROWS_PER_RUN or not self.divisible:
            return [self._run(batch)]
        parts = zip(*(value.split(ROWS_PER_RUN) for value in batch.values()), strict=True)
        return [self._run(dict(zip(batch, part, strict=True))) for part in parts]

    @torch.no_grad()
    def _run(self, batch: dict[str, torch.Tensor]) -> dict[str, Site]:
        """`{name: site}` of one run of the model: alone if possible, else with the guide."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        with (
            eval_mode(self.model, self.guide),
            fork_rng(self.device),
            pyro.validation_enabled(False),
        ):
            try:
                trace = poutine.trace(as_keyword_program(self.model)).get_trace(**batch)
                return sites_in(trace)
            except Exception:  # the model cannot be run from its prior
                guide = PriorGuide(self.model) if self.guide is None else self.guide
                traces = trace_pair(self.model, guide, batch)
                return {**traces.scored, **traces.factors_outside}


def data_sites(sites: Mapping[str, Site]) -> dict[str, Site]:
    """The sites of observed data: neither deterministic values nor factors."""
    return {n: s for n, s in sites.items() if is_random(s) and s["is_observed"]}


def check_support(site: Site, name: str, value: torch.Tensor) -> None:
    """Check that every value that is not masked lies in the support of the site's distribution.

    Raises:
        SupportError: with an example and the remedy.
    """
    fn = site["fn"]
    base = base_distribution(fn, transforms=False)
    if not is_proper(base):
        return
    ok = or_masked(inside(fn, value), site.get("mask"))
    if ok.all():
        return
    ok, value = torch.broadcast_tensors(
        ok.reshape(ok.shape + (1,) * (value.dim() - ok.dim())), value
    )
    row, *place = (~ok).nonzero()[0].tolist()
    wrong = value[(row, *place)].item()
    raise SupportError(
        f"{name} has values outside the support of its {type(base).__name__} likelihood "
        f"({base.support}), e.g. {wrong:.4g}",
        wrong,
        tuple(place),
        _remedy(base),
    )


def _remedy(base: Any) -> str:
    """What to do about values outside the support of a distribution."""
    distribution = type(base).__name__
    if "Bernoulli" in distribution and "Continuous" not in distribution:
        return (
            '; binarize="dynamic" draws binary images, likelihood="binomial" or '
            '"continuous-bernoulli" takes gray ones, "gray-bernoulli" scores them all the same'
        )
    if distribution in (
        "Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial", "CountsOfRow",
    ):  # fmt: skip
        return "; counts are whole numbers (8-bit integers are taken as gray levels, over 255)"
    if isinstance(base, (CategoricalLevels, DiscretizedLogistic)):
        return f"; this likelihood has {base.levels} gray levels: set levels="
    return ""


class Improper(NamedTuple):
    """Why p(x) is not a probability: in a few words, and as an error says it."""

    reason: str
    message: str


def _why_improper(sites: Mapping[str, Site]) -> Improper | None:
    """Why p(x) is not a probability; None if it is."""
    factors = [n for n, s in sites.items() if is_factor(s)]
    if factors:
        return Improper(
            "the model has a pyro.factor",
            f"the model has a pyro.factor, {factors[0]!r}: what it scores is no probability of x, so "
            "it has no log-likelihood",
        )
    if not all(
        is_proper(base_distribution(s["fn"], transforms=False)) for s in data_sites(sites).values()
    ):
        return Improper(
            "gray values in a Bernoulli",
            "gray values in a Bernoulli have a score, not a log-likelihood; "
            "binarize, or use a likelihood that fits",
        )
    return None


def _fixed_support(site: Site) -> constraints.Constraint | None:
    """The support of a site if it is the same for all data points, on any device; else None."""
    fn = site["fn"]
    if not (site.get("mask") is None or site["mask"] is True):
        return None
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, MaskedDistribution):
            return None
        fn = fn.base_dist
    if not is_proper(fn):
        return constraints.real
    return _with_scalars(support_of(fn))


def _with_scalars(constraint: constraints.Constraint) -> constraints.Constraint | None:
    """A copy of a constraint with numbers for its tensors; None if one has several values."""
    new = copy.copy(constraint)
    for key, value in list(vars(new).items()):
        if isinstance(value, torch.Tensor):
            if any(n > 1 and step for n, step in zip(value.shape, value.stride(), strict=True)):
                return None
            setattr(new, key, value.reshape(-1)[0].item())
        elif isinstance(value, constraints.Constraint):
            part = _with_scalars(value)
            if part is None:
                return None
            setattr(new, key, part)
        elif isinstance(value, (list, tuple, dict)):
            return None
    return new


def _source(value: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the array that a site observes, unchanged or reshaped; None if there is none."""
    for name, array in rows.items():
        same = value.data_ptr() == array.data_ptr() and value.numel() == array.numel()
        if same and value.is_contiguous() and len(value) == len(array) and value.dim():
            return name
    return None
