"""Low precision in training: its effect on the bound and on the time of a step.

    python -m benchmarks.quality.precision [--device cuda] [--out FILE.json]

Methods on the digits with their defaults, without an initialization: the test ELBO (float32, 100
samples) of runs trained with each precision from the same weights and noise, its difference to
float32's by seed, and the milliseconds per step, median over epochs. A CPU has `bf16`, a GPU also
`tf32`.
"""

import statistics

import pyro_vae as pv
from pyro_vae import methods

from .. import harness

NAMES = ("vae", "m2", "gmvae")


def train(name, seed, epochs, precision, device):
    """`(test ELBO, ms per step)`"""
    overrides = {"initialize": None, "epochs": epochs, "precision": precision, "seed": seed}
    run = pv.method(name, "digits", **overrides).fit(device=device, progress=False)
    steps = -(-len(run.data.train.x) // run.config["batch_size"])
    seconds = statistics.median(row["seconds"] for row in run.history)
    x = run.data.observed_split("test").x
    bound = pv.evaluate.elbo(run.model, run.guide, x, num_samples=100).mean()
    return float(bound), 1e3 * seconds / steps


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=3)
    arguments.add_argument("--epochs", type=int, default=100)
    arguments.add_argument("--methods", nargs="+", default=list(NAMES), choices=methods.METHODS)
    options = harness.parse(arguments, argv)
    precisions = (None, "bf16", "tf32") if options.device.startswith("cuda") else (None, "bf16")
    if options.quick:
        options.seeds, options.epochs = 1, 2
    rows = []
    for name in options.methods:
        runs_of = {
            p: [
                train(name, seed, options.epochs, p, options.device)
                for seed in range(options.seeds)
            ]
            for p in precisions
        }
        bounds = {p: [bound for bound, _ in runs] for p, runs in runs_of.items()}
        for p, runs in runs_of.items():
            differences = [b - c for b, c in zip(bounds[p], bounds[None], strict=True)]
            rows.append(
                {
                    "method": name,
                    "precision": p or "float32",
                    "test ELBO": harness.mean_sd(bounds[p]),
                    "less float32's": harness.mean_sd(differences),
                    "ms per step": harness.mean_sd([ms for _, ms in runs]),
                }
            )
            shown = "  ".join(
                f"{k} {v['mean']:.3f} ± {v['sd']:.3f}" for k, v in list(rows[-1].items())[2:]
            )
            print(f"{name:<8}{p or 'float32':<9}{shown}", flush=True)
    if options.out:
        command = harness.command("benchmarks.quality.precision", argv)
        harness.write(options.out, command, epochs=options.epochs, seeds=options.seeds, rows=rows)


if __name__ == "__main__":
    main()
