"""A model's continuous latents as one unconstrained vector u, and the log-densities of u."""

import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch.distributions import Transform, biject_to, constraints

from .._pyro_internals import ENUMERATE_DIM
from .._torch_internals import MixtureSameFamilyConstraint
from ..errors import UserError
from ..evaluate.inputs import Batch, PyroProgram
from ..guides import PriorGuide, SemiAmortized
from ..programs import layout_of, trace_program
from ..programs.handlers import Substitute
from ..programs.sites import is_point
from ..programs.traces import Traces

AUXILIARY = "_unconstrained"  # the suffix of the sites at which Pyro's AutoNormal draws

Site = dict[str, Any]  # a site of a Pyro trace
Place = Callable[[torch.Tensor], torch.Tensor]  # `[S, B, ...]` to where it stands in one run


class Joint:
    r"""The continuous latents of B data points as `u [S, B, D]`, and :math:`\log p(x, u)`.

    Latents with a constrained support are mapped from the reals by `biject_to`; the Jacobian is
    included. A distribution that does not state its support is taken to be real, with a warning.
    Discrete latents are summed exactly at every evaluation, in the model and in the guide.
    Everything is differentiable in u.

    Args:
        model: a Pyro program.
        batch: `{name: [B, ...]}`, the inputs of the pair.
        guide: the program that `draw` and the start of `log_densities` use. Default: the prior,
            that is the model's own conditionals, run in order with observed values in place.

    Attributes:
        shapes: `{latent: unconstrained shape}`.
        rows: B.

    Raises:
        UserError: a latent that is neither continuous nor can be summed; a guide without a density
            of the model's latents, because it is a point or samples further variables.
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
            self.shapes = _unconstrained_shapes(sites)
            for name in self.shapes:
                if not _states_support(sites[name]["fn"]):
                    warnings.warn(
                        f"the prior of {name!r} states no support; it is taken to be real",
                        stacklevel=3,
                    )
            if guide is not None:
                _check_guide(self._trace(guide, 1).model, self.shapes)

    @property
    def size(self) -> int:
        """D, the number of unconstrained numbers of all latents."""
        return sum(math.prod(s) for s in self.shapes.values())

    # ------------------------------------------------------------------ values

    def split(self, u: torch.Tensor) -> Batch:
        """`{latent: [S, B, *unconstrained shape]}` of u."""
        parts = u.split([math.prod(s) for s in self.shapes.values()], -1)
        return {
            name: part.reshape(part.shape[:-1] + tuple(shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def latents(self, u: torch.Tensor) -> Batch:
        """`{latent: [S, B, *event shape]}` of u, on the supports of the latents."""
        sites = self._trace(self.model, len(u), self._at(u)).model
        return {name: sites[name]["value"] for name in self.shapes}

    def unconstrained(self, values: Batch) -> torch.Tensor:
        """u `[S, B, D]` of `{latent: [S, B, *event shape]}`."""

        def handler(place: Place) -> Messenger:
            return Substitute({name: place(value) for name, value in values.items()})

        leading = next(iter(values.values())).shape[:2]
        sites = self._trace(self.model, leading[0], handler).model
        return _joined(sites, self.shapes, leading)

    def draw(self, num_particles: int) -> torch.Tensor:
        """Draws u `[S, B, D]` from the guide, or from the prior."""
        program = self.model if self.guide is None else self.guide
        with torch.no_grad():
            sites = self._trace(program, num_particles, draw_discrete=True).model
            return _joined(sites, self.shapes, (num_particles, self.rows))

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
        """`{latent: [S, B]}`: the log-density of each latent in one program."""
        traces, log_probs = self._log_probs(program, u)
        discrete = _added(log_probs[name] for name in traces.enumerated)
        result = {}
        for name in self.shapes:
            auxiliary = f"{name}{AUXILIARY}"
            log_prob = log_probs[auxiliary if auxiliary in log_probs else name]
            result[name] = _summed(log_prob + discrete, u)
        return result

    def _log_probs(
        self, program: PyroProgram | None, u: torch.Tensor
    ) -> tuple[Traces, dict[str, torch.Tensor]]:
        """`(traces, {site: [enum..., S, B]})`, the log-densities of latents with respect to u."""
        values = self.split(u)
        traces = self._trace(program, len(u), self._at(u))
        result = {}
        for name, site in traces.model.items():
            if is_point(site):
                continue
            result[name] = traces.log_prob(site)
            if name in values and not _is_real(_support(site["fn"])):
                transform = _transform(name, site["fn"])
                jacobian = transform.log_abs_det_jacobian(values[name], site["value"])
                result[name] = result[name] + jacobian
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
        return trace_program(
            program, self.layout, self.batch, num_particles, handler, draw_discrete, is_guide
        )

    def _at(self, u: torch.Tensor) -> Callable[[Place], Messenger]:
        """A handler that puts the latents at the values of `u [S, B, D]`."""
        values = self.split(u)
        return lambda place: _SubstituteUnconstrained({n: place(v) for n, v in values.items()})


class _SubstituteUnconstrained(Messenger):
    """Latents take the values to which unconstrained ones are mapped, and remain latents."""

    def __init__(self, values: Batch) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Site) -> None:
        name = msg["name"].removesuffix(AUXILIARY)
        if msg["done"] or msg["is_observed"] or name not in self.values or is_point(msg):
            return
        msg["value"], msg["done"] = _transform(name, msg["fn"])(self.values[name]), True


def _unconstrained_shapes(sites: Mapping[str, Site]) -> dict[str, torch.Size]:
    """`{latent: unconstrained shape}` of the continuous latents of a model's trace."""
    shapes = {
        name: _transform(name, s["fn"]).inverse_shape(tuple(s["fn"].event_shape))
        for name, s in sites.items()
        if not s["is_observed"] and s["infer"].get(ENUMERATE_DIM) is None
    }
    if not shapes:
        raise UserError("the model has no continuous latent")
    return shapes


