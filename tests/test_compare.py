"""`compare`: every guide beside every other."""

import csv
import json
import math
import sys
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from commands import main
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import pyro_vae as pv
from pyro_vae.comparison import Comparison, cell
from pyro_vae.comparison.evaluation import CellResult
from pyro_vae.comparison.evidence import FLAGS, NAMES, NUMBERS, table_rows
from pyro_vae.comparison.posteriors import load_posteriors
from pyro_vae.conditionals import MLP, MultivariateNormal, NormalLikelihood
from pyro_vae.diagnostics.grid import PosteriorGrid
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
    actual = pv.compare(
        {"a": VAE, "b": VAE}, GUIDES, data(), seeds=2, out=tmp_path, num_gap_data=1,
        gap_options={**GAPS, "max_steps": 2}, objectives={"elbo": pv.objectives.ELBO(), "beta": pv.objectives.ELBO(beta=0.5)}, **QUICK,
    )  # fmt: skip
    names = [(r["model"], r["guide"], r["objective"], r["seed"]) for r in actual.rows]
    assert len(names) == len(set(names)) == 16
    for row in actual.rows:
        assert row["elbo"] < row["log_likelihood"] < 0
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
        assert row["ms_per_step"] > 0 and row["seconds"] > 0 and 1 <= row["ess"] <= 20
    with open(tmp_path / "compare.csv") as f:
        rows = list(csv.DictReader(f))
    assert [float(r["elbo"]) for r in rows] == [r["elbo"] for r in actual.rows]
    assert json.loads((tmp_path / "compare.json").read_text())["rows"] == actual.rows
    assert (tmp_path / "compare.png").stat().st_size > 5000
    (line,) = [
        s for s in actual.summary()
        if (s["model"], s["guide"], s["objective"]) == ("a", "full", "beta")
    ]  # fmt: skip
    pair = [
        r["elbo"] for r in actual.rows if names[actual.rows.index(r)][:3] == ("a", "full", "beta")
    ]
    assert line["elbo"] == pytest.approx((sum(pair) / 2, abs(pair[0] - pair[1]) / math.sqrt(2)))
    assert "full" in str(actual) and "±" in str(actual)


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


@pytest.mark.slow
def test_the_gaps_of_a_frozen_decoder_are_those_in_closed_form():
    model, evidence, lost = linear()
    given = data()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    actual = pv.compare(
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
        given, seeds=1, share_model=True, num_gap_data=12, gap_options={**GAPS, "max_steps": 400},
        epochs=30, lr=0.01, num_samples=200, progress=False,
    )  # fmt: skip
    rows = {r["guide"]: r for r in actual.rows}
    total = float(evidence(given.test.x).mean())
    for name in ("diagonal", "per data point", "constants"):
        assert rows[name]["approximation"] == pytest.approx(lost, abs=0.03)
    assert rows["full"]["approximation"] == pytest.approx(0, abs=0.02)
    for row in actual.rows:
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
    actual = pv.compare(VAE, GUIDES, given, **options)
    assert actual.rows[0]["approximation"] is None


def numbers(actual):
    """What does not depend on the clock."""
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "ms_per_step")} for r in actual.rows
    ]


@pytest.mark.parametrize("share_model", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_was_stopped_goes_on_and_what_is_done_is_not_done_again(
    tmp_path, monkeypatch, share_model
):
    given, options = data(), {**QUICK, "seeds": 1, "num_gap_data": 0, "share_model": share_model}
    whole = pv.compare(VAE, GUIDES, given, out=tmp_path / "whole", **options)
    fit, calls = cell.fit, []

    def stopped(*args, **kwargs):
        calls.append(1)
        run = fit(*args, **kwargs)
        run.interrupted = len(calls) == 2
        return run

    monkeypatch.setattr(cell, "fit", stopped)
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


@pytest.mark.slow
def test_processes_find_what_one_process_finds():
    given, options = data(), {**QUICK, "seeds": 2, "num_gap_data": 0, "share_model": True}
    one = pv.compare(VAE, GUIDES, given, **options)
    two = pv.compare(VAE, GUIDES, given, workers=2, **options)
    assert numbers(one) == numbers(two)
    with pytest.raises(pv.UserError, match="functions of a module or functools.partial"):
        pv.compare(lambda: VAE(), GUIDES, given, workers=2, **options)


def _sloped(slope):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(slope * z.expand(len(x), D), 1.0).to_event(1), obs=x)

    return model


def _prior_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


def test_a_cell_is_never_that_of_another_program_or_data(tmp_path):
    """Functions, whose code is all that tells them apart, in one folder; labels; names of one spelling."""
    options = {**QUICK, "seeds": 1, "num_gap_data": 0, "share_model": True}
    guides, x = {"g": lambda model: _prior_guide}, data()
    for slope in (1.0, 4.0):
        models = {"m": lambda slope=slope: _sloped(slope)}
        kept = pv.compare(models, guides, x, out=tmp_path, **options)
        assert kept.rows[0]["elbo"] == pv.compare(models, guides, x, **options).rows[0]["elbo"]
        assert len([*(tmp_path / "cells").iterdir()]) == (1 if slope == 1.0 else 2)
    both = {"s<2": lambda: _sloped(1.0), "s>2": lambda: _sloped(4.0)}
    rows = pv.compare(both, guides, x, **options).rows
    assert [row["model"] for row in rows] == ["s<2", "s>2"] and rows[0]["elbo"] != rows[1]["elbo"]


