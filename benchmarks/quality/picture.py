"""The picture in README: samples, encodings and clusters of a run of `pyro-vae fit gmvae`.

python -m benchmarks.quality.picture RUN benchmarks/results/gmvae_digits.png
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae import plots


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(argv)
    run = pv.load(options.run, device="cpu")
    model, guide, data = run.model, run.guide, run.data
    test = data.observed_split("test")
    responsibilities = pv.evaluate.responsibilities(model, guide, test.x)
    k = responsibilities.shape[-1]
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.05, 1, 0.95])
    rows = torch.arange(k).repeat_interleave(12)
    plots.images(
        left,
        pv.sample(model, len(rows), y=rows, mean=True, seed=0),
        12,
        [str(i) for i in range(k)],
        "new samples, one row per component",
    )
    left.set_ylabel("component")
    x = torch.cat([data.observed_split("train").x, test.x])
    y = torch.cat([data.train.y, test.y])
    clusters = pv.evaluate.responsibilities(model, guide, x).argmax(-1)
    codes = plots.project(pv.evaluate.encode(model, guide, x)["z"], clusters)
    plots.scatter(middle, codes, y, "encodings by label (not used in training)")
    plots.contingency(right, test.y, responsibilities.argmax(-1), k)
    right.set_title("test data: component by label")
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
