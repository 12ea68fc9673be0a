"""The sections of a report about x: reconstructions, samples, completions and paths."""

from collections.abc import Callable

import torch

from .. import evaluate, plots
from ..data import Data, Labels, Quadrants
from ..data.display import joined
from ..generate import predict_mean, sample, style_transfer_grid
from ..programs.calling import accepts_argument
from ..programs.interfaces import ModelInterface, interface_of
from . import samples
from .context import ReportContext
from .html import Section
from .samples import WIDTH, image_axes

PER_ROW = 12  # samples of a component
MOST_POINTS = 2000


def reconstructions(context: ReportContext) -> list[Section]:
    """Data, each above its reconstruction."""
    if not (context.is_image and context.latent_kls):
        return []
    rebuilt = evaluate.reconstruct(
        context.model, context.guide, context.x[:24], **context.first_inputs(24)
    )
    figure, ax = plots.axes(WIDTH, 3.4)
    data = context.as_shown(context.x[:24])
    plots.pairs_of_images(ax, data, context.as_shown(rebuilt), columns=8, white=context.white)
    return [
        Section("Reconstructions and samples", figure, "Data, and below each its reconstruction.")
    ]


def analogies(context: ReportContext) -> list[Section]:
    """If training saw some labels: each data point's style with every class."""
    style = interface_of(context.model, ModelInterface).style_latent
    if not (context.has_some_labels and style and context.is_image):
        return []
    sources = context.x[:10]
    new = style_transfer_grid(context.model, context.guide, sources)
    rows = torch.cat([sources.unsqueeze(1), new], 1)
    n, columns = rows.shape[:2]
    flat = rows.flatten(0, 1)
    figure, ax = image_axes(flat, columns)
    plots.images(ax, flat, columns, white=context.white)
    framed = torch.zeros(n, columns, *flat.shape[-2:], dtype=torch.bool)
    framed[:, 0] = True
    plots.outline(ax, framed.flatten(0, 1), columns)
    plots.column_ticks(ax, ["data", *map(str, range(columns - 1))], flat.shape[-2:], top=True)
    caption = f"Analogies: framed, a data point; then its style {style} with every class."
    return [Section("Classes", figure, caption)]


def new_samples(context: ReportContext) -> list[Section]:
    """New data from the prior, one row per component if there are components."""
    if context.conditional or not accepts_argument(context.model, "size"):
        return []
    if context.is_image:
        if context.responsibilities is None:
            own = context.own_arguments(64)
            x = sample(context.model, 64, mean=True, seed=context.seed, **own)
            figure, ax = image_axes(x, 8)
            plots.images(ax, x, 8, white=context.white)
            return [Section("Reconstructions and samples", figure, "New samples from the prior.")]
        rows = torch.as_tensor(context.order).repeat_interleave(PER_ROW)
        own = context.own_arguments(len(rows))
        x = sample(context.model, len(rows), y=rows, mean=True, seed=context.seed, **own)
        caption = f"New samples from the prior, one row per {context.group}."
        return [_rows_of_samples(context, x, caption, context.group, list(context.order))]
    if context.data.x_shape != (2,):
        return []
    figure, (left, right) = plots.panels(2, WIDTH, 2.6, same=True)
    plots.scatter(left, context.data.train.x[:MOST_POINTS], title="data")
    probabilities = context.responsibilities
    y = None if probabilities is None else torch.arange(MOST_POINTS) % probabilities.shape[-1]
    own = context.own_arguments(MOST_POINTS)
    x = sample(context.model, MOST_POINTS, y=y, seed=context.seed, **own)
    plots.scatter(right, x, y, "samples" + ("" if y is None else f" by {context.group}"))
    return [Section("Reconstructions and samples", figure, "Data, and new samples from the model.")]


