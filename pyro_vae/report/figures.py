"""The figures of a report, section by section; each is made of `plots` functions."""

from dataclasses import dataclass
from functools import cached_property

import torch
from pyro.distributions import MixtureSameFamily

from .. import evaluate, plots
from ..data import Data, Labels
from ..errors import UserError
from ..generate import predict_mean, sample, style_transfer_grid
from ..guides import PriorGuide
from ..models import prior_of
from ..programs.calling import accepts_argument
from ..programs.contexts import seeded
from . import samples as gallery
from . import summary
from .samples import joined


def pictures(model, guide, data, result, history, best_epoch, seed=0):
    """`[(heading, figure, caption)]` of a trained pair.

    Args:
        result: what `summary.summarize` returned, of the split to show.
        history, best_epoch: of the `Run`.
    """
    shown = ReportContext(model, guide, data, result, seed)
    figure, ax = plots.axes(6.4, 3.6)
    plots.curves(ax, history, best_epoch)
    figures = [("Training", figure, "Loss and validation bound by epoch, nats per data point.")]
    for section in SECTIONS:
        figures += section(shown)
    return figures


@dataclass
class ReportContext:
    """What the sections look at: a pair, and one split of its data."""

    model: object
    guide: object
    data: Data
    result: dict
    seed: int

    def __post_init__(self):
        self.x, self.y, self.others = summary.inputs(
            self.model, self.guide, self.data, self.result["split"]
        )
        self.kls = {k: -v for k, v in self.result["terms"].items() if k != "x"}
        self.has_some_labels = (
            "classification" in self.result
        )  # some labels were seen, so y is a class
        self.what = "class" if self.has_some_labels else "component"
        self.labelled = self.y is not None and bool((self.y >= 0).all())
        self.conditional = "c" in self.others
        self.is_image = plots.is_image(tuple(self.whole(self.x[:1]).shape[1:]))
        self.white = plots.white_of(self.data.train.x)

    def some(self, n):
        """The first n of `others`."""
        return {k: v[:n] for k, v in self.others.items()}

    def whole(self, x):
        """The first data's x, or others for the same covariates, as it is shown."""
        c = self.others.get("c")
        return joined(self.data, x, None if c is None else c[: len(x)])

    @cached_property
    def shares(self):
        """`[N, K]` probabilities of the discrete latent y; None where there is none."""
        if not accepts_argument(self.model, "y") or "y" in self.others:
            return None
        return evaluate.responsibilities(
            self.model, self.guide, self.x, seed=self.seed, **self.others
        )

    @property
    def clusters(self):
        return None if self.shares is None else self.shares.argmax(-1)


def _kls(s):
    if not s.kls:
        return []
    figure, ax = plots.axes(max(2.5, 1.0 * len(s.kls) + 1.5), 3.6)
    plots.bars(ax, s.kls, "nats per data point", "KL by latent")
    caption = f"What each latent tells about x, on the {s.result['split']} split."
    return [("Training", figure, caption)]


def _classes(s):
    """Where training saw some labels: what is confused, and every class in each data point's style."""
    figures = []
    if s.has_some_labels and s.labelled:
        seen = s.data.observed_split("train")
        found = summary.predictions(s.model, s.guide, seen.x, seen.y, s.x)
        name, (classes,) = next(iter(found.items()))
        figure, ax = plots.axes(5.0, 4.4)
        plots.confusion(ax, s.y, classes, s.data.num_classes)
        caption = (
            f"Classes by {name}, on the {s.result['split']} split, whose labels were not used."
        )
        figures.append(("Classes", figure, caption))
    if s.has_some_labels and hasattr(s.model, "style_latent") and s.is_image:
        chosen = s.x[:10]
        made = style_transfer_grid(s.model, s.guide, chosen)
        rows = torch.cat([chosen.unsqueeze(1), made], 1).flatten(0, 1)
        figure, ax = plots.axes(7.0, 6.2)
        plots.images(ax, rows, 1 + made.shape[1], white=s.white)
        caption = f"Analogies: at the left a data point, then its style {s.model.style_latent} with every class."
        figures.append(("Classes", figure, caption))
    return figures


def _components(s):
    if s.shares is None or s.has_some_labels:  # classes: see their confusion
        return []
    k = s.shares.shape[-1]
    figure, ax = plots.axes(max(5.0, 0.35 * k + 1.5), 3.4)
    plots.occupancy(ax, evaluate.occupancy(s.shares))
    caption = "Share of the data whose most probable component each is; dotted: equal shares."
    figures = [("Components", figure, caption)]
    if s.labelled:
        figure, ax = plots.axes(5.0, max(3.4, 0.3 * k + 1))
        plots.contingency(ax, s.y, s.clusters, k)
        caption = "Data of each label (columns) in each component (rows). Labels were not used."
        figures.append(("Components", figure, caption))
    return figures


