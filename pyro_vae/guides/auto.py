"""Pyro's AutoGuides for local latents, as guides of this library."""

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch.func import functional_call

from ..errors import UserError
from ..pair import is_subsample
from ..program import Program


class Auto(Program):
    r"""An `AutoNormal` or `AutoDelta` with a row of parameters per training datum.

        Auto(AutoNormal, model, num_data=1000, init_scale=0.5)

    What such a guide needs is done here: its parameters are made at once and stay in the module,
    Pyro's global store empty; discrete latents are hidden from it, and so enumerated in the model; a
    minibatch, of any size and order, takes its rows by `index`. As every per-datum guide it says
    nothing of other data, and cannot be amortised: for that there is `Guide`.

    An `AutoDelta` is a point (MAP): training with it maximises :math:`\log p(x, z)`; what evaluation
    calls its ELBO is that number, and no bound on log p(x).

    Args:
        kind: `AutoNormal`, `AutoDelta`, or a subclass.
        model: a Pyro program with one data plate, all of its latents inside.
        num_data: rows, for a model that samples with `size=`.
        example: the whole training data, `{"x": x, ...}`, for any other model.
        options: of the AutoGuide, e.g. `init_loc_fn=`, `init_scale=`.

    Raises:
        UserError: another AutoGuide (messenger guides know no local parameters and no enumeration;
            AutoContinuous and its like have one joint law over all data, without minibatches or
            terms per datum), a latent outside the data plate, nothing to take num_data from.
    """

    def __init__(self, kind, model, num_data=None, example=None, **options):
        super().__init__()
        name = getattr(kind, "__name__", str(kind))
        if not (isinstance(kind, type) and issubclass(kind, (AutoNormal, AutoDelta))):
            why = "its law is joint over all data, or its parameters are not local"
            if name.endswith("Messenger"):
                why = "messenger guides have no local parameters and cannot be enumerated"
            raise UserError(f"{name} is not supported: {why}; AutoNormal and AutoDelta are")
        example = _example(model, num_data, example)
        self.num_data = len(example["x"])
        options["create_plates"] = _plates
        with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
            with poutine.block():
                auto = kind(poutine.block(model, hide_fn=_hidden), **options)
                auto._setup_prototype(**example)
        call = _Forward(auto)
        self._call = (call,)  # in a tuple, so that torch does not make it a submodule
        self.names = {_key(name): name for name, _ in call.named_parameters()}
        self.rows = torch.nn.ParameterDict(
            {_key(name): p.detach().clone() for name, p in call.named_parameters()}
        )
        sites = dict(auto.prototype_trace.iter_stochastic_nodes())
        if not sites:
            raise UserError("the model has no continuous latent for an AutoGuide")
        for latent, site in sites.items():
            frames = [f for f in site["cond_indep_stack"] if f.vectorized]
            if [(f.dim, f.size) for f in frames] != [(-1, self.num_data)]:
                raise UserError(
                    f"{latent!r} must lie in one data plate, at dim -1, of {self.num_data} rows"
                )
            self.plate = frames[0].name
        self.given = {latent: ("index",) for latent in sites}

    def forward(self, x=None, y=None, c=None, index=None, size=None):
        if index is None:
            raise UserError(f"the guide's {next(iter(self.given))!r} needs index: pass index=")
        (call,) = self._call
        rows = {self.names[key]: p[index] for key, p in self.rows.items()}
        return functional_call(call, rows, (), {"plate": self.plate, "rows": len(index)})

    def extra_repr(self):
        return f"{type(self._call[0].auto).__name__}, {self.num_data} rows"


class _Forward(torch.nn.Module):
    """An AutoGuide's forward alone: its `__call__` would swap Pyro's parameter store meanwhile."""

    def __init__(self, auto):
        super().__init__()
        self.auto = auto

    def forward(self, **batch):
        return self.auto.forward(**batch)


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
        raise UserError("a guide with a row per datum: pass num_data=, or example={'x': all data}")
    shapes = getattr(model, "covariates", {})
    covariates = {name: torch.zeros(num_data, *shape) for name, shape in shapes.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
        return {"x": model(size=num_data, **covariates), **covariates}


def _hidden(site):
    """Discrete latents: enumerated in the model, and no business of an AutoGuide's."""
    if site["type"] != "sample" or site["is_observed"] or is_subsample(site):
        return False
    return site["fn"].has_enumerate_support
