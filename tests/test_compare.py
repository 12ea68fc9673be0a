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
from pyro_vae.cli import main
from pyro_vae.comparison.table import NAMES, NUMBERS, best_bound, with_gaps
from pyro_vae.conditionals import MLP, MultivariateNormal, NormalLikelihood
from pyro_vae.guides import Guide, SemiAmortized

D, LATENT, SCALE = 5, 2, 0.6
NET = MLP(hidden=(6,), activation="tanh")
QUICK = {"compile": False, "epochs": 3, "batch_size": 32, "num_samples": 20, "progress": False}
GAPS = {"num_samples": 50, "importance_samples": 100, "max_steps": 50, "annealing": False}
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
        {"a": VAE, "b": VAE}, GUIDES, data(), seeds=2, out=tmp_path, num_gap_data=3, gap_options=GAPS,
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
    pair = [
        r["elbo"] for r in found.rows if names[found.rows.index(r)][:3] == ("a", "full", "beta")
    ]
    assert line["elbo"] == pytest.approx((sum(pair) / 2, abs(pair[0] - pair[1]) / math.sqrt(2)))
    assert "full" in str(found) and "±" in str(found)


def linear():
    """A trained decoder, its log p(x), and both families' best ELBO, in closed form."""
    torch.manual_seed(1)
    model = VAE()
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    w.copy_(torch.tensor([[1.0, 0.5], [0.9, -0.3], [0.1, 1.0], [-0.8, 0.7], [0.5, 0.5]]))
    evidence = torch.distributions.MultivariateNormal(b, w @ w.T + SCALE**2 * torch.eye(D))
    precision = torch.eye(LATENT) + w.T @ w / SCALE**2
    lost = 0.5 * (precision.diagonal().log().sum() - precision.logdet())  # KL of the best diagonal
    return model, evidence.log_prob, float(lost)