def _reconstructions(s):
    if not (s.is_image and s.kls):
        return []
    rebuilt = evaluate.reconstruct(s.model, s.guide, s.x[:24], **s.some(24))
    figure, ax = plots.axes(7.0, 5.6)
    plots.pairs_of_images(ax, s.whole(s.x[:24]), s.whole(rebuilt), columns=8, white=s.white)
    return [("Reconstructions", figure, "Data, and below each its reconstruction.")]


def _samples(s):
    """New data from the prior, a row a component where there are components."""
    if s.conditional or not accepts_argument(s.model, "size"):
        return []
    if s.is_image:
        if s.shares is None:
            figure, ax = plots.axes(6.0, 6.0)
            x = sample(s.model, 64, mean=True, seed=s.seed)
            plots.images(ax, x, 8, white=s.white)
            return [("Samples", figure, "New samples from the prior.")]
        rows = torch.arange(s.shares.shape[-1]).repeat_interleave(12)
        x = sample(s.model, len(rows), y=rows, mean=True, seed=s.seed)
        return _rows_of_samples(s, x, f"New samples from the prior, one row a {s.what}.", s.what)
    if s.data.x_shape != (2,):
        return []
    figure, (a, b) = plots.axes(9.0, 4.4, 1, 2, sharex=True, sharey=True)
    plots.scatter(a, s.data.train.x[:2000], title="data")
    y = None if s.shares is None else torch.arange(2000) % s.shares.shape[-1]
    x = sample(s.model, 2000, y=y, seed=s.seed)
    plots.scatter(b, x, y, title="samples" + ("" if y is None else f" by {s.what}"))
    return [("Samples", figure, "Data, and new samples from the model.")]


def _rows_of_samples(s, x, caption, label):
    """Twelve images a row."""
    k = len(x) // 12
    figure, ax = plots.axes(7.0, max(2.5, 0.62 * k))
    plots.images(ax, x, 12, [str(i) for i in range(k)], white=s.white)
    ax.set_ylabel(label)
    return [("Samples", figure, caption)]


def _given(s):
    """What a conditional model generates, given what test data are given."""
    if not s.conditional:
        return []
    c, n = s.others["c"], min(2000, len(s.x))
    by_label = isinstance(s.data.condition, Labels)
    if by_label and s.is_image:
        given = torch.eye(s.data.condition.num_classes).repeat_interleave(12, 0)
        x = sample(s.model, len(given), c=given, mean=True, seed=s.seed)
        return _rows_of_samples(s, x, "New samples, one row a label.", "label")
    if s.is_image:
        figure, ax = plots.axes(8.0, 7.2)
        columns = completions(s.model, s.data, s.x[:10], c[:10], bool(s.kls), s.seed)
        plots.columns_of_images(ax, columns)
        caption = (
            "Given (grey: not seen), the likelihood's means at draws of z from the prior given it, "
            "the one prediction E[x | c, z = E[z | c]], and the truth."
        )
        return [("Completions", figure, caption)]
    new = sample(s.model, n, c=c[:n], seed=s.seed)
    on_a_line = s.x.shape[1:] == (1,) and c.shape[1:] == (1,)
    if on_a_line:
        pairs, titles = [torch.cat([c[:n], v[:n]], 1) for v in (s.x, new)], ("data", "samples")
    elif s.x.shape[1:] == (2,):
        pairs, titles = [s.x[:n], new], ("data", "samples given the same")
    else:
        return []
    figure, both = plots.axes(9.0, 4.4, 1, 2, sharex=True, sharey=True)
    for ax, points, title in zip(both, pairs, titles, strict=True):
        plots.scatter(ax, points, s.y[:n] if by_label else None, title)
    axes = "c across, x upwards" if on_a_line else "x"
    return [("Samples", figure, f"Data, and new samples given the data's covariates ({axes}).")]


def completions(model, data, x, c, has_latents=True, seed=0, draws=6):
    """`{heading: images}`: what is given, samples, the prediction, the truth."""
    columns = {"given": joined(data, torch.full_like(x, 0.5), c)}
    for i in range(draws if has_latents else 0):
        drawn = sample(model, len(x), c=c, mean=True, seed=seed + i)
        columns[f"sample {i + 1}"] = joined(data, drawn, c)
    columns["prediction"] = joined(data, predict_mean(model, c), c)
    columns["truth"] = joined(data, x, c)
    return columns


