"""The sections of a report about the latents: their units, components, prior and latent space."""

import torch
from pyro.distributions import MixtureSameFamily, TorchDistribution
from torch import nn

from .. import evaluate, plots
from ..errors import UserError
from ..evaluate.latents import ACTIVE_THRESHOLD
from ..generate import sample
from ..models import VampPrior, prior_of
from ..programs.contexts import seeded
from ..programs.interfaces import GuideInterface, interface_of
from . import summary
from .context import ReportContext
from .html import Section
from .samples import WIDTH

MOST_CODES = 2000  # in the figure of the prior
FEW_COMPONENTS = 12  # whose ellipses do not bury the codes
NOT_SEPARATE = "the units of the prior, or of the guide, depend on each other"


def latent_units(context: ReportContext) -> list[Section]:
    """The KL of each latent, and of each of its units, with the threshold of active units."""
    if not context.infers:
        return []
    sections = []
    if len(context.latent_kls) > 1:
        figure, ax = plots.axes(WIDTH, 2.8)
        plots.bars(ax, context.latent_kls, "nats per data point", "KL by latent")
        caption = (
            "The KL of each latent. Their sum is an upper bound on the information that the latents "
            "carry about x."
        )
        sections.append(Section("Latent units", figure, caption))
    kls = evaluate.unit_kl(
        context.model, context.guide, context.x, 10, context.seed, **context.others
    )
    for name, values in context.result["unit_activity"].items():
        activity = torch.tensor(values)
        if name in kls:
            kl = kls[name].cpu()
            figure, (top, bottom) = plots.panels(2, WIDTH, 4.6, stacked=True)
            plots.unit_kl(top, kl, activity > ACTIVE_THRESHOLD, f"KL of each unit of {name}")
            top.set_xlabel("")
            order = kl.argsort(descending=True, stable=True)
            plots.unit_activity(bottom, activity, ACTIVE_THRESHOLD, order)
            caption = "Above: the KL of each unit, sorted. Below: the variance over the data of its"
        else:
            figure, ax = plots.axes(WIDTH, 2.8)
            title = f"activity of the units of {name}"
            plots.unit_activity(ax, activity, ACTIVE_THRESHOLD, title=title)
            caption = "The variance over the data of each unit's"
        caption += f" posterior mean; a unit is active above {ACTIVE_THRESHOLD:g}; others are gray."
        if name not in kls:
            caption += f" A KL of each unit does not exist: {NOT_SEPARATE}."
        sections.append(Section("Latent units", figure, caption))
    return sections


def components(context: ReportContext) -> list[Section]:
    """How many data each component has, and of which labels."""
    if context.responsibilities is None or context.has_some_labels:  # see `classes`
        return []
    k = context.responsibilities.shape[-1]
    figure, ax = plots.axes(WIDTH, 2.8)
    plots.occupancy(ax, evaluate.occupancy(context.responsibilities), context.order)
    caption = "Fraction of the data whose most probable component it is; dotted: equal fractions."
    sections = [Section("Components", figure, caption)]
    if context.labels is not None:
        figure, ax = plots.axes(WIDTH, max(2.8, 0.28 * min(k, 40) + 1))
        clusters = context.responsibilities.argmax(-1)
        plots.contingency(ax, context.labels, clusters, k, context.order, context.label_names)
        caption = (
            "Data points of each label (columns) in each component (rows). Components are sorted by "
            "the label that they match; labels had no other use."
        )
        sections.append(Section("Components", figure, caption))
    return sections


def classes(context: ReportContext) -> list[Section]:
    """If training saw some labels: which classes are confused."""
    if not context.has_some_labels or context.labels is None:
        return []
    seen = context.data.observed_split("train")
    assert seen.y is not None  # training saw labels
    predictions = summary.predictions(context.model, context.guide, seen.x, seen.y, context.x)
    if not predictions:
        return []
    name, (predicted,) = next(iter(predictions.items()))
    num_classes = context.data.num_classes or int(context.labels.max()) + 1
    figure, ax = plots.axes(WIDTH, max(2.8, 0.28 * num_classes + 1))
    plots.confusion(ax, context.labels, predicted, num_classes, context.label_names)
    split = context.split
    caption = f"Classes by {name}, on the {split} split, whose labels were not used in training."
    return [Section("Classes", figure, caption)]