def test_the_gaps_of_a_frozen_decoder_are_those_in_closed_form():
    model, evidence, lost = linear()
    given = data()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = pv.compare(
        model,
        {
            "constants": partial(Guide, given={"z": []}),
            "diagonal": Guide,
            "per data point": (
                partial(Guide, given={"z": ["index"]}),
                {"lr": 0.05, "epochs": 300, "schedule": "cosine"},
            ),
            "full": partial(Guide, family={"z": MultivariateNormal()}),
        },
        given, seeds=1, share_model=True, num_gap_data=24, gap_options={**GAPS, "max_steps": 1000},
        epochs=30, lr=0.01, num_samples=200, progress=False,
    )  # fmt: skip
    rows = {r["guide"]: r for r in found.rows}
    total = float(evidence(given.test.x).mean())
    for name in ("diagonal", "per data point", "constants"):
        assert rows[name]["approximation"] == pytest.approx(lost, abs=0.03)
    assert rows["full"]["approximation"] == pytest.approx(0, abs=0.02)
    for row in found.rows:
        gap = row["approximation"] + row["amortization"]
        noise = 1.0 if row["guide"] == "constants" else 0.25
        assert row["elbo"] == pytest.approx(total - gap, abs=noise)
        assert row["log_likelihood"] < total + 0.1
    assert rows["per data point"]["amortization"] < 0.05 < rows["constants"]["amortization"]
    assert (
        rows["per data point"]["parameters"] == 2 * LATENT * 25
        and rows["constants"]["parameters"] == 4
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_frozen_decoder_is_one_for_all_guides_and_a_trained_one_each_guides_own(tmp_path):
    given = data()
    options = {**QUICK, "num_gap_data": 0, "seeds": 1}
    pv.compare(VAE, GUIDES, given, share_model=True, base_guide="full", out=tmp_path, **options)
    states = {p.parent.name.rsplit("-", 1)[0]: p for p in tmp_path.glob("cells/*/checkpoint.pt")}
    assert set(states) == {"vae-base-0", "vae-diagonal-elbo-0", "vae-full-elbo-0"}
    models = [
        torch.load(p, weights_only=True)["best"]["modules"][0]["p_x.head.bias"]
        for p in states.values()
    ]
    assert torch.equal(models[0], models[1]) and torch.equal(models[0], models[2])
    found = pv.compare(VAE, GUIDES, given, **options)
    assert found.rows[0]["approximation"] is None


def numbers(found):
    """What does not depend on the clock."""
    return [{k: v for k, v in r.items() if k not in ("seconds", "ms_per_step")} for r in found.rows]


@pytest.mark.parametrize("share_model", [False, True])
def test_what_was_stopped_goes_on_and_what_is_done_is_not_done_again(
    tmp_path, monkeypatch, share_model
):
    from pyro_vae.comparison import cells

    given, options = data(), {**QUICK, "seeds": 1, "num_gap_data": 0, "share_model": share_model}
    whole = pv.compare(VAE, GUIDES, given, out=tmp_path / "whole", **options)
    fit, calls = cells.fit, []

    def stopped(*args, **kwargs):
        calls.append(1)
        run = fit(*args, **kwargs)
        run.interrupted = len(calls) == 2
        return run

    monkeypatch.setattr(cells, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        pv.compare(VAE, GUIDES, given, out=tmp_path / "stopped", **options)
    calls[:] = [1] * 9
    again = pv.compare(VAE, GUIDES, given, out=tmp_path / "stopped", **options)
    assert numbers(again) == numbers(whole)
    count = len(calls)
    third = pv.compare(VAE, GUIDES, given, out=tmp_path / "stopped", **options)
    assert len(calls) == count and third.rows == again.rows
    pv.compare(VAE, GUIDES, given, out=tmp_path / "stopped", **{**options, "lr": 0.1})
    assert len(calls) > count


def test_processes_find_what_one_process_finds():
    given, options = data(), {**QUICK, "seeds": 2, "num_gap_data": 0, "share_model": True}
    one = pv.compare(VAE, GUIDES, given, **options)
    two = pv.compare(VAE, GUIDES, given, workers=2, **options)
    assert numbers(one) == numbers(two)
    with pytest.raises(pv.UserError, match="functions of a module or functools.partial"):
        pv.compare(lambda: VAE(), GUIDES, given, workers=2, **options)


class Stranger(nn.Module):
    """Model and guide of one module, with a network and a parameter of Pyro's store."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(D, 2 * LATENT), nn.Linear(LATENT, D)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        scale = pyro.param("scale", torch.tensor(1.0), dist.constraints.positive)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("share_model", [False, True])
def test_a_user_defined_pair_beside_the_librarys(share_model):
    """Its module holds the guide too, and its scale is in Pyro's store: only the model freezes."""
    given = data()
    ours = partial(
        Guide, given={"z": ["x"]}, network=MLP(hidden=()), example={"x": given.train.x[:2]}
    )
    options = {
        **QUICK,
        "epochs": 40,
        "lr": 0.03,
        "seeds": 2,
        "num_gap_data": 2,
        "gap_options": GAPS,
    }
    found = pv.compare(
        lambda: Stranger().model, {"theirs": lambda model: model.__self__.guide, "ours": ours},
        given, share_model=share_model, base_guide="theirs" if share_model else None, **options,
    )  # fmt: skip
    rows = {(r["guide"], r["seed"]): r for r in found.rows}
    assert len({r["elbo"] for r in rows.values()}) == 4
    for r in rows.values():
        assert r["elbo"] > -11 and abs(r["amortization"]) < 5
    assert rows["theirs", 0]["parameters"] == rows["ours", 0]["parameters"]
    assert len(pyro.get_param_store()) == 0


def test_a_semi_amortized_guide_and_labels_of_its_rows():
    found = pv.compare(
        VAE, {"steps": lambda m: SemiAmortized(m, Guide(m, network=NET), steps=2)}, data(),
        seeds=[7], num_gap_data=3, gap_options=GAPS, share_model=True, **QUICK,
    )  # fmt: skip
    (row,) = found.rows
    assert row["seed"] == 7 and row["model"] == "vae" and row["objective"] == "elbo"


def test_it_leaves_the_callers_random_stream():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pv.compare(VAE, GUIDES, data_of_another_stream(), seeds=1, num_gap_data=0, **QUICK)
    assert torch.equal(torch.rand(2), expected)


def data_of_another_stream():
    with torch.random.fork_rng():
        return data()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"guides": {}}, "there are no guides to compare"),
        ({"guides": [Guide]}, "guides takes {name: a function of the model"),
        ({"guides": {"a": Guide(VAE())}}, "the guide 'a' must be a function of the model"),
        ({"share_model": "frozen"}, "share_model takes True or False"),
        ({"base_guide": "full"}, "share_model=True"),
        ({"base_guide": "ful", "share_model": True}, "did you mean 'full'"),
        ({"epoch": 3}, "unknown option of fit 'epoch'; did you mean 'epochs'"),
        ({"guides": {"a": (Guide, {"lrr": 3})}}, "unknown option of fit 'lrr'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"seeds": 0}, "there are no seeds"),
    ],
)
def test_mistakes_raise_one_line(changes, message):
    asked = {"model": VAE, "guides": GUIDES, "data": data(), **changes}
    with pytest.raises(pv.UserError) as error:
        pv.compare(**asked)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_compare_trains_guides_by_name_and_compares_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--epochs", "1", "--num_samples", "20", "--progress", "false"]
    small = '{"hidden": [8], "latent_dim": 2, "compile": "false"}'
    asked = ["compare", "--model", "vae", "--guides", "diagonal,per-datum", "--seeds", "1"]
    asked += ["--share_model", "true", "--num_gap_data", "0", "--settings", small, *quick]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "diagonal" in said and "per-datum" in said and "log p(x)" in said
    out = tmp_path / "runs" / "compare-vae-digits"
    assert {"compare.csv", "compare.json", "compare.png"} <= {p.name for p in out.iterdir()}
    for name in ("vae", "iaf-vae"):
        fit = ["fit", name, "--hidden", "[8]", "--latent_dim", "2", "--compile", "false"]
        assert main([*fit, *quick]) == 0
    runs = ["runs/vae-digits-0", "runs/iaf-vae-digits-0"]
    capsys.readouterr()
    assert main(["compare", *runs, "--num_gap_data", "0", "--num_samples", "20"]) == 0
    said = capsys.readouterr().out
    assert "vae-digits" in said and "iaf-vae-digits" in said
    for wrong, message in (
        (["compare"], "either run folders, or --model"),
        (["compare", "--model", "vae", "--guides", "diagnal"], "did you mean 'diagonal'"),
        (["compare", "runs/nothing"], "is this a run folder?"),
    ):
        assert main(wrong) == 1
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1


