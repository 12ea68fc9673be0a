"""The figures of a report, section by section; each is drawn by functions of `plots`."""

from collections.abc import Callable, Mapping, Sequence

from .. import plots
from ..data import Data
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
    sections = [section for make in SECTIONS for section in make(context)]
    figure, ax = plots.axes(WIDTH, 2.8)
    plots.curves(ax, history, best_epoch)
    caption = "Loss and validation bound by epoch, nats per data point."
    return [*sections, Section("Training", figure, caption)]
