"""New data from each source, as arrays and as a figure: what `pyro-vae sample` and the report show."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plots
from ..conditionals import Conditional
from ..data import Data, Labels, Quadrants
from ..data.display import class_number, joined
from ..data.tables import rows_as_lines, unused_names, write_csv
from ..errors import UserError, check_int_at_least, file_to_write, unknown_name_error
from ..evaluate import fit_ex_post_prior
from ..evaluate.inputs import Inputs
from ..generate import AggregatePosterior, impute, interpolate, sample, traverse
from ..generate.paths import Traversal, main_latent
from ..programs.calling import accepts_argument
from ..programs.inspection import covariates_of, samples_by_itself, sites_of
from ..programs.interfaces import conditional_of
from . import summary

HALVES = ("top", "bottom", "left", "right")
SPAN = 2.5  # standard deviations of the prior to each side, in a traversal
WIDTH = 4.7  # of a figure, inches: what a page shows side by side, and a phone in full
MOST_ROWS, MOST_POINTS = 60, 10_000  # in a figure; all samples are in the arrays


@dataclass
class SampleSheet:
    """New data and their layout in a figure.

    Args:
        x: `[N, *x_shape]`.
        title: of the figure.
        columns: images per row.
        labels: one for each row.
        c: covariates of each data point, if an image is joined from both.
        extra: further arrays to save, by name.
        draw: draws images `[N, (C,) H, W]`, with the value to show as white, on Axes. Default: a grid.
        has_draws: whether x are draws of the likelihood; else they are its means.
        table: x of the .csv file `[M, D]`, and the columns before its own. Default: the sheet's x.
        note: a line about the layout, for the command line.
        y: `[N]` the class or component of each data point, if it is known.
        class_names: of y, if it is a label that has names.
    """

    x: torch.Tensor
    title: str
    columns: int | None = None
    labels: list[str] | None = None
    c: torch.Tensor | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    draw: Callable[[Axes, torch.Tensor, float], Axes] | None = None
    has_draws: bool = False
    table: tuple[torch.Tensor, Mapping[str, list]] | None = None
    note: str | None = None
    y: torch.Tensor | None = None
    class_names: Sequence[Any] | None = None

    def arrays(self, data: Data) -> dict[str, np.ndarray]:
        """The arrays to save, in original units: x, joined with its covariates, y, or covariates c."""
        saved = {"x": data.unstandardize(joined(data, self.x, self.c)), **self.extra}
        if self.y is not None:
            saved["y"] = self.y
        if self.c is not None and data.dense_condition is None:
            saved["c"] = data.unstandardize_covariates(self.c)
        return {name: torch.as_tensor(value).cpu().numpy() for name, value in saved.items()}

    def classes(self, data: Data) -> dict[str, list]:
        """The column of y, named as the labels of the data are; `component` if y is no label."""
        if self.y is None:
            return {}
        numbers = self.y.tolist()
        if self.class_names is None:
            return {"component": numbers}
        name = "y" if data.table is None or data.table.labels is None else data.table.labels.name
        return {name: [self.class_names[number] for number in numbers]}

    def covariates(self, data: Data, num: int) -> dict[Any, Any]:
        """The columns of the covariates of `num` rows, of data that come from a frame."""
        table = data.table
        is_own = data.dense_condition is None
        if table is None or not is_own or self.c is None or len(self.c) != num:
            return {}
        return table.decode_covariates(data.unstandardize_covariates(self.c))

    def figure(self, data: Data) -> Figure | None:
        """A figure of images or of points in the plane; None for data of another shape."""
        x = joined(data, self.x, self.c)
        if plots.is_image(tuple(x.shape[1:])):
            columns = self.columns or math.ceil(math.sqrt(len(x)))
            x = x[: columns * MOST_ROWS].cpu()
            figure, ax = image_axes(x, columns, self.labels)
            shown = x if data.absent else joined(data, *_first_split(data))
            white = plots.white_of(shown)
            if self.draw is None:
                plots.images(ax, x, columns, self.labels, white=white)
            else:
                self.draw(ax, x, white)
            ax.set_title(self.title, fontsize=10)
            return plots.as_written(figure)
        if tuple(x.shape[1:]) == (2,):
            figure, ax = plots.axes(WIDTH, WIDTH)
            plots.scatter(ax, data.unstandardize(x[:MOST_POINTS]).cpu(), title=self.title)
            return plots.as_written(figure)
        return None

    def write(self, path: Path, data: Data) -> list[Path]:
        """Write the arrays (.npz), the table if the data came from one (.csv), and the figure (.png).

        Counts in the table are integers if they are draws.

        Args:
            path: of the files, without an ending, or of one of them.
            data: that the model was trained on.

        Returns:
            The paths of the files.

        Raises:
            UserError: the ending of a file that these samples have not.
        """
        x, before = self.table or (self.x, {})
        x = data.unstandardize(joined(data, x, self.c))
        is_table = data.table is not None and x.shape[1:] == (len(data.table.names),)
        figure = self.figure(data)
        kinds = [".npz", *[".csv"] * is_table, *[".png"] * (figure is not None)]
        files = [file_to_write(file) for file in files_of_samples(path, kinds)]
        np.savez_compressed(files[0], **self.arrays(data))  # type: ignore[arg-type]
        if data.table is not None and is_table:
            columns = data.table.decode(x, round_counts=self.has_draws)
            before = {**before, **self.classes(data)} | self.covariates(data, len(x))
            write_csv(files[1], {**unused_names(before, columns), **columns})
        if figure is not None:
            figure.savefig(files[-1], dpi=200)
        return files


def files_of_samples(path: Path, kinds: Sequence[str] = (".npz", ".csv", ".png")) -> list[Path]:
    """`NAME.npz`, ...: of a path `NAME`, or of one of these files.

    Args:
        path: without an ending, or with one of `kinds`.
        kinds: the endings.

    Raises:
        UserError: another ending.

    Example:
        >>> from pathlib import Path
        >>> from pyro_vae.report.samples import files_of_samples
        >>> [file.name for file in files_of_samples(Path("v1.2"), (".npz", ".csv"))]
        ['v1.2.npz', 'v1.2.csv']
    """
    ending = path.suffix.lower()
    if ending[1:].isalpha() and ending not in kinds:
        files = ", ".join(f"{path.stem}{kind}" for kind in kinds)
        raise UserError(f"the samples are {files}, and no {path.suffix} file: name one of them")
    stem = path.with_suffix("") if ending in kinds else path
    return [stem.with_name(stem.name + kind) for kind in kinds]


def image_axes(
    x: torch.Tensor, columns: int, labels: list[str] | None = None
) -> tuple[Figure, Axes]:
    """A figure of the size that a grid of images `[N, (C,) H, W]` needs, and its Axes."""
    h, w = x.shape[-2:]
    beside = 0.25 + 0.09 * max(map(len, labels or [""]))
    width = min(WIDTH, max(2.4, 0.55 * columns + beside))
    cell = (width - beside) / columns * h / w
    return plots.axes(width, cell * math.ceil(len(x) / columns) + 0.7)


def make(
    source: str,
    model: Callable,
    guide: Callable,
    data: Data,
    class_names: Sequence[Any] | None = None,
    **options: Any,
) -> SampleSheet:
    """New data from a source.

    Args:
        source: a name of `SOURCES`.
        class_names: of y, if it is a label that has names.
        options: of `SheetOptions`; None is the default.

    Raises:
        UserError: no such source or option, or one that does not fit the source or the model.
    """
    if source not in SOURCES:
        raise unknown_name_error("source", source, SOURCES)
    if options.get("y") is not None and source not in ("prior", "component"):
        raise UserError(f"y picks a component of the prior; it does not go with {source}")
    known = [f.name for f in fields(SheetOptions) if f.name != "class_names"]
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in known:
            raise unknown_name_error("option of sample", name, known)
        sources = [other for other, kind in SOURCES.items() if name in kind.options]
        if source not in sources:
            raise UserError(
                f"the source {source} has no option {name}; it is an option of {', '.join(sources)}"
            )
    if "split" in options:
        data.observed_split(options["split"], slice(1))  # raises for an unknown one
        if source in ("prior", "component") and not covariates_of(model):
            raise UserError("split has no effect: this model has no covariates to take from it")
    if "y" in options:
        options["y"] = _component_number(options["y"], class_names)
    if "c" in options and covariates_of(model):
        options.setdefault("num", len(new_covariates(data, options["c"])))
    options.setdefault("split", summary.default_split(guide, data))
    is_drawn = "mean" in SOURCES[source].options
    if is_drawn:
        options.setdefault("mean", plots.is_image(tuple(data.train.x.shape[1:])))
    sheet = SOURCES[source].make(
        model, guide, data, SheetOptions(**options, class_names=class_names)
    )
    if sheet.y is None and sheet.c is not None and isinstance(data.dense_condition, Labels):
        sheet = replace(sheet, y=sheet.c if sheet.c.dim() == 1 else sheet.c.argmax(-1))
    is_drawn = is_drawn and not options["mean"]
    return replace(sheet, has_draws=is_drawn, class_names=class_names)


def _component_number(y: Any, class_names: Sequence[Any] | None) -> Any:
    """The number of the component, or of the class that is named.

    Raises:
        UserError: no such class, or a name of what has numbers only.
    """
    if class_names is not None and isinstance(y, str | Integral):
        return class_number(y, class_names)
    if isinstance(y, str) and y.isdecimal():  # of the command line
        return int(y)
    if isinstance(y, str):
        raise UserError(
            f"y must be a number, got {y!r}: the components of this run have numbers, and no names"
        )
    return y


@dataclass
class SheetOptions:
    """Options of the sources.

    Args:
        num: how many samples (of each component), paths, units, or completions per data point.
            Default of samples: one for each row of c.
        y: the number of the component, or of the class; `make` also takes the name of a class.
        c: `[M, ...]` covariates of a conditional model, in their original units, in order and
            repeated; of data from a frame, a frame with their columns. Default: those of the data.
        latent: which latent is refitted, walked along or traversed. Default: z, or the topmost.
        mean: the likelihood's means or draws. Default: means for images, whose draws have noise in
            every pixel, and draws for other data.
        steps: images on a path, or steps of the chains that complete.
        path: spherical or linear.
        observed: the half that is not missing: top, bottom, left or right. Default: top; of data
            with missing values, all values that are not missing.
        split: of the data that are walked between, traversed and completed; whose covariates a
            conditional model gets. Default: test, else valid, else train.
        seed: of the draws.
        class_names: of y, if it is a label that has names.
    """

    num: int | None = None
    y: int | None = None
    c: Any = None
    latent: str | None = None
    mean: bool | None = None
    steps: int | None = None
    path: str = "spherical"
    observed: str | None = None
    split: str = "test"
    seed: int = 0
    class_names: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        for name in ("num", "steps"):
            if getattr(self, name) is not None:
                check_int_at_least(1, **{name: getattr(self, name)})

    def name_of(self, y: Any) -> str:
        """The name of a class, or its number."""
        if self.class_names is None or not isinstance(y, Integral):
            return str(y)
        return str(self.class_names[int(y)])

    def number(self, default: int) -> int:
        """`num`, or its default."""
        return default if self.num is None else self.num


def half(shape: tuple[int, ...], observed: str) -> torch.Tensor:
    """Bool mask of an event shape, True in the observed half.

    Args:
        shape: of an image, or of a vector, of which top and left are the first half.
        observed: top, bottom, left or right.

    Example:
        >>> from pyro_vae.report.samples import half
        >>> half((4,), "left")
        tensor([ True,  True, False, False])
    """
    if observed not in HALVES:
        raise unknown_name_error("half", observed, HALVES)
    mask = torch.zeros(shape, dtype=torch.bool)
    n = shape[-1] // 2
    if observed in ("left", "right") or len(shape) == 1:
        mask[..., :n] = True
    else:
        mask[..., : shape[-2] // 2, :] = True
    return mask if observed in ("top", "left") else ~mask


def _observed_half(
    data: Data, shape: tuple[int, ...], observed: str
) -> tuple[torch.Tensor, list[str]]:
    """The `half` of x, and the names of the hidden columns of a table, whose categories stay whole."""
    if data.table is None or shape != (len(data.table.names),):
        return half(shape, observed), []
    columns = data.table.columns
    of_columns = half((len(columns),), observed)
    mask = of_columns.repeat_interleave(torch.tensor([c.size for c in columns]))
    return mask, [str(c.name) for c, seen in zip(columns, of_columns, strict=True) if not seen]


def _first_split(data: Data) -> tuple[torch.Tensor, torch.Tensor | None]:
    part = data.observed_split("train")
    return part.x, part.c


def new_covariates(data: Data, c: Any) -> torch.Tensor:
    """Covariates `[M, ...]` as a model of the data takes them.

    Raises:
        UserError: no row, or covariates that a condition takes from standardized x.
    """
    condition = data.dense_condition
    if data.scaling is not None and not (condition is None or isinstance(condition, Labels)):
        raise UserError(
            f"c of {condition!r} are columns of x, which are standardized: run.encode and "
            "run.reconstruct take whole rows"
        )
    with rows_as_lines(c):
        c = data.standardize_covariates(c)
    if not c.dim() or not len(c):
        raise UserError(f"c has shape {list(c.shape)}; expected [M, ...], at least one row")
    return c


def _covariates(
    model: Callable, guide: Callable, data: Data, options: SheetOptions, size: int
) -> Inputs:
    """Covariates for `size` samples: given ones, of a class, or the data's, in order and repeated."""
    needed, y = covariates_of(model), options.y
    if options.c is not None:
        if not needed:
            raise UserError("c has no effect: this model has no covariates")
        if y is not None and not accepts_argument(model, "y"):
            raise UserError("pass y= or c=, not both: both are the covariates of this run")
        c = new_covariates(data, options.c)
        return {"c": c[torch.arange(size) % len(c)]}
    if not needed:
        if samples_by_itself(model):  # also where the data are not at hand
            return {}
        x, _, others = summary.inputs(model, guide, data, options.split)
        return summary.own_arguments(model, {"x": x, **others}, size)
    if isinstance(data.dense_condition, Labels):  # every label in turn, if y is None
        k = data.dense_condition.num_classes
        return {"c": torch.arange(size) % k if y is None else torch.full((size,), y)}
    if y is not None and not accepts_argument(model, "y"):
        raise UserError("the covariates of this run are not labels: y= does not go with it")
    _, _, others = summary.inputs(model, guide, data, options.split)
    rows = torch.arange(size) % len(next(iter(others.values())))
    return {name: others[name][rows] for name in needed}