class UserModule(nn.Module):
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


@pytest.mark.parametrize("share_model", [pytest.param(False, marks=pytest.mark.slow), True])
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
    actual = pv.compare(
        lambda: UserModule().model, {"theirs": lambda model: model.__self__.guide, "ours": ours},
        given, share_model=share_model, base_guide="theirs" if share_model else None, **options,
    )  # fmt: skip
    rows = {(r["guide"], r["seed"]): r for r in actual.rows}
    assert len({r["elbo"] for r in rows.values()}) == 4
    for r in rows.values():
        assert r["elbo"] > -11 and abs(r["amortization"]) < 5
    assert rows["theirs", 0]["parameters"] == rows["ours", 0]["parameters"]
    assert len(pyro.get_param_store()) == 0


class Regression(nn.Module):
    """A user's model with covariates, which cannot be run without data."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(3, 4)

    def forward(self, x, c):
        pyro.module("regression", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1).to_event(1))
            fn = dist.Normal(self.mean(torch.cat([z, c], -1)), 1).to_event(1)
            pyro.sample("x", fn, obs=x)


@pytest.mark.parametrize("share_model", [False, True])
def test_a_guide_by_its_parents_reads_a_users_model_off_the_data(share_model):
    kinds = {
        "of x and c": partial(Guide, network=MLP((4,)), given={"z": ["x", "c"]}),
        "of x": partial(Guide, network=MLP((4,)), given={"z": ["x"]}),
    }
    data = {"x": torch.randn(40, 4), "c": torch.randn(40, 1)}
    comparison = pv.compare(
        Regression, kinds, data, epochs=1, seeds=1, num_samples=5, num_gap_data=0, progress=False,
        share_model=share_model, base_guide=kinds["of x"] if share_model else None,
    )  # fmt: skip
    assert [row["guide"] for row in comparison.rows] == list(kinds)
    assert all(math.isfinite(row["elbo"]) for row in comparison.rows)


def test_a_semi_amortized_guide_and_labels_of_its_rows():
    actual = pv.compare(
        VAE, {"steps": lambda m: SemiAmortized(m, Guide(m, network=NET), steps=2)}, data(),
        seeds=[7], num_gap_data=3, gap_options=GAPS, share_model=True, **QUICK,
    )  # fmt: skip
    (row,) = actual.rows
    assert row["seed"] == 7 and row["model"] == "vae" and row["objective"] == "elbo"


def test_it_leaves_the_callers_random_stream():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pv.compare(VAE, GUIDES, data_of_another_stream(), seeds=1, num_gap_data=0, **QUICK)
    assert torch.equal(torch.rand(2), expected)


def plane(x=None, size=None):
    """A user-defined model with a latent of two numbers."""
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        loc = torch.stack([z[..., 0], z[..., 1], z.sum(-1)], -1)
        return pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=x)


def fixed_rows(x):
    """A guide with parameters for 30 data points, which it does not look up."""
    loc = torch.zeros(30, 2, requires_grad=True)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


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
        ({"seeds": 1.5}, "seeds must be an integer >= 0, got 1.5"),
        ({"seeds": "ab"}, "a seed must be an integer"),
        ({"seeds": [-1]}, "a seed must be an integer in 0..2**42 - 1, not -1"),
        ({"model": lambda x: None}, "is passed as {'model': lambda: my_model}"),
        ({"model": lambda: torch.ones(3)}, "it returned Tensor"),
        (
            {"guides": {"a": lambda x: pyro.sample("z", dist.Normal(x, 1))}},
            "`lambda model: my_guide`",
        ),
        (
            {"gap_options": {"maxsteps": 5}},
            "unknown option of inference_gaps 'maxsteps'; did you mean 'max_steps'?",
        ),
        (
            {"gap_options": {"annealing": {"num_step": 5}}},
            "unknown option of ais 'num_step'; did you mean 'num_steps'?",
        ),
        ({"gap_options": {"seed": 5}}, "unknown option of inference_gaps 'seed'"),
        ({"guides": {"a": AutoNormal}}, "PerDatumAutoGuide(AutoNormal, model, num_data=num_data)"),
        (
            {"guides": {"a": lambda model: AutoNormal(model)}},
            "PerDatumAutoGuide(AutoNormal, model, num_data=num_data)",
        ),
        (
            {
                "model": {"plane": lambda: plane},
                "guides": {"a": lambda model: fixed_rows},
                "data": torch.zeros(30, 3),
            },
            "2 vs 30 (is .to_event(...) missing?); a guide with parameters for each data point needs "
            "them by index, as pv.guides.PerDatumAutoGuide has them",
        ),
        ({"guides": {"a": lambda model: 1 / 0}}, "a guide could not be made for the model (Zero"),
        (
            {"guides": {"a": lambda model: None}},
            "a guide must be made by a function of the model, but this function returned NoneType; a guide that is itself",
        ),
    ],
)
def test_mistakes_raise_one_line(changes, message):
    asked = {"model": VAE, "guides": GUIDES, "data": data(), **changes}
    with pytest.raises(pv.UserError) as error:
        pv.compare(**asked)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_compare_trains_guides_by_name_and_compares_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--num-samples", "20", "--progress", "false"]
    small = '{"hidden": [8], "latent_dim": 2, "compile": "false", "epochs": 1}'
    arguments = ["compare", "--model", "vae", "--guides", "diagonal, full", "--seeds", "1"]
    arguments += ["--share-model", "true", "--num-gap-data", "0", "--settings", small, *quick]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "diagonal" in said and "full" in said and "log p(x)" in said
    out = tmp_path / "runs" / "compare-vae-digits"
    files = {f"compare.{kind}" for kind in ("csv", "json", "tex", "png")}
    assert files <= {p.name for p in out.iterdir()}
    (history,) = out.glob("cells/vae-diagonal-*/metrics.jsonl")
    assert len(history.read_text().splitlines()) == 1  # the epochs of the settings
    for name in ("vae", "iaf-vae"):
        fit = ["fit", name, "--hidden", "[8]", "--latent_dim", "2", "--compile", "false"]
        assert main([*fit, "--epochs", "1", *quick]) == 0
    runs = ["runs/vae-digits-0", "runs/iaf-vae-digits-0"]
    capsys.readouterr()
    assert main(["compare", *runs, "--num_gap_data", "0", "--num_samples", "20"]) == 0
    said = capsys.readouterr().out
    assert "vae-digits" in said and "iaf-vae-digits" in said
    (tmp_path / "file").write_text("")
    compared = ["compare", *runs, "--num_gap_data", "0", "--num_samples", "20", "--out", "file/c"]
    assert main(compared) == 0
    said = capsys.readouterr()
    assert "iaf-vae-digits" in said.out and "compare.csv" not in said.out
    assert "the comparison was not written: cannot write to 'file/c'" in said.err
    for wrong, message in (
        (["compare"], "either run folders, or --model"),
        (["compare", "--model", "vae", "--guides", "diagnal"], "did you mean 'diagonal'"),
        (["compare", "runs/nothing"], "is this a run folder?"),
        (
            ["compare", "--guides", "iaf", "full"],
            "full is no run; names are joined by commas: --guides iaf,full",
        ),
        (
            [*arguments, "--settings", "latent_dim=2"],
            """--settings '{"latent_dim": 2}', got latent""",
        ),
        ([*arguments, "--latent-dim", "2"], """(options of fit: --settings '{"latent_dim": 2}')"""),
        ([*arguments, "--epochs", "2"], "epochs is set twice"),
        (["compare", *runs, "--share-model", "true"], "--share-model is for --model NAME"),
        (["compare", *runs, "--guides", "foo"], "unknown guide 'foo'; known: default, constants"),
        (["compare", *runs, "--guides", "diagnal, full"], "did you mean 'diagonal'"),
    ):
        assert main(wrong) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_table_with_labels_is_compared_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"n{i},{i % 7}.5,{i % 5}.5,{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["name,u,v,kind", *rows]))
    small = '{"hidden": [8], "compile": "false", "epochs": 1}'
    arguments = ["compare", "--model", "m2", "--data", "t.csv", "--labels", "kind", "--seeds", "1"]
    arguments += ["--guides", "diagonal", "--num-gap-data", "0", "--num-samples", "5"]
    arguments += ["--index", "name", "--progress", "false", "--out", "c"]
    assert main([*arguments, "--settings", small]) == 0
    assert "4 test data points" in capsys.readouterr().out
    assert main([*arguments, "--settings", '{"labels": "kind"}']) == 1
    assert "labels is set twice" in capsys.readouterr().err
    assert main(["compare", "c", "--labels", "kind"]) == 1
    assert "--labels is for --model NAME" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_raises_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(pv.comparison.api, "run_cells", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(pv.UserError, match="cannot write to"):
        pv.compare(VAE, GUIDES, data(), out=tmp_path / "file" / "c", **QUICK)


# --------------------------------------------------- one log p(x) for one model


def result(pareto_k=0.3, gap_pareto_k=0.3, **bounds):
    """A cell whose bounds per data point are these, with standard errors of 0.1."""
    bounds = {"split_elbo": bounds["log_likelihood"], **bounds}
    errors = {f"{name}_se": [0.1] * len(values) for name, values in bounds.items()}
    row = {n: None for n in (*NAMES, *NUMBERS)}
    row |= {"pareto_k": pareto_k, "heavy_tailed": pareto_k > 0.7, "seed": 0, "guide": "g"}
    gap_pareto_k = [gap_pareto_k] * len(bounds["gap_log_likelihood"])
    return CellResult(row, {**bounds, **errors, "gap_pareto_k": gap_pareto_k})


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
        result(log_likelihood=[-9.0] * 5, **gap_bounds(b, o, o - 1))
        for b, o in zip(bounds, optimal, strict=True)
    ]
    actual = table_rows(cells, ["shared", "shared"])[0]
    assert [row["gap_log_likelihood"] for row in actual] == pytest.approx([-1.55, -1.55])
    assert [row["approximation"] for row in actual] == pytest.approx([2.45, 2.95])
    assert [row["amortization"] for row in actual] == [1.0, 1.0]
    assert actual[0]["gap_log_likelihood_se"] == pytest.approx(0.05)
    assert actual[0]["approximation_se"] == pytest.approx(math.sqrt(2) * 0.05)
    separate = table_rows(cells, [0, 1])[0]
    assert [row["gap_log_likelihood"] for row in separate] == pytest.approx([-1.55, -1.8])


def test_a_shared_model_has_one_log_likelihood_from_its_best_bound():
    cells = [
        result(
            log_likelihood=[-3.0, -3.1, -3.2], **gap_bounds([-2.0, -2.0]), annealed=[-1.0, -1.0]
        ),
        result(
            log_likelihood=[-2.5, -2.6, -2.7], **gap_bounds([-2.0, -2.0]), annealed=[-1.0, -1.0]
        ),
    ]
    actual = table_rows(cells, [0, 0])[0]
    assert [row["log_likelihood"] for row in actual] == pytest.approx([-2.6, -2.6])
    assert [row["gap_log_likelihood"] for row in actual] == pytest.approx([-1.0, -1.0])
    for one in cells:  # gaps of all data: both columns are of the same data, and agree
        one.per_datum["log_likelihood"] = one.per_datum["log_likelihood"][:2]
        one.per_datum["log_likelihood_se"] = [0.1, 0.1]
    actual = table_rows(cells, [0, 0])[0]
    assert all(row["log_likelihood"] == row["gap_log_likelihood"] == -1.0 for row in actual)


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
    actual = pv.compare(
        model, guides, given, seeds=2, share_model=True, num_gap_data=3, gap_options=GAPS,
        out=tmp_path, **{**QUICK, "num_samples": 400},
    )  # fmt: skip
    assert len({row["log_likelihood"] for row in actual.rows}) == 1
    assert len({row["gap_log_likelihood"] for row in actual.rows}) == 1
    truth = float(evidence(given.test.x).mean())
    for row in actual.rows:
        assert truth - 0.05 < row["log_likelihood"] < truth + 4 * row["log_likelihood_se"]
        assert row["heavy_tailed"] == (row["guide"] == "narrow")
        assert row["approximation"] > -3 * row["approximation_se"]
    lines = str(actual).splitlines()
    assert lines[0].startswith("24 test data points, nats per data point, mean ± sd over seeds")
    assert "test[:3]: first 3 of 24 test data points." in lines
    header = next(i for i, line in enumerate(lines) if line.startswith("guide"))
    narrow, wide_row = lines[header + 1 : header + 3]
    assert lines[header - 1].split()[:3] == ["test"] * 3
    assert narrow.count("!") == 1 and wide_row.count("!") == 0
    saved = json.loads((tmp_path / "compare.json").read_text())
    assert saved["data"]["approximation"] == "first 3 of 24 test data points"
    assert saved["data"]["log_likelihood_se"] == "24 test data points"


def _narrow(x):
    scale = pyro.param("narrow", torch.tensor(0.05), dist.constraints.interval(0.04, 0.06))
    with pyro.plate("data", len(x)):
        z = x.new_zeros(len(x), LATENT)
        pyro.sample("z", dist.Normal(z, scale.expand(z.shape)).to_event(1))


# --------------------------------------------------- a pair of plain Pyro functions

SLOPES = torch.tensor([[1.0, 0.9], [0.9, 0.7], [0.1, 0.6]])
NARROW = 0.4  # scale of the constant guide


def linear_gaussian(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        return pyro.sample("x", dist.Normal(z @ SLOPES.T, SCALE).to_event(1), obs=x)


def exact_posterior(x):
    precision = torch.eye(2) + SLOPES.T @ SLOPES / SCALE**2
    with pyro.plate("data", len(x)):
        loc = x @ SLOPES @ precision.inverse() / SCALE**2
        pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))


def constant_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), NARROW).to_event(1))


def test_a_user_defined_pair_goes_from_check_pair_to_a_latex_table():
    """Nothing is trained: the evidence and both guides' gaps are known in closed form."""
    torch.manual_seed(2)
    x = linear_gaussian(size=40)
    for guide in (exact_posterior, constant_guide):
        pv.check_pair(linear_gaussian, guide, x)
    result = pv.compare(
        {"linear": lambda: linear_gaussian},
        {"exact": lambda model: exact_posterior, "constant": lambda model: constant_guide},
        x, seeds=2, share_model=True, num_samples=200, num_gap_data=10, progress=False,
        gap_options={**GAPS, "num_samples": 2000, "max_steps": 500},
    )  # fmt: skip
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(3), SLOPES @ SLOPES.T + SCALE**2 * torch.eye(3)
    )
    evidence = marginal.log_prob(x)
    precision = torch.eye(2) + SLOPES.T @ SLOPES / SCALE**2
    posterior = torch.distributions.MultivariateNormal(
        x @ SLOPES @ precision.inverse() / SCALE**2, precision_matrix=precision
    )
    q = torch.distributions.MultivariateNormal(torch.zeros(2), NARROW**2 * torch.eye(2))
    lost = torch.distributions.kl_divergence(q, posterior)
    family = 0.5 * (precision.diagonal().log().sum() - precision.logdet())  # the best diagonal
    assert lost[:10].mean() > 3 * family > 0.3
    for row in result.rows:
        assert row["log_likelihood"] == pytest.approx(float(evidence.mean()), abs=1e-4)
        assert row["gap_log_likelihood"] == pytest.approx(float(evidence[:10].mean()), abs=1e-4)
        assert row["ms_per_step"] is None and row["parameters"] == 0
        gap = row["approximation"] + row["amortization"]
        error = 4 * math.hypot(row["approximation_se"], row["amortization_se"]) + 1e-4
        if row["guide"] == "exact":
            assert row["elbo"] == pytest.approx(float(evidence.mean()), abs=1e-4)
            assert gap == pytest.approx(0, abs=error) and error < 0.01
            assert not row["heavy_tailed"]
        else:
            assert gap == pytest.approx(float(lost[:10].mean()), abs=error) and error < 0.2
            assert row["approximation"] == pytest.approx(float(family), abs=0.03)
    (difference,) = [d for d in result.differences() if d["guide"] == "constant"]
    assert difference["over"] == "seeds" and difference["seeds"] == 2
    assert difference["difference"] == pytest.approx(-float(lost.mean()), abs=0.2)
    latex = result.to_latex()
    assert latex.count(r"\\") == 4 and r"\begin{tabular}{lrrrrrr" in latex
    assert rf"\mathbf{{{evidence.mean():.2f}}}" in latex


