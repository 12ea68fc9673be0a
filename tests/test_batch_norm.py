"""BatchNorm in a pair: running statistics are those of the training steps, and of nothing else."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from sampling import covering
from test_train import quiet, without_seconds

import pyro_vae as pv
from pyro_vae.comparison.evaluation import count_guide_parameters
from pyro_vae.train import checkpoint

ROWS, D = 33, 5
X = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(0)) * 2 + 3


class Model(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, D), *([nn.BatchNorm1d(D)] if norm else []))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(D)
        self.encoder = nn.Linear(D, 4)

    def forward(self, x):
        loc, scale = self.encoder(self.norm(x)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def pair(norm=True):
    torch.manual_seed(0)
    return Model(norm), Guide()


def fit(pair, epochs=3, batch_size=11, x=X, **options):
    return quiet(*pair, x, epochs, batch_size=batch_size, **options)


@pytest.mark.parametrize(
    "compile, validated", covering([False, "recorded"], [False, True], every=2)
)
def test_running_statistics_are_those_of_the_training_steps_alone(compile, validated, tmp_path):
    m, g = pair(norm=not validated)  # validation runs a model with a plate of particles
    data = pv.data.from_arrays(torch.cat([X, X[:7]]), valid=7 if validated else 0, test=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # recorded, not run plainly with a warning
        fit((m, g), x=data, compile=compile, out=tmp_path)
    expected, steps = torch.zeros(D), 0
    for epoch in range(3):
        for batch in pv.data.batches(data, 11, "cpu", seed=0).epoch(epoch):
            expected = 0.9 * expected + 0.1 * batch["x"].mean(0)
            steps += 1
    if not validated:  # the modules hold the last epoch
        torch.testing.assert_close(g.norm.running_mean, expected)
        assert int(m.decoder[1].num_batches_tracked) == steps
    last = checkpoint.load(tmp_path / "checkpoint.pt")["weights"]["modules"][1]
    torch.testing.assert_close(last["norm.running_mean"], expected)
    assert int(last["norm.num_batches_tracked"]) == steps


def test_the_recorded_step_equals_the_plain_one():
    actual = []
    for compile in (False, "recorded"):
        m, g = pair()
        run = fit((m, g), compile=compile)
        actual.append((without_seconds(run.history), [t.double() for t in m.state_dict().values()]))
    for a, b in zip(actual[0][0], actual[1][0], strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for a, b in zip(actual[0][1], actual[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compile", [False, "recorded"])
def test_a_last_batch_of_one_row_trains_by_the_running_statistics(compile):
    """33 = 2 * 16 + 1: of three steps an epoch, two change the running statistics."""
    m, g = pair()
    before = copy.deepcopy(g.encoder.weight)
    run = fit((m, g), batch_size=16, compile=compile)
    assert run.history[0]["steps"] == 3
    assert int(g.norm.num_batches_tracked) == 6
    assert not torch.equal(before, g.encoder.weight)


def test_batches_of_one_row_throughout_are_refused():
    with pytest.raises(pv.UserError, match="BatchNorm needs a batch of two rows or more"):
        fit(pair(), batch_size=1)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole, part, resumed = pair(), pair(), pair()
    fit(whole, 4, compile=False, out=tmp_path / "whole")
    fit(part, 2, compile=False, out=tmp_path / "part")
    fit(resumed, 4, compile=False, out=tmp_path / "part", resume=True)
    for a, b in zip(whole, resumed, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name


def test_evaluation_and_comparison_leave_running_statistics(tmp_path):
    m, g = pair(norm=False)
    fit((m, g))
    m.train(), g.train()
    before = {k: v.clone() for p in (m, g) for k, v in p.state_dict().items()}
    pv.check_pair(m, g, X)
    pv.evaluate.elbo(m, g, X)
    count_guide_parameters(m, g, X, {})
    after = {k: v for p in (m, g) for k, v in p.state_dict().items()}
    assert all(torch.equal(v, after[k]) for k, v in before.items())