def _prior(s):
    """The prior beside what it has to cover; the components of a mixture, decoded."""
    try:
        latent, prior = prior_of(s.model)
    except UserError:  # each latent has parents
        return []
    if latent not in getattr(s.guide, "given", ()):
        return []
    n = min(len(s.x), 2000)
    codes = evaluate.aggregate_posterior(
        s.model, s.guide, s.x[:n], latent, seed=s.seed, **s.some(n)
    )
    with torch.no_grad(), seeded(s.seed, codes.device):
        distribution = prior()
        draws = distribution.expand([n])().to(codes.device)
    points = plots.project(torch.cat([codes, draws]))
    figure, (a, b) = plots.axes(7.0, 3.6, 1, 2, sharex=True, sharey=True)
    plots.scatter(a, points[:n], title=f"aggregate posterior q({latent})")
    plots.scatter(b, points[n:], title=f"prior p({latent})")
    size = codes.shape[-1]
    how = "" if size <= 2 else f", in two principal components of their {size} dimensions"
    caption = (
        f"A draw of q({latent} | x) for each data point, and as many draws of the prior{how}. Where the "
        "two differ, samples are decoded from places that no data point is encoded to."
    )
    figures = [("Prior", figure, caption)]
    if not isinstance(distribution, MixtureSameFamily) or not s.is_image or s.conditional:
        return figures
    order = distribution.mixture_distribution.probs.argsort(descending=True, stable=True)[:60]
    means = distribution.component_distribution.mean.detach()[order]
    decoded = sample(s.model, mean=True, seed=s.seed, **{latent: means})
    rows, columns = -(-len(order) // 10), min(10, len(order))
    inputs = getattr(prior, "pseudo_inputs", {})
    if "x" in inputs:
        mean, scale = getattr(s.guide, "input_scaling", {}).get("x", (0.0, 1.0))
        seen = inputs["x"].detach()[order] * scale + mean
        figure, ax = plots.axes(7.0, 1.3 * rows + 0.4)
        plots.pairs_of_images(ax, seen, decoded, columns, labels=("pseudo-input", "decoded"))
        caption = "Learned pseudo-inputs, and below each what the mean of its q decodes to."
    else:
        figure, ax = plots.axes(7.0, 0.7 * rows + 0.4)
        plots.images(ax, decoded, columns, white=s.white)
        caption = "What the prior's components' means decode to, the largest weight first."
    return [*figures, ("Prior", figure, caption)]


def _paths(s):
    """Walks through the latents: between data, and along the most active units."""
    walks = s.is_image and s.kls and accepts_argument(s.model, "size") and not s.conditional
    if not walks or isinstance(s.guide, PriorGuide):
        return []
    caption = {
        "interpolate": "On the way between two data, at both ends (spherical path of the codes).",
        "traverse": "One data point, a unit moved in each row from -2.5 to 2.5 of the prior's standard "
        "deviations: the unit's number, and its activity as a share of the prior's variance.",
    }
    options = {"num": 8, "split": s.result["split"], "seed": s.seed}
    return [
        ("Paths", gallery.make(source, s.model, s.guide, s.data, **options).figure(s.data), caption)
        for source, caption in caption.items()
    ]


def _latent_space(s):
    codes = evaluate.encode(s.model, s.guide, s.x, **s.others)
    name = "z" if "z" in codes else next(iter(codes), None)
    if name is None:
        return []
    points, size = plots.project(codes[name], s.clusters), codes[name].shape[-1]
    how = "as it is" if size <= 2 else f"two first principal components of {size} dimensions"
    if size > 2 and s.clusters is not None:
        how = f"of {size} dimensions, the two directions that part the {'classes' if s.has_some_labels else 'components'} best"
    by = {k: v for k, v in ((s.what, s.clusters), ("label", s.y)) if v is not None}
    figures = []
    for title, colors in by.items() or [(None, None)]:
        figure, ax = plots.axes(5.6, 4.6)
        plots.scatter(ax, points, colors, name if title is None else f"{name} by {title}")
        colored = "" if title is None else f", colored by {title}"
        figures.append(("Latent space", figure, f"Posterior means of {name} ({how}){colored}."))
    return figures


SECTIONS = (
    _kls,
    _classes,
    _components,
    _reconstructions,
    _samples,
    _given,
    _prior,
    _paths,
    _latent_space,
)
