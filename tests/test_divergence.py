"""A run that diverges: an error with site, epoch and step; what was good before is kept."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_train import quiet, same_tensors, weights

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.train import checkpoint, load_weights, loop

NET = MLP((8,))
X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))


def pair():
    torch.manual_seed(0)
    m = pv.models.VAE((6,), 2, "normal", NET)
    return m, pv.guides.Guide(m, network=NET)


def fit(pair, epochs=1, valid=0, **options):
    data = pv.data.from_arrays(X, valid=valid, test=0)
    return quiet(*pair, data, epochs, **{"batch_size": 16, **options})


@pytest.mark.parametrize("valid", [0, 16])
@pytest.mark.parametrize("batch_size", [16, 48])
@pytest.mark.parametrize("lr", [1e20, 1e35])
def test_divergence_at_once_is_an_error_that_leaves_the_start_and_no_folder(
    tmp_path, valid, batch_size, lr, recwarn
):
    """With one batch an epoch no step looks at the weights that the last one left."""
    m, g = pair()
    start, out = weights(m, g), tmp_path / "run"
    with pytest.raises(pv.UserError, match="not finite.*epoch 1, step [^;]*; [^;]*$") as e:
        fit((m, g), valid=valid, batch_size=batch_size, lr=lr, out=out, compile=False)
    assert "\n" not in str(e.value) and not recwarn.list  # Pyro's warning of NaN is the error's
    assert same_tensors(start, weights(m, g))
    assert all(p.grad is None for p in (*m.parameters(), *g.parameters()))
    assert not out.exists()
    assert len(fit(pair(), 2, out=out).history) == 2


def test_divergence_at_once_leaves_other_files_of_a_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(pv.UserError, match="not finite"):
        fit(pair(), lr=1e20, out=tmp_path, compile=False)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_late_divergence_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    m, g = pair()
    monkeypatch.setattr(torch.optim.AdamW, "step", _poisoned_after(7, m.p_x.head.bias))
    with pytest.raises(pv.UserError, match="epoch 3.*; the last good checkpoint is .*; a lower lr"):
        fit((m, g), 5, out=tmp_path, compile=False)
    monkeypatch.undo()
    other = pair()
    load_weights(*other, tmp_path / "checkpoint.pt")
    assert same_tensors(weights(m, g), weights(*other))
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert all(math.isfinite(v) for v in json.loads(line).values())
    with pytest.raises(pv.UserError, match="already contains a run; use resume=True to continue"):
        fit(pair(), out=tmp_path)


def _poisoned_after(steps, parameter):
    """Every step from that one on leaves a parameter that is not a number."""
    step, count = torch.optim.AdamW.step, [0]

    def poison(optimizer, *a, **k):
        step(optimizer, *a, **k)
        count[0] += 1
        if count[0] >= steps:
            with torch.no_grad():
                parameter.fill_(math.nan)

    return poison


@pytest.mark.parametrize("valid", [0, 16])
def test_frequent_checkpoints_hold_no_value_that_is_not_finite(tmp_path, monkeypatch, valid):
    """A checkpoint after every epoch; the weights go wrong in the last step of the third of five."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    steps = 3 * (3 if not valid else 2)
    m, g = pair()
    monkeypatch.setattr(torch.optim.AdamW, "step", _poisoned_after(steps, m.p_x.head.bias))
    with pytest.raises(pv.UserError, match="not finite at site 'x'.*epoch 3"):
        fit((m, g), 5, valid, out=tmp_path, compile=False)
    monkeypatch.undo()
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["progress"]["epoch"] == 2
    tensors = [t for s in state["weights"]["modules"] for t in s.values()]
    assert all(t.isfinite().all() for t in tensors)
    (expected,) = {len(fit(healthy := pair(), 2, valid, compile=False).history)}
    assert expected == 2 and same_tensors(weights(*healthy), weights(m, g))


def test_a_weight_that_no_loss_sees_is_looked_at_too(monkeypatch):
    m, g = pair()
    monkeypatch.setattr(torch.optim.AdamW, "step", _poisoned_after(3, m.p_x.head.bias))
    monkeypatch.setattr(pv.objectives.ELBO, "differentiable_loss", _blind)
    with pytest.raises(pv.UserError, match="not finite"):
        fit((m, g), compile=False)


def _blind(self, model, guide, **batch):
    """A loss that is finite whatever the weights are."""
    actual = pyro.infer.TraceEnum_ELBO.differentiable_loss(self, model, guide, **batch)
    return torch.nan_to_num(actual)


def test_a_validation_bound_that_is_not_finite_is_an_error():
    """Validation data so far away that their square is not a float."""
    x = torch.zeros(40, 2)
    data = pv.data.Data(pv.data.Split(x[:30]), pv.data.Split(x[30:] + 1e30))
    encoder = torch.nn.Linear(2, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(torch.stack([z, z], -1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * encoder(x).squeeze(-1).clamp(-1, 1), 1.0))

    with pytest.raises(pv.UserError, match="validation ELBO is not finite at site 'x', epoch 1"):
        quiet(model, guide, data, 2, compile=False)


def test_a_batch_that_is_not_finite_is_named_and_not_the_learning_rate():
    batches = [X[:16], X[16:32], torch.where(X[32:] > 2, torch.nan, X[32:])]
    assert batches[2].isnan().any()
    with pytest.raises(pv.UserError, match="batch 3 of epoch 1: x has .* NaN or infinite values"):
        quiet(*pair(), batches, 1, compile=False)


def test_the_recorded_step_is_looked_at_as_well(tmp_path):
    m, g = pair()
    start = weights(m, g)
    with pytest.raises(pv.UserError, match="not finite"):
        fit((m, g), lr=1e20, out=tmp_path, compile="recorded", batch_size=48)
    assert same_tensors(start, weights(m, g))
