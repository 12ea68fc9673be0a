"""Samples of a model, from the prior or from another source of its latents."""

import numpy as np
import pyro
import torch

from ..errors import UserError, check_int_at_least, unknown_name_error
from ..evaluate import sample_posterior
from ..programs.ancestral import AncestralSampler
from ..programs.calling import accepts_argument, parameters_of
from ..programs.contexts import eval_mode, seeded
from ..programs.inspection import covariates_of
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.modules import device_of
from ..programs.sites import is_random


def sample(
    model,
    size=None,
    y=None,
    c=None,
    mean=False,
    seed=None,
    source=None,
    site=None,
    example=None,
    **given,
):
    """`[size, *x_shape]` samples of a model.

        pv.sample(model, 64)                                    # ancestral, from the prior
        pv.sample(model, 64, y=3)                               # from a component, or of a class
        pv.sample(model, 64, c=c)                               # of a conditional model
        pv.sample(model, z=codes, mean=True)                    # decode given codes
        pv.sample(model, 64, source=AggregatePosterior(guide, x))
        pv.sample(model, 64, source={"z": density})             # a density fitted afterwards
        pv.sample(model, 64, example={"x": x})                  # of a program without size=

    Latents come from `given`, else from `source`, else from the model, in its order: each drawn
    given those before it. (So a `y` before a given `z` comes from its prior, which matters only
    where x depends on y in addition; and a `pyro.factor` has no part in it.)

    Args:
        size: how many. Default: as many as there are rows in what is given, else 64.
        y: a component or class, or one for each sample: an int, `[size]` ints, or one-hot
            `[size, K]`.
        c: covariates of a conditional model, `[size, *c_shape]` or `c_shape`; a number where that is
            `(1,)`. Where the model says that they are a class (`model.class_covariates`; `CVAE(...,
            c_is_class=True)`), an int or `[size]` ints.
        mean: the likelihood's mean instead of a draw from it (a picture without pixel noise).
        seed: None takes torch's stream as it is.
        source: of latents: `{latent: distribution}`, or modules whose forward is one (`evaluate.fit_ex_post_prior`
            makes them), or a function of `(model, size)` that returns `{latent: values}`, as
            `AggregatePosterior` is.
        site: which of the model's sites to return. Default: the one that observes x.
        example: for a program without `size=`: a batch that it can be run on, `{"x": x, ...}`. Its
            data are hidden. Sample i is drawn on row i mod N of it, which matters only to what the
            program reads of it in addition. A program whose data plate has its own number of rows is
            run on the whole batch, as often as needed. Default: the data of an
            `AggregatePosterior`.
        given: values by name, `[size, *shape]` or `shape`: of latents, or of the program's own
            arguments. What the program observes of its arguments (labels) stays observed.

    Raises:
        UserError: the model cannot sample by itself; it has no such component, latent or shape; a
            site outside the data plate; several observed sites, and none of x itself.
    """
    if example is None and isinstance(source, AggregatePosterior):
        example = None if accepts_argument(model, "size") else source.batch
    given = {k: v for k, v in {**given, "c": c, "y": y}.items() if v is not None}
    device = device_of(model, default=_device_of_batch(example))
    with torch.no_grad(), eval_mode(model), seeded(seed, device), pyro.validation_enabled(False):
        sampler = AncestralSampler(model, example, probe_arguments(model, example, given))
        if y is not None and "y" not in sampler.takes and "y" not in sampler.sites:
            raise UserError(f"{type(model).__name__} has no y to condition on")
        if size is None:
            size = _rows(given, shapes_of(sampler))
        check_int_at_least(1, **{"the number of samples": size})
        values = {**_from_source(source, model, size), **given}
        runs = sampler.runs(size, *checked(sampler, values, size))
        name = sampler.data_site() if site is None else site
        if name not in runs[0]:
            raise unknown_name_error("site", name, runs[0])
        observed = runs[0][name]["is_observed"]
        return sampler.values(runs, name, size, mean=mean and not observed)


class AggregatePosterior:
    r"""The source :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`: a data point at random, then its guide.

    Every latent comes from one data point, discrete ones too; of a conditional model the covariates
    come with them, unless `c=` is given. It needs data at hand, and its samples stay near them.

    Args:
        guide: the model's guide.
        x: `[N, ...]` data, the training data as a rule.
        others: whatever else the pair is given, by name, each with N rows.
    """

    def __init__(self, guide, x, **others):
        self.guide, self.x = guide, x
        self.others = {k: v for k, v in others.items() if v is not None}

    @property
    def batch(self):
        """`{"x": x, ...}`, all that the pair is given."""
        return {"x": self.x, **self.others}

    def __call__(self, model, size):
        """`{name: [size, ...]}`, from torch's stream."""
        rows = torch.randint(len(self.x), (size,)).to(self.x.device)
        others = {k: v[rows] for k, v in self.others.items()}
        latents = sample_posterior(model, self.guide, self.x[rows], seed=None, **others)
        observed = {k: v for k, v in others.items() if accepts_argument(model, k)}
        return {**observed, **latents}


def shapes_of(sampler):
    """`{name: event shape}` of what a model can be given: its sites and its arguments."""
    sites = {n: tuple(s["fn"].event_shape) for n, s in sampler.sites.items() if is_random(s)}
    arguments = {n: tuple(v.shape[1:]) for n, v in sampler.example.items()}
    return {**sites, **arguments, **covariates_of(sampler.model)}


