"""The picture in README: samples, encodings and clusters of a run of `pyro-vae fit gmvae`.

python -m benchmarks.quality.picture RUN benchmarks/results/gmvae_digits.png
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae import plots

COLUMNS = 12  # samples of each component


def draw(run: pv.Run) -> Figure:
    """Samples of each component, encodings by label, and components by label."""
    model, guide, data = run.model, run.guide, run.data
    test = data.observed_split("test")
    clusters = pv.evaluate.responsibilities(model, guide, test.x)
    k, clusters = clusters.shape[-1], clusters.argmax(-1)
    order = plots.component_order(test.y, clusters, k)
    figure = Figure(figsize=(12, 4.1), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1, 0.95])

    rows = torch.as_tensor(order).repeat_interleave(COLUMNS)
    samples = pv.sample(model, len(rows), y=rows, mean=True, seed=0)
    plots.images(
        left, samples, COLUMNS, [str(i) for i in order], "new samples, one row per component"
    )
    left.set_ylabel("component")

    codes = pv.evaluate.encode(model, guide, test.x)["z"]
    view = plots.project(codes)
    plots.scatter(
        middle, view.points, test.y, "test data: encodings by label", axis_labels=view.labels
    )

    plots.contingency(right, test.y, clusters, k, order)
    right.set_title("test data: components by label")
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args(argv)
    draw(pv.load(arguments.run, device="cpu")).savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
