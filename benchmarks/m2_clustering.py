"""M2 without labels does not cluster: the entropy of q(y | x), beside models that do.

    python -m benchmarks.m2_clustering --images binarized --seeds 3 --threads 1 --out FILE.json
    python -m benchmarks.m2_clustering --images grey --seeds 3 --threads 1 --out FILE.json

M2, Rui Shu's GMVAE and VaDE are trained on digits with no label, by the plain ELBO, as `pyro-vae fit`
does, all with the same settings (VaDE from its mixture start), not tuned but for the warm-up. `binarized` is
Shu's own setting: dynamic binarization, Bernoulli, 64 dimensions of z; and a KL warm-up of 20 epochs,
without which M2's z is ignored as well on images so small. `grey` has the digits' 17 levels, their
binomial likelihood and 16 dimensions.

y is ignored when the mutual information of y and x, H(mean q) - mean H(q), is near 0 nats; then the
ELBO prefers q(y | x) = p(y), whose entropy is ln 10 = 2.30. Why: in M2 z is independent of y and
reaches the decoder itself. A decoder that ignores y attains any likelihood that one with y does, given
a z of enough dimensions, and an ignored y has KL 0. A y that carries information pays for it in KL, no
less than z would, and nothing makes that information the class. In a mixture prior y reaches x only
through z, whose N(mu_y, Sigma_y) lowers the KL of z when y tells where z lies.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from .clustering import mean_sd, one
from .results import write

METHODS = ("m2-clustering", "shu-gmvae", "vade")
SETTINGS = {"hidden": [256], "epochs": 100, "lr": 3e-3, "weight_decay": 0.0, "compile": "recorded"}
IMAGES = {
    "grey": {"latent_dim": 16, "likelihood": "binomial", "binarize": "none", "warmup": 0},
    "binarized": {"latent_dim": 64, "likelihood": "bernoulli", "binarize": "dynamic", "warmup": 20},
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", choices=IMAGES, default="binarized")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, over the methods'")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    settings = {**SETTINGS, **IMAGES[a.images], **a.settings}
    rows, runs = [], []
    for method in METHODS:
        found = []
        for seed in range(a.seeds):
            run = one(method, "digits", seed, None, settings, 100)
            found.append({"method": method, **run})
            print(method, seed, run["discrete"], run["clustering"]["this model"], flush=True)
        runs += found
        rows.append(
            {
                "": method,
                f"entropy of q(y given x) (ln 10 = {math.log(10):.2f})": mean_sd(
                    [r["discrete"]["entropy"] for r in found]
                ),
                "mutual information": mean_sd([r["discrete"]["mutual_information"] for r in found]),
                "accuracy": mean_sd([r["clustering"]["this model"]["accuracy"] for r in found]),
                "ELBO": mean_sd([r["elbo"] for r in found]),
            }
        )
    if a.out:
        command = (
            f"python -m benchmarks.m2_clustering --images {a.images} --seeds {a.seeds} "
            f"--threads {a.threads}"
        )
        write(a.out, command, rows=rows, runs=runs)


if __name__ == "__main__":
    main()
