"""The figures of a report, section by section; each is drawn by functions of `plots`."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from .. import plots
from ..data import Data
from .column_figures import columns, profiles
from .context import ReportContext
from .html import Section
from .latent_figures import classes, components, latent_space, latent_units, prior
from .sample_figures import analogies, conditional_samples, new_samples, paths, reconstructions
from .samples import WIDTH

SECTIONS = (
    components,
    classes,
    analogies,
    latent_space,
    prior,
    latent_units,
    reconstructions,
    new_samples,
    conditional_samples,
    columns,
    profiles,
    paths,
)


def report_figures(
    model: Callable,
    guide: Callable,
    data: Data,
    result: Mapping,
    history: Sequence[Mapping],
    best_epoch: int | None,
    seed: int = 0,
) -> list[Section]:
    """The figures of a trained pair.

    Args:
        result: as `summary.summarize` returns it, for the split to show.
        history, best_epoch: of the `Run`.
        seed: of all draws.
    """
    context = ReportContext(model, guide, data, result, seed)
    groups = (_draw(section, context) for section in SECTIONS)
    return [*chain(*groups), *_draw(training, history, best_epoch, data)]


def training(history: Sequence[Mapping], best_epoch: int | None, data: Data) -> list[Section]:
    """The curves of the training."""
    figure, ax = plots.axes(WIDTH, 2.8)
    plots.curves(ax, history, best_epoch)
    caption = "Loss and validation bound by epoch, nats per data point."
    if data.scaling is not None:
        caption += " Both are of the standardized columns; the numbers above are in original units."
    return [Section("Training", figure, caption)]


def _draw(section: Callable[..., list[Section]], *arguments: object) -> list[Section]:
    """The figures of a section; of one that fails, a line that says so: the numbers must not be lost."""
    try:
        return section(*arguments)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        name = section.__name__.replace("_", " ")
        return [Section("Figures that could not be drawn", None, f"{name}: {reason}")]
