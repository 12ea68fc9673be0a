"""A guide's family, free for each data point: what it could say, whatever its network does."""

import inspect

import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch.distributions import Independent, constraints, transform_to

from .._torch_internals import categorical_of
from ..errors import UserError
from ..programs import layout_of, trace_pair
from ..programs.calling import as_keyword_program, parameters_of
from ..programs.sites import is_subsample
from .guide import Guide, repeat_rows
from .semi_amortized import SemiAmortized


class PerDatumOptimum:
    r"""A guide on one batch, with numbers of each data point's own added to those that make its distributions.

    For this library's `Guide`, and for a `SemiAmortized` one from where its steps end, these are
    the numbers that the network gives the family (a flow's context among them; its layers, and what
    else a family learns without a network, stay as they are). For any other program they are the
    parameters of the distributions at its sample sites, unconstrained.

    A factor is thereby wholly free if its parents are data, `index`, nothing, or enumerated latents,
    whose every value gets numbers of its own. One with a *sampled* latent among its parents keeps
    its function of that, moved by a constant per data point.

    Attributes:
        start: the guide as it is, which shifts of zero give. The steps of a `SemiAmortized` guide
            are random; `start` is where they ended once.
        shifts: `{name: tensor}` that require gradients, zero at first.
        rows: `{name: dimension of the data}`, from the right.

    Raises:
        UserError: a distribution whose parameters cannot be moved, or without reparameterized
            draws.
    """

    def __init__(self, model, guide, batch):
        self.batch, self.parameter_offsets, self.rows = batch, {}, {}
        self.stands_for = guide, ""  # its layout is that of the guide: see `programs.layout`
        start = {}
        if isinstance(guide, SemiAmortized):
            with torch.no_grad():
                guide, start = guide.guide, guide.parameter_offsets(**batch)
        self.start = guide.shifted(batch, start) if start else guide
        self.program_arguments = parameters_of(guide)
        if isinstance(guide, Guide):
            self._program = lambda **given: guide.shifted(
                batch, {k: v + start.get(k, 0.0) for k, v in self.parameter_offsets.items()}
            )(**given)
        else:
            self._program = _OffsetParameters(self)(as_keyword_program(guide))
        self.in_plate = layout_of(model, guide, batch).particles == "plate"
        with torch.no_grad():
            traces = trace_pair(model, self, batch, num_particles=2 if self.in_plate else None)
        for name, site in traces.guide.items():
            if isinstance(guide, Guide):
                q, shape = guide.factors[name], self.shape(site["fn"].batch_shape)
                self.add(name, next(q.parameters()).new_zeros(*shape, q.size), -2)
            if name not in traces.enumerated and not site["fn"].has_rsample:
                raise UserError(f"{name!r} has no reparameterized draws to optimize by")
        if not self.parameter_offsets:
            raise UserError("the guide has nothing to optimize")

    def add(self, name, zeros, row):
        self.parameter_offsets[name], self.rows[name] = zeros.requires_grad_(), row

    def shape(self, batch_shape):
        """The shape of numbers per data point, and per enumerated parent's value, of a first run."""
        shape = list(batch_shape)[:-1]
        if self.in_plate and shape:
            shape[-1] = 1  # the particles share them
        return (*shape, len(self.batch["x"]))

    def __call__(self, x, **others):
        return self._program(x=x, **others)


class _OffsetParameters(Messenger):
    """The distributions at a program's sample sites, their unconstrained parameters moved."""

    def __init__(self, free):
        super().__init__()
        self.free = free

    def _pyro_sample(self, msg):
        if not (msg["is_observed"] or is_subsample(msg) or isinstance(msg["fn"], Delta)):
            msg["fn"] = self._law(msg["name"], msg["fn"], msg["fn"].batch_shape)

    def _law(self, name, fn, batch_shape):
        if isinstance(fn, Independent):
            base = self._law(name, fn.base_dist, batch_shape)
            return base.to_event(fn.reinterpreted_batch_ndims)
        parameters, first = {}, False
        for key, constraint in _parameters(name, fn).items():
            value = getattr(fn, key)
            # some constrain each element of a parameter whose last dimensions are the event's
            event_dim = max(constraint.event_dim, value.dim() - len(fn.batch_shape))
            event = value.shape[value.dim() - event_dim :]
            try:
                value = value.expand(fn.batch_shape + event)
                transform = transform_to(constraint)
            except (NotImplementedError, RuntimeError):
                raise _immovable(name, fn, f": its {key} has no map to the reals") from None
            raw = transform.inv(value)
            own, site = raw.shape[len(batch_shape) :], f"{name}.{key}"
            if site not in self.free.parameter_offsets:
                first = True
                shape = self.free.shape(batch_shape) + tuple(own)
                self.free.add(site, raw.new_zeros(shape), -1 - len(own))
            shift = repeat_rows(self.free.parameter_offsets[site], batch_shape[-1], -1 - len(own))
            parameters[key] = transform(raw + shift)
        moved = _rebuilt(name, fn, parameters)
        if first and not _same_density(fn, moved):
            raise _immovable(name, fn, ": rebuilt from its parameters, it has another density")
        return moved


_ALTERNATIVES = {  # parameters of one matrix or vector, of which the first is moved
    "logits": ("probs",),
    "scale_tril": ("covariance_matrix", "precision_matrix"),
}


def _parameters(name, fn):
    """`{parameter: constraint}` from which the distribution can be built again."""
    found = dict(fn.arg_constraints) if isinstance(fn.arg_constraints, dict) else {}
    for kept, others in _ALTERNATIVES.items():
        if kept in found:
            for other in others:
                found.pop(other, None)
    found = {k: c for k, c in found.items() if hasattr(fn, k)}
    if not found or not all(isinstance(getattr(fn, k), torch.Tensor) for k in found):
        raise _immovable(name, fn, "")
    vector = bool(fn.event_shape) or categorical_of(fn) is not None  # logits: a number, or K
    if vector and "logits" in found:
        found["logits"] = constraints.real_vector
    if "scale_tril" in found:  # torch and Pyro constrain it by several names
        found["scale_tril"] = constraints.lower_cholesky
    return found


def _rebuilt(name, fn, parameters):
    """A distribution like `fn` with these parameters, and `fn`'s other settings (a temperature)."""
    skipped = {*fn.arg_constraints, *parameters}
    skipped |= {n for names in _ALTERNATIVES.values() for n in names}
    taken = inspect.signature(type(fn)).parameters
    settings = {n: getattr(fn, n) for n in taken if n not in skipped and hasattr(fn, n)}
    if "validate_args" in taken:
        settings["validate_args"] = False
    try:
        return type(fn)(**settings, **parameters)
    except TypeError as e:
        raise _immovable(name, fn, f": {e}") from None


def _same_density(fn, moved):
    with torch.no_grad():
        value = fn.sample()
        log_probs = fn.log_prob(value), moved.log_prob(value)
    return torch.allclose(*log_probs, rtol=1e-3, atol=1e-3, equal_nan=True)


def _immovable(name, fn, why):
    kind = type(fn).__name__
    return UserError(f"{name!r} is a {kind}, which has no parameters that could be optimized{why}")