# --------------------------------------------------- differences and formats


def comparison(elbos, per_datum=None, **changes):
    """A `Comparison` of these ELBOs: `{guide: one per seed}`."""
    rows = []
    for guide, values in elbos.items():
        for seed, elbo in enumerate(values):
            row = {**dict.fromkeys(NUMBERS), **dict.fromkeys(FLAGS, False)}
            rows.append({**row, **changes, "model": "m", "guide": guide, "objective": "elbo"})
            rows[-1] |= {"seed": seed, "elbo": elbo}
    per_datum = per_datum or [{"elbo": torch.tensor([row["elbo"]])} for row in rows]
    return Comparison(rows, "test", 50, 100, 0, True, per_datum=per_datum)


def test_differences_are_paired_by_seed():
    """The seeds are 4 apart, the guides 1.0 ± 0.5 / sqrt(3)."""
    result = comparison({"a": [1.0, 5.0, 9.0], "b": [2.0, 6.5, 9.5]})
    first, second = result.differences()
    assert first["difference"] is None and second["over"] == "seeds" and second["seeds"] == 3
    assert second["difference"] == pytest.approx(1.0)
    assert second["standard_error"] == pytest.approx(0.5 / math.sqrt(3))
    first, second = result.differences(guide="b")
    assert first["difference"] == pytest.approx(-1.0) and second["difference"] is None
    assert "+1.00 ± 0.29" in str(result)
    for wrong, message in (({"guide": "c"}, "unknown guide 'c'"), ({"number": "elbos"}, "'elbo'")):
        with pytest.raises(pv.UserError, match=message):
            result.differences(**wrong)


