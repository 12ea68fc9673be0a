"""Samples of a model, from the prior or from another source of its latents."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import torch

from ..errors import UserError, check_int_at_least, unknown_name_error
from ..evaluate import sample_posterior
from ..evaluate.chunked import evaluation_mode
from ..evaluate.inputs import Batch, PyroProgram
from ..programs.ancestral import AncestralSampler
from ..programs.calling import accepts_argument, name_of, parameters_of
from ..programs.inspection import Example, as_example, check_one_hot, covariates_of
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.modules import pair_device
from ..programs.sites import is_deterministic, is_random

DEFAULT_SIZE = 64

Shapes = dict[str, tuple[int, ...]]
Source = Mapping[str, Any] | Callable[[PyroProgram, int], Mapping[str, torch.Tensor]]


def sample(
    model: PyroProgram,
    size: int | None = None,
    y: Any = None,
    c: Any = None,
    mean: bool = False,
    seed: int | None = None,
    source: Source | None = None,
    site: str | None = None,
    example: Example | None = None,
    **given: Any,
) -> torch.Tensor:
    """Samples of a model.

    A latent has its value in `given`, else one from `source`, else one from the model. The model
    draws its latents in order, each given those before it. (Therefore a `y` before a given `z`
    comes from its prior, which matters only if x depends on y too. A `pyro.factor` has no effect.)

    Args:
        model: the generative program.
        size: the number of samples. Default: the number of rows in `given`, else 64.
        y: a component or class, or one per sample: an int, `[size]` ints, or one-hot `[size, K]`.
        c: covariates of a conditional model: `[size, *c_shape]` or `c_shape`, or a number if
            `c_shape` is `(1,)`. If they are a class (`CVAE(..., c_is_class=True)`), an int or
            `[size]` ints.
        mean: the mean of the likelihood instead of a draw (a picture without pixel noise).
        seed: of the draws. Default: torch's random stream.
        source: of latents: `{latent: distribution}`, or `{latent: module}` whose forward returns
            one (as `evaluate.fit_ex_post_prior` does), or a function of `(model, size)` that
            returns `{latent: values}`, such as `AggregatePosterior`.
        site: the site that is returned. Default: the one that observes x.
        example: for a program without `size=`: x or a batch `{"x": x, ...}` of N rows on which it runs.
            Its data are hidden. Sample i is drawn on row i mod N, which matters only for the other
            inputs that the program reads. A program whose data plate has a fixed number of rows is
            run on the whole batch as often as needed. Default: the data of an `AggregatePosterior`.
        given: values by name, `[size, *shape]` or `shape`, of latents or of arguments of the
            program. Arguments that the program observes (labels) stay observed.

    Returns:
        `[size, *x_shape]`, in the units in which the model was trained: of standardized data,
        `data.unstandardize` takes them back, and `Run.sample` does so.

    Raises:
        UserError: the model cannot sample by itself; no such component, latent or shape; a site
            outside the data plate; several observed sites, none of which observes x itself.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.MixtureVAE((6,), num_components=3, latent_dim=2)
        >>> pv.sample(model, 5, seed=0).shape  # ancestral
        torch.Size([5, 6])
        >>> pv.sample(model, 5, y=2, mean=True).shape  # from one component
        torch.Size([5, 6])
        >>> pv.sample(model, z=torch.zeros(4, 2)).shape  # decode values of a latent
        torch.Size([4, 6])
        >>> guide = pv.guides.Guide(model)
        >>> source = pv.generate.AggregatePosterior(guide, torch.eye(6))
        >>> pv.sample(model, 5, source=source).shape
        torch.Size([5, 6])
    """
    example = as_example(model, example)
    if example is None and isinstance(source, AggregatePosterior):
        example = None if accepts_argument(model, "size") else source.batch
    given = {k: v for k, v in {**given, "c": c, "y": y}.items() if v is not None}
    device = pair_device(model, batch=example)
    with evaluation_mode(model, seed=seed, device=device), pyro.validation_enabled(False):
        sampler = AncestralSampler(model, example, _probe_arguments(model, example, given))
        if y is not None and "y" not in sampler.takes and "y" not in sampler.sites:
            raise UserError(f"{name_of(model)} has no y to condition on")
        if size is None:
            size = _num_rows(given, _known_shapes(sampler))
        check_int_at_least(1, **{"the number of samples": size})
        values = {**_draw_from(source, model, size), **given}
        runs = sampler.runs(size, *program_inputs(sampler, values, size))
        name = sampler.data_site() if site is None else site
        if name not in runs[0]:
            raise unknown_name_error("site", name, runs[0])
        observed = runs[0][name]["is_observed"]
        return sampler.values(runs, name, size, mean=mean and not observed)


class AggregatePosterior:
    r"""The source :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`: a random data point, then its guide.

    All latents of a sample, discrete ones too, come from one data point; so do the covariates of a
    conditional model, unless `c=` is given. It needs data, and its samples stay close to them.

    Args:
        guide: the guide of the model.
        x: `[N, ...]`, usually the training data, in the units in which the pair was trained.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Attributes:
        batch: `{"x": x, ...}`, all inputs of the pair.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> source = pv.generate.AggregatePosterior(pv.guides.Guide(model), torch.eye(6))
        >>> source(model, 4)["z"].shape
        torch.Size([4, 2])
    """

    def __init__(self, guide: PyroProgram, x: torch.Tensor, **others: torch.Tensor | None) -> None:
        self.guide, self.x = guide, x
        self.others = {k: v for k, v in others.items() if v is not None}

    @property
    def batch(self) -> Batch:
        return {"x": self.x, **self.others}

    def __call__(self, model: PyroProgram, size: int) -> Batch:
        """`{name: [size, ...]}` of covariates and latents, from torch's random stream."""
        rows = torch.randint(len(self.x), (size,)).to(self.x.device)
        others = {k: v[rows] for k, v in self.others.items()}
        latents = sample_posterior(model, self.guide, self.x[rows], False, None, **others)
        observed = {k: v for k, v in others.items() if accepts_argument(model, k)}
        return {**observed, **latents}


def _known_shapes(sampler: AncestralSampler) -> Shapes:
    """`{name: event shape}` of the values that can be given: sites and arguments of the model."""
    sites = {n: tuple(s["fn"].event_shape) for n, s in sampler.sites.items() if is_random(s)}
    arguments = {n: tuple(v.shape[1:]) for n, v in sampler.example.items()}
    return {**sites, **arguments, **covariates_of(sampler.model)}


def _probe_arguments(
    model: PyroProgram, example: Batch | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The user's arguments of a program among `given`, with rows, for a sampler's first runs."""
    parameters, result = parameters_of(model), {}
    for name, value in given.items():
        is_label = name == "y" and "size" in parameters
        if name not in parameters or name in covariates_of(model) or is_label:
            continue
        value = _as_tensor(value)
        seen = (example or {}).get(name)
        is_event = seen is not None and isinstance(value, torch.Tensor) and value.dim() < seen.dim()
        result[name] = value.unsqueeze(0) if is_event else value
    return result


def program_inputs(
    sampler: AncestralSampler, values: Mapping[str, Any], size: int
) -> tuple[dict[str, Any], Batch]:
    """Sort given values into arguments of a program and latents, and check them.

    Args:
        sampler: of the model.
        values: values by name, `[size, *shape]` or `shape`.
        size: the number of samples.

    Returns:
        `(arguments, latents)`, `[size, *shape]`. Arguments without rows are unchanged.

    Raises:
        UserError: an unknown name, another shape, values that are not finite, a covariate missing.
    """
    model, needed = sampler.model, covariates_of(sampler.model)
    shapes = _known_shapes(sampler)
    arguments: dict[str, Any] = {}
    latents: Batch = {}
    for name, value in values.items():
        is_label, hint = name == "y" and "y" in sampler.sites, ""
        if is_label:
            value = _labels(sampler.sites["y"], value, size, sampler.device)
        if name in needed:
            value, hint = _covariate(sampler, name, value, needed[name], size)
        if torch.is_tensor(value) and value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{name} has NaN or infinite values")
        if name in sampler.takes:
            shape = None if is_label else shapes.get(name)
            arguments[name] = _argument(name, _as_tensor(value), shape, size, hint)
        elif name in sampler.sites and is_deterministic(sampler.sites[name]):
            latents_there = ", ".join(map(repr, sampler.latents))
            raise UserError(f"{name!r} is a function of the latents: give these, {latents_there}")
        elif name in sampler.sites:
            value = _as_numbers(name, value, sampler.device)
            latents[name] = _expanded(name, value, shapes[name], size)
        else:
            known = [n for n in (*shapes, *sampler.takes) if n not in ("x", "size")]
            raise unknown_name_error("latent or covariate", name, dict.fromkeys(known))
    missing = [name for name in needed if name not in arguments]
    if missing:
        shape = (size, *needed[missing[0]])
        raise UserError(
            f"{name_of(model)} is conditional: pass {missing[0]}= of shape {list(shape)}"
        )
    return arguments, latents


def _covariate(
    sampler: AncestralSampler, name: str, value: Any, shape: tuple[int, ...], size: int
) -> tuple[torch.Tensor, str]:
    """`(covariates, hint for an error of shape)`; classes become one-hot rows."""
    value = _as_numbers(name, value, sampler.device)
    is_integer = value.dim() < 2 and not value.is_floating_point()
    if is_integer and name in interface_of(sampler.model, ModelInterface).class_covariates:
        return _one_hot_covariate(name, value, shape, size), ""
    if value.dim() == 0 and shape == (1,):
        return value.reshape(1), ""
    hint = "; whole numbers are classes only of a model with c_is_class=True" if is_integer else ""
    return value, hint


def _expanded(
    name: str, value: torch.Tensor, shape: tuple[int, ...], size: int, hint: str = ""
) -> torch.Tensor:
    if tuple(value.shape) not in (shape, (size, *shape)):
        raise UserError(
            f"{name} must have shape {[size, *shape]} or {list(shape)}, not {list(value.shape)}{hint}"
        )
    return value.expand(size, *shape)


def _argument(name: str, value: Any, shape: tuple[int, ...] | None, size: int, hint: str) -> Any:
    """An argument of the program, with one row per sample if it is a tensor with dimensions."""
    if not isinstance(value, torch.Tensor):
        return value
    if shape is not None:
        return _expanded(name, value, shape, size, hint)
    if value.dim() and len(value) != size:
        raise UserError(f"{name} has {len(value)} rows, but {size} samples are asked for")
    return value


def _as_numbers(name: str, value: Any, device: torch.device) -> torch.Tensor:
    """A number, list or array as a tensor."""
    try:
        return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise UserError(f"{name} must be a number or an array of numbers, not {kind}") from None


def _as_tensor(value: Any) -> Any:
    """Lists and arrays as tensors; anything else unchanged."""
    return torch.as_tensor(value) if isinstance(value, (list, tuple, np.ndarray)) else value


def _one_hot_covariate(
    name: str, value: torch.Tensor, shape: tuple[int, ...], size: int
) -> torch.Tensor:
    """Classes as one-hot rows; a one-hot vector of integers is unchanged."""
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


def _num_rows(values: Mapping[str, Any], shapes: Shapes) -> int:
    """The number of rows of the given values; 64 if they have none."""
    for name, value in values.items():
        shape = tuple(getattr(_as_tensor(value), "shape", ()))
        event_dim = 0 if name == "y" else len(shapes.get(name, ()))
        if len(shape) > event_dim:
            return shape[0]
    return DEFAULT_SIZE


def _draw_from(source: Source | None, model: PyroProgram, size: int) -> Batch:
    """`{latent: values}` drawn from a source."""
    if source is None:
        return {}
    if not isinstance(source, Mapping):
        if not callable(source) or isinstance(source, torch.nn.Module):
            raise UserError(
                "source must be {latent: distribution or module}, such as {'z': density}, or a function "
                f"of (model, size), not {type(source).__name__}"
            )
        return dict(source(model, size))
    values = {}
    for name, density in source.items():
        distribution = density if hasattr(density, "sample") else density()
        values[name] = distribution.sample((size,))
    return values


def _labels(site: dict[str, Any], y: Any, size: int, device: torch.device) -> torch.Tensor:
    """Component numbers as values of a discrete site: one-hot rows `[size, K]`, or `[size]`."""
    y, fn = _as_numbers("y", y, device), site["fn"]
    if not fn.has_enumerate_support:
        return y
    k = len(fn.enumerate_support(expand=False))
    is_one_hot = len(fn.event_shape) == 1
    if is_one_hot and y.dim() == 2 and y.shape == (size, k):
        check_one_hot(y)
        return y
    if y.is_floating_point() or y.dim() > 1 or (y.dim() == 1 and len(y) != size):
        kinds = f", [{size}] ints or one-hot [{size}, {k}]" if is_one_hot else f" or [{size}] ints"
        raise UserError(f"y must be an int{kinds}; got {list(y.shape)} {y.dtype}")
    if y.min() < 0 or y.max() >= k:
        raise UserError(f"the model has components 0..{k - 1}; y is {y.tolist()}")
    if is_one_hot:
        y = torch.nn.functional.one_hot(y.long(), k).to(site["value"].dtype)
    return y.expand(size, *fn.event_shape)
