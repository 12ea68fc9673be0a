"""`report.html`: one self-contained page that shows a person what a run found."""

import base64
import html
import io
import platform
from pathlib import Path

import pyro
import torch
from pyro import poutine
from pyro.distributions import MixtureSameFamily

from . import evaluate, gallery, plots, summary
from .data import Labels
from .errors import UserError
from .gallery import joined
from .generate import analogies, predict, sample
from .models import prior_of
from .pair import eval_mode, seeded, takes
from .train.checkpoint import write_atomically

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-weight: 600; margin-bottom: 0; } h2 { margin-top: 2.2rem; font-weight: 600; }
.sub { color: #666; margin-top: .2rem; }
table { border-collapse: collapse; margin: .8rem 0; } td, th { padding: .25rem .9rem .25rem 0;
        text-align: left; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.best td { font-weight: 600; }
figure { margin: 1rem 0; } figure img { max-width: 100%; } figcaption { color: #555; font-size: .92rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem 2rem; }
details { margin-top: 2rem; } pre { font-size: .85rem; overflow-x: auto; background: #f6f6f6;
          padding: .8rem; }
"""


def _figure(figure, caption):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _table(header, rows, digits, best=None):
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = ""
    for i, row in enumerate(rows):
        tds = "".join(
            f'<td class="n">{v:.{digits}f}</td>'
            if isinstance(v, float)
            else f"<td>{html.escape(str(v))}</td>"
            for v in row
        )
        body += f'<tr class="{"best" if i == best else ""}">{tds}</tr>'
    return f"<table><tr>{cells}</tr>{body}</table>"


def pictures(model, guide, data, result, history, best_epoch, seed=0):
    """The figures of a report, `[(heading, figure, caption)]`; each is made of `plots` functions.

    Args:
        result: what `summary.summarise` returned, of the split to show.
    """
    split = result["split"]
    x, y, others = summary.inputs(model, guide, data, split)
    shape = tuple(joined(data, x, others.get("c")).shape[1:])
    figures = []

    figure, ax = plots.axes(6.4, 3.6)
    plots.curves(ax, history, best_epoch)
    figures.append(("Training", figure, "Loss and validation bound by epoch, nats per datum."))

    kls = {k: -v for k, v in result["terms"].items() if k != "x"}
    if kls:
        figure, ax = plots.axes(max(2.5, 1.0 * len(kls) + 1.5), 3.6)
        plots.bars(ax, kls, "nats per datum", "KL by latent")
        told = f"What each latent tells about x, on the {split} split."
        figures.append(("Training", figure, told))

    in_part = "classification" in result
    if in_part and y is not None and (y >= 0).all():
        seen = data.observed("train")
        name, (classes,) = next(iter(summary.predictions(model, guide, seen.x, seen.y, x).items()))
        figure, ax = plots.axes(5.0, 4.4)
        plots.confusion(ax, y, classes, data.num_classes)
        caption = f"Classes by {name}, on the {split} split, whose labels were not used."
        figures.append(("Classes", figure, caption))
    if in_part and hasattr(model, "style") and plots.is_image(shape):
        chosen = x[:10]
        made = analogies(model, guide, chosen)
        shown = torch.cat([chosen.unsqueeze(1), made], 1).flatten(0, 1)
        figure, ax = plots.axes(7.0, 6.2)
        plots.images(ax, shown, 1 + made.shape[1])
        caption = f"Analogies: at the left a datum, then its style {model.style} with every class in turn."
        figures.append(("Classes", figure, caption))

    clusters = num_components = None
    if takes(model, "y") and "y" not in others:
        shares = evaluate.responsibilities(model, guide, x, seed=seed, **others)
        clusters, num_components = shares.argmax(-1), shares.shape[-1]
        figure, ax = plots.axes(max(5.0, 0.35 * num_components + 1.5), 3.4)
        plots.occupancy(ax, evaluate.occupancy(shares))
        caption = "Share of the data whose most probable component each is; dotted: equal shares."
        figures.append(("Components", figure, caption))
        if y is not None and (y >= 0).all() and not in_part:
            figure, ax = plots.axes(5.0, max(3.4, 0.3 * num_components + 1))
            plots.contingency(ax, y, clusters, num_components)
            caption = "Data of each label (columns) in each component (rows). Labels were not used."
            figures.append(("Components", figure, caption))

    if plots.is_image(shape) and kls:
        some = {k: v[:24] for k, v in others.items()}
        rebuilt = evaluate.reconstruct(model, guide, x[:24], **some)
        chosen, rebuilt = (joined(data, v, some.get("c")) for v in (x[:24], rebuilt))
        figure, ax = plots.axes(7.0, 5.6)
        white = plots.white_of(data.train.x)
        plots.pairs_of_images(ax, chosen, rebuilt, columns=8, white=white)
        figures.append(("Reconstructions", figure, "Data, and below each its reconstruction."))
    if "c" in others:
        figures += _given(model, data, x, y, others["c"], bool(kls), seed)
    else:
        what = "class" if in_part else "component"
        figures += _samples(model, data, num_components, seed, what)
    figures += _prior(model, guide, data, x, others, seed)
    if plots.is_image(shape) and kls and takes(model, "size"):
        figures += _paths(model, guide, data, split, seed)

    codes = evaluate.encode(model, guide, x, **others)
    name = "z" if "z" in codes else next(iter(codes), None)
    if name is not None:
        points = plots.project(codes[name], clusters)
        size = codes[name].shape[-1]
        how = "as it is" if size <= 2 else f"two first principal components of {size} dimensions"
        if size > 2 and clusters is not None:
            how = f"of {size} dimensions, the two directions that part the components best"
        for by, colors in ((what, clusters), ("label", y)):
            if colors is not None:
                figure, ax = plots.axes(5.6, 4.6)
                plots.scatter(ax, points, colors, f"{name} by {by}")
                caption = f"Posterior means of {name} ({how}), coloured by {by}."
                figures.append(("Latent space", figure, caption))
        if y is None and clusters is None:
            figure, ax = plots.axes(5.0, 4.6)
            plots.scatter(ax, points, title=name)
            figures.append(("Latent space", figure, f"Posterior means of {name} ({how})."))
    return figures


def _samples(model, data, num_components, seed, what="component"):
    shape = data.x_shape
    if not takes(model, "size"):
        return []
    if plots.is_image(shape):
        if num_components:
            rows = torch.arange(num_components).repeat_interleave(12)
            x = sample(model, len(rows), y=rows, mean=True, seed=seed)
            figure, ax = plots.axes(7.0, max(2.5, 0.62 * num_components))
            labels = [str(k) for k in range(num_components)]
            plots.images(ax, x, 12, labels, white=plots.white_of(data.train.x))
            ax.set_ylabel(what)
            return [("Samples", figure, f"New samples from the prior, one row a {what}.")]
        x = sample(model, 64, mean=True, seed=seed)
        figure, ax = plots.axes(6.0, 6.0)
        plots.images(ax, x, 8, white=plots.white_of(data.train.x))
        return [("Samples", figure, "New samples from the prior.")]
    if shape == (2,):
        figure, (a, b) = plots.axes(9.0, 4.4, 1, 2, sharex=True, sharey=True)
        plots.scatter(a, data.train.x[:2000], title="data")
        n = 2000
        y = None if not num_components else torch.arange(n) % num_components
        x = sample(model, n, y=y, seed=seed)
        plots.scatter(b, x, y, title="samples" + (" by component" if num_components else ""))
        return [("Samples", figure, "Data, and new samples from the model.")]
    return []


def _prior(model, guide, data, x, others, seed):
    """The prior beside what it has to cover; the components of a mixture, decoded."""
    try:
        latent, prior = prior_of(model)
    except UserError:  # each latent has parents
        return []
    if latent not in getattr(guide, "given", ()):
        return []
    few, n = {k: v[:2000] for k, v in others.items()}, min(len(x), 2000)
    codes = evaluate.aggregate_posterior(model, guide, x[:n], latent, seed=seed, **few)
    with torch.no_grad(), seeded(seed, codes.device):
        law = prior()
        draws = law.expand([n])().to(codes.device)
    points = plots.project(torch.cat([codes, draws]))
    figure, (a, b) = plots.axes(7.0, 3.6, 1, 2, sharex=True, sharey=True)
    plots.scatter(a, points[:n], title=f"aggregate posterior q({latent})")
    plots.scatter(b, points[n:], title=f"prior p({latent})")
    size = codes.shape[-1]
    how = "" if size <= 2 else f", in two principal components of their {size} dimensions"
    caption = f"A draw of q({latent} | x) for each datum, and as many draws of the prior{how}."
    result = [
        (
            "Prior",
            figure,
            caption
            + " Where the two differ, samples are decoded from places that no datum is encoded to.",
        )
    ]
    observes = getattr(model, "observes", ("x",))
    if not (isinstance(law, MixtureSameFamily) and plots.is_image(data.x_shape)):
        return result
    if tuple(observes) != ("x",) or not takes(model, "size"):
        return result
    order = law.mixture_distribution.probs.argsort(descending=True, stable=True)[:60]
    means = law.component_distribution.mean.detach()[order]
    with torch.no_grad(), seeded(seed, means.device), eval_mode(model):
        at_means = poutine.condition(model, data={latent: means})
        decoded = poutine.trace(at_means).get_trace(size=len(means)).nodes["x"]["fn"].mean
    rows, columns = -(-len(order) // 10), min(10, len(order))
    inputs = getattr(prior, "pseudo_inputs", {})
    if "x" in inputs:
        mean, scale = getattr(guide, "standardise", {}).get("x", (0.0, 1.0))
        seen = inputs["x"].detach()[order] * scale + mean
        figure, ax = plots.axes(7.0, 1.3 * rows + 0.4)
        plots.pairs_of_images(ax, seen, decoded, columns, labels=("pseudo-input", "decoded"))
        caption = "Learned pseudo-inputs, and below each what the mean of its q decodes to."
    else:
        figure, ax = plots.axes(7.0, 0.7 * rows + 0.4)
        plots.images(ax, decoded, columns)
        caption = "What the prior's components' means decode to, the largest weight first."
    return [*result, ("Prior", figure, caption)]


def _paths(model, guide, data, split, seed):
    """Walks through the latents: between data, and along the most active units."""
    told = {
        "interpolate": "On the way between two data, at both ends (spherical path of the codes).",
        "traverse": "One datum, a unit moved in each row from -2.5 to 2.5 of the prior's standard "
        "deviations: the unit's number, and its activity as a share of the prior's variance.",
    }
    figures = []
    for source, caption in told.items():
        made = gallery.make(source, model, guide, data, num=8, split=split, seed=seed)
        figures.append(("Paths", made.figure(data), caption))
    return figures


def _given(model, data, x, y, c, has_latents, seed):
    """What a conditional model makes up, given what test data are given."""
    whole = joined(data, x[:1], c[:1])
    if isinstance(data.condition, Labels) and plots.is_image(whole.shape[1:]):
        k = data.condition.num_classes
        given = torch.eye(k).repeat_interleave(12, 0)
        figure, ax = plots.axes(7.0, max(2.5, 0.62 * k))
        images = sample(model, len(given), c=given, mean=True, seed=seed)
        plots.images(ax, images, 12, row_labels=[str(i) for i in range(k)])
        ax.set_ylabel("label")
        return [("Samples", figure, "New samples, one row a label.")]
    if plots.is_image(whole.shape[1:]):
        figure, ax = plots.axes(8.0, 7.2)
        plots.columns_of_images(ax, completions(model, data, x[:10], c[:10], has_latents, seed))
        caption = (
            "Given (grey: not seen), the likelihood's means at draws of z from the prior given it, "
            "the one prediction E[x | c, z = E[z | c]], and the truth."
        )
        return [("Completions", figure, caption)]
    n = min(2000, len(x))
    labels = y[:n] if isinstance(data.condition, Labels) else None
    new = sample(model, n, c=c[:n], seed=seed)
    if x.shape[1:] == (1,) and c.shape[1:] == (1,):
        pairs, titles = [torch.cat([c[:n], v[:n]], 1) for v in (x, new)], ("data", "samples")
    elif x.shape[1:] == (2,):
        pairs, titles = [x[:n], new], ("data", "samples given the same")
    else:
        return []
    figure, both = plots.axes(9.0, 4.4, 1, 2, sharex=True, sharey=True)
    for ax, points, title in zip(both, pairs, titles, strict=True):
        plots.scatter(ax, points, labels, title)
    axes = "c across, x upwards" if x.shape[1:] == (1,) else "x"
    return [("Samples", figure, f"Data, and new samples given the data's covariates ({axes}).")]


def completions(model, data, x, c, has_latents=True, seed=0, draws=6):
    """`{heading: images}`: what is given, samples, the prediction, the truth."""
    columns = {"given": joined(data, torch.full_like(x, 0.5), c)}
    for i in range(draws if has_latents else 0):
        drawn = sample(model, len(x), c=c, mean=True, seed=seed + i)
        columns[f"sample {i + 1}"] = joined(data, drawn, c)
    columns["prediction"] = joined(data, predict(model, c), c)
    columns["truth"] = joined(data, x, c)
    return columns


def hardware():
    """Where a number was measured: processor, GPU, versions."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }


def write(path, title, subtitle, result, figures, details):
    """Write the page, whole or not at all.

    Args:
        result: what `summary.summarise` returned.
        figures: `[(heading, figure, caption)]`.
        details: text shown folded at the end, e.g. the settings.
    """
    body = [f"<h2>Numbers</h2><p>On {result['data']} data of the {result['split']} split.</p>"]
    body.append(_table(("", "value", ""), summary.rows(result), 2))
    if "clustering" in result:
        header = ("clusters against labels", "accuracy", "purity", "NMI", "ARI")
        found = result["clustering"]
        scores = [(n, m["accuracy"], m["purity"], m["nmi"], m["ari"]) for n, m in found.items()]
        body.append(_table(header, scores, 3, best=0))
        body.append(
            "<p>Accuracy is under the best one-to-one match of components to classes. "
            "No label was used in training or in choosing anything.</p>"
        )
    if "classification" in result:
        found = result["classification"]
        parts = list(next(iter(found["errors"].values())))
        header = (f"error with {found['num_labels']} training labels", *parts)
        rows = [(n, *(e[p] for p in parts)) for n, e in found["errors"].items()]
        body.append(_table(header, rows, 3, best=0))
        body.append(
            "<p>Shares of wrong classes. Labelled: the training data whose labels were used; "
            "unlabelled: those whose labels were hidden, which the model saw without.</p>"
        )
    heading = None
    for head, figure, caption in figures:
        if head != heading:
            body.append(
                ("</div>" if heading else "") + f'<h2>{html.escape(head)}</h2><div class="two">'
            )
            heading = head
        body.append(_figure(figure, caption))
    body.append("</div>" if heading else "")
    body.append(
        f"<details><summary>Settings and versions</summary><pre>{html.escape(details)}</pre></details>"
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>{html.escape(title)}</h1><p class="sub">{html.escape(subtitle)}</p>'
        + "\n".join(body)
        + "</body></html>\n"
    )
    write_atomically(path, lambda p: p.write_text(page))
