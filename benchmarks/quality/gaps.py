"""What each guide loses on one VAE: approximation and amortization gap, and the cost of a step.

    python -m benchmarks.quality.gaps --out benchmarks/results/gaps.json
    python -m benchmarks.quality.gaps --data mnist --epochs 10 --bases diagonal --out benchmarks/results/gaps_mnist.json
    python -m benchmarks.quality.gaps --redraw --out benchmarks/results/gaps.json
    python -m benchmarks.quality.gaps --redraw --data mnist --out benchmarks/results/gaps_mnist.json
    python -m benchmarks.quality.gaps --quick

One VAE per seed is trained with a diagonal guide and then frozen; eight kinds of guide are trained on
it (the mixture in two ways). Then a VAE is trained with a spline flow, and a diagonal guide and the
flow are trained on that. The digits are gray, with their exact binomial likelihood. MNIST is binarized
dynamically, and its first 1,000 test images are evaluated. Gaps are in nats per image, for the first
`--num-gap-data` test images. The parameters of the guide "per data point" are fitted to the evaluated
images themselves. Milliseconds per step are medians over epochs, as `fit` chooses to run a step, with
the batch of training; "per data point" has smaller data and so a smaller batch. `--folder` keeps every
cell, and an interrupted run continues from it.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae.comparison import Comparison
from pyro_vae.comparison.evidence import NUMBERS
from pyro_vae.comparison.table import FLAGS
from pyro_vae.conditionals import MLP, Flow, LowRankNormal, MixtureOfNormals, MultivariateNormal
from pyro_vae.guides import Guide, SemiAmortized

from .. import harness

BASES = ("diagonal", "spline flow")  # guides that the decoders are trained with
PER_DATUM_OPTIONS = {"lr": 0.03, "epochs": 500, "weight_decay": 0.0}


def semi_amortized(model, **options):
    return SemiAmortized(model, Guide(model, **options), steps=5)


def guides(network):
    """The guides, as `compare` takes them; pixels are centered for every encoder."""
    amortized = partial(Guide, network=network, input_scaling={"x": (0.5, 0.5)})
    return {
        "constants": partial(Guide, given={"z": []}),
        "per data point": (partial(Guide, given={"z": ["index"]}), PER_DATUM_OPTIONS),
        "diagonal": amortized,
        "low rank": partial(amortized, family={"z": LowRankNormal()}),
        "full": partial(amortized, family={"z": MultivariateNormal()}),
        "mixture": partial(amortized, family={"z": MixtureOfNormals(5)}),
        "mixture, equal weights": partial(
            amortized, family={"z": MixtureOfNormals(5, training="uniform")}
        ),
        "spline flow": partial(amortized, family={"z": Flow("spline", 1)}),
        "semi-amortized": partial(semi_amortized, network=network, input_scaling={"x": (0.5, 0.5)}),
    }


def load(name, root=None):
    if name == "digits":
        return pv.data.load("digits", binarize="none")
    data = pv.data.load(name, binarize="dynamic", root=root)
    return dataclasses.replace(data, valid=data.valid[:1000], test=data.test[:1000])


def redraw(options):
    """Draw the figure of a result file."""
    result = json.loads(options.out.read_text())
    rows = [{**dict.fromkeys((*NUMBERS, *FLAGS)), **row} for row in result["runs"]["diagonal"]]
    num_data = len(load(options.data, options.root).test)
    sizes = num_data, options.num_samples, options.num_gap_data
    comparison = Comparison(rows, result["split"], *sizes, share_model=True)
    figure = comparison.plot()
    figure.savefig(options.out.with_suffix(".png"), dpi=110)


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=3)
    arguments.add_argument("--data", default="digits")
    arguments.add_argument("--root", type=Path)
    arguments.add_argument("--bases", nargs="+", default=list(BASES), choices=BASES)
    arguments.add_argument("--latent-dim", type=int, default=10)
    arguments.add_argument("--hidden", type=int, default=200)
    arguments.add_argument("--epochs", type=int, help="default: 200 for digits, 20 for others")
    arguments.add_argument("--num-samples", type=int, default=500)
    arguments.add_argument("--num-gap-data", type=int, default=32)
    arguments.add_argument("--gap-steps", type=int, default=1000)
    arguments.add_argument("--annealing-steps", type=int, default=300)
    arguments.add_argument(
        "--workers", type=int, default=1, help="processes; --threads is per process"
    )
    arguments.add_argument("--folder", type=Path, help="keeps the cells")
    arguments.add_argument("--redraw", action="store_true", help="draw the figure of --out anew")
    options = harness.parse(arguments, argv)
    if options.redraw:
        return redraw(options)
    torch.set_num_threads(options.threads * options.workers)
    if options.quick:
        (
            options.seeds,
            options.epochs,
            options.num_samples,
            options.num_gap_data,
            options.gap_steps,
        ) = 1, 5, 100, 8, 100
        options.annealing_steps = 30
    data = load(options.data, options.root)
    network = MLP((options.hidden,))
    batch_size, epochs = (128, 200) if options.data == "digits" else (256, 20)
    settings = {
        "seeds": options.seeds, "share_model": True, "num_samples": options.num_samples,
        "num_gap_data": options.num_gap_data, "workers": options.workers, "device": options.device, "out": options.folder,
        "gap_options": {"max_steps": options.gap_steps, "annealing": {"num_steps": options.annealing_steps}},
        "epochs": options.epochs or epochs, "batch_size": batch_size, "lr": 2e-3, "schedule": "cosine",
        "weight_decay": 0.2 if options.data == "digits" else 0.0,
    }  # fmt: skip
    model = partial(pv.models.VAE, data.x_shape, options.latent_dim, data.likelihood, network)
    all_guides = guides(network)
    if options.quick:
        all_guides["per data point"] = (
            all_guides["per data point"][0],
            {**PER_DATUM_OPTIONS, "epochs": 20},
        )
    exchanged = {name: all_guides[name] for name in ("diagonal", "spline flow")}
    rows, runs = [], {}
    for base, compared in zip(BASES, (all_guides, exchanged), strict=True):
        if base not in options.bases:
            continue
        out = options.folder and options.folder / base.replace(" ", "_")
        comparison = pv.compare(model, compared, data, base_guide=base, **{**settings, "out": out})
        print(f"\ndecoder trained with the guide {base}\n{comparison}\n", flush=True)
        runs[base] = comparison.rows
        if options.out and base == "diagonal":
            comparison.plot().savefig(options.out.with_suffix(".png"), dpi=110)
        for line in comparison.summary():
            row = {"decoder trained with": base, "guide": line["guide"]}
            for name in NUMBERS:
                left_out = name in ("seconds", "best_epoch") or name.endswith("_se")
                if line[name] is not None and not left_out:
                    mean, sd = line[name]
                    row[name] = int(mean) if name == "parameters" else {"mean": mean, "sd": sd}
            rows.append(row)
    if options.out:
        command = harness.command("benchmarks.quality.gaps", argv)
        harness.write(
            options.out,
            command,
            split="test",
            rows=rows,
            runs=runs,
        )


if __name__ == "__main__":
    main()