def test_a_difference_of_one_seed_has_its_error_over_data_points():
    values = [torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([2.0, 2.0, 5.0, 11.0])]
    result = comparison({"a": [4.0], "b": [5.0]}, [{"elbo": v} for v in values])
    difference = result.differences()[1]
    assert difference["over"] == "data points" and difference["difference"] == pytest.approx(1.0)
    assert difference["standard_error"] == pytest.approx(math.sqrt(2 / 3) / 2)
    assert "standard error over data points." in str(result)


def test_latex_is_escaped_and_has_the_best_in_bold():
    result = comparison({"50% of_x & y": [-2.0, -1.0], "plain": [-3.0, -3.0]}, parameters=1234)
    lines = result.to_latex().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(r"\begin"))
    assert all(line.startswith("% ") for line in lines[:start])
    assert lines[start:] == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"& test & test & \\",
        r"guide & ELBO & $\Delta$ ELBO & parameters \\",
        r"\midrule",
        r"50\% of\_x \& y & $\mathbf{-1.50} \pm 0.71$ & $-$ & $1{,}234$ \\",
        r"plain & $-3.00$ & $-1.50 \pm 0.50$ & $1{,}234$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_html_is_escaped_and_has_the_best_in_bold():
    page = comparison({"<b>a</b>": [-1.0], "c": [-2.0]})._repr_html_()
    assert "&lt;b&gt;a&lt;/b&gt;" in page and "<b>a" not in page
    assert "<b>-1.00</b>" in page and "<b>-2.00</b>" not in page


