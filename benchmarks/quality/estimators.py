"""Clustering of tables by `GMVAEClusterer` beside scikit-learn's, on data sets that it embeds.

    python -m benchmarks.quality.estimators --out FILE.json

Every method has its defaults and the number of classes. Labels are used for the metrics alone. For
KMeans and GaussianMixture (ten starts each) the columns are standardized, and also left as they are.
"""

import time

from sklearn import datasets
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

import pyro_vae as pv

from .. import harness

DATA = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


def methods(num_classes, seed, quick):
    """`{name: (estimator, whether its columns are standardized before)}`."""
    options = {"max_iter": 2, "n_init": 1} if quick else {}
    result = {
        "GMVAEClusterer": (
            pv.estimators.GMVAEClusterer(num_classes, random_state=seed, **options),
            False,
        )
    }
    for name, kind in (("KMeans", KMeans), ("GaussianMixture", GaussianMixture)):
        for standardized in (True, False):
            estimator = kind(num_classes, n_init=10, random_state=seed)
            result[f"{name}, {'standardized' if standardized else 'raw'}"] = estimator, standardized
    return result


def evaluate(estimator, x, labels):
    """Fit, and compare the clusters with the labels."""
    started = time.perf_counter()
    clusters = estimator.fit_predict(x)
    seconds = time.perf_counter() - started
    result = {**pv.evaluate.clustering_metrics(labels, clusters), "seconds": seconds}
    if isinstance(estimator, pv.estimators.GMVAEClusterer):
        result |= {"stability": estimator.stability_, "scores": estimator.scores_.tolist()}
    return result


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=5, cpu_only=True)
    arguments.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    options = harness.parse(arguments, argv)
    if options.quick:
        options.seeds, options.data = 1, ["iris"]
    runs = []
    for name in options.data:
        x, labels = DATA[name](return_X_y=True)
        scaled = StandardScaler().fit_transform(x)
        for seed in range(options.seeds):
            for method, (estimator, standardized) in methods(
                len(set(labels)), seed, options.quick
            ).items():
                run = evaluate(estimator, scaled if standardized else x, labels)
                runs.append({"data": name, "method": method, "seed": seed, **run})
                print(f"{name}, seed {seed}, {method}: accuracy {run['accuracy']:.3f}", flush=True)
    table = harness.means(runs, ("data", "method"), ("accuracy", "nmi", "ari", "seconds"))
    if options.out:
        command = harness.command("benchmarks.quality.estimators", argv)
        harness.write(options.out, command, table=table, runs=runs)


if __name__ == "__main__":
    main()
