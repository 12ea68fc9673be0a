"""`fit`: reproducible, resumable, and careful with what has been won."""

import json
import math
import os
import signal

import pyro
import pytest
import torch
from small_pairs import NET, digits, pair, quiet, same_tensors, weights
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.train import checkpoint, load_weights
from pyro_vae.train.steps.stepper import Stepper


def without_seconds(history):
    return [{k: v for k, v in r.items() if "second" not in k} for r in history]


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    runs = []
    for seed in (0, 0, 1):
        m, g = pair()
        runs.append((without_seconds(quiet(m, g, digits(), 2, seed=seed).history), weights(m, g)))
    assert runs[0][0] == runs[1][0] and same_tensors(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_fit_leaves_the_callers_random_stream_alone():
    m, g = pair()
    state = torch.get_rng_state()
    quiet(m, g, digits(), 1)
    assert torch.equal(state, torch.get_rng_state())


def test_an_interrupt_does_not_draw_the_next_batch_of_a_dynamic_binarization(tmp_path):
    data = pv.data.load("digits", binarize="dynamic")
    runs = []
    for seed, out in ((0, "whole"), (0, "part"), (5, "part")):
        torch.manual_seed(seed)
        m = pv.models.VAE((1, 8, 8), 3, network=NET)
        options = {"out": tmp_path / out, "resume": seed == 5, "batch_size": 256}
        with _stop_after(7 if (seed, out) == (0, "part") else math.inf):
            runs.append(quiet(m, pv.guides.Guide(m, network=NET), data, 3, **options))
    assert runs[1].interrupted and len(runs[1].history) == 1
    assert without_seconds(runs[0].history) == without_seconds(runs[2].history)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, schedule):
    options = {"schedule": schedule, "objective": pv.objectives.ELBO(warmup=3)}
    m, g = pair()
    whole = quiet(m, g, digits(), 4, out=tmp_path / "whole", **options)
    interrupted_m, interrupted_g = pair()
    batches = _stop_after(steps=14)  # in the middle of the second epoch
    with batches:
        run = quiet(interrupted_m, interrupted_g, digits(), 4, out=tmp_path / "part", **options)
    assert run.interrupted and len(run.history) == 1
    fresh_m, fresh_g = pair(seed=5)  # other weights: the checkpoint must replace them
    resumed = quiet(fresh_m, fresh_g, digits(), 4, out=tmp_path / "part", resume=True, **options)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert same_tensors(weights(m, g), weights(fresh_m, fresh_g))
    lines = (tmp_path / "part" / "metrics.jsonl").read_text().splitlines()
    assert without_seconds(map(json.loads, lines)) == without_seconds(whole.history)


class _stop_after:
    """A real SIGINT to this process, in the training step of this number."""

    def __init__(self, steps):
        self.left = steps

    def __enter__(self):
        self.step = Stepper.__call__
        outer = self

        def step(stepper, *a, **k):
            outer.left -= 1
            if outer.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return outer.step(stepper, *a, **k)

        Stepper.__call__ = step

    def __exit__(self, *e):
        Stepper.__call__ = self.step


def test_the_modules_end_with_the_epoch_that_validation_chose():
    m, g = pair()
    data = digits()
    run = quiet(m, g, data, 6, lr=0.03)
    best = max(run.history, key=lambda row: row["elbo"])
    assert run.best_epoch == best["epoch"]
    assert float(pv.evaluate.elbo(m, g, data.valid.x).mean()) == pytest.approx(
        best["elbo"], abs=1e-3
    )


