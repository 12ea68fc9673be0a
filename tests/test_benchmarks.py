"""What the benchmarks compare is the same thing."""

import warnings

import pyro
import pytest
import torch

from benchmarks import scaling, speed
from pyro_vae.objectives import ELBO
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep


@pytest.mark.parametrize("name", speed.WORKLOADS)
def test_the_hand_written_step_has_the_pairs_loss_and_gradients(name):
    make, by_hand = speed.WORKLOADS[name]
    speed.check(name, make, by_hand)
    with pytest.raises(RuntimeError, match="by hand"):
        speed.check(name, make, lambda *a: by_hand(*a) + 1e-3)
    with pytest.raises(RuntimeError, match="by hand"):  # the value alone is not enough
        speed.check(name, make, lambda *a: by_hand(*a) * 1.001 - 0.001 * by_hand(*a).detach())


@pytest.mark.parametrize("name", speed.WORKLOADS)
def test_a_recording_rounds_as_pyro_does_to_the_last_bit(name):
    # in float32: q(y | x) of M2 has differences of 540 nats for a gradient
    batch, found = {"x": torch.bernoulli(torch.rand(64, speed.X))}, []
    pair = speed.WORKLOADS[name][0]()
    parameters = [p for m in pair for p in m.parameters()]
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("error")
        for step in (PlainStep(ELBO(), pair), recorded := RecordedStep(ELBO(), pair, "recorded")):
            for p in parameters:
                p.grad = None
            if step is recorded:
                step.recording(batch)
            torch.manual_seed(1)
            found.append([step(batch), *(p.grad for p in parameters)])
    assert recorded.count == 1 and all(map(torch.equal, *found))


@pytest.mark.parametrize("name", ["mixture-vae", "gmvae"])
def test_a_component_summed_in_the_model_takes_no_copy_of_x(name):
    found, s = [], {**scaling.BASE, "hidden": 16, "batch": 32, "rows": 64}
    for components in (10, 100):
        point = scaling.Point(
            name, {**s, "components": components}, "recorded", torch.device("cpu")
        )
        with pyro.validation_enabled(False):
            point.load()
            point.adam.zero_grad(set_to_none=True)
            found.append(scaling.peak(point.step, point.device))
    copy = 32 * scaling.X * 4 / 2**20  # MiB
    assert copy < found[0] and found[1] - found[0] < 90 * copy / 4