def test_the_plain_text_fits_100_columns_and_has_every_number():
    names = {"a guide with a rather long name": [-1.0, -2.0], "another " * 12: [-3.0, -4.0]}
    numbers = {n: 12345.678 for n in NUMBERS if n not in ("seed", "elbo")}
    text = str(comparison(names, log_likelihood_heavy_tailed=True, **numbers))
    assert max(map(len, text.splitlines())) <= 100
    for title in ("ELBO", "log p(x)", "k-hat", "approx. gap", "amort. gap", "ESS", "ms/step"):
        assert title in text
    assert "12,345.68 ± 12,345.68 !" in text


def test_a_frame_has_a_row_per_cell():
    pandas = pytest.importorskip("pandas")
    frame = comparison({"a": [1.0, 2.0], "b": [3.0, 4.0]}).to_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame["elbo"]) == [1.0, 2.0, 3.0, 4.0]
    assert list(frame["seed"]) == [0, 1, 0, 1] and set(frame["split"]) == {"test"}


def test_a_frame_without_pandas_raises_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(pv.UserError, match="^to_frame.. needs pandas: pip install pandas$"):
        comparison({"a": [1.0]}).to_frame()


def test_a_log_likelihood_from_heavy_tailed_weights_is_marked():
    """The best bound's weights decide, in every row; a worse bound's do not."""
    bounds = gap_bounds([-2.0, -2.0])
    good, bad = (
        result(k, gap_k, log_likelihood=[value] * 3, **bounds)
        for k, gap_k, value in ((0.2, 0.2, -2.5), (0.9, 0.9, -3.0))
    )
    rows, _ = table_rows([good, bad], ["shared", "shared"])
    assert not any(row["log_likelihood_heavy_tailed"] for row in rows)
    assert [row["heavy_tailed"] for row in rows] == [False, True]
    bad.per_datum["log_likelihood"] = [-2.0] * 3
    bad.per_datum["elbo_optimal"] = [-3.5] * 2
    rows, _ = table_rows([good, bad], ["shared", "shared"])
    assert all(row["log_likelihood_heavy_tailed"] for row in rows)
    assert all(row["gap_log_likelihood_heavy_tailed"] for row in rows)


