"""What `pyro-vae sample` and the report show: each source of new data, as arrays and a figure."""

from dataclasses import dataclass, field, fields

import torch

from .. import plots
from ..data import Condition, Labels, Quadrants
from ..errors import UserError, check_int_at_least, unknown_name_error
from ..evaluate import fit_ex_post_prior
from ..generate import AggregatePosterior, interpolate, sample, traverse
from ..generate import impute as impute
from ..generate.paths import main_latent
from ..programs.calling import accepts_argument
from ..programs.inspection import covariates_of
from . import summary

HALVES = ("top", "bottom", "left", "right")


@dataclass
class Made:
    """New data `x [N, *x_shape]` and how to lay them out."""

    x: torch.Tensor
    title: str
    columns: int | None = None
    labels: list | None = None  # a row each
    c: torch.Tensor | None = None  # covariates of each, where a picture is put together from both
    more: dict = field(default_factory=dict)  # further arrays to save

    def arrays(self, data):
        """What to save, in the data's original units, put together with what was given."""
        saved = {"x": joined(data, data.unstandardize(self.x), self.c), **self.more}
        return {name: torch.as_tensor(value).cpu().numpy() for name, value in saved.items()}

    def figure(self, data):
        """A matplotlib figure; None for data that are neither pictures nor points of a plane."""
        x, shown = joined(data, self.x, self.c), joined(data, *_one(data))
        if plots.is_image(tuple(x.shape[1:])):
            columns = self.columns or int(len(x) ** 0.5 + 0.999)
            rows = -(-len(x) // columns)
            figure, ax = plots.axes(max(3.0, 0.62 * columns + 1), 0.62 * rows + 0.8)
            plots.images(ax, x.cpu(), columns, self.labels, self.title, plots.white_of(shown))
            return figure
        if tuple(x.shape[1:]) == (2,):
            figure, ax = plots.axes(6, 6)
            plots.scatter(ax, data.unstandardize(x).cpu(), title=self.title)
            return figure
        return None


def _one(data):
    part = data.observed_split("train")
    return part.x, part.c


def joined(data, x, c):
    """x as it is shown: where c are pixels of the same image, the whole image."""
    condition = data.condition
    return condition.join(x, c) if isinstance(condition, Condition) and c is not None else x


def make(source, model, guide, data, **options):
    """A source by its name, as a `Made`; see `pyro-vae sample --help` for the options."""
    if source not in SOURCES:
        raise unknown_name_error("source", source, SOURCES)
    if options.get("y") is not None and source not in ("prior", "component"):
        raise UserError(f"y picks a component of the prior; it does not go with {source}")
    known = [f.name for f in fields(Options)]
    for name in options:
        if name not in known:
            raise unknown_name_error("option of sample", name, known)
    return SOURCES[source](model, guide, data, Options(**options))


@dataclass
class Options:
    """What can be said of a source."""

    num: int | None = None
    y: int | None = None
    latent: str | None = None
    mean: bool = True
    steps: int | None = None
    path: str = "spherical"
    observed: str = "top"
    split: str = "test"
    seed: int = 0

    def __post_init__(self):
        for name in ("num", "steps"):
            if getattr(self, name) is not None:
                check_int_at_least(1, **{name: getattr(self, name)})


def _given(model, guide, data, split, size, y=None):
    """Covariates for `size` samples: of class `y`, or those of the data, in order and around."""
    needed = covariates_of(model)
    if not needed:
        return {}
    if isinstance(data.condition, Labels):  # every label in turn, unless one is asked for
        k = data.condition.num_classes
        return {"c": torch.arange(size) % k if y is None else torch.full((size,), y)}
    if y is not None and not accepts_argument(model, "y"):
        raise UserError("this run is not given labels: y is not for it")
    _, _, others = summary.inputs(model, guide, data, split)
    rows = torch.arange(size) % len(next(iter(others.values())))
    return {name: others[name][rows] for name in needed}


def _prior(model, guide, data, o):
    size = 64 if o.num is None else o.num
    given = _given(model, guide, data, o.split, size, o.y)
    y = o.y if accepts_argument(model, "y") or not given else None
    x = sample(model, size, y=y, mean=o.mean, seed=o.seed, **given)
    title = "samples" if o.y is None else f"samples, y = {o.y}"
    return Made(x, title, c=given.get("c"))


def _component(model, guide, data, o):
    if not accepts_argument(model, "y"):
        raise UserError(f"{type(model).__name__} has no components y to sample from")
    if o.y is not None:
        return _prior(model, guide, data, o)
    num, k = 12 if o.num is None else o.num, model.p_y().event_shape[0]
    y = torch.arange(k).repeat_interleave(num)
    given = _given(model, guide, data, o.split, len(y))
    x = sample(model, len(y), y=y, mean=o.mean, seed=o.seed, **given)
    labels = [str(i) for i in range(k)]
    return Made(x, "samples, a row a component", num, labels, given.get("c"), {"y": y})


def _aggregate(model, guide, data, o):
    x, _, others = summary.inputs(model, guide, data, "train")
    size = 64 if o.num is None else o.num
    source = AggregatePosterior(guide, x, **others)
    given = _given(model, guide, data, "train", size)
    made = sample(model, size, mean=o.mean, seed=o.seed, source=source, **given)
    return Made(made, "samples from the aggregate posterior", c=given.get("c"))


def _ex_post(model, guide, data, o):
    x, _, others = summary.inputs(model, guide, data, "train")
    latent = o.latent or main_latent(model)
    density = fit_ex_post_prior(model, guide, x, latent, seed=o.seed, **others)
    size = 64 if o.num is None else o.num
    given = _given(model, guide, data, "train", size)
    made = sample(model, size, mean=o.mean, seed=o.seed, source={latent: density}, **given)
    return Made(made, f"samples, {latent} from a mixture fitted to encodings", c=given.get("c"))


def _interpolate(model, guide, data, o):
    x, _, others = summary.inputs(model, guide, data, o.split)
    num, steps = min(8 if o.num is None else o.num, len(x) // 2), 9 if o.steps is None else o.steps
    others = {k: v[:num] for k, v in others.items()}
    a, b = x[:num], x[num : 2 * num]
    made = interpolate(model, guide, a, b, steps, o.latent, o.path, o.seed, **others)
    c = others["c"].repeat_interleave(steps, 0) if "c" in others else None
    title = f"between two data, {o.path} in {o.latent or main_latent(model)}"
    return Made(made.flatten(0, 1), title, steps, c=c, more={"a": a, "b": b})


def _traverse(model, guide, data, o):
    x, _, others = summary.inputs(model, guide, data, o.split)
    num, steps = 10 if o.num is None else o.num, 9 if o.steps is None else o.steps
    found = traverse(model, guide, x, o.latent, num, steps, seed=o.seed, **others)
    c = None
    if "c" in others:
        c = others["c"][:1].expand(len(found.units) * steps, *others["c"].shape[1:])
    labels = [f"{u}: {a:.2f}" for u, a in zip(found.units.tolist(), found.activity, strict=True)]
    name = o.latent or main_latent(model)
    more = {"units": found.units, "activity": found.activity, "values": found.values}
    return Made(
        found.x.flatten(0, 1), f"units of {name} and their activity", steps, labels, c, more
    )


def half(shape, observed):
    """Bool mask of an event shape, True in one half: of an image, or of a vector (top: its first)."""
    if observed not in HALVES:
        raise unknown_name_error("half", observed, HALVES)
    mask = torch.zeros(shape, dtype=torch.bool)
    n = shape[-1] // 2
    if observed in ("left", "right") or len(shape) == 1:
        mask[..., :n] = True
    else:
        mask[..., : shape[-2] // 2, :] = True
    return mask if observed in ("top", "left") else ~mask


def _impute(model, guide, data, o):
    if covariates_of(model) and isinstance(data.condition, Quadrants):
        raise UserError("this model completes by its covariates: sample it from its prior")
    x, _, others = summary.inputs(model, guide, data, o.split)
    x, others = x[:8], {k: v[:8] for k, v in others.items()}
    mask = half(tuple(x.shape[1:]), o.observed)
    num, steps = 6 if o.num is None else o.num, 200 if o.steps is None else o.steps
    done = impute(model, guide, x, mask, num, steps, seed=o.seed, **others)
    hidden = torch.where(mask.to(x.device), x, torch.zeros_like(x))
    rows = torch.cat([hidden[:, None], done.x.transpose(0, 1), x[:, None]], 1)
    more = {"mask": mask, "truth": data.unstandardize(x), "acceptance": done.acceptance}
    made = Made(
        rows.flatten(0, 1), "observed, completions, the data point itself", num + 2, more=more
    )
    return made


SOURCES = {
    "prior": _prior,
    "component": _component,
    "aggregate": _aggregate,
    "ex-post": _ex_post,
    "interpolate": _interpolate,
    "traverse": _traverse,
    "impute": _impute,
}
