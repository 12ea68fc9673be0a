"""The mixture start: a mixture of a VAE's encodings, and the consensus of several."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pairs import NET, digits, pair, quiet, same_tensors, three_clusters, weights

import pyro_vae as pv
from pyro_vae.conditionals.networks import Affine
from pyro_vae.models.components import set_components
from pyro_vae.models.mixture_fits import fit_mixture_from
from pyro_vae.train import MixtureInitialization, mixture_initialization, pool
from pyro_vae.train.mixture_initialization import plain_vae
from pyro_vae.train.weights import redraw_weights

CPU = torch.device("cpu")


def small(data=None, **more):
    settings = {
        "epochs": 2, "hidden": [8], "latent_dim": 2, "w_dim": 2, "num_components": 3,
        "initialize.epochs": 2, "vaes": 3, "fits": 1, "draws": 2, "batch_size": 40,
    }  # fmt: skip
    return pv.method("gmvae", data or three_clusters(), **{**settings, **more})


def begun(vaes, seed=0, data=None, **options):
    """A pair that was initialized, and what the initialization records."""
    m, g = pair()
    start = MixtureInitialization(epochs=2, fits=1, vaes=vaes, **options)
    return (m, g), start(m, g, data or digits(), CPU, seed=seed, progress=False)


# ---------------------------------------------------------------- one VAE


def test_a_mixture_start_puts_the_components_where_the_fitted_mixture_is():
    constant = pv.conditionals.ConstantCorrelationNormal()
    for model in (pv.models.GMVAE, pv.models.MixtureVAE):
        for family in (pv.conditionals.Normal(), pv.conditionals.MultivariateNormal(), constant):
            m, g = pair(model=model, num_components=2, component=family)
            means = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
            root = torch.randn(2, 3, 3, dtype=torch.float64)
            covariances = root @ root.mT + torch.eye(3)
            if family is constant and model is pv.models.MixtureVAE:  # they have one correlation
                with pytest.raises(pv.UserError, match="with a head for each y, Constant"):
                    set_components(m, [0.3, 0.7], means, covariances)
                continue
            set_components(m, [0.3, 0.7], means, covariances)
            given = {"y": torch.eye(2)}
            if model is pv.models.GMVAE:
                given["w"] = torch.zeros(2, 10)
                for affine in m.p_z.head.maps.values():
                    affine.weight.data.zero_()
            distribution = m.p_z(**given)
            assert torch.allclose(distribution.mean, means.float(), atol=1e-5)
            expected = torch.diagonal(covariances, dim1=-2, dim2=-1).float()
            assert torch.allclose(distribution.variance, expected, rtol=1e-4)
            if not isinstance(family, pv.conditionals.Normal):
                assert torch.allclose(
                    distribution.covariance_matrix, covariances.float(), rtol=1e-3, atol=1e-4
                )


def test_a_mixture_initialization_is_seeded_and_sees_no_label():
    data = digits()
    unlabeled = pv.data.Data(
        pv.data.Split(data.train.x), pv.data.Split(data.valid.x), None, likelihood="binomial"
    )
    start = MixtureInitialization(epochs=2, fits=1)
    initialized = []
    for d, seed in ((data, 4), (unlabeled, 4), (data, 5)):
        m, g = pair()
        start(m, g, d, torch.device("cpu"), seed=seed, progress=False)
        initialized.append(weights(m, g))
    assert same_tensors(*initialized[:2]) and not same_tensors(initialized[0], initialized[2])


def test_a_mixture_initialization_takes_every_seed_of_fit():
    m, g = pair()
    start = MixtureInitialization(epochs=1, fits=1)
    start(m, g, digits(), torch.device("cpu"), seed=2**42 - 1, progress=False)


def test_the_plain_vae_of_a_mixture_start_shares_decoder_and_encoder():
    m, g = pair()
    g.input_scaling = {"x": (0.5, 0.5)}
    vae, encoder = plain_vae(m, g)
    assert vae.p_x is m.p_x
    x = digits().test.x
    codes = [pv.evaluate.encode(*p, x)["z"] for p in ((m, g), (vae, encoder))]
    assert torch.allclose(*codes, atol=1e-5)  # the encoder that is trained is the one that is kept


@pytest.mark.parametrize(
    "name, value",
    [
        ("epochs", 0), ("batch_size", 0), ("fits", 0), ("draws", -1), ("vaes", 0), ("vaes", 2.0),
        ("draws", 1.5), ("lr", 0), ("lr", "fast"), ("reg_covar", -1), ("weight_decay", -1),
    ],
)  # fmt: skip
def test_a_mixture_start_is_checked_where_it_is_made(name, value):
    with pytest.raises(pv.UserError, match=f"^{name} "):
        MixtureInitialization(**{name: value})


def test_a_mixture_start_refuses_what_it_cannot_start():
    start = MixtureInitialization(epochs=1)
    with pytest.raises(pv.UserError, match="VAE has no mixture prior"):
        quiet(*pair(model=pv.models.VAE), digits(), 1, initialize=start)
    m, _ = pair(model=pv.models.MixtureVAE)
    g = pv.guides.Guide(m, given={"y": ["x"], "z": ["x", "y"]}, network=NET)
    with pytest.raises(pv.UserError, match="needs a guide with z <- x"):
        quiet(m, g, digits(), 1, initialize=start)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_more_components_than_data_raise_one_line(workers):
    few = pv.data.from_arrays(torch.randn(12, 3), test=0, valid=0)
    with pytest.raises(pv.UserError, match="20 components needs as many data points.* not 12"):
        small(few, num_components=20, draws=1).fit(progress=False, workers=workers)


# ---------------------------------------------------------------- several VAEs


def test_the_first_vae_is_the_one_of_a_single_start_and_the_others_have_new_weights():
    (one, _), record = begun(1)
    assert record is None
    (of_two, _), record = begun(2)  # two agree equally, and the first is kept
    assert record["chosen"] == 0 and record["agreements"][0] == record["agreements"][1]
    assert same_tensors(weights(one.p_x), weights(of_two.p_x))
    again = begun(2)
    assert again[1] == record and same_tensors(weights(*again[0]), weights(of_two, begun(2)[0][1]))


def test_a_vae_does_not_depend_on_those_before_it(tmp_path):
    found = []
    for order in ((0, 1, 2), (2,)):
        m, g = pair()
        start = MixtureInitialization(epochs=1, fits=1)
        folder = tmp_path / str(len(order))
        folder.mkdir()
        task = mixture_initialization._FirstVAEs(
            start, m, g, digits(), CPU, [3, 4, 5], folder, False
        )
        for n in order:
            task.train(n)
        found.append(task.load(2))
    assert same_tensors(found[0]["weights"], found[1]["weights"])
    assert torch.equal(found[0]["responsibilities"], found[1]["responsibilities"])
    assert not torch.equal(
        task.initial["decoder.head.bias"], found[0]["weights"]["decoder.head.bias"]
    )


def test_new_weights_have_the_distribution_of_a_new_pair():
    m, g = pair()
    maps = [
        p for module in (m.p_x, g.factors["z"]) for p in module.modules() if isinstance(p, Affine)
    ]
    before = [p.clone() for module in maps for p in module.parameters()]
    constant = torch.nn.Parameter(torch.ones(3))
    m.p_x.register_parameter("constant", constant)  # no part that draws it
    torch.manual_seed(9)
    redraw_weights(m.p_x, g.factors["z"])
    after = [p for module in maps for p in module.parameters()]
    assert all((a != b).all() for a, b in zip(before, after, strict=True))
    assert all(module.is_in_initial_range() for module in maps)
    assert torch.equal(constant, torch.ones(3))
    several = Affine({"a": (2,), "b": (30,)}, 50)  # the bound of 32 inputs, not of 2
    redraw_weights(several)
    assert several.maps["a"].weight.abs().max() <= 32**-0.5 < 2**-0.5


def test_a_mixture_that_merges_two_clusters_is_outvoted(monkeypatch):
    """The VAE that is kept takes the components of the consensus, whatever its mixture was."""
    method = small(vaes=3, hidden=[32], **{"initialize.epochs": 100, "initialize.lr": 1e-2})
    data, calls = method.data, []
    with pv.programs.contexts.seeded(0):
        order = torch.randperm(len(data.train))  # of the codes

    def fit_mixture(codes, num_components, fits, reg_covar, seed, max_iter):
        calls.append(seed)
        y = data.train.y[order].repeat(len(codes) // len(order))
        if len(calls) == 1:  # of the first VAE: clusters 1 and 2 are one
            y = y.clamp(max=1)
        return fit_mixture_from(codes, torch.eye(num_components)[y], reg_covar, 1)

    monkeypatch.setattr(mixture_initialization, "fit_mixture", fit_mixture)
    model, guide = method.build()
    record = method.initialization()(model, guide, data, CPU, seed=0, progress=False)
    assert len(set(calls)) == 3 and record["chosen"] != 0
    assert record["agreements"][0] < min(record["agreements"][1:])
    clusters = pv.evaluate.responsibilities(model, guide, data.train.x)
    matched = pv.evaluate.clustering_metrics(data.train.y, clusters.argmax(-1))["accuracy"]
    assert matched > 0.95


def test_vaes_that_find_one_cluster_are_neither_chosen_nor_counted():
    """They agree perfectly with each other; here three of six, and the other three are noisy."""
    truth = torch.arange(300) % 3
    generator = torch.Generator().manual_seed(0)

    def noisy():
        is_wrong = torch.rand(300, generator=generator) < 0.12
        return torch.where(is_wrong, torch.randint(3, (300,), generator=generator), truth)

    labels = [*[torch.zeros(300, dtype=torch.int64)] * 3, noisy(), noisy(), noisy()]
    codes = 3 * torch.eye(3, 2, dtype=torch.float64)[truth] + 0.1

    class Task:
        seeds = range(6)

        def load(self, n):
            responsibilities = 0.94 * torch.nn.functional.one_hot(labels[n], 3).double() + 0.02
            return {"weights": {}, "codes": codes[None], "responsibilities": responsibilities}

        def load_weights(self, weights):
            pass

    model = pv.models.MixtureVAE((4,), num_components=3, latent_dim=2)
    record = mixture_initialization._combine(MixtureInitialization(vaes=6), model, Task())
    assert record["agreements"][:3] == [None] * 3 and record["chosen"] >= 3
    several = pv.evaluate.clustering_agreements(labels[3:])
    assert record["agreements"][3:] == pytest.approx(list(several.values()))
    assert record["stability"] < np.mean(record["agreements"][3:])  # which counts all six


def test_labels_change_nothing():
    found = [small(three_clusters(labels)).fit(progress=False) for labels in (True, False)]
    assert found[0].initialization == found[1].initialization
    assert same_tensors(*(weights(run.model, run.guide) for run in found))


# ---------------------------------------------------------------- the record


def test_the_record_is_kept_in_the_folder_and_shown(tmp_path, capsys):
    run = small().fit(tmp_path / "run", progress=False)
    record = run.initialization
    assert len(record["seeds"]) == len(set(record["seeds"])) == len(record["agreements"]) == 3
    assert record["stability"] == pytest.approx(np.mean(record["agreements"])) == run.stability
    assert json.loads((tmp_path / "run" / "config.json").read_text())["initialization"] == record
    loaded = pv.load(tmp_path / "run", data=three_clusters())
    assert loaded.initialization == record
    resumed = small(epochs=2).fit(tmp_path / "run", resume=True, progress=False)
    assert resumed.initialization == record
    assert f"stability {record['stability']:.2f}" in repr(run)
    assert f"first VAEs 3, stability {record['stability']:.2f}" in " ".join(str(run).split())
    table = str(run.evaluate(num_samples=2))
    assert "consensus of 3 VAEs'" in " ".join(table.split())
    run.report(num_samples=2)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "It started at the consensus of 3 VAEs" in page
    copy = run.save(tmp_path / "copy")
    assert pv.load(copy or tmp_path / "copy", data=three_clusters()).initialization == record


def test_one_component_has_no_stability(tmp_path):
    run = small(num_components=1).fit(tmp_path / "run", progress=False)
    assert run.initialization["stability"] is None and run.stability is None
    assert "tability" not in f"{run!r}{run}{run.evaluate(num_samples=2)}"


def test_restarts_begin_at_consensuses_of_their_own(tmp_path):
    run = small(restarts=2).fit(tmp_path / "run", progress=False, workers=1)
    folder = tmp_path / "run" / "restarts" / str(run.restarts["chosen"])
    record = json.loads((folder / "config.json").read_text())["initialization"]
    assert run.initialization == record and run.stability == run.restarts["stability"]
    sentences = " ".join(str(run.evaluate(num_samples=2)).split())
    assert "Of 2 restarts" in sentences and "consensus of 3 VAEs" in sentences


def test_what_an_initialization_records_must_be_json():
    class Recorded(pv.train.Initialization):
        def __call__(self, model, guide, data, device, seed=0, progress=True):
            return {"seed": seed, "value": value}

    for value in (1.5, torch.ones(1)):
        if isinstance(value, float):
            run = quiet(*pair(), digits(), 1, initialize=Recorded(), seed=3)
            assert run.initialization == {"seed": 3, "value": 1.5}
            assert "ELBO" in str(run.evaluate(num_samples=2)) and run.stability is None
            assert "consensus" not in str(run)
        else:
            with pytest.raises(
                pv.UserError, match="what an initialization returns must be what JSON can hold"
            ):
                quiet(*pair(), digits(), 1, initialize=Recorded())


# ---------------------------------------------------------------- processes


@pytest.mark.slow
def test_processes_train_the_vaes_of_this_process_bit_for_bit():
    runs = [small().fit(progress=False, workers=workers) for workers in (1, 2)]
    assert runs[0].initialization == runs[1].initialization
    assert same_tensors(*(weights(run.model, run.guide) for run in runs))


def test_a_worker_starts_no_processes(monkeypatch):
    assert MixtureInitialization(epochs=10_000)._seconds(digits()) > pool.PROCESS_SECONDS
    with pool.num_workers(4):
        assert pool.num_processes(3, 100.0, CPU) == 3
        monkeypatch.setenv(pool.IN_WORKER, "1")
        assert pool.num_processes(3, 100.0, CPU) == 1


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_of_the_vaes(tmp_path):
    code = (
        "import test_mixture_initialization as t\n"
        "t.small(**{'initialize.epochs': 50000}).fit('run', progress=False, workers=2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(600):
        if len(children.read_text().split()) == 2:
            break
        time.sleep(0.1)
    workers = [int(pid) for pid in children.read_text().split()]
    time.sleep(8)  # until they train
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0 and b"KeyboardInterrupt" in process.stderr.read()
    assert len(workers) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in workers)