def test_figures_show_gaps_or_else_elbos():
    without = comparison({"a": [-1.0, -2.0], "b": [-3.0, -4.0]}).plot()
    (ax,) = without.axes
    assert ax.get_xlabel() == "ELBO, nats per data point\n50 test data points"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    gaps = comparison({"a": [-1.0], "b": [-3.0]}, approximation=0.5, amortization=1.0).plot()
    (ax,) = gaps.axes
    assert ax.get_xlabel().startswith("log p(x) − ELBO, nats per data point\nfirst 0 of 50 test")
    assert {p.get_width() for p in ax.patches} == {0.5, 1.0}


def test_guides_of_a_data_point_are_drawn_in_one_window():
    result = comparison({"narrow": [-1.0], "wide": [-2.0]})
    for guide, shift, scale in (("narrow", 0.0, 1.0), ("wide", 1.0, 2.0)):
        axes = torch.linspace(-9, 9, 91).expand(1, 2, 91) + shift
        density = dist.Normal(shift, scale).log_prob(axes[0]).exp()
        square = density[0, :, None] * density[1]
        result.posteriors[guide] = PosteriorGrid(axes, torch.zeros(1), square[None], square[None])
    panels = result.plot().axes[1:]
    assert [ax.get_title() for ax in panels] == ["narrow", "wide"]
    (low, high), second = (ax.get_xlim() for ax in panels)
    assert (low, high) == second == panels[0].get_ylim() == panels[1].get_ylim()
    assert low < -5 and high > 7  # the contours of 99 % of the wide one


def test_progress_names_the_cell_and_the_gap_search(capsys, monkeypatch):
    monkeypatch.setattr("pyro_vae.train.display._LogBar.seconds", 0.0)  # every update
    options = {**QUICK, "seeds": 1, "num_gap_data": 2, "gap_options": GAPS}
    pv.compare(VAE, {"mine": Guide}, data(), **{**options, "progress": True})
    shown = capsys.readouterr().err
    assert "vae, mine, seed 0" in shown and "gaps 100 %" in shown and "1/1" in shown
    pv.compare(VAE, {"mine": Guide}, data(), **options)
    assert capsys.readouterr().err == ""


def joint_normal(model, num_data):
    return pv.guides.PerDatumAutoGuide(AutoMultivariateNormal, model, num_data=num_data)


def test_a_joint_auto_guide_is_compared_and_drawn(tmp_path):
    options = {**QUICK, "seeds": 1, "num_gap_data": 0, "out": tmp_path}
    result = pv.compare(
        lambda: plane, {"joint": (joint_normal, {"epochs": 3})}, plane(size=30), **options
    )
    assert len(result.rows) == 1 and math.isfinite(result.rows[0]["elbo"])
    assert result.posteriors["joint"].guide.shape[0] == 10
    assert (tmp_path / "compare.png").exists()


