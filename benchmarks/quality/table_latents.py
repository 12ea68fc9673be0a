"""The size of the latent on small tables: held-out log p(x), and the clusters of `vade` and `gmvae`.

    python -m benchmarks.quality.table_latents --out FILE.json

scikit-learn's iris (4 columns), wine (13) and breast cancer (30), with two latent units, with half as many
as the table has columns, which is the methods' default, and with 24, the presets' number for digits. All
other settings are the methods' defaults; the number of components is that of the classes. The log-likelihood
is that of the held-out tenth, in nats per row and original units. Stability is the mean adjusted Rand index
among the first VAEs' clusterings, which says without a label whether another run would find the same
clusters. Labels score the clusters of all rows, and have no other use.
"""

import numpy as np
from sklearn import datasets

import pyro_vae as pv

from .. import harness

TABLES = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
}
METHODS = ("vade", "gmvae")
SIZES = {"two": 2, "half": None, "24": 24}


def frame_of(load):
    """`({column: values [N]}, labels [N])`."""
    bunch = load()
    return dict(zip(map(str, bunch.feature_names), bunch.data.T, strict=True)), bunch.target


def numbers(method, frame, labels, latent_dim, seed, quick):
    """The numbers of one run; its data are split by the seed, too."""
    data = pv.data.from_frame(frame, split_seed=seed)
    options = {"num_components": len(np.unique(labels)), "latent_dim": latent_dim, "seed": seed}
    short = {"epochs": 2, "initialize.epochs": 2} if quick else {}
    run = pv.method(method, data, **options, **short).fit(progress=False)
    clusters = np.asarray(run.encode(frame)["y"])
    result = run.evaluate("test", num_samples=20 if quick else 1000)
    return {
        "latent_dim": run.config["model.latent_dim"],
        "log_likelihood": result["log_likelihood"],
        "stability": np.nan if run.stability is None else run.stability,
        **pv.evaluate.clustering_metrics(labels, clusters),
    }


def main(argv=None):
    options = harness.parse(harness.parser(__doc__, seeds=3, cpu_only=True), argv)
    tables = TABLES
    if options.quick:
        options.seeds, tables = 1, {"iris": TABLES["iris"]}
    runs = []
    for name, load in tables.items():
        frame, labels = frame_of(load)
        for method in METHODS:
            for size, latent_dim in SIZES.items():
                for seed in range(options.seeds):
                    row = numbers(method, frame, labels, latent_dim, seed, options.quick)
                    runs.append(
                        {"table": name, "method": method, "size": size, "seed": seed, **row}
                    )
                    print(runs[-1], flush=True)
    metrics = ("log_likelihood", "stability", "accuracy")
    table = harness.means(runs, ("table", "method", "size"), metrics)
    if options.out:
        command = harness.command("benchmarks.quality.table_latents", argv)
        harness.write(options.out, command, table=table, runs=runs)


if __name__ == "__main__":
    main()
