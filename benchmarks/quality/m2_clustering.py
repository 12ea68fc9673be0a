"""M2 without labels does not cluster: the entropy of q(y | x), compared with models that do.

    python -m benchmarks.quality.m2_clustering --images binarized --seeds 3 --threads 1 --out FILE.json
    python -m benchmarks.quality.m2_clustering --images gray --seeds 3 --threads 1 --out FILE.json

M2, Rui Shu's GMVAE and VaDE are trained on digits without labels, by the plain ELBO, as `pyro-vae fit`
does. All have the same settings (VaDE starts from its mixture initialization); only the warm-up was
tuned. `binarized` is Shu's setting: dynamic binarization, Bernoulli, 64 dimensions of z. It adds a KL
warm-up of 20 epochs; without it M2 ignores z too on such small images. `gray` has the digits' 17
levels, their binomial likelihood and 16 dimensions.

y is ignored when the mutual information of y and x, H(mean q) - mean H(q), is near 0 nats. Then the
ELBO prefers q(y | x) = p(y), whose entropy is ln 10 = 2.30. The reason: in M2, z is independent of y
and reaches the decoder itself. If z has enough dimensions, a decoder that ignores y attains any
likelihood that one with y does, and an ignored y has KL 0. A y that carries information costs KL, no
less than z would, and nothing makes that information the class. In a mixture prior y reaches x only
through z, whose prior N(mu_y, Sigma_y) lowers the KL of z when y carries information about z.
"""

import json
import math

from .. import harness
from .clustering import train_and_evaluate

METHODS = ("m2-clustering", "shu-gmvae", "vade")
SETTINGS = {
    "hidden": [256], "epochs": 100, "lr": 3e-3, "weight_decay": 0.0, "compile": "recorded",
}  # fmt: skip
SETTINGS_OF = {"vade": {"initialize.vaes": 1}}
IMAGES = {
    "gray": {"latent_dim": 16, "likelihood": "binomial", "binarize": "none", "warmup": 0},
    "binarized": {"latent_dim": 64, "likelihood": "bernoulli", "binarize": "dynamic", "warmup": 20},
}


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=3)
    arguments.add_argument("--images", choices=IMAGES, default="binarized")
    arguments.add_argument(
        "--settings", type=json.loads, default={}, help="JSON, overrides the methods'"
    )
    options = harness.parse(arguments, argv)
    settings = {**SETTINGS, **IMAGES[options.images], **options.settings}
    if options.quick:
        options.seeds = 1
        settings |= {"epochs": 2, "hidden": [16], "initialize": None}
    settings_of = {} if "initialize" in settings else SETTINGS_OF
    rows, runs = [], []
    for method in METHODS:
        seeds = []
        own = {**settings, **settings_of.get(method, {})}
        for seed in range(options.seeds):
            run = train_and_evaluate(method, "digits", seed, own, 100, options.device)
            seeds.append({"method": method, **run})
            print(method, seed, run["discrete"], run["clustering"]["this model"], flush=True)
        runs += seeds
        rows.append(
            {
                "": method,
                f"entropy of q(y given x) (ln 10 = {math.log(10):.2f})": harness.mean_sd(
                    [r["discrete"]["entropy"] for r in seeds]
                ),
                "mutual information": harness.mean_sd(
                    [r["discrete"]["mutual_information"] for r in seeds]
                ),
                "accuracy": harness.mean_sd(
                    [r["clustering"]["this model"]["accuracy"] for r in seeds]
                ),
                "ELBO": harness.mean_sd([r["elbo"] for r in seeds]),
            }
        )
    if options.out:
        command = harness.command("benchmarks.quality.m2_clustering", argv)
        harness.write(options.out, command, rows=rows, runs=runs)


if __name__ == "__main__":
    main()
