"""Lower precision is the networks', in training: densities, weights and evaluation keep theirs."""

import pytest
import torch
from pyro import poutine
from sampling import covering
from test_recorded import assert_equal_steps, digits, digits_batch, library_pair

import pyro_vae as pv
from pyro_vae.conditionals import network_autocast
from pyro_vae.objectives import ELBO
from pyro_vae.train.steps.recorded import PlainStep

METHODS = ["vae", "gmvae", "shu-gmvae", "m2", "vampprior"]


@pytest.mark.parametrize("method", METHODS)
def test_bf16_networks_have_nearly_the_gradients_and_float32_sites(method):
    pair, batch, actual = library_pair(method), digits_batch(64), []
    for dtype in (None, torch.bfloat16):
        for m in pair:
            m.zero_grad()
        torch.manual_seed(1)
        with network_autocast(dtype):
            PlainStep(ELBO(), pair)(batch)
        gradients = [p.grad.flatten() for m in pair for p in m.parameters() if p.grad is not None]
        assert all(g.dtype == torch.float32 for g in gradients)
        actual.append(torch.cat(gradients))
    off = (actual[0] - actual[1]).norm() / actual[0].norm()
    assert 1e-4 < off < 5e-2
    with network_autocast(torch.bfloat16):
        trace = poutine.trace(pair[1]).get_trace(x=batch["x"])
    values = [s["value"] for s in trace.nodes.values() if s["type"] == "sample"]
    assert {v.dtype for v in values if v.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    "method, backend",
    [*covering(METHODS, ["recorded"], every=3)]
    + [pytest.param(m, "inductor", marks=pytest.mark.slow) for m in METHODS],
)
def test_a_recording_in_bf16_is_the_plain_step_in_bf16(method, backend):
    with network_autocast(torch.bfloat16):
        rtol = 1e-6 if backend == "recorded" else 2e-2  # a bf16 has three digits
        assert_equal_steps(ELBO(), library_pair(method), digits_batch, backend, rtol=rtol)


def fitted(precision, **options):
    pair = library_pair("vae", hidden=[64])
    run = pv.fit(
        *pair, digits(), 6, precision=precision, lr=3e-3, device="cpu", progress=False, **options
    )
    return run, pair


def test_training_in_bf16_costs_little_and_says_so(tmp_path):
    (a, _), (b, pair) = fitted(None), fitted("bf16", out=tmp_path)
    assert a.history[0]["loss"] != b.history[0]["loss"]
    assert a.history[-1]["elbo"] == pytest.approx(b.history[-1]["elbo"], abs=1.5)  # nats of 150
    assert torch.get_float32_matmul_precision() == "highest"
    # what is evaluated is evaluated in float32
    x = digits().valid.x
    assert float(pv.evaluate.elbo(*pair, x, seed=0).mean()) == pytest.approx(
        max(row["elbo"] for row in b.history), rel=1e-6
    )
    with pytest.raises(pv.UserError, match="trained with precision=bf16, not None"):
        fitted(None, out=tmp_path, resume=True)


def test_precisions_that_cannot_be_had_are_refused():
    with pytest.raises(pv.UserError, match="precision='tf32' is a GPU's"):
        fitted("tf32")
    with pytest.raises(pv.UserError, match="did you mean 'bf16'"):
        fitted("bf61")