@pytest.mark.parametrize("failure", [ValueError("no\ngrid"), pv.UserError("no grid")])
def test_posteriors_that_cannot_be_drawn_leave_the_table(failure, monkeypatch):
    def grid(*args, **kwargs):
        raise failure

    monkeypatch.setattr(pv.diagnostics, "posterior_grid", grid)
    options = {**QUICK, "seeds": 1, "num_gap_data": 0}
    with pytest.warns(UserWarning, match="posteriors of guide 'mine' are not drawn: .*no grid$"):
        result = pv.compare(VAE, {"mine": partial(Guide, network=NET)}, data(), **options)
    assert len(result.rows) == 1 and result.posteriors == {}
    assert "mine" in str(result)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"settings": {"data": "arcs"}}, "(--data), and no setting"),
        ({"settings": {"seed": 3}}, "--seeds sets how many"),
        ({"settings": {"epochs": 3}, "epochs": 4}, "epochs is set twice"),
        ({"settings": {"objective": "IWAE"}, "objectives": "STL"}, "the objective is set twice"),
        ({"settings": {"family": "Flow"}}, "'default' too"),
        ({"guides": "diagonal,fulll"}, "did you mean 'full'"),
        ({"base_guide": "fulll"}, "did you mean 'full'"),
        ({"settings": {"w_dim": 3}}, "vae has no option 'w_dim'"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(changes, message):
    with pytest.raises(pv.UserError) as error:
        pv.methods.compare_guides("vae", **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["[]", "3", "{", '{"row": []}', '{"row": {}, "per_datum": 3, "same_model": true}']
)
def test_a_damaged_result_of_a_cell_gives_one_line(text, tmp_path):
    (tmp_path / "row.json").write_text(text)
    with pytest.raises(pv.UserError, match=r"row\.json is not") as error:
        CellResult.read(tmp_path / "row.json")
    assert "\n" not in str(error.value)


def test_damaged_posterior_grids_give_one_line(tmp_path):
    """A comparison of a model with two latent numbers writes them, and reads them again."""
    models = {"vae": lambda: pv.models.VAE((3,), 2, "normal", NET)}
    guides = {"diagonal": lambda model: Guide(model, network=NET)}
    options = {**QUICK, "epochs": 1, "num_samples": 3, "num_gap_data": 0, "seeds": [0]}

    def compare():
        return pv.compare(models, guides, torch.ones(4, 3), **options, out=tmp_path)

    rows = compare().rows
    (grid,) = tmp_path.glob("cells/*/grid.pt")
    assert load_posteriors(tmp_path)["guides"].keys() == {"diagonal"}
    assert compare().rows == rows  # from the files
    for path, call in (
        (grid, compare), (tmp_path / "posteriors.pt", lambda: load_posteriors(tmp_path))
    ):  # fmt: skip
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1  # a number, which torch.load takes
        path.write_bytes(bytes(content))
        with pytest.raises(pv.UserError, match=f"{path.name} is damaged") as error:
            call()
        assert "\n" not in str(error.value)
        path.write_bytes(bytes(content[:100]))
        with pytest.raises(pv.UserError, match=f"{path.name} is not .*: the file is damaged"):
            call()


def test_a_seed_of_numpy_is_a_seed():
    options = {"epochs": 1, "compile": False, "num_samples": 3, "num_gap_data": 0}
    options |= {"progress": False}
    a, b = (
        pv.compare(VAE, GUIDES, data(), seeds=seeds, **options) for seeds in ([3], [np.int64(3)])
    )
    assert a.rows[0]["elbo"] == b.rows[0]["elbo"]


def test_settings_of_a_comparison_by_name_are_those_of_the_method(monkeypatch):
    passed = {}
    monkeypatch.setattr(
        pv.comparison, "compare", lambda models, guides, data, **options: passed.update(options)
    )
    pv.methods.compare_guides("vae", "diagonal, full", settings={"epochs": 1, "lr": 0.5})
    assert (passed["epochs"], passed["lr"]) == (1, 0.5)


@pytest.mark.parametrize("share_model, per_datum", [(False, False), (False, True), (True, False)])
def test_networks_that_functions_refer_to_start_every_cell_as_they_were(share_model, per_datum):
    torch.manual_seed(0)
    x, decoder, encoder = torch.randn(30, 3), nn.Linear(2, 3), nn.Linear(3, 4)
    before = [p.clone() for net in (decoder, encoder) for p in net.parameters()]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            mean, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, scale.exp()).to_event(1))

    guides = {"one": lambda model: guide, "two": lambda model: guide}
    if per_datum:  # its fit freezes the model

        def rows(model, num_data):
            return pv.guides.PerDatumAutoGuide(AutoNormal, model, example={"x": x[:num_data]})

        guides = {"rows": rows, **guides}
    shared = {"base_guide": lambda model: guide} if share_model else {}
    table = pv.compare(
        {"m": lambda: model}, guides, pv.data.from_arrays(x, valid=5, test=5), seeds=2, epochs=2,
        share_model=share_model, num_samples=5, num_gap_data=0, progress=False, **shared,
    )  # fmt: skip
    elbo = {(row["guide"], row["seed"]): row["elbo"] for row in table.rows}
    for seed in (0, 1):
        assert elbo["one", seed] == pytest.approx(elbo["two", seed], abs=1e-6)
    after = [p for net in (decoder, encoder) for p in net.parameters()]
    assert all(torch.equal(p, q) and q.requires_grad for p, q in zip(before, after, strict=True))


def test_an_error_in_a_cell_says_of_which(tmp_path):
    def far_out(model):
        guide = Guide(model, network=NET)
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.mul_(1e30)
        return guide

    guides = {"mine": partial(Guide, network=NET), "far": far_out}
    options = {**QUICK, "seeds": [3], "num_gap_data": 0, "out": tmp_path}
    with pytest.raises(pv.UserError, match="^vae, far, elbo, seed 3: .* not finite"):
        pv.compare(VAE, guides, data(), **options)
    assert len([*(tmp_path / "cells").glob("*/row.json")]) == 1  # what is done is kept


def test_runs_of_other_data_are_refused_before_the_first_is_evaluated(tmp_path, monkeypatch):
    runs = {}
    for number in range(2):
        x = torch.randn(20, 4) + number
        model = pv.models.VAE((4,), 1, "normal", pv.conditionals.MLP((4,)))
        guide = pv.guides.Guide(model, network=pv.conditionals.MLP((4,)))
        out = tmp_path / str(number)
        runs[out] = pv.fit(model, guide, x, 1, out=out, compile=False, progress=False)

    def evaluated(*args):
        raise AssertionError("a run was evaluated")

    monkeypatch.setattr("pyro_vae.comparison.runs.evaluate_pair", evaluated)
    with pytest.raises(pv.UserError, match="1 has other data than the first run .mean of x"):
        pv.comparison.compare_runs(runs, "train", 10, num_gap_data=0)


