"""What each guide loses on one VAE: approximation and amortization gap, and the cost of a step.

    python -m benchmarks.gaps --out benchmarks/results/gaps.json
    python -m benchmarks.gaps --data mnist --epochs 10 --bases diagonal --out benchmarks/results/gaps_mnist.json
    python -m benchmarks.gaps --quick

One VAE is trained once a seed with a diagonal guide, then frozen, and eight
kinds of guide are trained on it (the mixture two ways).
Then the other way round: a VAE trained with a spline flow, and a diagonal guide and the flow on it.
Grey digits, exact binomial likelihood; of MNIST, binarized dynamically, the first 1,000 test images
are evaluated. Gaps are of the first `--num_gap_data` test images: nats per image. Guides that are constants
or rows per data point are evaluated like the others; rows are fitted to the evaluated images themselves.
ms per step: medians over epochs, as `fit` chooses to run it, batch as in training, so of the rows' own (smaller) data for
"per data point". `--folder` keeps every cell: a run that was stopped continues.
"""

import argparse
import dataclasses
import shlex
from functools import partial
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae.comparison.evidence import NUMBERS
from pyro_vae.conditionals import MLP, Flow, LowRankNormal, MixtureOfNormals, MultivariateNormal
from pyro_vae.guides import Guide, SemiAmortized

from .results import write

BASES = ("diagonal", "spline flow")  # what decoders are trained with
ROWS_FITTED = {"lr": 0.03, "epochs": 500, "weight_decay": 0.0}


def semi_amortized(model, **options):
    return SemiAmortized(model, Guide(model, **options), steps=5)


def guides(network):
    """The guides, as `compare` takes them; pixels centerd for every encoder."""
    amortized = partial(Guide, network=network, input_scaling={"x": (0.5, 0.5)})
    return {
        "constants": partial(Guide, given={"z": []}),
        "per data point": (partial(Guide, given={"z": ["index"]}), ROWS_FITTED),
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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=BASES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--latent_dim", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--epochs", type=int, help="200 for digits, 20 for others")
    parser.add_argument("--num_samples", type=int, default=500)
    parser.add_argument("--num_gap_data", type=int, default=32)
    parser.add_argument("--gap_steps", type=int, default=1000)
    parser.add_argument("--annealing_steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--folder", type=Path, help="keeps the cells")
    parser.add_argument("--device")
    parser.add_argument("--quick", action="store_true", help="one seed, hardly trained")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads * a.workers)
    if a.quick:
        a.seeds, a.epochs, a.num_samples, a.num_gap_data, a.gap_steps = 1, 5, 100, 8, 100
        a.annealing_steps = 30
    data = load(a.data, a.root)
    network = MLP((a.hidden,))
    batch_size, epochs = (128, 200) if a.data == "digits" else (256, 20)
    options = {
        "seeds": a.seeds, "share_model": True, "num_samples": a.num_samples,
        "num_gap_data": a.num_gap_data, "workers": a.workers, "device": a.device, "out": a.folder,
        "gap_options": {"max_steps": a.gap_steps, "annealing": {"num_steps": a.annealing_steps}},
        "epochs": a.epochs or epochs, "batch_size": batch_size, "lr": 2e-3, "schedule": "cosine",
        "weight_decay": 0.2 if a.data == "digits" else 0.0,
    }  # fmt: skip
    model = partial(pv.models.VAE, data.x_shape, a.latent_dim, data.likelihood, network)
    all_guides = guides(network)
    if a.quick:
        all_guides["per data point"] = (
            all_guides["per data point"][0],
            {**ROWS_FITTED, "epochs": 20},
        )
    two = {name: all_guides[name] for name in ("diagonal", "spline flow")}
    rows, runs = [], {}
    for base, compared in zip(BASES, (all_guides, two), strict=True):
        if base not in a.bases:
            continue
        out = a.folder and a.folder / base.replace(" ", "_")
        found = pv.compare(model, compared, data, base_guide=base, **{**options, "out": out})
        print(f"\ndecoder trained with the guide {base}\n{found}\n", flush=True)
        runs[base] = found.rows
        if a.out and base == "diagonal":
            found.plot().savefig(a.out.with_suffix(".png"), dpi=110)
        for line in found.summary():
            row = {"decoder trained with": base, "guide": line["guide"]}
            for name in NUMBERS:
                left_out = name in ("seconds", "best_epoch") or name.endswith("_se")
                if line[name] is not None and not left_out:
                    mean, sd = line[name]
                    row[name] = int(mean) if name == "parameters" else {"mean": mean, "sd": sd}
            rows.append(row)
    if a.out:
        skip = ("out", "folder", "root", "device")
        told = {k: v for k, v in vars(a).items() if k not in skip and v != parser.get_default(k)}
        flags = [f" --{k} " + (shlex.join(v) if k == "bases" else str(v)) for k, v in told.items()]
        write(
            a.out,
            "python -m benchmarks.gaps" + "".join(flags),
            split="test",
            rows=rows,
            runs=runs,
        )


if __name__ == "__main__":
    main()
