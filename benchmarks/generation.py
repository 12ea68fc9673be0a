"""From the prior or from the encodings? Samples of each source against the test data.

    python -m benchmarks.generation --seeds 5 --threads 1 --out benchmarks/results/generation.json

scikit-learn's digits, exact binomial likelihood of 17 grey levels; each seed is the whole training
of `pyro-vae fit METHOD` with that seed. As many samples as there are test data (360) from each
source, as draws from the likelihood (what the model says data are) and as its means (what people
look at). The floor: 360 training data, chosen by the seed, against the same test data. Nothing is
chosen by these numbers.
"""

import argparse
from pathlib import Path

import torch

import pyro_vae as pv
from benchmarks.clustering import mean_sd
from benchmarks.results import write
from pyro_vae import plots
from pyro_vae.generate import AggregatePosterior

METHODS = ("vae", "vade")
PERMUTATIONS = 999


def trained(method, seed):
    """`(model, guide, data)` as `pyro-vae fit METHOD --seed SEED` trains them."""
    run = pv.method(method, "digits", seed=seed).fit(progress=False)
    return run.model, run.guide, run.data


def compared(test, other, seed):
    """The distances of a set to the test data."""
    found = pv.evaluate.mmd_two_sample_test(test, other, PERMUTATIONS, seed=seed)
    return {
        "frechet": pv.evaluate.frechet_distance(test, other),
        "mmd2 x 1000": 1000 * found["mmd2"],
        "p_value": found["p_value"],
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
    """A row a source: 16 test data, and 16 means of the likelihood from each source, seed 0."""
    figure, ax = plots.axes(8.5, 0.56 * len(rows) + 0.2)
    x = torch.cat([part[:16] for part in rows.values()])
    plots.images(ax, x, 16, list(rows))
    figure.savefig(path, dpi=200, bbox_inches="tight")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    runs, shown = [], {}
    for seed in range(a.seeds):
        for method in METHODS:
            model, guide, data = trained(method, seed)
            train, test = data.observed_split("train").x, data.observed_split("test").x
            bound = pv.evaluate.log_likelihood(model, guide, test, 500, seed=seed).mean().item()
            if method == METHODS[0]:
                order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
                held = train[order[: len(test)]]
                floor = {"method": "", "source": "training data", "of": "data"}
                runs.append({"seed": seed, **floor, **compared(test, held, seed)})
                if seed == 0:
                    shown["test data"] = test
            for source, pair in samples(model, guide, train, len(test), seed).items():
                for kind, x in zip(("draws", "means"), pair, strict=True):
                    row = {"seed": seed, "method": method, "source": source, "of": kind}
                    row |= compared(test, x, seed)
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
            row[name] = mean_sd([r[name] for r in same])
        row["p < 0.05"] = f"{sum(r['p_value'] < 0.05 for r in same)} of {len(same)}"
        if "log_likelihood" in same[0]:
            row["log_likelihood"] = mean_sd([r["log_likelihood"] for r in same])
        else:
            row["log_likelihood"] = ""
        rows.append(row)
        print(row)
    if a.out:
        command = f"python -m benchmarks.generation --seeds {a.seeds} --threads {a.threads}"
        write(a.out, command, permutations=PERMUTATIONS, rows=rows, runs=runs)
        picture(shown, a.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
