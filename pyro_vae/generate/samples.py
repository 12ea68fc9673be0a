"""Samples of a model, from the prior or from another source of its latents."""

import pyro
import torch
from pyro import poutine

from ..errors import UserError, unknown, whole
from ..evaluate import posterior
from ..pair import (
    covariates_of,
    device_of,
    eval_mode,
    one_hot_labels,
    parameters_of,
    sampling,
    seeded,
    sites_of,
)
from ..traces import AtMean


def sample(
    model,
    size=None,
    y=None,
    c=None,
    mean=False,
    seed=None,
    source=None,
    site="x",
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

    Latents come from `given`, else from `source`, else from the model, in its order: each drawn
    given those before it. (So a `y` before a given `z` comes from its prior, which matters only
    where x depends on y besides.)

    Args:
        size: how many; else as many as there are rows in what is given, else 64.
        y: a component or class, or one for each sample: an int, `[size]` ints, or one-hot
            `[size, K]`.
        c: covariates of a conditional model, `[size, *c_shape]` or `c_shape`; a number where that is
            `(1,)`. Where the model says that they are a class (`model.class_covariates`; `CVAE(...,
            c_is_class=True)`), an int or `[size]` ints.
        mean: the likelihood's mean instead of a draw from it (a picture without pixel noise).
        seed: None takes torch's stream as it is.
        source: of latents: `{latent: distribution}`, or modules whose forward is one (`evaluate.ex_post`
            makes them), or a function of `(model, size)` that returns `{latent: values}`, as
            `AggregatePosterior` is.
        site: which of the model's sites to return.
        example: for a model without `size=`, `{"x": x}`, one datum or more: it is run on copies of the
            first, and observes nothing. (What such a model reads of x besides, it reads of those.)
        given: values of latents by name, `[size, *shape]` or `shape`.

    Raises:
        UserError: the model cannot sample by itself, or has no such component, latent or shape.
    """
    if example is not None and "size" not in parameters_of(model):
        model = sampling(model, example)
    taken = parameters_of(model)
    if "size" not in taken:
        raise UserError(
            "this model has no size= argument, so it cannot sample by itself: pass example={'x': x}"
        )
    if y is not None and "y" not in taken:
        raise UserError(f"{type(model).__name__} has no y to condition on")
    device = device_of(model, default="cpu")
    with torch.no_grad(), eval_mode(model), seeded(seed, device), pyro.validation_enabled(False):
        shapes = shapes_of(model)
        if size is None:
            size = _rows({**given, "c": c, "y": y}, {**shapes, "y": ()})
        whole(1, **{"the number of samples": size})
        values = _from_source(source, model, size)
        values.update(given)
        if c is not None:
            values["c"] = c
        if y is not None:
            values["y"] = one_hot(model, y, size, device)
        trace = run_model(model, size, checked(model, values, size, device))
        if site not in trace.nodes:
            raise unknown("site", site, [*latents_of(model), "x"])
    found = trace.nodes[site]
    return found["fn"].mean if mean and not found["is_observed"] else found["value"]


class AggregatePosterior:
    r"""The source :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`: a datum at random, then its guide.

    Every latent comes from one datum, discrete ones too; of a conditional model the covariates
    come with them, unless `c=` is given. It needs data at hand, and its samples stay near them.

    Args:
        guide: the model's guide.
        x: `[N, ...]` data, the training data as a rule.
        others: whatever else the pair is given, by name, each with N rows.
    """

    def __init__(self, guide, x, **others):
        self.guide, self.x = guide, x
        self.others = {k: v for k, v in others.items() if v is not None}

    def __call__(self, model, size):
        """`{name: [size, ...]}`, from torch's stream."""
        rows = torch.randint(len(self.x), (size,)).to(self.x.device)
        others = {k: v[rows] for k, v in self.others.items()}
        latents = posterior(model, self.guide, self.x[rows], seed=None, **others)
        observed = {k: v for k, v in others.items() if k in covariates_of(model)}
        return {**observed, **latents}


def latents_of(model):
    """`{latent: (event shape, is discrete)}` in the model's order."""
    return sites_of(model)[1]


def run_model(model, size, values, at_mean=False):
    """A trace of the model with `values` in their places, arguments or latents, the rest drawn.

    `at_mean` puts the continuous rest at its conditional means.
    """
    taken = parameters_of(model)
    arguments = {k: v for k, v in values.items() if k in taken}
    latents = {k: v for k, v in values.items() if k not in taken}
    program = poutine.condition(AtMean()(model) if at_mean else model, data=latents)
    return poutine.trace(program).get_trace(size=size, **arguments)


def shapes_of(model):
    """`{name: event shape}` of what a model can be given: its latents and its covariates."""
    return {**{n: s for n, (s, _) in latents_of(model).items()}, **covariates_of(model)}


def checked(model, values, size, device):
    """The values as the program takes them, `[size, *shape]`; covariates complete."""
    known, needed, taken = shapes_of(model), covariates_of(model), parameters_of(model)
    result = {}
    for name, value in values.items():
        value = torch.as_tensor(value, device=device)
        if name not in known:
            if name not in taken:
                raise unknown("latent or covariate", name, known)
            result[name] = value  # an argument of a user's program
            continue
        shape = known[name]
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{name} has NaN or infinite values")
        numbers = value.dim() < 2 and not value.is_floating_point()
        if numbers and name in getattr(model, "class_covariates", ()):
            value = _indicators(name, value, shape, size)
        elif name in needed and value.dim() == 0 and shape == (1,):
            value = value.reshape(1)
        if tuple(value.shape) not in (shape, (size, *shape)):
            hint = ""
            if numbers and name in needed:
                hint = "; whole numbers are classes only of a model with c_is_class=True"
            raise UserError(
                f"{name} must have shape {[size, *shape]} or {list(shape)}, "
                f"not {list(value.shape)}{hint}"
            )
        result[name] = value.expand(size, *shape)
    missing = [name for name in needed if name not in result]
    if missing:
        shape = [size, *needed[missing[0]]]
        raise UserError(
            f"{type(model).__name__} is conditional: pass {missing[0]}= of shape {shape}"
        )
    return result


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
        if value is not None and name in shapes:
            shape = torch.as_tensor(value).shape
            if len(shape) > len(shapes[name]):
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
        law = density if hasattr(density, "sample") else density()
        values[name] = law.sample((size,))
    return values


def one_hot(model, y, size, device):
    """Component numbers as the one-hot rows that the model's y takes."""
    (num_components,) = model.p_y().event_shape
    y = torch.as_tensor(y, device=device)
    if y.dim() == 2 and y.shape == (size, num_components):
        return y
    if y.is_floating_point() or y.dim() > 1 or (y.dim() == 1 and len(y) != size):
        raise UserError(
            f"y must be an int, [{size}] ints or one-hot [{size}, {num_components}]; "
            f"got {list(y.shape)} {y.dtype}"
        )
    if y.min() < 0 or y.max() >= num_components:
        raise UserError(f"the model has components 0..{num_components - 1}; y is {y.tolist()}")
    return one_hot_labels(model, {"y": y.expand(size)})["y"]
