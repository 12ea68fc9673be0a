"""A model's continuous latents as one unconstrained vector u, and the log-densities of u."""

import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch.distributions import Independent, MultivariateNormal

from .._pyro_internals import ENUMERATE_DIM, sum_rightmost
from ..errors import UserError, is_out_of_memory, reason_of
from ..evaluate.inputs import Batch, PyroProgram
from ..guides import PriorGuide, SemiAmortized
from ..programs import layout_of, trace_program
from ..programs.sites import (
    UNCONSTRAINED_LATENTS,
    distributions_of,
    is_point,
    row_mask,
    states_support,
    with_mask_apart,
)
from ..programs.traces import Traces
from .supports import (
    BOUNDS,
    bounds_of,
    common_support,
    has_tensor_bounds,
    transform_onto,
)

AUXILIARY = "_unconstrained"  # the suffix of the sites at which Pyro's AutoNormal draws
ROUNDING = 1e-3  # of a value that is mapped to the reals and back, relative to it or to an interval

Site = dict[str, Any]  # a site of a Pyro trace
Place = Callable[[torch.Tensor], torch.Tensor]  # `[S, B, ...]` to where it stands in one run


class Joint:
    r"""The continuous latents of B data points as `u [S, B, D]`, and :math:`\log p(x, u)`.

    Latents with a constrained support are mapped from the reals by `biject_to` of the support that
    the model states, in the model and in the guide; the Jacobian is included. A distribution that
    does not state its support is taken to be real, with a warning.
    Discrete latents are summed exactly at every evaluation, in the model and in the guide. Where a
    latent does not exist (`absent`, of `Layout`), it has the density that it has without the mask: it
    is integrated out just so.
    Everything is differentiable in u.

    Args:
        model: a Pyro program.
        batch: `{name: [B, ...]}`, the inputs of the pair.
        guide: the program that `draw` and the start of `log_densities` use. Default: the prior,
            that is the model's own conditionals, run in order with observed values in place.

    Attributes:
        shapes: `{latent: unconstrained shape}`.
        supports: `{latent: support}`; bounds that differ between data points are `[B, *event]`.
        masked: the latents that the model masks in some rows.
        rows: B.

    Raises:
        UserError: a latent that is neither continuous nor can be summed; a support that depends on
            another latent; a guide without a density of the model's latents, because it is a point
            or samples further variables, or with values outside their supports.
    """

    def __init__(self, model: PyroProgram, batch: Batch, guide: PyroProgram | None = None) -> None:
        if isinstance(guide, SemiAmortized):  # its steps are random: take them once
            guide = guide.refined(batch)
        self.model, self.guide, self.batch = model, guide, batch
        self.rows = len(batch["x"])
        self.layout = layout_of(model, PriorGuide(model) if guide is None else guide, batch)
        if self.layout.discrete == "sampled":
            names = ", ".join(repr(s.name) for s in self.layout.discrete_sites)
            raise UserError(f"{names} can only be sampled: there is no density without them")
        with torch.no_grad():
            sites = self._trace(model, 1).model
            latents = _continuous_latents(sites)
            for name in latents:
                if not states_support(sites[name]["fn"]):
                    warnings.warn(
                        f"the prior of {name!r} states no support; it is taken to be real",
                        stacklevel=3,
                    )
            self.masked = [n for n in latents if not torch.as_tensor(row_mask(sites[n])).all()]
            runs = [sites]
            if any(has_tensor_bounds(sites[name]["fn"]) for name in latents):
                runs.append(self._trace(model, 1).model)  # where other latents have other values
            distributions = {
                n: [fn for r in runs for fn in distributions_of(r[n])] for n in latents
            }
            self.supports = {n: common_support(n, fns) for n, fns in distributions.items()}
            self.transforms = {n: transform_onto(n, s) for n, s in self.supports.items()}
            self.shapes = {
                name: transform.inverse_shape((self.rows, *sites[name]["fn"].event_shape))[1:]
                for name, transform in self.transforms.items()
            }
            if guide is not None:
                self._check_guide(self._trace(guide, 1).model)

    @property
    def size(self) -> int:
        """D, the number of unconstrained numbers of all latents."""
        return sum(math.prod(s) for s in self.shapes.values())

    # ------------------------------------------------------------------ values

    def _split_flat(self, u: torch.Tensor, names: Iterable[str] | None = None) -> Batch:
        """`{latent: [..., numbers]}` of the unconstrained `[..., D]` of these latents (all)."""
        names = list(self.shapes if names is None else names)
        return dict(
            zip(names, u.split([math.prod(self.shapes[n]) for n in names], -1), strict=True)
        )

    def split(self, u: torch.Tensor) -> Batch:
        """`{latent: [S, B, *unconstrained shape]}` of u."""
        return {
            name: part.reshape(part.shape[:-1] + tuple(self.shapes[name]))
            for name, part in self._split_flat(u).items()
        }

    def latents(self, u: torch.Tensor) -> Batch:
        """`{latent: [S, B, *event shape]}` of u, on the supports of the latents."""
        return {name: self.transforms[name](part) for name, part in self.split(u).items()}

    def unconstrained(self, values: Batch) -> torch.Tensor:
        """u `[S, B, D]` of `{latent: [S, B, *event shape]}`."""
        parts = [self.transforms[name].inv(values[name]) for name in self.shapes]
        leading = next(iter(values.values())).shape[:2]
        return torch.cat([part.reshape(*leading, -1) for part in parts], -1)

    def draw(self, num_particles: int) -> torch.Tensor:
        """Draws u `[S, B, D]` from the guide, or from the prior.

        Raises:
            UserError: the guide draws values outside the support that the model states.
        """
        program = self.model if self.guide is None else self.guide
        with torch.no_grad():
            sites = self._trace(program, num_particles, draw_discrete=True).model
            return self._joined(sites, num_particles)

    def _joined(self, sites: Mapping[str, Site], num_particles: int) -> torch.Tensor:
        """The latents of a trace as u `[S, B, D]`."""
        leading = num_particles, self.rows
        parts: Batch = {}
        for carrier, names in self._carriers(sites).items():
            value = sites[carrier]["value"]
            if carrier in self.shapes:
                u, shape = self.transforms[carrier].inv(value), tuple(self.shapes[carrier])
            else:  # an AutoGuide's: the distribution is of the unconstrained values
                u, shape = value, tuple(sites[carrier]["fn"].event_shape)
            parts |= self._split_flat(u.expand(*leading, *shape).reshape(*leading, -1), names)
        u = torch.cat([parts[name] for name in self.shapes], -1)
        self._check_supports(sites, u)
        return u

    def _carriers(self, sites: Mapping[str, Site]) -> dict[str, tuple[str, ...]]:
        """`{site: latents}`: which sites of a trace have the densities of which latents."""
        result = {}
        for name, site in sites.items():
            names = _drawn_latents(site, self.shapes)
            if names and not is_point(site):
                result[name] = names
        return result

    # ----------------------------------------------------------- log-densities

    def log_densities(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""`(log start, log p(x, u))`, both `[S, B]`, with discrete latents summed."""
        traces, log_probs = self._log_probs(self.model, u)
        observed = {n for n, s in traces.model.items() if s["is_observed"]}
        prior = _added(p for n, p in log_probs.items() if n not in observed)
        joint = prior + _added(log_probs[n] for n in observed)
        start = _summed(prior, u) if self.guide is None else self.log_guide(u)
        return start, _summed(joint, u)

    def log_prior(self, u: torch.Tensor) -> torch.Tensor:
        """`[S, B]`: the model's log-density of u given its other observed values."""
        traces, log_probs = self._log_probs(self.model, u)
        prior = _added(p for n, p in log_probs.items() if not traces.model[n]["is_observed"])
        return _summed(prior, u)

    def log_guide(self, u: torch.Tensor) -> torch.Tensor:
        """`[S, B]`: the guide's log-density of u."""
        return _summed(_added(self._log_probs(self.guide, u)[1].values()), u)

    def log_marginals(self, program: PyroProgram | None, u: torch.Tensor) -> Batch:
        """`{latent: [S, B]}`: the log-density of each latent in one program, given its parents."""
        traces, log_probs = self._log_probs(program, u)
        discrete = _added(log_probs[name] for name in traces.enumerated)
        result: Batch = {}
        for carrier, names in self._carriers(traces.model).items():
            parts = {names[0]: log_probs[carrier]}
            if len(names) > 1:
                parts = self._normal_marginals(traces, carrier, names, u)
            result |= {name: _summed(part + discrete, u) for name, part in parts.items()}
        return result

    def _normal_marginals(
        self, traces: Traces, carrier: str, names: tuple[str, ...], u: torch.Tensor
    ) -> Batch:
        """`{latent: [S, B]}`: the marginal densities of a normal distribution of several latents."""
        mean = traces.of_distribution(carrier, lambda fn: fn.mean)
        covariance = traces.of_distribution(carrier, lambda fn: _covariance(fn).flatten(-2))
        covariance = covariance.unflatten(-1, (mean.shape[-1], -1))
        values, result, start = self._split_flat(u), {}, 0
        for name in names:
            part = slice(start, start + values[name].shape[-1])
            q = MultivariateNormal(mean[..., part], covariance[..., part, part])
            result[name], start = q.log_prob(values[name]), part.stop
        return result

    def _log_probs(
        self, program: PyroProgram | None, u: torch.Tensor
    ) -> tuple[Traces, dict[str, torch.Tensor]]:
        """`(traces, {site: [enum..., S, B]})`, the log-densities of latents with respect to u."""
        values, latents = self.split(u), self.latents(u)
        flat = self._split_flat(u)

        def handler(place: Place) -> Messenger:
            return _SubstituteLatents(
                {name: place(value) for name, value in latents.items()},
                {name: place(value) for name, value in flat.items()},
            )

        traces = self._trace(program, len(u), handler)
        result = {}
        for name, site in traces.model.items():
            if is_point(site):
                continue
            result[name] = traces.log_prob(site)
            if {name, *_drawn_latents(site, self.shapes)} & self.layout.absent:
                result[name] = with_mask_apart(site)["unscaled_log_prob"]
            if name in values:
                jacobian = self.transforms[name].log_abs_det_jacobian(values[name], latents[name])
                result[name] = result[name] + sum_rightmost(jacobian, jacobian.dim() - 2)
        return traces, result

    # --------------------------------------------------------------------- runs

    def _trace(
        self,
        program: PyroProgram | None,
        num_particles: int,
        handler: Callable[[Place], Messenger] | None = None,
        draw_discrete: bool = False,
    ) -> Traces:
        """One run of one program, its log-probs `[enum..., S, B]`, as the model of `Traces`."""
        assert program is not None, "there is no guide"
        is_guide = program is self.guide
        try:
            return trace_program(
                program, self.layout, self.batch, num_particles, handler, draw_discrete, is_guide
            )
        except UserError:
            raise
        except Exception as e:  # any kind, from a user's program
            if handler is None or is_out_of_memory(e):
                raise
            raise UserError(
                f"the {'guide' if is_guide else 'model'} fails where its continuous latents are given "
                f"and the discrete ones are summed: {reason_of(e)} (a given latent has no dimension of "
                "the summed ones: shapes come from torch.broadcast_shapes of all)"
            ) from e

    # ------------------------------------------------------------------- checks

    def _check_guide(self, sites: Mapping[str, Site]) -> None:
        """Check that the guide has a density of every latent, and of nothing else."""
        carriers = self._carriers(sites)
        for name in self.shapes:
            if not any(name in names for names in carriers.values()):
                raise UserError(f"the guide has no density of {name!r} to start from")
        for name, site in sites.items():
            is_known = name in carriers or name in self.shapes
            if not is_known and site["infer"].get(ENUMERATE_DIM) is None:
                raise UserError(
                    f"the guide samples {name!r}, which is no latent of the model: its density of "
                    "the latents alone is not known"
                )

    def _check_supports(self, sites: Mapping[str, Site], u: torch.Tensor) -> None:
        """Check that the values of a trace lie in the model's supports: u stands for them."""
        for name, mapped in self.latents(u).items():
            value, bounds = sites[name]["value"], bounds_of(self.supports[name])
            width = bounds[1] - bounds[0] if len(bounds) == len(BOUNDS) else 1 + mapped.abs()
            is_near = (mapped - value).abs() <= ROUNDING * width
            if not (is_near | ~value.isfinite()).all():
                if bounds == [-math.pi, math.pi]:
                    raise UserError(
                        f"{name!r} is an angle, and the guide's values go beyond one turn: give the guide "
                        "VonMises"
                    )
                raise UserError(
                    f"the guide's values of {name!r} are not in the support that the model states, or "
                    "its AutoGuide was made for another support"
                )


class _SubstituteLatents(Messenger):
    """Latents take these values, or an AutoGuide's sites the unconstrained ones; they stay latents.

    Args:
        latents: `{latent: [..., *event shape]}`.
        unconstrained: `{latent: [..., numbers]}`.
    """

    def __init__(self, latents: Batch, unconstrained: Batch) -> None:
        super().__init__()
        self.latents, self.unconstrained = latents, unconstrained

    def _pyro_sample(self, msg: Site) -> None:
        name, names = msg["name"], _drawn_latents(msg, self.latents)
        if msg["done"] or msg["is_observed"] or not names or is_point(msg):
            return
        if name in self.latents:
            value = self.latents[name]
        else:
            value = torch.cat([self.unconstrained[n] for n in names], -1)
            value = value.reshape(value.shape[:-1] + tuple(msg["fn"].event_shape))
        msg["value"], msg["done"] = value, True


def _drawn_latents(site: Site, latents: Collection[str]) -> tuple[str, ...]:
    """The latents whose values a site draws, on their supports or, of an AutoGuide, on the reals."""
    if site["name"] in latents:
        return (site["name"],)
    names = site["infer"].get(UNCONSTRAINED_LATENTS, (site["name"].removesuffix(AUXILIARY),))
    return names if all(name in latents for name in names) else ()


def _continuous_latents(sites: Mapping[str, Site]) -> list[str]:
    """The continuous latents of a model's trace."""
    names = [
        name
        for name, s in sites.items()
        if not s["is_observed"] and s["infer"].get(ENUMERATE_DIM) is None
    ]
    if not names:
        raise UserError("the model has no continuous latent")
    return names


def _covariance(fn: Any) -> torch.Tensor:
    """`[..., D, D]` of a normal distribution of a vector, diagonal or not."""
    return fn.variance.diag_embed() if isinstance(fn, Independent) else fn.covariance_matrix


def _added(log_probs: Iterable[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(torch.add, log_probs, torch.zeros(()))


def _summed(log_prob: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """`[S, B]` of a log-density `[enum..., S, B]`, summed over the enumerated dimensions."""
    enumerated = list(range(log_prob.dim() - 2))
    return (log_prob.logsumexp(enumerated) if enumerated else log_prob).expand(u.shape[:2])