# --------------------------------------------------- one log p(x) for one model


def cell(pareto_k=0.3, **bounds):
    """A cell whose bounds per data point are these, with standard errors of 0.1."""
    errors = {f"{name}_se": [0.1] * len(values) for name, values in bounds.items()}
    row = {n: None for n in (*NAMES, *NUMBERS)}
    row |= {"pareto_k": pareto_k, "heavy_tailed": pareto_k > 0.7, "seed": 0, "guide": "g"}
    return {"row": row, "per_datum": {**bounds, **errors}}


def gap_bounds(bound, optimal=-4.0, elbo=-5.0):
    n = len(bound)
    return {
        "gap_log_likelihood": bound, "elbo_optimal": [optimal] * n, "elbo": [elbo] * n,
        "amortization": [optimal - elbo] * n,
    }  # fmt: skip


def test_the_evidence_of_a_shared_model_is_the_bound_that_is_best_on_average():
    """Not the best for each data point, which would be no bound."""
    bounds = [[-3.0, -1.0, -1.0, -1.2], [-1.0, -2.0, -2.0, -2.2]]  # means -1.55 and -1.8
    optimal = [-4.0, -4.5]  # of other draws; it chooses
    cells = [
        cell(log_likelihood=[-9.0] * 5, **gap_bounds(b, o, o - 1))
        for b, o in zip(bounds, optimal, strict=True)
    ]
    found = with_gaps(cells, ["shared", "shared"])
    assert [row["gap_log_likelihood"] for row in found] == pytest.approx([-1.55, -1.55])
    assert [row["approximation"] for row in found] == pytest.approx([2.45, 2.95])
    assert [row["amortization"] for row in found] == [1.0, 1.0]
    assert found[0]["gap_log_likelihood_se"] == pytest.approx(0.05)
    assert found[0]["approximation_se"] == pytest.approx(math.sqrt(2) * 0.05)
    isolated_pyro_runtime = with_gaps(cells, [0, 1])
    assert [row["gap_log_likelihood"] for row in isolated_pyro_runtime] == pytest.approx(
        [-1.55, -1.8]
    )