def test_validation_is_as_rare_as_it_is_set_and_includes_the_last_epoch(tmp_path):
    often, rare = (
        quiet(*pair(), digits(), 5, validate_every=n, out=tmp_path / str(n)) for n in (1, 2)
    )
    assert [row["epoch"] for row in rare.history if "elbo" in row] == [2, 4, 5]
    assert [row["loss"] for row in rare.history] == [row["loss"] for row in often.history]
    bounds = {row["epoch"]: row["elbo"] for row in often.history}
    assert all(row["elbo"] == bounds[row["epoch"]] for row in rare.history if "elbo" in row)
    assert rare.best_epoch == max((2, 4, 5), key=bounds.get)
    m, g = pair()
    assert pv.load(tmp_path / "2", m, g, digits()).best_epoch == rare.best_epoch
    with pytest.raises(pv.UserError, match="validate_every must be an integer >= 1, got 0"):
        quiet(*pair(), digits(), 5, validate_every=0)


def test_patience_stops_at_a_validation_that_is_not_better():
    run = quiet(*pair(), digits(), 500, lr=0.1, patience=1, validate_every=4, compile=False)
    assert run.stop_reason == "patience" and run.best_epoch % 4 == 0
    assert len(run.history) == run.best_epoch + 4 and "elbo" in run.history[-1]
    run = quiet(*pair(), digits(), 4, lr=0.1, patience=1, validate_every=10, compile=False)
    assert run.stop_reason == "epochs" and run.best_epoch == 4


def test_patience_stops_on_validation_and_needs_it():
    m, g = pair()
    run = quiet(m, g, digits(), 500, lr=0.1, patience=3, compile=False)
    assert len(run.history) == run.best_epoch + 3 < 500
    with pytest.raises(pv.UserError, match="no valid split"):
        quiet(*pair(), digits().train.x, 2, patience=3)


def test_validation_is_not_seen_by_training():
    m, g = pair()
    quiet(m, g, digits(), 2)
    data = digits()
    data = pv.data.Data(data.train, None, data.test, likelihood="binomial")
    m2, g2 = pair()
    quiet(m2, g2, data, 1)
    m3, g3 = pair()
    run = quiet(m3, g3, digits(), 1)
    assert run.best_epoch == 1 and same_tensors(weights(m2, g2), weights(m3, g3))


def test_labels_in_the_data_are_not_given_to_a_clustering():
    data = digits()
    scrambled = pv.data.Data(
        pv.data.Split(data.train.x, data.train.y.roll(1)), data.valid, data.test
    )
    actual = []
    for d in (data, scrambled):
        m, g = pair()
        quiet(m, g, d, 1)
        actual.append(weights(m, g))
    assert same_tensors(*actual)


def test_a_loss_that_is_not_finite_stops_at_once_names_the_site_and_keeps_the_checkpoint(tmp_path):
    m, g = pair()
    quiet(m, g, digits(), 1, out=tmp_path)
    kept = checkpoint.load(tmp_path / "checkpoint.pt")["weights"]
    bias = m.p_x.head.bias

    def poison(optimizer, *a, **k):
        with torch.no_grad():
            bias.fill_(math.nan)

    step = torch.optim.AdamW.step
    torch.optim.AdamW.step = poison
    try:
        with pytest.raises(pv.UserError, match=r"not finite at site 'x'.*epoch 2, step 2") as e:
            quiet(m, g, digits(), 3, out=tmp_path, resume=True)
    finally:
        torch.optim.AdamW.step = step
    assert "checkpoint.pt" in str(e.value) and "\n" not in str(e.value)
    after = checkpoint.load(tmp_path / "checkpoint.pt")["weights"]
    assert all(
        torch.equal(a[k], b[k])
        for a, b in zip(kept["modules"], after["modules"], strict=True)
        for k in a
    )


def test_a_thousand_epochs_at_a_high_rate_stay_finite():
    x = torch.rand(32, 2) * 100 - 50
    m = pv.models.VAE((2,), 2, "normal", MLP((8,)))
    g = pv.guides.Guide(m, network=MLP((8,)))
    run = quiet(m, g, x, 1000, lr=0.05, batch_size=32)
    assert all(math.isfinite(row["loss"]) for row in run.history)


