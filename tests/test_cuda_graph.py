"""A CUDA graph's step trains as the recorded one does: its buffers here, the graph on a GPU."""

import shutil
import sys
import warnings

import pytest
import torch
from sampling import covering
from test_recorded import digits_batch, library_pair, losses, trained
from test_train import _stop_after

import pyro_vae as pv
from pyro_vae.objectives import ELBO
from pyro_vae.train.steps import cuda_graph
from pyro_vae.train.steps.cuda_graph import WARMUP, GraphedStep
from pyro_vae.train.steps.recorded import RecordedStep
from pyro_vae.train.steps.training import TrainingStep

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def emulated(monkeypatch):
    """In a graph's place, the function itself, run as often before; returns the list of them."""
    made = []

    def capture(function, device):
        for _ in range(WARMUP):
            function()
        made.append(function)
        return function

    monkeypatch.setattr(cuda_graph, "capture", capture)
    return made


def train(method, graphed, sizes, device="cpu", clip_norm=0.5):
    """Losses and weights of a few steps: warm-up and learning rate change at each of them."""
    pair = [m.to(device) for m in library_pair(method)]
    objective = ELBO(warmup=10)
    step = RecordedStep(objective, pair, "recorded")
    parameters = [p for m in pair for p in m.parameters()]
    on_gpu = device == "cuda"
    lr = torch.tensor(1e-2, device=device) if on_gpu else 1e-2
    adam = torch.optim.AdamW(parameters, lr=lr, fused=True, capturable=on_gpu)
    training = GraphedStep(step, adam, clip_norm)
    in_parts = TrainingStep(step, adam, clip_norm)
    torch.manual_seed(1)
    batches = [{k: v.to(device) for k, v in digits_batch(size).items()} for size in sizes]
    losses = []
    for objective.epoch, batch in enumerate(batches):
        for group in adam.param_groups:
            rate = 1e-2 / (1 + objective.epoch)
            group["lr"] = group["lr"].fill_(rate) if on_gpu else rate
        losses.append((training if graphed else in_parts)(batch))
    return losses, [p.detach().clone() for p in parameters]


@pytest.mark.parametrize("method", covering(["vae", "gmvae", "m2"], every=3))
def test_a_captured_step_trains_as_the_recorded_one(emulated, method):
    sizes = [12, 5, 12, 12, 5]  # with a short batch
    actual, expected = (train(method, graphed, sizes) for graphed in (True, False))
    assert len(emulated) == 2 and len(set(map(float, actual[0]))) == 5
    for a, b in zip(actual, expected, strict=True):
        assert all(map(torch.equal, a, b))


def test_capturing_trains_nothing_and_leaves_the_noise(emulated):
    model, guide = library_pair("vae")
    parameters = [*model.parameters(), *guide.parameters()]
    step = RecordedStep(ELBO(), (model, guide), "recorded")
    graphed = GraphedStep(step, torch.optim.AdamW(parameters, lr=1.0, fused=True))
    batch = digits_batch()
    before, noise = [p.detach().clone() for p in parameters], torch.get_rng_state()
    graphed.build(step.recording(batch), batch)
    assert emulated and all(map(torch.equal, before, parameters))
    assert torch.equal(noise, torch.get_rng_state())
    assert all(not v.any() for s in graphed.optimizer.state.values() for v in s.values())


@pytest.mark.parametrize("how", ["raises", "freezes the noise"])
def test_what_cannot_be_captured_is_trained_by_its_recording_with_one_warning(monkeypatch, how):
    def capture(function, device):
        if how == "raises":
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        first = function().clone()
        return lambda: first

    monkeypatch.setattr(cuda_graph, "capture", capture)
    with pytest.warns(UserWarning, match="without a CUDA graph") as caught:
        actual = train("vae", True, [12, 12, 12])
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = train("vae", False, [12, 12, 12])
    for a, b in zip(actual, expected, strict=True):
        assert all(map(torch.equal, a, b))


def test_fit_with_a_graph_is_fit_without_and_resumes_in_either(emulated, monkeypatch, tmp_path):
    # in float64: the rate is a tensor for the graph, and Adam multiplies otherwise with one
    torch.set_default_dtype(torch.float64)
    options = {"name": "vae", "compile": "recorded", "schedule": "linear", "clip_norm": 0.5}
    a, expected = trained(epochs=2, **options)
    stepper = sys.modules["pyro_vae.train.steps.stepper"]
    monkeypatch.setattr(stepper, "can_graph", lambda device: True)
    b, actual = trained(epochs=2, **options)
    with _stop_after(steps=6):  # in the middle of the second epoch
        trained(epochs=2, out=tmp_path / "part", **options)
    shutil.copytree(tmp_path / "part", tmp_path / "moved")
    c, resumed = trained(epochs=2, out=tmp_path / "part", resume=True, **options)
    assert len(emulated) == 3
    assert losses(a) == pytest.approx(losses(b), rel=1e-9)
    assert losses(b) == losses(c) and all(map(torch.equal, actual, resumed))
    monkeypatch.setattr(stepper, "can_graph", lambda device: False)
    d, moved = trained(epochs=2, out=tmp_path / "moved", resume=True, **options)
    assert losses(a) == pytest.approx(losses(d), rel=1e-9)
    for p, q in zip(expected, moved, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------------------- on a GPU


@gpu
@needs_gpu
@pytest.mark.parametrize("method", ["vae", "gmvae", "m2"])
def test_a_graph_trains_as_the_recorded_step(method):
    sizes = [12, 12, 5, 12, 5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = train(method, True, sizes, "cuda")
    expected = train(method, False, sizes, "cuda")
    for a, b in zip(actual, expected, strict=True):
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@gpu
@needs_gpu
@pytest.mark.parametrize("compile", ["recorded", True])
def test_no_step_of_fit_waits_for_the_gpu(monkeypatch, compile):
    class Watched(ELBO):
        """From its second epoch on (the first records and captures) a wait is an error."""

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if (name, value) == ("epoch", 1):
                watched.append(True)
                torch.cuda.set_sync_debug_mode("error")

    def at_the_end_of_an_epoch(*device):
        torch.cuda.set_sync_debug_mode("default")

    watched = []
    monkeypatch.setattr(torch.cuda, "synchronize", at_the_end_of_an_epoch)
    data = pv.data.from_arrays(torch.rand(64, 20).round(), valid=0, test=0)
    model = pv.models.VAE((20,), 3, network=pv.conditionals.MLP((8,)))
    try:
        pv.fit(
            model, pv.guides.Guide(model), data, 2, objective=Watched(), batch_size=16,
            compile=compile, device="cuda", progress=False,
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watched