def _prior(model: Callable, guide: Callable, data: Data, options: SheetOptions) -> SampleSheet:
    size = options.number(64)
    covariates = _covariates(model, guide, data, options, size)
    y = options.y if accepts_argument(model, "y") or "c" not in covariates else None
    x = sample(model, size, y=y, mean=bool(options.mean), seed=options.seed, **covariates)
    title = "samples" if options.y is None else f"samples, y = {options.name_of(options.y)}"
    number = None
    if _has_components(model):  # the same draws again
        number = _numbers(sample(model, size, y=y, seed=options.seed, site="y", **covariates))
    return SampleSheet(x, title, c=covariates.get("c"), y=number)


def _has_components(model: Callable) -> bool:
    """Whether y is a component or a class of the model."""
    return accepts_argument(model, "y") and sites_of(model)[1].get("y", ((), False))[1]


def _numbers(y: torch.Tensor) -> torch.Tensor:
    """Classes `[N]`, of numbers or of one-hot rows."""
    return y if y.dim() == 1 else y.argmax(-1)


def _component(model: Callable, guide: Callable, data: Data, options: SheetOptions) -> SampleSheet:
    if not accepts_argument(model, "y"):
        raise UserError(f"{type(model).__name__} has no components y to sample from")
    if options.y is not None:
        return _prior(model, guide, data, options)
    num, k = options.number(12), sites_of(model)[1]["y"][0][0]
    y = torch.arange(k).repeat_interleave(num)
    covariates = _covariates(model, guide, data, options, len(y))
    x = sample(model, len(y), y=y, mean=bool(options.mean), seed=options.seed, **covariates)
    labels = [options.name_of(i) for i in range(k)]
    title = "samples, one row per component"
    return SampleSheet(x, title, num, labels, covariates.get("c"), y=y)


