"""An interruption during an initialization loses no part that was trained first."""

import os
import signal

import pytest
import torch

import pyro_vae as pv
from pyro_vae.train import epoch, mixture_initialization
from pyro_vae.train.first_parts import FOLDER

EPOCHS = 6
NETWORK = pv.conditionals.MLP((8,))


def mixture_pair():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((3,), 2, 2, likelihood="normal", network=NETWORK)
    return model, pv.guides.Guide(model, network=NETWORK)


def stack_pair():
    torch.manual_seed(0)
    model = pv.models.M1M2((3,), 2, likelihood="normal", network=NETWORK)
    return model, pv.guides.Guide(model, network=NETWORK)


STARTS = {
    "one VAE": (mixture_pair, pv.train.MixtureInitialization(epochs=EPOCHS, fits=1)),
    "three VAEs": (mixture_pair, pv.train.MixtureInitialization(epochs=EPOCHS, fits=1, vaes=3)),
    "stack": (stack_pair, pv.train.StackInitialization(epochs=EPOCHS)),
}


def data():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


def train(pair, start, out, **options):
    options = {"progress": False, "initialize": start, "compile": False} | options
    return pv.fit(*pair, data(), 2, out=out, **options)


@pytest.fixture
def interrupt_in_epoch(monkeypatch):
    """Sends Ctrl-C at the beginning of an epoch, counted over all parts; returns what counts them."""
    run, seen = epoch.EpochTrainer.run, []

    def at(number):
        seen.clear()

        def counted(self, *args, **kwargs):
            seen.append(1)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGINT)
            return run(self, *args, **kwargs)

        monkeypatch.setattr(epoch.EpochTrainer, "run", counted)
        return seen

    return at


@pytest.mark.parametrize("start", STARTS)
def test_an_interrupted_part_is_continued(start, tmp_path, interrupt_in_epoch):
    """The last part is interrupted in the middle; what is resumed is the run that was not interrupted."""
    make, options = STARTS[start]
    count = getattr(options, "vaes", 1)
    whole = make()
    train(whole, options, None)
    pair = make()
    interrupt_in_epoch((count - 1) * EPOCHS + 4)
    with pytest.raises(KeyboardInterrupt):
        train(pair, options, tmp_path / "run")
    assert (tmp_path / "run" / FOLDER).is_dir()
    epochs = interrupt_in_epoch(-1)
    resumed = make()
    train(resumed, options, tmp_path / "run", resume=True)
    assert len(epochs) < EPOCHS + 2
    for ours, theirs in zip(resumed, whole, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=0, rtol=0)
    assert not (tmp_path / "run" / FOLDER).exists()


def test_a_part_of_another_initialization_is_not_continued(tmp_path, interrupt_in_epoch):
    make, start = STARTS["three VAEs"]
    interrupt_in_epoch(2 * EPOCHS + 4)
    with pytest.raises(KeyboardInterrupt):
        train(make(), start, tmp_path / "run")
    epochs = interrupt_in_epoch(-1)
    other = pv.train.MixtureInitialization(epochs=EPOCHS, fits=1, vaes=3, lr=2e-3)
    train(make(), other, tmp_path / "run", resume=True)
    assert len(epochs) == 3 * EPOCHS + 2


def test_an_initialization_that_fails_leaves_no_parts(tmp_path, monkeypatch):
    def fail(*_):
        raise pv.UserError("no consensus")

    make, start = STARTS["three VAEs"]
    monkeypatch.setattr(mixture_initialization, "_combine", fail)
    with pytest.raises(pv.UserError, match="no consensus"):
        train(make(), start, tmp_path / "run")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, start = STARTS["three VAEs"]
    train(make(), start, None)
    assert not any(tmp_path.iterdir())
