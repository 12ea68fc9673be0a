"""`compare`: every guide beside every other."""

import csv
import json
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn

import pyro_vae as pv
from pyro_vae.conditionals import MLP, MultivariateNormal, NormalLikelihood
from pyro_vae.guides import Guide, SemiAmortised

D, LATENT, SCALE = 5, 2, 0.6
NET = MLP(hidden=(6,), activation="tanh")
QUICK = {"epochs": 3, "batch_size": 32, "num_samples": 20, "progress": False}
GAPS = {"num_samples": 50, "importance_samples": 100, "max_steps": 100, "annealing": False}
GUIDES = {
    "diagonal": partial(Guide, network=NET),
    "full": partial(Guide, network=NET, family={"z": MultivariateNormal()}),
}
VAE = partial(pv.models.VAE, (D,), LATENT, NormalLikelihood(SCALE), MLP(hidden=()))


def data(n=120):
    torch.manual_seed(0)
    w = torch.tensor([[1.0, 0.5], [0.9, -0.3], [0.1, 1.0], [-0.8, 0.7], [0.5, 0.5]])
    x = torch.randn(n, LATENT) @ w.T + SCALE * torch.randn(n, D)
    return pv.data.from_arrays(x, valid=0.2, test=0.2)


def test_a_table_has_a_row_for_every_model_guide_objective_and_seed(tmp_path):
    found = pv.compare(
        {"a": VAE, "b": VAE}, GUIDES, data(), seeds=2, out=tmp_path, gap_data=3, gap_options=GAPS,
        objectives={"elbo": pv.objectives.ELBO(), "beta": pv.objectives.ELBO(beta=0.5)}, **QUICK,
    )  # fmt: skip
    names = [(r["model"], r["guide"], r["objective"], r["seed"]) for r in found.rows]
    assert len(names) == len(set(names)) == 16
    for row in found.rows:
        assert row["elbo"] < row["log_likelihood"] < 0
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
        assert row["ms_per_step"] > 0 and row["seconds"] > 0 and 1 <= row["ess"] <= 20
    with open(tmp_path / "compare.csv") as f:
        rows = list(csv.DictReader(f))
    assert [float(r["elbo"]) for r in rows] == [r["elbo"] for r in found.rows]
    assert json.loads((tmp_path / "compare.json").read_text())["rows"] == found.rows
    assert (tmp_path / "compare.png").stat().st_size > 5000
    (line,) = [
        s for s in found.summary()
        if (s["model"], s["guide"], s["objective"]) == ("a", "full", "beta")
    ]  # fmt: skip
    pair = [r["elbo"] for r in found.rows if names[found.rows.index(r)][:3] == ("a", "full", "beta")]
    assert line["elbo"] == pytest.approx((sum(pair) / 2, abs(pair[0] - pair[1]) / math.sqrt(2)))
    assert "full" in str(found) and "±" in str(found)


if __name__ == "__main__":
    pass