def _check_guide(sites: Mapping[str, Site], latents: Collection[str]) -> None:
    """Check that the guide has a density of every latent, and of nothing else."""
    for name in latents:
        is_a_point = name in sites and is_point(sites[name])
        if name not in sites or (is_a_point and f"{name}{AUXILIARY}" not in sites):
            raise UserError(f"the guide has no density of {name!r} to start from")
    for name, site in sites.items():
        is_known = name.removesuffix(AUXILIARY) in latents
        if not is_known and site["infer"].get(ENUMERATE_DIM) is None:
            raise UserError(
                f"the guide samples {name!r}, which is no latent of the model: its density of "
                "the latents alone is not known"
            )


def _joined(
    sites: Mapping[str, Site], shapes: Mapping[str, torch.Size], leading: tuple[int, ...]
) -> torch.Tensor:
    """The latents of a trace as u `[S, B, D]`."""
    parts = []
    for name, shape in shapes.items():
        site = sites[name]
        if is_point(site):  # an AutoNormal's: the distribution is of the unconstrained value
            u = sites[f"{name}{AUXILIARY}"]["value"]
        else:
            u = _transform(name, site["fn"]).inv(site["value"])
        parts.append(u.expand(*leading, *shape).reshape(*leading, -1))
    return torch.cat(parts, -1)


def _added(log_probs: Iterable[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(torch.add, log_probs, torch.zeros(()))


def _summed(log_prob: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """`[S, B]` of a log-density `[enum..., S, B]`, summed over the enumerated dimensions."""
    enumerated = list(range(log_prob.dim() - 2))
    return (log_prob.logsumexp(enumerated) if enumerated else log_prob).expand(u.shape[:2])


def _transform(name: str, fn: Any) -> Transform:
    """The map from the reals to the support of a latent."""
    support = _support(fn)
    if _is_real(support):
        return torch.distributions.identity_transform
    try:
        return biject_to(_component_support(support))
    except NotImplementedError:
        raise UserError(
            f"{name!r} is neither continuous nor can it be summed: its support is {support}"
        ) from None


def _support(fn: Any) -> constraints.Constraint:
    return fn.support if _states_support(fn) else constraints.real


def _states_support(fn: Any) -> bool:
    """Whether a distribution states its support; flows wrapped by users often do not."""
    try:
        return fn.support is not None
    except NotImplementedError:
        return False


def _component_support(support: constraints.Constraint) -> constraints.Constraint:
    """The support of a mixture is that of its components."""
    if isinstance(support, MixtureSameFamilyConstraint):
        return support.base_constraint
    return support


def _is_real(support: constraints.Constraint) -> bool:
    support = _component_support(support)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