def test_the_best_of_many_noisy_bounds_is_still_a_bound():
    """Ten unbiased estimates of 0: the largest mean of 4 data points would be 0.77 on average."""
    torch.manual_seed(0)
    error = torch.ones(4, dtype=torch.float64)
    means = torch.stack(
        [
            best_bound([(torch.randn(4, dtype=torch.float64), error) for _ in range(10)])[0].mean()
            for _ in range(2000)
        ]
    )
    assert means.mean() < 3 * means.std() / math.sqrt(2000)
    one = [(torch.randn(1), torch.ones(1)) for _ in range(3)]
    assert best_bound(one)[0] == one[0][0]  # of one data point nothing else can choose
    good, bad = torch.full((4,), -1.0), torch.full((4,), -math.inf)
    assert torch.equal(best_bound([(bad, error), (good, error)])[0], good)


def test_a_shared_model_has_one_log_likelihood_from_its_best_bound():
    cells = [
        cell(log_likelihood=[-3.0, -3.1, -3.2], **gap_bounds([-2.0, -2.0]), annealed=[-1.0, -1.0]),
        cell(log_likelihood=[-2.5, -2.6, -2.7], **gap_bounds([-2.0, -2.0]), annealed=[-1.0, -1.0]),
    ]
    found = with_gaps(cells, [0, 0])
    assert [row["log_likelihood"] for row in found] == pytest.approx([-2.6, -2.6])
    assert [row["gap_log_likelihood"] for row in found] == pytest.approx([-1.0, -1.0])
    for one in cells:  # gaps of all data: both columns are of the same data, and agree
        one["per_datum"]["log_likelihood"] = one["per_datum"]["log_likelihood"][:2]
        one["per_datum"]["log_likelihood_se"] = [0.1, 0.1]
    found = with_gaps(cells, [0, 0])
    assert all(row["log_likelihood"] == row["gap_log_likelihood"] == -1.0 for row in found)


def test_the_table_names_the_data_and_marks_heavy_tails(tmp_path):
    """A guide that is far too narrow, and the posterior somewhat widened, on one frozen model."""
    model, evidence, _ = linear()
    given = data()
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    covariance = torch.linalg.inv(torch.eye(LATENT) + w.T @ w / SCALE**2)

    def wide(x):
        factor = pyro.param("wide", torch.tensor(1.3), dist.constraints.interval(1.25, 1.35))
        with pyro.plate("data", len(x)):
            loc = (x - b) @ w @ covariance / SCALE**2
            pyro.sample("z", dist.MultivariateNormal(loc, factor**2 * covariance))

    guides = {"narrow": lambda m: _narrow, "wide": lambda m: wide}
    found = pv.compare(
        model, guides, given, seeds=2, share_model=True, num_gap_data=3, gap_options=GAPS,
        out=tmp_path, **{**QUICK, "num_samples": 400},
    )  # fmt: skip
    assert len({row["log_likelihood"] for row in found.rows}) == 1
    assert len({row["gap_log_likelihood"] for row in found.rows}) == 1
    truth = float(evidence(given.test.x).mean())
    for row in found.rows:
        assert truth - 0.05 < row["log_likelihood"] < truth + 4 * row["log_likelihood_se"]
        assert row["heavy_tailed"] == (row["guide"] == "narrow")
        assert row["approximation"] > -3 * row["approximation_se"]
    told = str(found).splitlines()
    assert told[0].startswith("24 test data points, nats per data point, mean ± sd over seeds")
    assert told[1] == "[3]: first 3 of 24 test data points"
    assert told[2].startswith("!: k-hat > 0.7")
    assert "log p(x) [3]" in told[3] and "approximation [3]" in told[3]
    assert [line.count("!") for line in told[4:]] == [1, 0]
    saved = json.loads((tmp_path / "compare.json").read_text())
    assert saved["data"]["approximation"] == "first 3 of 24 test data points"
    assert saved["data"]["log_likelihood_se"] == "24 test data points"


def _narrow(x):
    scale = pyro.param("narrow", torch.tensor(0.05), dist.constraints.interval(0.04, 0.06))
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x), LATENT)
        pyro.sample("z", dist.Normal(z, scale.expand(z.shape)).to_event(1))
