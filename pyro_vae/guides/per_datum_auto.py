"""Pyro's AutoGuides for local latents, as guides of this library."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.poutine.runtime import Message
from torch.distributions import biject_to
from torch.func import functional_call

from .._pyro_internals import prototype_of, set_up, sum_rightmost
from ..errors import UserError
from ..programs.calling import accepts_argument, as_keyword_program
from ..programs.handlers import is_discrete_latent
from ..programs.inspection import Example, covariates_of, example_with_data
from ..programs.sites import UNCONSTRAINED_LATENTS, is_subsample
from .base import BaseGuide

PER_SITE = (AutoNormal, AutoDelta)
JOINT = (AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal)


class PerDatumAutoGuide(BaseGuide):
    r"""A Pyro AutoGuide with one row of parameters per training data point.

    The adapter builds the parameters at once and keeps them in the module; Pyro's global store
    stays empty. Discrete latents are hidden from the AutoGuide and therefore enumerated in the
    model. A minibatch, of any size and order, takes its rows by `index`. Like every per-datum
    guide it does not apply to other data; an amortized guide is a `Guide`.

    * `AutoNormal`: a diagonal normal distribution for each latent.
    * `AutoDiagonalNormal`, `AutoMultivariateNormal`, `AutoLowRankMultivariateNormal`: one normal
      distribution of all latents of a data point. (Pyro's is one distribution over all data, which
      no minibatch could use in part; correlations between data points, which the posterior does
      not have, are left out.) Its density belongs to no single latent: `elbo_terms` reports it as
      `_joint`, and beta, warm-up and free bits are refused, unless there is only one latent.
    * `AutoDelta`: a point (MAP). Training maximizes :math:`\log p(x, z)`. The ELBO that evaluation
      reports is this number, not a bound on log p(x).

    Args:
        kind: one of these classes, or a subclass.
        model: a Pyro program with one data plate that contains all latents.
        num_data: number of rows, for a model that samples with `size=`.
        example: the whole training data, x or `{"x": x, ...}`, for any other model.
        options: options of the AutoGuide, e.g. `init_loc_fn=`, `init_scale=`, `rank=`.

    Raises:
        UserError: the AutoGuide is another one (messenger guides support neither local parameters
            nor enumeration; parameters of a flow or a Laplace approximation are not one row per
            data point), a latent is outside the data plate, or the number of rows is unknown.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro.infer.autoguide import AutoNormal
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.PerDatumAutoGuide(AutoNormal, model, num_data=100)
        >>> guide(index=torch.tensor([7, 3]))["z"].shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        kind: type,
        model: Callable[..., Any],
        num_data: int | None = None,
        example: Example | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        name = getattr(kind, "__name__", str(kind))
        if not (isinstance(kind, type) and issubclass(kind, PER_SITE + JOINT)):
            why = "its parameters cannot be a row for each data point"
            if name.endswith("Messenger"):
                why = "messenger guides have no local parameters and cannot be enumerated"
            known = ", ".join(k.__name__ for k in PER_SITE + JOINT)
            raise UserError(f"{name} is not supported: {why}; {known} are")
        example = _example(model, num_data, example)
        self.num_data = len(example["x"])
        joint = issubclass(kind, JOINT)
        if joint:  # the AutoGuide is that of one data point
            example = {k: v[:1] for k, v in example.items()}
        options = options if joint else {**options, "create_plates": _plates}
        with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
            with poutine.block():
                continuous = poutine.block(as_keyword_program(model), hide_fn=is_discrete_latent)
                sites = _latents(continuous, example)
                self.plate = _one_plate(sites, len(example["x"]))
                auto = kind(continuous, **options)
                set_up(auto, **example)
        call: _PerSite = _JointPerDatum(auto) if joint else _PerSite(auto)
        self._call = (call,)  # in a tuple, so that torch does not make it a submodule
        self.names = {_key(name): name for name, _ in call.named_parameters()}
        rows = {_key(name): p.detach().clone() for name, p in call.named_parameters()}
        if joint:
            rows = {k: p.expand(self.num_data, *p.shape).clone() for k, p in rows.items()}
        self.rows = torch.nn.ParameterDict(rows)
        self.given = {latent: ("index",) for latent in sites}

    def forward(
        self,
        x: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
        size: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Samples the latents of the data points `index [B]`."""
        if index is None:
            raise UserError(f"the guide's {next(iter(self.given))!r} needs index: pass index=")
        (call,) = self._call
        rows = {self.names[key]: p[index] for key, p in self.rows.items()}
        return functional_call(call, rows, (), {"plate": self.plate, "rows": len(index)})

    def extra_repr(self) -> str:
        return f"{type(self._call[0].auto).__name__}, {self.num_data} rows"


class _PerSite(torch.nn.Module):
    """The forward of an AutoGuide, whose `__call__` would swap Pyro's parameter store."""

    def __init__(self, auto: torch.nn.Module) -> None:
        super().__init__()
        self.auto = auto

    def forward(self, plate: str, rows: int) -> dict[str, torch.Tensor]:
        return self.auto.forward(plate=plate, rows=rows)


class _JointPerDatum(_PerSite):
    """One distribution of all latents of a data point, as in Pyro's `AutoContinuous`."""

    def forward(self, plate: str, rows: int) -> dict[str, torch.Tensor]:
        auto: Any = self.auto
        values: dict[str, torch.Tensor] = {}
        start = 0
        prototype = prototype_of(auto)
        assert prototype is not None  # the constructor sets the AutoGuide up
        sites = dict(prototype.iter_stochastic_nodes())
        infer: Any = {"is_auxiliary": True, UNCONSTRAINED_LATENTS: tuple(sites)}
        if len(sites) == 1:
            infer["part_of"] = next(iter(sites))
        with _plates(plate, rows):
            u = pyro.sample("_joint", auto.get_posterior(), infer=infer)  # [..., B, D]
            for name, site in sites.items():
                fn: Any = site["fn"]  # Pyro declares a function
                transform = biject_to(fn.support)
                # bounds may have the batch shape of the one data point
                shape = transform.inverse_shape(fn.shape())[len(fn.batch_shape) :]
                stop = start + shape.numel()
                part = u[..., start:stop].reshape(u.shape[:-1] + shape)
                value, start = transform(part), stop
                log_det = transform.log_abs_det_jacobian(part, value)
                log_density = -sum_rightmost(log_det, log_det.dim() - u.dim() + 1)
                distribution = Delta(value, log_density=log_density, event_dim=fn.event_dim)
                values[name] = pyro.sample(name, distribution)
        return values


def _latents(model: Callable[..., Any], example: Mapping[str, Any]) -> dict[str, Message]:
    """`{latent: site}` of one run of the model."""
    sites = poutine.trace(model).get_trace(**example).iter_stochastic_nodes()
    latents = {name: site for name, site in sites if not is_subsample(site)}
    if not latents:
        raise UserError("the model has no continuous latent for an AutoGuide")
    return latents


def _one_plate(sites: Mapping[str, Message], rows: int) -> str:
    """The name of the data plate, in which every latent must lie."""
    for latent, site in sites.items():
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        if [(f.dim, f.size) for f in frames] != [(-1, rows)]:
            raise UserError(f"{latent!r} must lie in one data plate, at dim -1, of {rows} rows")
    return frames[0].name


def _key(name: str) -> str:
    """An AutoGuide's `auto.locs.z_unconstrained`, as the name of a parameter."""
    return name.removeprefix("auto.").removesuffix("_unconstrained").replace(".", "_")


def _plates(plate: str, rows: int) -> pyro.plate:
    """The plate of a minibatch; a module-level function, so that copies share nothing."""
    return pyro.plate(plate, rows, dim=-1)


def _example(
    model: Callable[..., Any], num_data: int | None, example: Example | None
) -> dict[str, torch.Tensor]:
    """All training data for the model's first run: the caller's, or drawn from the model."""
    batch = example_with_data(model, example)
    if batch is not None:
        return batch
    if num_data is None:
        raise UserError(
            "a guide with a row per data point: pass num_data=, or example={'x': all data}"
        )
    if not accepts_argument(model, "size"):
        raise UserError(
            "this model has no size= argument, so its latents cannot be read off num_data rows of "
            "it: pass example={'x': all data}"
        )
    covariates = {n: torch.zeros(num_data, *s) for n, s in covariates_of(model).items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
        return {"x": model(size=num_data, **covariates), **covariates}