def test_gradient_clipping_bounds_the_first_step():
    norms = []
    step = torch.optim.AdamW.step

    def spy(optimizer, *a, **k):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads])).item())
        return step(optimizer, *a, **k)

    torch.optim.AdamW.step = spy
    try:
        quiet(*pair(), digits(), 1, clip_norm=0.5)
    finally:
        torch.optim.AdamW.step = step
    assert max(norms) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_start_at_lr_and_fall(schedule):
    rates = [row["lr"] for row in quiet(*pair(), digits(), 4, lr=0.01, schedule=schedule).history]
    if schedule == "constant":
        assert rates == [0.01] * 4
    else:
        assert rates == sorted(rates, reverse=True) and rates[-1] < 0.002


def test_frozen_parameters_do_not_train():
    m, g = pair()
    for p in m.p_x.parameters():
        p.requires_grad_(False)
    before = weights(m.p_x)
    quiet(m, g, digits(), 1)
    assert same_tensors(before, weights(m.p_x))


def test_tensors_arrays_datasets_and_loaders_train():
    x = digits().train.x[:64]
    y = digits().train.y[:64]
    forms = [
        x,
        x.numpy(),
        (x, y),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=16),
        [x[:32], x[32:]],  # any iterable of batches with a length
    ]
    for form in forms:
        m, g = pair()
        run = quiet(m, g, form, 2, batch_size=16)
        assert run.history[1]["loss"] < run.history[0]["loss"]


def test_a_users_own_functions_train_keep_their_weights_and_resume(tmp_path):
    def make():
        pyro.clear_param_store()
        torch.manual_seed(0)
        decoder, encoder = torch.nn.Linear(2, 64), torch.nn.Linear(64, 4)

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1).to_event(1))
                distribution = pyro.distributions.Normal(
                    decoder(z), pyro.param("s", torch.tensor(0.5))
                )
                pyro.sample("obs", distribution.to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                m, s = encoder(x).chunk(2, -1)
                pyro.sample("z", pyro.distributions.Normal(m, s.exp()).to_event(1))

        return model, guide, decoder

    x = digits().train.x.flatten(1)[:200]
    model, guide, decoder = make()
    whole = quiet(model, guide, x, 6, out=tmp_path / "a", lr=0.01)
    assert whole.history[-1]["loss"] < whole.history[0]["loss"] - 5
    model, guide, other = make()
    quiet(model, guide, x, 3, out=tmp_path / "b", lr=0.01)
    model, guide, other = make()
    resumed = quiet(model, guide, x, 6, out=tmp_path / "b", lr=0.01, resume=True)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert torch.equal(decoder.weight, other.weight)


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_holds_the_best_weights_and_fits_only_its_pair(tmp_path):
    m, g = pair()
    quiet(m, g, digits(), 2, out=tmp_path)
    m2, g2 = pair(seed=3)
    load_weights(m2, g2, tmp_path / "checkpoint.pt")
    assert same_tensors(weights(m, g), weights(m2, g2))
    other = pv.models.VAE((1, 8, 8), 5, "binomial", NET)
    with pytest.raises(pv.UserError, match="does not fit this VAE"):
        load_weights(other, pv.guides.Guide(other, network=NET), tmp_path / "checkpoint.pt")


class _Evil:
    def __reduce__(self):
        return (os.system, ("touch pyro_vae_was_here",))


def test_bad_checkpoint_files_give_one_line_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    m, g = pair()
    quiet(m, g, digits(), 1, out=tmp_path)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    bad = tmp_path / "bad.pt"
    cases = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "text": b"hello",
    }
    for content in cases.values():
        bad.write_bytes(content)
        with pytest.raises(pv.UserError, match="not a checkpoint of this library") as e:
            load_weights(m, g, bad)
        assert "\n" not in str(e.value)
    torch.save({"format": checkpoint.FORMAT, "x": _Evil()}, bad)
    with pytest.raises(pv.UserError, match="would execute code"):
        load_weights(m, g, bad)
    assert not (tmp_path / "pyro_vae_was_here").exists()
    torch.save({"state_dict": {}}, bad)
    with pytest.raises(pv.UserError, match="not a checkpoint of this library"):
        load_weights(m, g, bad)
    checkpoint.save(bad, {"weights": {}})
    with pytest.raises(pv.UserError, match="not a whole checkpoint"):
        load_weights(m, g, bad)
    with pytest.raises(pv.UserError, match="does not exist"):
        load_weights(m, g, tmp_path / "nowhere.pt")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(p):
        p.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named_and_not_its_temporary_one(tmp_path):
    path = tmp_path / "gone" / "explore.html"
    with pytest.raises(FileNotFoundError) as raised:
        checkpoint.write_atomically(path, lambda p: p.write_text("page"))
    assert raised.value.filename == str(path)