def latent_space(context: ReportContext) -> list[Section]:
    """Posterior means in the plane, by component with the mixture's ellipses, and by label."""
    name = context.main_latent
    if name is None or not any(context.result["unit_activity"][name]):
        return []  # there is no latent, or every data point has the same code
    codes = context.codes[name].reshape(len(context.x), -1).cpu()
    view, size = plots.project(codes, name), codes.shape[-1]
    how = "" if size <= 2 else f", in the two principal components of their {size} dimensions"
    mixture = context.components(name)
    groups = {context.group: context.clusters, "label": context.y}
    groups = {title: colors for title, colors in groups.items() if colors is not None}
    sections = []
    for title, colors in groups.items() or [("", None)]:
        figure, ax = plots.axes(WIDTH, 4.3)
        heading = f"{name} by {title}" if title else name
        names = context.label_names if title in ("label", "class") else None
        plots.scatter(ax, view.points, colors, heading, names, view.labels)
        caption = f"Posterior means of {name}{how}" + (f", colored by {title}." if title else ".")
        if mixture is not None and title != "label" or mixture is not None and len(groups) == 1:
            means, covariances = mixture
            few = len(means) <= FEW_COMPONENTS
            plots.ellipses(
                ax,
                view(means.cpu()),
                view.covariance(covariances.cpu()),
                color=plots.INK if title == "label" else None,
                fill=False,
                linewidth=1.3 if few else 0.6,
                alpha=0.9 if few else 0.5,
            )
            caption += " Ellipses: components of the prior, as normals, to two standard deviations."
        sections.append(Section("Latent space", figure, caption))
    return sections


def prior(context: ReportContext) -> list[Section]:
    """The aggregate posterior beside the prior; the components of a mixture prior, decoded."""
    try:
        latent, module = prior_of(context.model)
    except UserError:  # each latent has parents
        return []
    if latent not in interface_of(context.guide, GuideInterface).given:
        return []
    n = min(len(context.x), MOST_CODES)
    others = context.first_inputs(n)
    codes = evaluate.aggregate_posterior(
        context.model, context.guide, context.x[:n], latent, seed=context.seed, **others
    )
    with torch.no_grad(), seeded(context.seed, codes.device):
        distribution = module()
        draws = distribution.expand([n])().to(codes.device)
    view = plots.project(torch.cat([codes, draws]).flatten(1), latent)
    figure, (left, right) = plots.panels(2, WIDTH, 2.6, same=True)
    plots.scatter(left, view.points[:n], title=f"aggregate posterior q({latent})")
    plots.scatter(right, view.points[n:], title=f"prior p({latent})")
    for ax in (left, right):
        ax.title.set_fontsize(9)
    size = codes[0].numel()
    how = "" if size <= 2 else f", in two principal components of their {size} dimensions"
    caption = (
        f"A draw of q({latent} | x) for each data point, and as many draws of the prior{how}. Where "
        "the two differ, samples are decoded from regions with no encodings."
    )
    section = Section("Latent space", figure, caption)
    decoded = _decoded_components(context, latent, module, distribution)
    return [section] if decoded is None else [section, decoded]


def _decoded_components(
    context: ReportContext, latent: str, module: nn.Module, distribution: TorchDistribution
) -> Section | None:
    """The decoded means of a mixture prior's components, beside its pseudo-inputs if it has any."""
    is_mixture = isinstance(distribution, MixtureSameFamily)
    if not is_mixture or not context.is_image or context.conditional:
        return None
    weights = distribution.mixture_distribution.probs
    order = weights.argsort(descending=True, stable=True)[:60]
    means = distribution.component_distribution.mean.detach()[order]
    decoded = sample(context.model, mean=True, seed=context.seed, **{latent: means})
    rows, columns = -(-len(order) // 10), min(10, len(order))
    if isinstance(module, VampPrior) and "x" in module.pseudo_inputs:
        scaling = interface_of(context.guide, GuideInterface).input_scaling
        mean, scale = scaling.get("x", (0.0, 1.0))
        seen = module.pseudo_inputs["x"].detach()[order] * scale + mean
        figure, ax = plots.axes(WIDTH, 0.75 * rows + 0.4)
        plots.pairs_of_images(ax, seen, decoded, columns, labels=("pseudo-input", "decoded"))
        caption = "Learned pseudo-inputs, and below each what the mean of its q decodes to."
    else:
        figure, ax = plots.axes(WIDTH, 0.45 * rows + 0.4)
        plots.images(ax, decoded, columns, white=context.white)
        caption = "What the means of the prior's components decode to, the largest weight first."
    return Section("Latent space", figure, caption)