def _aggregate(model: Callable, guide: Callable, data: Data, options: SheetOptions) -> SampleSheet:
    x, _, others = summary.inputs(model, guide, data, "train")
    size = options.number(64)
    source, drawn = AggregatePosterior(guide, x, **others), {}

    def with_covariates(model: Callable, size: int) -> Inputs:
        """z and c of the same data points, which the picture needs."""
        drawn.update(source(model, size))
        return drawn

    given = {} if options.c is None else _covariates(model, guide, data, options, size)
    new = sample(
        model, size, mean=bool(options.mean), seed=options.seed, source=with_covariates,
        example=source.batch, **given,
    )  # fmt: skip
    c = given.get("c", drawn.get("c"))
    y = _numbers(drawn["y"]) if "y" in drawn and _has_components(model) else None
    return SampleSheet(new, "samples from the aggregate posterior", c=c, y=y)


def _ex_post(model: Callable, guide: Callable, data: Data, options: SheetOptions) -> SampleSheet:
    x, _, others = summary.inputs(model, guide, data, "train")
    latent = options.latent or main_latent(model, {"x": x, **others})
    if latent is None:
        raise UserError(f"{type(model).__name__} has no continuous latent to fit a density to")
    prior = conditional_of(model, latent)
    if isinstance(prior, Conditional) and not set(covariates_of(model)).isdisjoint(prior.given):
        raise UserError(
            f"{latent} depends on the covariates of this model, and a density fitted to encodings does "
            "not: --source prior or aggregate"
        )
    density = fit_ex_post_prior(model, guide, x, latent, seed=options.seed, **others)
    size = options.number(64)
    covariates = _covariates(model, guide, data, replace(options, split="train"), size)
    source = {latent: density}
    new = sample(
        model, size, mean=bool(options.mean), seed=options.seed, source=source, **covariates
    )
    title = f"samples, {latent} from a mixture fitted to encodings"
    return SampleSheet(new, title, c=covariates.get("c"))