def probe_arguments(model, example, given):
    """The user's own arguments among `given`, as rows, for a sampler's first runs."""
    taken, found = parameters_of(model), {}
    for name, value in given.items():
        if name not in taken or name in covariates_of(model) or (name == "y" and "size" in taken):
            continue
        value = _as_tensor(value)
        seen = (example or {}).get(name)
        is_event = seen is not None and isinstance(value, torch.Tensor) and value.dim() < seen.dim()
        found[name] = value.unsqueeze(0) if is_event else value
    return found


def checked(sampler, values, size):
    """`(arguments, latents)` as the program takes them, `[size, *shape]`; covariates complete."""
    model, needed = sampler.model, covariates_of(sampler.model)
    shapes, arguments, latents = shapes_of(sampler), {}, {}
    for name, value in values.items():
        is_label = name == "y" and "y" in sampler.sites
        if is_label:
            value = labels(sampler.sites["y"], value, size, sampler.device)
        hint = ""
        if name in needed:
            value = torch.as_tensor(value, device=sampler.device)
            numbers = value.dim() < 2 and not value.is_floating_point()
            if numbers and name in interface_of(model, ModelInterface).class_covariates:
                value = _indicators(name, value, needed[name], size)
            elif value.dim() == 0 and needed[name] == (1,):
                value = value.reshape(1)
            elif numbers:
                hint = "; whole numbers are classes only of a model with c_is_class=True"
        if torch.is_tensor(value) and value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{name} has NaN or infinite values")
        if name in sampler.takes:
            shape = None if is_label else shapes.get(name)
            arguments[name] = _argument(name, _as_tensor(value), shape, size, hint)
        elif name in sampler.sites:
            value = torch.as_tensor(value, device=sampler.device)
            latents[name] = _expanded(name, value, shapes[name], size)
        else:
            known = [n for n in (*shapes, *sampler.takes) if n not in ("x", "size")]
            raise unknown_name_error("latent or covariate", name, dict.fromkeys(known))
    missing = [name for name in needed if name not in arguments]
    if missing:
        shape = [size, *needed[missing[0]]]
        raise UserError(
            f"{type(model).__name__} is conditional: pass {missing[0]}= of shape {shape}"
        )
    return arguments, latents


def _expanded(name, value, shape, size, hint=""):
    if tuple(value.shape) not in (shape, (size, *shape)):
        raise UserError(
            f"{name} must have shape {[size, *shape]} or {list(shape)}, not {list(value.shape)}{hint}"
        )
    return value.expand(size, *shape)


def _argument(name, value, shape, size, hint):
    """An argument of the program: rows where it has dims, else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    if shape is not None:
        return _expanded(name, value, shape, size, hint)
    if value.dim() and len(value) != size:
        raise UserError(f"{name} has {len(value)} rows, but {size} samples are asked for")
    return value


def _as_tensor(value):
    """Numbers with dims as a tensor; anything else as it is."""
    return torch.as_tensor(value) if isinstance(value, (list, tuple, np.ndarray)) else value


def _device_of_batch(batch):
    tensors = [v for v in (batch or {}).values() if isinstance(v, torch.Tensor)]
    return tensors[0].device if tensors else "cpu"


def _indicators(name, value, shape, size):
    """Classes as the one-hot rows of a covariate; a one-hot vector of whole numbers as it is."""
    if tuple(value.shape) == shape and value.sum() == 1 and ((value == 0) | (value == 1)).all():
        if len(value) == size:
            raise UserError(
                f"{name}={value.tolist()} may be {size} classes or one class as a one-hot vector: "
                f"pass {name} of shape {[size, *shape]}"
            )
        return value
    if value.min() < 0 or value.max() >= shape[0]:
        raise UserError(
            f"{name} must lie in 0..{shape[0] - 1}; found {int(value.min())}..{int(value.max())}"
        )
    one_hot = torch.nn.functional.one_hot(value.long(), shape[0])
    return one_hot.to(torch.get_default_dtype())


def _rows(values, shapes):
    """How many samples the given values are for; 64 where they do not say."""
    for name, value in values.items():
        shape = torch.as_tensor(value).shape
        event = 0 if name == "y" else len(shapes.get(name, ()))
        if len(shape) > event:
            return shape[0]
    return 64


def _from_source(source, model, size):
    """`{latent: values}` drawn from a source."""
    if source is None:
        return {}
    if not isinstance(source, dict):
        if not callable(source):
            raise UserError(
                "source must be {latent: distribution or module} or a function of (model, size), "
                f"not {type(source).__name__}"
            )
        return dict(source(model, size))
    values = {}
    for name, density in source.items():
        distribution = density if hasattr(density, "sample") else density()
        values[name] = distribution.sample((size,))
    return values


def labels(site, y, size, device):
    """Component numbers as the values of a discrete site: one-hot rows `[size, K]`, or `[size]`."""
    y, fn = torch.as_tensor(y, device=device), site["fn"]
    if not fn.has_enumerate_support:
        return y
    k = len(fn.enumerate_support(expand=False))
    one_hot = len(fn.event_shape) == 1
    if one_hot and y.dim() == 2 and y.shape == (size, k):
        return y
    if y.is_floating_point() or y.dim() > 1 or (y.dim() == 1 and len(y) != size):
        kinds = f", [{size}] ints or one-hot [{size}, {k}]" if one_hot else f" or [{size}] ints"
        raise UserError(f"y must be an int{kinds}; got {list(y.shape)} {y.dtype}")
    if y.min() < 0 or y.max() >= k:
        raise UserError(f"the model has components 0..{k - 1}; y is {y.tolist()}")
    if one_hot:
        y = torch.nn.functional.one_hot(y.long(), k).to(site["value"].dtype)
    return y.expand(size, *fn.event_shape)
