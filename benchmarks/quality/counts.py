"""Clustering of simulated single-cell counts, beside k-means on log-normalized counts.

    python -m benchmarks.quality.counts --out FILE.json

600 cells in five groups of unequal size, 100 genes. A group has a program of 20 genes whose expression
is changed. Two further programs vary continuously in all groups. Counts are negative binomial, with a depth
per cell that varies by a factor of about seven (5 % to 95 %), and zero-inflated. Every seed is another
simulation. Depth and the strength of the programs were set so that k-means is right for about three cells
in four, on seeds 100 to 102.

The method is `gmvae` with its defaults, the number of groups, one first VAE, and the library size as offset.
Labels are used for the metrics alone. k-means has ten starts, on log(1 + 10^4 x / depth), and on its 20
first principal components.
"""

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import pyro_vae as pv

from .. import harness

NUM_CELLS, NUM_GENES = 600, 100
WEIGHTS = np.array([0.35, 0.25, 0.2, 0.12, 0.08])  # of the groups
PROGRAM_GENES = 20  # of a group, and of a continuous program
CHANGE, DEPTH = 1.5, 1000  # standard deviation of a program, in logarithms; median depth
COMPONENTS = 20  # principal components
METHODS = {
    "gmvae, nb, library size": "negative-binomial",
    "gmvae, zinb, library size": "zero-inflated-negative-binomial",
}


def simulate(seed, num_cells=NUM_CELLS):
    """`(counts [N, G], group [N])`."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(len(WEIGHTS), num_cells, p=WEIGHTS)
    base = rng.normal(0, 1.2, NUM_GENES)  # log-expression, up to a constant
    change = np.zeros((len(WEIGHTS), NUM_GENES))
    for row in change:
        row[rng.choice(NUM_GENES, PROGRAM_GENES, replace=False)] = rng.normal(
            0, CHANGE, PROGRAM_GENES
        )
    loadings = np.zeros((2, NUM_GENES))
    for row in loadings:
        row[rng.choice(NUM_GENES, PROGRAM_GENES, replace=False)] = rng.normal(0, 0.6, PROGRAM_GENES)
    activity = rng.normal(0, 1, (num_cells, 2))
    expression = np.exp(base + change[groups] + activity @ loadings)
    depth = np.exp(rng.normal(np.log(DEPTH), 0.6, (num_cells, 1)))
    mean = depth * expression / expression.sum(1, keepdims=True)
    r = rng.gamma(4, 0.5, NUM_GENES)  # inverse dispersion, about 2
    counts = rng.poisson(rng.gamma(r, mean / r))
    dropped = rng.random(counts.shape) < rng.uniform(0, 0.3, NUM_GENES)
    counts = np.where(dropped, 0, counts)
    counts[counts.sum(1) == 0, 0] = 1  # a library size must be positive
    return counts, groups


def log_normalized(counts):
    """log(1 + 10^4 x / depth), the usual preprocessing."""
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def clusterings(counts, num_groups, seed, quick):
    """`{method: clusters [N]}`."""
    x, result = torch.from_numpy(counts).float(), {}
    short = {"epochs": 2, "initialize.epochs": 2} if quick else {}
    for name, likelihood in METHODS.items():
        data = pv.data.from_arrays(
            x, test=0, likelihood=likelihood, library_size=True, split_seed=seed
        )
        options = {"num_components": num_groups, "seed": seed, "initialize.vaes": 1, **short}
        run = pv.method("gmvae", data, **options).fit(progress=False)
        result[name] = run.encode(x)["y"].argmax(-1).numpy()
    normalized = log_normalized(counts)
    k_means = KMeans(num_groups, n_init=10, random_state=seed)
    result["k-means, log-normalized"] = k_means.fit_predict(normalized)
    components = PCA(COMPONENTS, random_state=seed).fit_transform(normalized)
    result["k-means, PCA"] = k_means.fit_predict(components)
    return result


def main(argv=None):
    options = harness.parse(harness.parser(__doc__, seeds=5, cpu_only=True), argv)
    if options.quick:
        options.seeds = 1
    runs = []
    for seed in range(options.seeds):
        counts, groups = simulate(seed, 100 if options.quick else NUM_CELLS)
        results = clusterings(counts, len(WEIGHTS), seed, options.quick)
        for method, clusters in results.items():
            metrics = pv.evaluate.clustering_metrics(groups, clusters)
            runs.append({"method": method, "seed": seed, **metrics})
            print(f"seed {seed}, {method}: accuracy {metrics['accuracy']:.3f}", flush=True)
    table = harness.means(runs, ("method",), ("accuracy", "nmi", "ari"))
    if options.out:
        command = harness.command("benchmarks.quality.counts", argv)
        harness.write(options.out, command, table=table, runs=runs)


if __name__ == "__main__":
    main()