def _interpolate(
    model: Callable, guide: Callable, data: Data, options: SheetOptions
) -> SampleSheet:
    x, _, others = summary.inputs(model, guide, data, options.split)
    if len(x) < 2:
        raise UserError(f"the split {options.split!r} has {len(x)} data point; a path needs two")
    num, steps = min(options.number(8), len(x) // 2), options.steps or 9
    a, b, index = x[:num], x[num : 2 * num], others.get("index")
    inputs_b = {} if index is None else {"index": index[num : 2 * num]}
    others = {k: v[:num] for k, v in others.items()}
    new = interpolate(
        model, guide, a, b, steps, options.latent, options.path, options.seed, None, inputs_b,
        **others,
    )  # fmt: skip
    c = others["c"].repeat_interleave(steps, 0) if "c" in others else None
    latent = options.latent or main_latent(model, {"x": a, **others})
    title = f"between two data points, {options.path} in {latent}"

    def draw(ax: Axes, images: torch.Tensor, white: float) -> Axes:
        return plots.interpolations(ax, images.reshape(-1, steps, *images.shape[1:]), white)

    x = new.flatten(0, 1)
    place = {"path": [i for i in range(num) for _ in range(steps)], "step": [*range(steps)] * num}
    return SampleSheet(x, title, steps, c=c, extra={"a": a, "b": b}, draw=draw, table=(x, place))


def _traverse(model: Callable, guide: Callable, data: Data, options: SheetOptions) -> SampleSheet:
    x, _, others = summary.inputs(model, guide, data, options.split)
    num, steps = options.number(10), options.steps or 9
    traversed = traverse(
        model, guide, x, options.latent, num, steps, span=SPAN, seed=options.seed, **others
    )
    c = None
    if "c" in others:
        c = others["c"][:1].expand(len(traversed.units) * steps, *others["c"].shape[1:])
    latent = options.latent or main_latent(model, {"x": x, **others})
    title = f"units of {latent}, the most active first"
    extra = {"units": traversed.units, "activity": traversed.activity, "values": traversed.values}

    def draw(ax: Axes, images: torch.Tensor, white: float) -> Axes:
        rows = images.reshape(-1, steps, *images.shape[1:])
        n = len(rows)
        part = Traversal(rows, traversed.units[:n], traversed.activity[:n], traversed.values[:n])
        return plots.traversal(ax, part, SPAN, white)

    labels = ["unit 10 -2.5"]  # about as wide as those that `plots.traversal` writes
    x = traversed.x.flatten(0, 1)
    place = {
        "unit": traversed.units.repeat_interleave(steps).tolist(),
        "value": traversed.values.flatten().tolist(),
    }
    return SampleSheet(x, title, steps, labels, c, extra, draw, table=(x, place))


def _impute(model: Callable, guide: Callable, data: Data, options: SheetOptions) -> SampleSheet:
    if covariates_of(model) and isinstance(data.dense_condition, Quadrants):
        raise UserError("this model completes by its covariates: sample it from its prior")
    x, _, others = summary.inputs(model, guide, data, options.split)
    complete = ~x.isnan().flatten(1).any(1)
    chosen = complete.int().argsort(stable=True)[:8]  # those with missing values first
    x, others = x[chosen], {k: v[chosen] for k, v in others.items()}
    mask = ~x.isnan() if data.missing else torch.ones_like(x[0], dtype=torch.bool)
    note = None
    if options.observed is not None or not data.missing:
        seen = options.observed or "top"
        part, hidden = _observed_half(data, tuple(x.shape[1:]), seen)
        mask = mask & part.to(x.device)
        note = f"hidden: {', '.join(hidden)} (--observed {seen})" if hidden else None
    num, steps = options.number(6), options.steps or 200
    completed = impute(model, guide, x, mask, num, steps, seed=options.seed, **others)
    observed = torch.where(mask, x, 0.0)
    rows = torch.cat([observed[:, None], completed.x.transpose(0, 1), x[:, None]], 1)
    extra = {"mask": mask, "truth": data.unstandardize(x), "acceptance": completed.acceptance}
    of_data = {
        "row": chosen.repeat_interleave(num + 1).tolist(),
        "draw": [*range(num + 1)] * len(x),
    }
    table = torch.cat([x[:, None], completed.x.transpose(0, 1)], 1).flatten(0, 1), of_data

    def draw(ax: Axes, images: torch.Tensor, white: float) -> Axes:
        plots.images(ax, images, num + 2, white=white)
        pixels = mask.expand(x.shape)
        pixels = pixels[:, 0] if pixels.dim() == 4 else pixels
        pixels = pixels.repeat_interleave(num + 2, 0)[: len(images)]
        return plots.outline(ax, pixels, num + 2, label="outlined: observed")

    title = "observed, completions, the data point itself"
    return SampleSheet(
        rows.flatten(0, 1), title, num + 2, extra=extra, draw=draw, table=table, note=note
    )


class Source(NamedTuple):
    """A source of new data: its function, and the options that it has."""

    make: Callable[[Callable, Callable, Data, SheetOptions], SampleSheet]
    options: tuple[str, ...]


_DRAWN = ("num", "seed", "mean")
SOURCES = {
    "prior": Source(_prior, (*_DRAWN, "y", "c", "split")),
    "component": Source(_component, (*_DRAWN, "y", "c", "split")),
    "aggregate": Source(_aggregate, (*_DRAWN, "c")),
    "ex-post": Source(_ex_post, (*_DRAWN, "c", "latent")),
    "interpolate": Source(_interpolate, ("num", "seed", "steps", "latent", "path", "split")),
    "traverse": Source(_traverse, ("num", "seed", "steps", "latent", "split")),
    "impute": Source(_impute, ("num", "seed", "steps", "observed", "split")),
}