@pytest.fixture
def evaluations(monkeypatch):
    """The evaluations of runs that are made."""
    from pyro_vae.comparison import runs as module

    made, evaluate_pair = [], module.evaluate_pair

    def counted(*args, **options):
        made.append(args[3])
        return evaluate_pair(*args, **options)

    monkeypatch.setattr(module, "evaluate_pair", counted)
    return made


def trained_runs(tmp_path, num=2):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    x = pv.data.from_arrays(x, valid=0.3, test=0)
    options = {"latent_dim": 1, "hidden": [4], "epochs": 1}
    runs = {}
    for seed in range(num):
        out = tmp_path / str(seed)
        runs[out] = pv.method("vae", x, seed=seed, **options).fit(out=out, progress=False)
    return runs


def test_the_numbers_of_runs_are_kept_in_their_folders(tmp_path, evaluations):
    runs = trained_runs(tmp_path)

    def compared(split="train", samples=10, loaded=runs):
        return pv.comparison.compare_runs(loaded, split, samples, num_gap_data=0)

    first = compared()
    assert len(evaluations) == 2
    again = compared()
    assert len(evaluations) == 2 and again.rows == first.rows
    torch.testing.assert_close(again.per_datum, first.per_datum, rtol=0, atol=0)
    compared("valid")
    assert len(evaluations) == 4
    assert compared().rows == first.rows and len(evaluations) == 4  # each split has its file
    assert compared(samples=11).rows != first.rows and len(evaluations) == 6
    kept, _ = (folder / "comparison-train.json" for folder in runs)
    for content in ("{}", "[1]", "no JSON", '{"digest": 1}'):
        kept.write_text(content)
        compared(samples=11)
    assert len(evaluations) == 6 + 4
    with torch.no_grad():
        next(next(iter(runs.values())).model.parameters()).add_(0.1)
    assert compared(samples=11).rows != first.rows and len(evaluations) == 11


def test_an_interrupted_comparison_of_runs_goes_on_with_the_next(
    tmp_path, monkeypatch, evaluations
):
    from pyro_vae.comparison import runs as module

    runs, counted = trained_runs(tmp_path), module.evaluate_pair

    def interrupted(*args, **options):
        if len(evaluations) == 1:
            raise KeyboardInterrupt
        return counted(*args, **options)

    monkeypatch.setattr(module, "evaluate_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pv.comparison.compare_runs(runs, "train", 10, num_gap_data=0)
    monkeypatch.setattr(module, "evaluate_pair", counted)
    pv.comparison.compare_runs(runs, "train", 10, num_gap_data=0)
    assert [each.seed for each in evaluations] == [0, 1]


def test_the_numbers_of_a_users_pair_are_not_kept(tmp_path, evaluations):
    net, x = pv.conditionals.MLP((4,)), torch.randn(20, 4)
    model = pv.models.VAE((4,), 1, "normal", net)
    guide = pv.guides.Guide(model, network=net)
    run = pv.fit(model, guide, x, 1, out=tmp_path, compile=False, progress=False)
    for _ in range(2):
        pv.comparison.compare_runs({tmp_path: run}, "train", 10, num_gap_data=0)
    assert len(evaluations) == 2 and not (tmp_path / "comparison-train.json").exists()


def test_dollar_signs_in_the_names_of_guides_begin_no_formula(tmp_path):
    """The figure had failed after all cells were trained."""
    options = {**QUICK, "seeds": 1, "num_gap_data": 0}
    table = pv.compare(VAE, {"$x_1^{2$": Guide}, data(), out=tmp_path, **options)
    assert (tmp_path / "compare.png").exists() and "$x_1^{2$" in str(table)


def test_a_comparison_does_not_overwrite_another(tmp_path):
    """`pyro-vae compare RUN ...` had replaced the table of guides in its default folder."""
    runs = {}
    for name in ("a", "b"):
        model = VAE()
        run = pv.fit(model, Guide(model, network=NET), data(), 1, out=tmp_path / name, compile=False,
                     progress=False)  # fmt: skip
        runs[tmp_path / name] = run
    numbers = {"split": "test", "num_samples": 5, "num_gap_data": 0}
    first = {tmp_path / "a": runs[tmp_path / "a"]}
    pv.comparison.compare_runs(first, **numbers).save(tmp_path / "out")
    pv.comparison.compare_runs(first, **numbers).save(tmp_path / "out")  # the same again
    before = (tmp_path / "out" / "compare.json").read_text()
    with pytest.raises(pv.UserError, match="out has another comparison, which would be lost"):
        pv.comparison.compare_runs(runs, **numbers).save(tmp_path / "out")
    with pytest.raises(pv.UserError, match="has another comparison"):
        pv.compare(VAE, {"full": GUIDES["full"]}, data(), out=tmp_path / "out", **QUICK)
    assert (tmp_path / "out" / "compare.json").read_text() == before
    options = {**QUICK, "seeds": 1, "num_gap_data": 0}
    pv.compare(VAE, {"full": GUIDES["full"]}, data(), out=tmp_path / "guides", **options)
    command = ["compare", str(tmp_path / "a"), "--out", str(tmp_path / "guides")]
    assert main(command) == 1
