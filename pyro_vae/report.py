"""`report.html`: one self-contained page that shows a person what a run found."""

import base64
import html
import io
import platform
from pathlib import Path

import pyro
import torch

from . import evaluate, plots, summary
from .data import Labels
from .evaluate.samples import sample
from .pair import takes
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

    clusters = num_components = None
    if takes(model, "y") and "y" not in others:
        shares = evaluate.responsibilities(model, guide, x, seed=seed, **others)
        clusters, num_components = shares.argmax(-1), shares.shape[-1]
        figure, ax = plots.axes(max(5.0, 0.35 * num_components + 1.5), 3.4)
        plots.occupancy(ax, evaluate.occupancy(shares))
        caption = "Share of the data whose most probable component each is; dotted: equal shares."
        figures.append(("Components", figure, caption))
        if y is not None and (y >= 0).all():
            figure, ax = plots.axes(5.0, max(3.4, 0.3 * num_components + 1))
            plots.contingency(ax, y, clusters, num_components)
            caption = "Data of each label (columns) in each component (rows). Labels were not used."
            figures.append(("Components", figure, caption))

    if plots.is_image(shape) and kls:
        some = {k: v[:24] for k, v in others.items()}
        rebuilt = evaluate.reconstruct(model, guide, x[:24], **some)
        chosen, rebuilt = (joined(data, v, some.get("c")) for v in (x[:24], rebuilt))
        figure, ax = plots.axes(7.0, 5.6)
        plots.pairs_of_images(ax, chosen, rebuilt, columns=8)
        figures.append(("Reconstructions", figure, "Data, and below each its reconstruction."))
    if "c" in others:
        figures += _given(model, data, x, y, others["c"], bool(kls), seed)
    else:
        figures += _samples(model, data, num_components, seed)

    codes = evaluate.encode(model, guide, x, **others)
    name = "z" if "z" in codes else next(iter(codes), None)
    if name is not None:
        points = plots.project(codes[name], clusters)
        size = codes[name].shape[-1]
        how = "as it is" if size <= 2 else f"two first principal components of {size} dimensions"
        if size > 2 and clusters is not None:
            how = f"of {size} dimensions, the two directions that part the components best"
        for by, colors in (("component", clusters), ("label", y)):
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


def _samples(model, data, num_components, seed):
    shape = data.x_shape
    if not takes(model, "size"):
        return []
    if plots.is_image(shape):
        if num_components:
            rows = torch.arange(num_components).repeat_interleave(12)
            x = sample(model, len(rows), y=rows, mean=True, seed=seed)
            figure, ax = plots.axes(7.0, max(2.5, 0.62 * num_components))
            plots.images(ax, x, 12, row_labels=[str(k) for k in range(num_components)])
            ax.set_ylabel("component")
            return [("Samples", figure, "New samples from the prior, one row a component.")]
        x = sample(model, 64, mean=True, seed=seed)
        figure, ax = plots.axes(6.0, 6.0)
        plots.images(ax, x, 8)
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


def joined(data, x, c):
    """x as it is shown: where c are pixels of the same image, the whole image."""
    join = getattr(data.condition, "join", None)
    return x if join is None or c is None else join(x, c)


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
    columns["prediction"] = joined(data, evaluate.predict(model, c), c)
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