def conditional_samples(context: ReportContext) -> list[Section]:
    """What a conditional model generates, for the covariates of the data."""
    if not context.conditional:
        return []
    condition = context.data.dense_condition
    if context.is_image and isinstance(condition, Labels):
        k = condition.num_classes
        c = torch.eye(k).repeat_interleave(PER_ROW, 0)
        x = sample(context.model, len(c), c=c, mean=True, seed=context.seed)
        caption = "New samples, one row per label."
        return [_rows_of_samples(context, x, caption, "label", list(range(k)))]
    if context.is_image:
        return [_completions(context)]
    c, n = context.others["c"], min(MOST_POINTS, len(context.x))
    new = sample(context.model, n, c=c[:n], seed=context.seed)
    on_a_line = context.x.shape[1:] == (1,) and c.shape[1:] == (1,)
    if on_a_line:
        pairs = [torch.cat([c[:n], v[:n]], 1) for v in (context.x, new)]
        labels = "c", "x"
    elif context.x.shape[1:] == (2,):
        pairs, labels = [context.x[:n], new], ("x, unit 0", "x, unit 1")
    else:
        return []
    figure, both = plots.panels(2, WIDTH, 2.6, same=True)
    colors = context.y[:n] if isinstance(condition, Labels) and context.y is not None else None
    for ax, points, title in zip(both, pairs, ("data", "samples"), strict=True):
        plots.scatter(ax, points, colors, title, context.label_names, labels)
    caption = "Data, and new samples for the same covariates" + (
        " (c across, x upwards)." if on_a_line else "."
    )
    return [Section("Reconstructions and samples", figure, caption)]


def completions(
    model: Callable,
    data: Data,
    x: torch.Tensor,
    c: torch.Tensor,
    has_latents: bool = True,
    seed: int = 0,
    draws: int = 6,
) -> dict[str, torch.Tensor]:
    """`{heading: images [N, (C,) H, W]}`: the observed part, samples, the prediction, the true data.

    Args:
        x, c: `[N, ...]`, the missing and the given pixels.
        has_latents: whether samples differ.
        draws: how many samples.
    """
    columns = {"given": joined(data, torch.full_like(x, 0.5), c)}
    for i in range(draws if has_latents else 0):
        drawn = sample(model, len(x), c=c, mean=True, seed=seed + i)
        columns[f"sample {i + 1}"] = joined(data, drawn, c)
    columns["prediction"] = joined(data, predict_mean(model, c), c)
    columns["truth"] = joined(data, x, c)
    return columns


def paths(context: ReportContext) -> list[Section]:
    """Interpolations between data, and traversals of the most active units."""
    walks = context.is_image and accepts_argument(context.model, "size")
    if not (walks and context.infers) or context.conditional:
        return []
    captions = {
        "interpolate": "Interpolations between two data points (spherical path of the codes); "
        "framed: the reconstructions of both.",
        "traverse": "Traversals: one data point, in each row with another unit moved. Framed: the "
        "unit at the prior's mean. At the right: the range of the unit's values.",
    }
    sections = []
    for source, caption in captions.items():
        sheet = samples.make(
            source, context.model, context.guide, context.data,
            num=8, split=context.split, seed=context.seed,
        )  # fmt: skip
        figure = sheet.figure(context.data)
        if figure is not None:
            sections.append(Section("Paths", figure, caption))
    return sections


def _rows_of_samples(
    context: ReportContext, x: torch.Tensor, caption: str, label: str, rows: list
) -> Section:
    """`PER_ROW` images per component, class or label."""
    names = None if label == "component" else context.label_names
    labels = [str(i) if names is None or i >= len(names) else names[i] for i in rows]
    figure, ax = image_axes(x, PER_ROW, ["00", *labels])
    plots.images(ax, x, PER_ROW, labels, white=context.white)
    ax.set_ylabel(label)
    return Section("Reconstructions and samples", figure, caption)


def _completions(context: ReportContext) -> Section:
    """Images whose observed part is outlined, and the completions by the model."""
    columns = completions(
        context.model, context.data, context.x[:8], context.others["c"][:8],
        bool(context.latent_kls), context.seed,
    )  # fmt: skip
    images = torch.stack(list(columns.values()), 1).flatten(0, 1)
    figure, ax = image_axes(images, len(columns))
    plots.columns_of_images(ax, columns)
    condition = context.data.dense_condition
    if isinstance(condition, Quadrants):
        given = condition.mask().any(0).expand(len(images), *images.shape[-2:])
        plots.outline(ax, given, len(columns))
    caption = (
        "Completions. Outlined: the given part (gray in the first column: missing); then the "
        "likelihood's means at draws of z from the prior given it, the one prediction "
        "E[x | c, z = E[z | c]], and the truth."
    )
    return Section("Reconstructions and samples", figure, caption)
