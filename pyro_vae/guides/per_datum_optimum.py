"""A guide's family with separate parameters for each data point, to be optimized."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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
    r"""A guide on one batch, with parameter offsets of each data point.

    For a `Guide`, and for a `SemiAmortized` guide after its steps, the offsets are added to the
    outputs of the networks, the parameters of the family (a flow's context among them; its layers,
    and other parameters that a family learns without a network, stay fixed). For any other program
    they are added to the parameters of the distributions at its sample sites, in unconstrained
    coordinates.

    A factor is thereby free if its parents are data, `index`, nothing, or enumerated latents, each
    value of which has separate offsets. A factor with a *sampled* latent among its parents keeps
    its function of that latent, moved by a constant per data point.

    Args:
        model: the model of the guide.
        guide: any guide with reparameterized draws.
        batch: `{"x": [B, ...], ...}`.

    Attributes:
        start: the guide without offsets. The steps of a `SemiAmortized` guide are random; `start`
            is where they ended once.
        parameter_offsets: `{name: tensor}` that require gradients, zero at first.
        rows: `{name: dimension of the data}`, counted from the right.

    Raises:
        UserError: a distribution has no parameters that can be moved, or no reparameterized draws.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.guides.per_datum_optimum import PerDatumOptimum
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> optimum = PerDatumOptimum(model, pv.guides.Guide(model), {"x": torch.zeros(3, 6)})
        >>> optimum.parameter_offsets["z"].shape  # [1, N, size]: loc and log_scale of each z
        torch.Size([1, 3, 4])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        batch: dict[str, torch.Tensor],
    ) -> None:
        self.batch = batch
        self.parameter_offsets: dict[str, torch.Tensor] = {}
        self.rows: dict[str, int] = {}
        self.stands_for = guide, ""  # the layout is that of the guide; see `programs.layout`
        self.outputs: dict[str, torch.Tensor] = {}  # of the last run, to which offsets are added
        initial: dict[str, torch.Tensor] = {}
        if isinstance(guide, SemiAmortized):
            with torch.no_grad():
                initial = guide.parameter_offsets(**batch)
            guide = guide.guide
        self.model, self.initial, self.start = model, initial, guide
        if initial and isinstance(guide, Guide):
            self.start = guide.with_parameter_offsets(batch, initial)
        self.factors = guide.conditionals if isinstance(guide, Guide) else {}
        self.program_arguments = parameters_of(guide)
        if isinstance(guide, Guide):
            declared = guide

            def program(**inputs: Any) -> dict[str, torch.Tensor]:
                offsets = {k: v + initial.get(k, 0.0) for k, v in self.parameter_offsets.items()}
                return declared.with_parameter_offsets(batch, offsets)(**inputs)

            self._program: Callable[..., Any] = program
        else:
            self._program = _OffsetParameters(self)(as_keyword_program(guide))
        self.in_plate = layout_of(model, guide, batch).particles == "plate"
        with torch.no_grad():
            traces = trace_pair(model, self, batch, num_particles=2 if self.in_plate else None)
        for name, site in traces.guide.items():
            if isinstance(guide, Guide):
                q, shape = guide.conditionals[name], self.shape(site["fn"].batch_shape)
                self.add(name, next(q.parameters()).new_zeros(*shape, q.size), -2)
            if name not in traces.enumerated and not site["fn"].has_rsample:
                raise UserError(f"{name!r} has no reparameterized draws to optimize by")
        if not self.parameter_offsets:
            raise UserError("the guide has nothing to optimize")

    @property
    def offsets(self) -> list[torch.Tensor]:
        """The offsets themselves, in order."""
        return list(self.parameter_offsets.values())

    @torch.no_grad()
    def set_offsets(self, values: Sequence[torch.Tensor]) -> None:
        """Give the offsets these values, in place."""
        for offset, value in zip(self.offsets, values, strict=True):
            offset.copy_(value)

    def select(
        self, flags: torch.Tensor, values: Sequence[torch.Tensor], others: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Of two values of the offsets: `values` for data points whose flag `[B]` is set, else `others`."""
        return [
            torch.where(flags.reshape((-1,) + (1,) * (-1 - row)), value, other)
            for row, value, other in zip(self.rows.values(), values, others, strict=True)
        ]

    def offsets_to_zero(self) -> list[torch.Tensor]:
        """Offsets after which the networks' outputs are zero: normals are N(0, 1), whatever x is.

        An offset is zero itself where the output depends on a latent that is sampled, or has another shape.
        """
        first, second = self._run_outputs(), self._run_outputs()
        result = []
        for name, offset in self.parameter_offsets.items():
            output = torch.zeros_like(offset)
            if name in first and torch.equal(first[name], second[name]):
                row, size, value = self.rows[name], len(self.batch["x"]), first[name]
                if value.dim() >= -row and value.shape[row] > size:  # particles in the plate
                    value = value.narrow(row, 0, size)
                value = value + self.initial.get(name, 0.0)
                extra = value.shape[: max(0, value.dim() - offset.dim())]
                kept = value.shape[len(extra) :]
                fits = all(
                    a in (1, b)
                    for a, b in zip(reversed(kept), reversed(offset.shape), strict=False)
                )
                if math.prod(extra) == 1 and fits:
                    output = value.reshape(kept).expand_as(offset)
            result.append(-output)
        return result

    @torch.no_grad()
    def _run_outputs(self) -> dict[str, torch.Tensor]:
        """What offsets are added to, in one run."""
        self.outputs = {}
        hooks = [
            q.head.register_forward_hook(partial(self._keep_output, name))
            for name, q in self.factors.items()
            if q.head_index is None  # else the selected head is a part of the output
        ]
        try:
            trace_pair(self.model, self, self.batch, num_particles=2 if self.in_plate else None)
        finally:
            for hook in hooks:
                hook.remove()
        return self.outputs

    def _keep_output(self, name: str, _: Any, __: Any, output: torch.Tensor) -> None:
        # the first is the guide's: a VampPrior calls the same network, with its pseudo-inputs
        self.outputs.setdefault(name, output.detach())

    def add(self, name: str, zeros: torch.Tensor, row: int) -> None:
        """Add an offset, zero at first, whose dimension `row` is that of the data."""
        self.parameter_offsets[name], self.rows[name] = zeros.requires_grad_(), row

    def shape(self, batch_shape: Sequence[int]) -> tuple[int, ...]:
        """The leading shape of an offset, one per data point and value of enumerated parents."""
        shape = list(batch_shape)[:-1]
        if self.in_plate and shape:
            shape[-1] = 1  # the particles share them
        return (*shape, len(self.batch["x"]))

    def __call__(self, x: torch.Tensor, **others: Any) -> Any:
        return self._program(x=x, **others)


class _OffsetParameters(Messenger):
    """Moves the unconstrained parameters of the distributions at a program's sample sites."""

    def __init__(self, optimum: PerDatumOptimum) -> None:
        super().__init__()
        self.optimum = optimum

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not (msg["is_observed"] or is_subsample(msg) or isinstance(msg["fn"], Delta)):
            msg["fn"] = self._with_offsets(msg["name"], msg["fn"], msg["fn"].batch_shape)

    def _with_offsets(self, name: str, fn: Any, batch_shape: torch.Size) -> Any:
        if isinstance(fn, Independent):
            base = self._with_offsets(name, fn.base_dist, batch_shape)
            return base.to_event(fn.reinterpreted_batch_ndims)
        parameters, is_new = {}, False
        for key, constraint in _parameters(name, fn).items():
            value = getattr(fn, key)
            # some constraints are elementwise, on a parameter whose last dimensions are the event's
            event_dim = max(constraint.event_dim, value.dim() - len(fn.batch_shape))
            event = value.shape[value.dim() - event_dim :]
            try:
                value = value.expand(fn.batch_shape + event)
                transform = transform_to(constraint)
            except (NotImplementedError, RuntimeError):
                raise _immovable(name, fn, f": its {key} has no map to the reals") from None
            raw = transform.inv(value)
            event, site = raw.shape[len(batch_shape) :], f"{name}.{key}"
            data_dim = -1 - len(event)
            if site not in self.optimum.parameter_offsets:
                is_new = True
                shape = self.optimum.shape(batch_shape) + tuple(event)
                self.optimum.add(site, raw.new_zeros(shape), data_dim)
            self.optimum.outputs[site] = raw.detach()
            offset = repeat_rows(self.optimum.parameter_offsets[site], batch_shape[-1], data_dim)
            parameters[key] = transform(raw + offset)
        moved = _rebuilt(name, fn, parameters)
        if is_new and not _same_density(fn, moved):
            raise _immovable(name, fn, ": rebuilt from its parameters, it has another density")
        return moved


_ALTERNATIVES = {  # parameters of one matrix or vector, of which the first is moved
    "logits": ("probs",),
    "scale_tril": ("covariance_matrix", "precision_matrix"),
}


def _parameters(name: str, fn: Any) -> dict[str, Any]:
    """`{parameter: constraint}` from which the distribution can be built again."""
    result = dict(fn.arg_constraints) if isinstance(fn.arg_constraints, dict) else {}
    for kept, others in _ALTERNATIVES.items():
        if kept in result:
            for other in others:
                result.pop(other, None)
    result = {k: c for k, c in result.items() if hasattr(fn, k)}
    if not result or not all(isinstance(getattr(fn, k), torch.Tensor) for k in result):
        raise _immovable(name, fn, "")
    vector = bool(fn.event_shape) or categorical_of(fn) is not None  # logits: a number, or K
    if vector and "logits" in result:
        result["logits"] = constraints.real_vector
    if "scale_tril" in result:  # torch and Pyro constrain it by several names
        result["scale_tril"] = constraints.lower_cholesky
    return result


def _rebuilt(name: str, fn: Any, parameters: dict[str, torch.Tensor]) -> Any:
    """A distribution like `fn` with these parameters, and `fn`'s other settings (a temperature)."""
    skipped = {*fn.arg_constraints, *parameters}
    skipped |= {n for names in _ALTERNATIVES.values() for n in names}
    accepted = inspect.signature(type(fn)).parameters
    settings = {n: getattr(fn, n) for n in accepted if n not in skipped and hasattr(fn, n)}
    if "validate_args" in accepted:
        settings["validate_args"] = False
    try:
        return type(fn)(**settings, **parameters)
    except TypeError as e:
        raise _immovable(name, fn, f": {e}") from None


def _same_density(fn: Any, moved: Any) -> bool:
    with torch.no_grad():
        value = fn.sample()
        log_probs = fn.log_prob(value), moved.log_prob(value)
    return torch.allclose(*log_probs, rtol=1e-3, atol=1e-3, equal_nan=True)


def _immovable(name: str, fn: Any, why: str) -> UserError:
    kind = type(fn).__name__
    return UserError(f"{name!r} is a {kind}, which has no parameters that could be optimized{why}")
