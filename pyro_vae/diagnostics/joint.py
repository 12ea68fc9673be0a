"""A model's continuous latents as one unconstrained vector, and the densities there."""

import math
import warnings

import torch
from pyro.poutine.messenger import Messenger
from torch.distributions import biject_to, constraints

from .._pyro_internals import ENUMERATE_DIM
from .._torch_internals import MixtureSameFamilyConstraint
from ..errors import UserError
from ..guides import PriorGuide, SemiAmortized
from ..programs import layout_of, trace_program
from ..programs.handlers import Substitute
from ..programs.sites import is_point


class Joint:
    r"""The continuous latents of B data as `u [S, B, D]`, and :math:`\log p(x, u)` there.

    Latents of constrained support are mapped from the reals by `biject_to`, the Jacobian counted.
    A distribution that does not state its support is taken to be one of real numbers, with a
    warning.
    Discrete latents are summed exactly at every evaluation, in the model and in the guide,
    whichever side has them. Everything is differentiable in u.

    Args:
        model: a Pyro program.
        batch: its data, B rows.
        guide: whose distribution `draw` and the start of `log_densities` are; None is the model's own prior
            (its conditionals, run in their order, with what it observes in place).

    Raises:
        UserError: a latent that is neither continuous nor can be summed; a guide without a density
            of the model's latents: a point, or one that samples auxiliary variables.
    """

    def __init__(self, model, batch, guide=None):
        if isinstance(
            guide, SemiAmortized
        ):  # its steps are random: one distribution for all that follows
            guide = guide.refined(batch)
        self.model, self.guide, self.batch = model, guide, batch
        self.layout = layout_of(model, PriorGuide(model) if guide is None else guide, batch)
        if self.layout.discrete == "sampled":
            names = ", ".join(repr(s.name) for s in self.layout.discrete_sites)
            raise UserError(f"{names} can only be sampled: there is no density without them")
        with torch.no_grad():
            sites = self._trace(model, 1).model
            self.shapes = {
                name: _transform(name, s["fn"]).inverse_shape(tuple(s["fn"].event_shape))
                for name, s in sites.items()
                if not s["is_observed"] and s["infer"].get(ENUMERATE_DIM) is None
            }
            if not self.shapes:
                raise UserError("the model has no continuous latent")
            for name in self.shapes:
                if not _states_support(sites[name]["fn"]):
                    warnings.warn(
                        f"the prior of {name!r} states no support; it is taken to be real",
                        stacklevel=3,
                    )
            self.rows = len(batch["x"])
            if guide is not None:
                self._check(self._trace(guide, 1).model)

    def _check(self, sites):
        for name in self.shapes:
            pointed = name in sites and is_point(sites[name])
            if name not in sites or (pointed and f"{name}_unconstrained" not in sites):
                raise UserError(f"the guide has no density of {name!r} to start from")
        for name, site in sites.items():
            known = name.removesuffix("_unconstrained") in self.shapes
            if not known and site["infer"].get(ENUMERATE_DIM) is None:
                raise UserError(
                    f"the guide samples {name!r}, which is no latent of the model: its density of "
                    "the latents alone is not known"
                )

    @property
    def size(self):
        """D: the latents' unconstrained numbers, all together."""
        return sum(math.prod(s) for s in self.shapes.values())

    def log_marginals(self, program, u):
        """`{latent: [S, B]}`: each latent's own log-density in one program, the discrete summed."""
        traces, log_probs = self._log_probs(program, u)
        discrete = sum(log_probs[name] for name in traces.enumerated)
        return {
            name: _summed(log_probs.get(f"{name}_unconstrained", log_probs.get(name)) + discrete, u)
            for name in self.shapes
        }

    def _trace(self, program, num_particles, handler=None, draw_discrete=False):
        """One run of one program, its log-probs `[enum..., S, B]`, as the model of `Traces`."""
        is_guide = program is self.guide
        return trace_program(
            program, self.layout, self.batch, num_particles, handler, draw_discrete, is_guide
        )

    def _at(self, u):
        """Puts the latents at the values to which `u [S, B, D]` is mapped."""
        values = self.split(u)
        return lambda place: _AtImage({name: place(v) for name, v in values.items()})

    def split(self, u):
        """`{latent: [S, B, *unconstrained shape]}` of u."""
        parts = u.split([math.prod(s) for s in self.shapes.values()], -1)
        return {
            name: part.reshape(part.shape[:-1] + tuple(shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def latents(self, u):
        """`{latent: [S, B, *event shape]}`, on their own supports."""
        sites = self._trace(self.model, len(u), self._at(u)).model
        return {name: sites[name]["value"] for name in self.shapes}

    def unconstrained(self, values):
        """u `[S, B, D]` of `{latent: [S, B, *event shape]}`."""
        leading = next(iter(values.values())).shape[:2]
        at = lambda place: Substitute({n: place(v) for n, v in values.items()})  # noqa: E731
        sites = self._trace(self.model, leading[0], at).model
        return self._joined(sites, leading)

    def draw(self, num_particles):
        """u `[S, B, D]` from the guide, or from the prior."""
        program = self.model if self.guide is None else self.guide
        with torch.no_grad():
            sites = self._trace(program, num_particles, draw_discrete=True).model
            return self._joined(sites, (num_particles, self.rows))

    def _joined(self, sites, leading):
        parts = []
        for name, shape in self.shapes.items():
            site = sites[name]
            if is_point(site):  # an AutoNormal's: the distribution is of the unconstrained value
                u = sites[f"{name}_unconstrained"]["value"]
            else:
                u = _transform(name, site["fn"]).inv(site["value"])
            parts.append(u.expand(*leading, *shape).reshape(*leading, -1))
        return torch.cat(parts, -1)

    def _log_probs(self, program, u):
        """`(traces, {site: log-probability [enum..., S, B]})`, the latents' as densities of u."""
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

    def log_densities(self, u):
        r"""`(log start, log p(x, u))`, both `[S, B]`, the discrete latents summed in each."""
        traces, of_model = self._log_probs(self.model, u)
        observed = {n for n, s in traces.model.items() if s["is_observed"]}
        latent = sum(p for n, p in of_model.items() if n not in observed)
        joint = latent + sum(of_model[n] for n in observed)
        start = _summed(latent, u) if self.guide is None else self.log_guide(u)
        return start, _summed(joint, u)

    def log_prior(self, u):
        """`[S, B]`: the model's log-density of u, given what it observes in addition."""
        traces, of_model = self._log_probs(self.model, u)
        return _summed(sum(p for n, p in of_model.items() if not traces.model[n]["is_observed"]), u)

    def log_guide(self, u):
        """`[S, B]`: the guide's log-density of u, its discrete latents summed."""
        return _summed(sum(self._log_probs(self.guide, u)[1].values()), u)


class _AtImage(Messenger):
    """Latents take the values to which the unconstrained ones are mapped, and are latents still."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        name = msg["name"].removesuffix("_unconstrained")
        if msg["done"] or msg["is_observed"] or name not in self.values or is_point(msg):
            return
        msg["value"], msg["done"] = _transform(name, msg["fn"])(self.values[name]), True


def _summed(log_prob, u):
    """`[S, B]`: the enumerated dimensions summed."""
    left = list(range(log_prob.dim() - 2))
    return (log_prob.logsumexp(left) if left else log_prob).expand(u.shape[:2])


def _transform(name, fn):
    """The map from the reals to a latent's support."""
    support = _support(fn)
    if _is_real(support):
        return _IDENTITY
    try:
        return biject_to(_of_components(support))
    except NotImplementedError:
        raise UserError(
            f"{name!r} is neither continuous nor can it be summed: its support is {support}"
        ) from None


def _support(fn):
    return fn.support if _states_support(fn) else constraints.real


def _states_support(fn):
    """Whether a distribution names its support; flows that users wrap often do not."""
    try:
        return fn.support is not None
    except NotImplementedError:
        return False


_IDENTITY = torch.distributions.identity_transform


def _of_components(support):
    """A mixture's support is that of its components."""
    is_mixture = isinstance(support, MixtureSameFamilyConstraint)
    return support.base_constraint if is_mixture else support


def _is_real(support):
    support = _of_components(support)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
