"""Pyro's AutoGuides for local latents, as guides of this library."""

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
from torch.distributions import biject_to
from torch.func import functional_call

from .._pyro_internals import prototype_of, set_up, sum_rightmost
from ..errors import UserError
from ..programs.calling import accepts_argument, as_keyword_program
from ..programs.inspection import covariates_of
from ..programs.sites import is_subsample
from .base import BaseGuide

PER_SITE = (AutoNormal, AutoDelta)
JOINT = (AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal)


class PerDatumAutoGuide(BaseGuide):
    r"""A Pyro AutoGuide with a row of parameters per training data point.

        PerDatumAutoGuide(AutoNormal, model, num_data=1000, init_scale=0.5)
        PerDatumAutoGuide(AutoMultivariateNormal, model, num_data=1000)

    What such a guide needs is done here: its parameters are made at once and stay in the module,
    Pyro's global store empty; discrete latents are hidden from it, and so enumerated in the model; a
    minibatch, of any size and order, takes its rows by `index`. As every per-datum guide it says
    nothing of other data, and cannot be amortized: for that there is `Guide`.

    * `AutoNormal`: a diagonal normal for each latent.
    * `AutoDiagonalNormal`, `AutoMultivariateNormal`, `AutoLowRankMultivariateNormal`: of all
      of a data point's latents together, one normal. (Pyro's own is one distribution of all data's latents, which
      no minibatch could have a part of; correlations between data, which the posterior does not
      have, are left out.) Its density is no one latent's: `elbo_terms` has it in a row of its own,
      `_joint`, and beta, warm-up and free bits are refused, unless there is only one latent.
    * `AutoDelta` is a point (MAP): training with it maximizes :math:`\log p(x, z)`; what evaluation
      calls its ELBO is that number, and no bound on log p(x).

    Args:
        kind: one of these classes, or a subclass.
        model: a Pyro program with one data plate, all of its latents inside.
        num_data: rows, for a model that samples with `size=`.
        example: the whole training data, `{"x": x, ...}`, for any other model.
        options: of the AutoGuide, e.g. `init_loc_fn=`, `init_scale=`, `rank=`.

    Raises:
        UserError: another AutoGuide (messenger guides know no local parameters and no enumeration;
            a flow's or Laplace's parameters are no row per data point: `Guide` has flows), a latent
            outside the data plate, nothing to take num_data from.
    """

    def __init__(self, kind, model, num_data=None, example=None, **options):
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
        if joint:  # what is made is the guide of one data point
            example = {k: v[:1] for k, v in example.items()}
        options = options if joint else {**options, "create_plates": _plates}
        with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
            with poutine.block():
                continuous = poutine.block(as_keyword_program(model), hide_fn=_hidden)
                sites = _latents(continuous, example)
                self.plate = _one_plate(sites, len(example["x"]))
                auto = kind(continuous, **options)
                set_up(auto, **example)
        call = _JointPerDatum(auto) if joint else _PerSite(auto)
        self._call = (call,)  # in a tuple, so that torch does not make it a submodule
        self.names = {_key(name): name for name, _ in call.named_parameters()}
        rows = {_key(name): p.detach().clone() for name, p in call.named_parameters()}
        if joint:
            rows = {k: p.expand(self.num_data, *p.shape).clone() for k, p in rows.items()}
        self.rows = torch.nn.ParameterDict(rows)
        self.given = {latent: ("index",) for latent in sites}

    def forward(self, x=None, y=None, c=None, index=None, size=None):
        if index is None:
            raise UserError(f"the guide's {next(iter(self.given))!r} needs index: pass index=")
        (call,) = self._call
        rows = {self.names[key]: p[index] for key, p in self.rows.items()}
        return functional_call(call, rows, (), {"plate": self.plate, "rows": len(index)})

    def extra_repr(self):
        return f"{type(self._call[0].auto).__name__}, {self.num_data} rows"


class _PerSite(torch.nn.Module):
    """An AutoGuide's forward alone: its `__call__` would swap Pyro's parameter store meanwhile."""

    def __init__(self, auto):
        super().__init__()
        self.auto = auto

    def forward(self, **batch):
        return self.auto.forward(**batch)


class _JointPerDatum(_PerSite):
    """One distribution of all of a data point's latents, unconstrained and put together, as `AutoContinuous`."""

    def forward(self, plate, rows):
        auto, values, start = self.auto, {}, 0
        sites = dict(prototype_of(auto).iter_stochastic_nodes())
        infer = {"is_auxiliary": True}
        if len(sites) == 1:
            infer["part_of"] = next(iter(sites))
        with _plates(plate, rows):
            u = pyro.sample("_joint", auto.get_posterior(), infer=infer)  # [..., B, D]
            for name, site in sites.items():
                fn, transform = site["fn"], biject_to(site["fn"].support)
                shape = transform.inverse_shape(fn.event_shape)
                stop = start + shape.numel()
                part = u[..., start:stop].reshape(u.shape[:-1] + shape)
                value, start = transform(part), stop
                log_det = transform.log_abs_det_jacobian(part, value)
                log_density = -sum_rightmost(log_det, log_det.dim() - u.dim() + 1)
                distribution = Delta(value, log_density=log_density, event_dim=fn.event_dim)
                values[name] = pyro.sample(name, distribution)
        return values


def _latents(model, example):
    """`{latent: site}` of one run of the model."""
    sites = poutine.trace(model).get_trace(**example).iter_stochastic_nodes()
    found = {name: site for name, site in sites if not is_subsample(site)}
    if not found:
        raise UserError("the model has no continuous latent for an AutoGuide")
    return found


def _one_plate(sites, rows):
    """The name of the data plate, that every latent must lie in."""
    for latent, site in sites.items():
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        if [(f.dim, f.size) for f in frames] != [(-1, rows)]:
            raise UserError(f"{latent!r} must lie in one data plate, at dim -1, of {rows} rows")
    return frames[0].name


def _key(name):
    """An AutoGuide's `auto.locs.z_unconstrained`, as the name of a parameter."""
    return name.removeprefix("auto.").removesuffix("_unconstrained").replace(".", "_")


def _plates(plate, rows):
    """The plate of a minibatch; a function of this module, so that copies share nothing."""
    return pyro.plate(plate, rows, dim=-1)


def _example(model, num_data, example):
    """All training data for the model's first run: the caller's, or drawn from the model."""
    if example is not None:
        if "x" not in example:
            raise UserError("example= needs the data, {'x': x}")
        return example
    if num_data is None:
        raise UserError(
            "a guide with a row per data point: pass num_data=, or example={'x': all data}"
        )
    if not accepts_argument(model, "size"):
        raise UserError(
            "this model has no size= argument, so its latents cannot be read off num_data rows of it: "
            "pass example={'x': all data}"
        )
    covariates = {n: torch.zeros(num_data, *s) for n, s in covariates_of(model).items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
        return {"x": model(size=num_data, **covariates), **covariates}


def _hidden(site):
    """Discrete latents: enumerated in the model, and no business of an AutoGuide's."""
    if site["type"] != "sample" or site["is_observed"] or is_subsample(site):
        return False
    return site["fn"].has_enumerate_support
