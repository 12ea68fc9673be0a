"""Samples from the prior and from the encodings, compared with the test data.

    python -m benchmarks.quality.generation --seeds 5 --threads 1 --out benchmarks/results/generation.json

The data are scikit-learn's digits with the exact binomial likelihood of their 17 gray levels. Each seed
is a whole training of `pyro-vae fit METHOD` with that seed. Each source gives as many samples as there
are test data (360): draws from the likelihood, and its means, which are what pictures show. The
reference is the distance of 360 training data, chosen by the seed, to the same test data. No choice
was made by these numbers.
"""

import torch

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.generate import AggregatePosterior

from .. import harness

METHODS = ("vae", "vade")
PERMUTATIONS = 999


def train(method, seed, options):
    """`(model, guide, data)` as `pyro-vae fit METHOD --seed SEED` trains them."""
    settings = {"epochs": 2} if options.quick else {}
    if options.quick and method == "vade":
        settings["initialize"] = None
    run = pv.method(method, "digits", seed=seed, **settings).fit(
        device=options.device, progress=False
    )
    return run.model, run.guide, run.data


def distances(test, other, seed):
    """Distances of a sample to the test data."""
    mmd = pv.evaluate.mmd_two_sample_test(test, other, PERMUTATIONS, seed=seed)
    return {
        "frechet": pv.evaluate.frechet_distance(test, other),
        "mmd2 x 1000": 1000 * mmd["mmd2"],
        "p_value": mmd["p_value"],
    }


def samples(model, guide, x, size, seed):
    """`{source: (draws, means)}`."""
    sources = {
        "prior": None,
        "aggregate posterior": AggregatePosterior(guide, x),
        "ex-post mixture": {"z": pv.evaluate.fit_ex_post_prior(model, guide, x, "z", seed=seed)},
    }
    return {
        name: tuple(
            pv.sample(model, size, mean=mean, seed=seed, source=source) for mean in (False, True)
        )
        for name, source in sources.items()
    }


def picture(rows, path):
    """Draw one row per source: 16 test data, and 16 means of the likelihood from each source."""
    figure, ax = plots.axes(8.5, 0.56 * len(rows) + 0.2)
    x = torch.cat([part[:16] for part in rows.values()])
    plots.images(ax, x, 16, list(rows))
    figure.savefig(path, dpi=200, bbox_inches="tight")


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=5)
    options = harness.parse(arguments, argv)
    if options.quick:
        options.seeds = 1
    runs, shown = [], {}
    for seed in range(options.seeds):
        for method in METHODS:
            model, guide, data = train(method, seed, options)
            train_x, test = data.observed_split("train").x, data.observed_split("test").x
            bound = pv.evaluate.log_likelihood(model, guide, test, 500, seed=seed).mean().item()
            if method == METHODS[0]:
                order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(seed))
                reference = train_x[order[: len(test)]]
                of_data = {"method": "", "source": "training data", "of": "data"}
                runs.append({"seed": seed, **of_data, **distances(test, reference, seed)})
                if seed == 0:
                    shown["test data"] = test
            for source, pair in samples(model, guide, train_x, len(test), seed).items():
                for kind, x in zip(("draws", "means"), pair, strict=True):
                    row = {"seed": seed, "method": method, "source": source, "of": kind}
                    row |= distances(test, x, seed)
                    if source == "prior" and kind == "draws":
                        row["log_likelihood"] = bound
                    runs.append(row)
                    print(row, flush=True)
                if seed == 0:
                    shown[f"{method}, {source}"] = pair[1]
    keys = list(dict.fromkeys((r["method"], r["source"], r["of"]) for r in runs))
    rows = []
    for key in keys:
        same = [r for r in runs if (r["method"], r["source"], r["of"]) == key]
        row = dict(zip(("method", "source", "of"), key, strict=True))
        for name in ("frechet", "mmd2 x 1000"):
            row[name] = harness.mean_sd([r[name] for r in same])
        row["p < 0.05"] = f"{sum(r['p_value'] < 0.05 for r in same)} of {len(same)}"
        if "log_likelihood" in same[0]:
            row["log_likelihood"] = harness.mean_sd([r["log_likelihood"] for r in same])
        else:
            row["log_likelihood"] = ""
        rows.append(row)
        print(row)
    if options.out:
        command = harness.command("benchmarks.quality.generation", argv)
        harness.write(options.out, command, permutations=PERMUTATIONS, rows=rows, runs=runs)
        picture(shown, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
