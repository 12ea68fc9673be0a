"""M2 without labels does not cluster: the entropy of q(y | x), beside models that do.

    python -m benchmarks.m2_clustering --seeds 3 --threads 1 --out benchmarks/results/m2_clustering.json

M2, Rui Shu's GMVAE and VaDE are trained on digits with no label, by the plain ELBO, each as
`pyro-vae fit` does. y is ignored when the mutual information of y and x, H(mean q) - mean H(q), is
near 0 nats: then q(y | x) may have any law that is the same for all x. It is ln 10 = 2.30 where it is
p(y), and 0 where all data are in one class: without information the ELBO prefers p(y), but an early
collapse need not be undone.

Why: in M2 z is independent of y and reaches the decoder itself. A decoder that ignores y attains
any likelihood that one with y does, given a z of enough dimensions, and an ignored y has KL 0. A y
that carries information must pay for it in KL, no less than z would. In a mixture prior y reaches x
only through z, whose N(mu_y, Sigma_y) lowers the KL of z when y tells where z lies.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from .clustering import mean_sd, one
from .results import write

METHODS = ("m2-clustering", "shu-gmvae", "vade")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, over the methods'")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    rows, runs = [], []
    for method in METHODS:
        found = []
        for seed in range(a.seeds):
            run = one(method, "digits", seed, None, a.settings, 100)
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
        command = f"python -m benchmarks.m2_clustering --seeds {a.seeds} --threads {a.threads}"
        write(a.out, command, rows=rows, runs=runs)


if __name__ == "__main__":
    main()