def test_resuming_with_other_settings_is_refused(tmp_path):
    quiet(*pair(), digits(), 1, out=tmp_path)
    with pytest.raises(pv.UserError, match="lr=0.001, not 0.1"):
        quiet(*pair(), digits(), 2, out=tmp_path, resume=True, lr=0.1)


def test_bad_arguments_give_one_line():
    for options, message in [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"lr": 0}, "lr must be positive"),
        ({"batch_size": -1}, "batch_size must be an integer >= 1, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be non-negative"),
        ({"clip_norm": 0}, "clip_norm must be positive"),
        ({"patience": 0}, "patience must be an integer >= 1"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"resume": True}, "resume needs out="),
        ({"observed": ("x", "color")}, "observes 'color'"),
    ]:
        with pytest.raises(pv.UserError, match=message):
            pv.fit(*pair(), digits(), 1, progress=False, **options)
    if not torch.cuda.is_available():
        with pytest.raises(pv.UserError, match="no GPU here"):
            pv.fit(*pair(), digits(), 1, device="cuda")


def test_data_that_the_likelihood_cannot_have_produced_are_refused_before_training():
    m = pv.models.VAE((1, 8, 8), 3, "bernoulli", NET)
    g = pv.guides.Guide(m, network=NET)
    with pytest.raises(pv.UserError, match="outside the support of its Bernoulli.*dynamic"):
        quiet(m, g, digits(), 1)
    x = digits().train.x.clone()
    x[700, 0, 3, 3] = 0.031  # not in the first batch that is looked at
    with pytest.raises(pv.UserError, match="outside the support"):
        quiet(*pair(), x, 1)


def test_observed_labels_are_one_hot_and_cost_log_k():
    """With y observed, a mixture's component is supervised, and its prior term is -log K."""
    m, g = pair()
    data = digits()
    run = quiet(m, g, data, 3, observed=("x", "y"))
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    terms = pv.evaluate.elbo_terms(m, g, data.valid.x, y=data.valid.y)
    assert torch.allclose(terms["y"], torch.tensor(-math.log(10)))
    with pytest.raises(pv.UserError, match=r"labels must lie in 0\.\.9 to be observed; found -1"):
        pv.evaluate.elbo(m, g, data.valid.x, y=torch.full((180,), -1))


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"likelihood": pv.conditionals.NormalLikelihood(scale=0.3)},
            "model: likelihood.scale=1.0, not 0.3",
        ),
        ({"discrete": "score_function"}, "guide: discrete=enumerate, not score_function"),
    ],
)
def test_a_run_resumes_with_the_pair_that_it_was_trained_with(change, said, tmp_path):
    """Settings that no module's description has."""

    def pair(likelihood=None, **options):
        likelihood = likelihood or pv.conditionals.NormalLikelihood(scale=1.0)
        model = pv.models.M2((2,), 3, 1, likelihood=likelihood, network=MLP((4,)))
        return model, pv.guides.Guide(model, network=MLP((4,)), **options)

    x, options = torch.randn(20, 2), {"out": tmp_path / "run", "resume": True}
    quiet(*pair(), x, 1, out=tmp_path / "run")
    with pytest.raises(pv.UserError, match=f"trained with another pair .{said}"):
        quiet(*pair(**change), x, 2, **options)
    assert len(quiet(*pair(discrete="enumerate"), x, 2, **options).history) == 2  # the default
