"""What the benchmarks compare is the same thing."""

import warnings

import pyro
import pytest
import torch

from benchmarks import scaling, speed
from pyro_vae.objectives import ELBO
from pyro_vae.train.recorded import RecordedStep


@pytest.mark.parametrize("name", speed.WORKLOADS)
def test_the_hand_written_step_has_the_pairs_loss_and_gradients(name):
    make, by_hand = speed.WORKLOADS[name]
    speed.check(name, make, by_hand)
    with pytest.raises(RuntimeError, match="by hand"):
        speed.check(name, make, lambda *a: by_hand(*a) + 1e-3)
    with pytest.raises(RuntimeError, match="by hand"):  # the value alone is not enough
        speed.check(name, make, lambda *a: by_hand(*a) * 1.001 - 0.001 * by_hand(*a).detach())


def test_a_pair_whose_gradients_round_badly_is_recorded_all_the_same():
    x = torch.bernoulli(torch.rand(64, speed.X))  # of q(y | x): differences of 540 nats, in float32
    step = RecordedStep(ELBO(), speed.m2(), "aten")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step({"x": x})
    assert step.count == 1


@pytest.mark.parametrize("name", ["mixture-vae", "gmvae"])
def test_a_component_summed_in_the_model_takes_no_copy_of_x(name):
    found, s = [], {**scaling.BASE, "hidden": 16, "batch": 32, "rows": 64}
    for components in (10, 100):
        point = scaling.Point(name, {**s, "components": components}, "aten", torch.device("cpu"))
        with pyro.validation_enabled(False):
            point.load()
            point.adam.zero_grad(set_to_none=True)
            found.append(scaling.peak(point.step, point.device))
    copy = 32 * scaling.X * 4 / 2**20  # MiB
    assert copy < found[0] and found[1] - found[0] < 90 * copy / 4
