"""Pyro's runtime is global: one thread runs a pair at a time, and no number is wrong."""

import threading

import pytest
import torch
from test_train import quiet, same_tensors, weights, without_seconds

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.programs.runtime import exclusive, flushed_denormals, flushes_denormals

NET = MLP((8,))
X = (torch.rand(64, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def pair(seed=0):
    torch.manual_seed(seed)
    m = pv.models.VAE((6,), 2, network=NET)
    return m, pv.guides.Guide(m, network=NET)


def in_thread(function):
    """What a function returns, or raises, in another thread."""
    actual = []

    def call():
        try:
            actual.append(function())
        except Exception as e:
            actual.append(e)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return actual[0]


def test_while_one_thread_trains_another_is_refused_and_changes_nothing():
    refusals = []

    def another(*arguments):  # called by `fit`, before the first epoch
        for call in (
            lambda: quiet(*pair(3), X, 1),
            lambda: pv.evaluate.elbo(*pair(3), X),
            lambda: pv.evaluate.log_likelihood(*pair(3), X, 10),
            lambda: pv.sample(pair(3)[0], 4),
        ):
            refusals.append(in_thread(call))

    m, g = pair()
    stream = torch.get_rng_state()
    run = quiet(m, g, X, 2, batch_size=16, initialize=lambda *a: _with_stream(stream, another))
    assert len(refusals) == 4
    for e in refusals:
        assert isinstance(e, pv.UserError) and "another thread of this process is in fit" in str(e)
        assert "\n" not in str(e)
    expected = quiet(*(alone := pair()), X, 2, batch_size=16, initialize=lambda *a: None)
    assert without_seconds(run.history) == without_seconds(expected.history)
    assert same_tensors(weights(m, g), weights(*alone))


def _with_stream(stream, function):
    """`function()`; it makes pairs, which takes from torch's global stream."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(stream)
        function()


def test_threads_that_evaluate_wait_for_one_another_and_are_right():
    """Eight at once; without a lock most runs of this raise, or give other numbers."""
    pairs = [pair(seed) for seed in range(8)]
    expected = [pv.evaluate.elbo(*p, X, 20) for p in pairs]
    actual, failed = {}, []

    def evaluate(i):
        try:
            for _ in range(5):
                actual[i] = pv.evaluate.elbo(*pairs[i], X, 20)
                assert torch.equal(actual[i], expected[i])
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=evaluate, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert not failed and len(actual) == 8


def test_a_thread_evaluates_and_trains_after_another_has_finished():
    m, g = pair()
    run = in_thread(lambda: quiet(m, g, X, 2, batch_size=16))
    expected = quiet(*pair(), X, 2, batch_size=16)
    assert without_seconds(run.history) == without_seconds(expected.history)
    torch.testing.assert_close(
        in_thread(lambda: pv.evaluate.elbo(m, g, X)), pv.evaluate.elbo(m, g, X)
    )


def test_a_callback_in_the_same_thread_may_train_and_evaluate():
    def callback(model, guide, *arguments):
        pv.evaluate.elbo(model, guide, X)
        quiet(*pair(1), X, 1)

    assert len(quiet(*pair(), X, 1, initialize=callback).history) == 1


def test_an_error_within_gives_the_lock_back():
    with pytest.raises(ZeroDivisionError), exclusive("fit"):
        1 / 0  # noqa: B018
    assert in_thread(lambda: pv.evaluate.elbo(*pair(), X).shape) == (64,)


# ---------------------------------------------------------------------- the processor's mode


@pytest.fixture
def flushing():
    """Skip where the processor has no such mode; end with it off."""
    if not torch.set_flush_denormal(True):
        pytest.skip("the processor computes denormal numbers always")
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


def tiny():
    """Ten to the power of -40, as the processor computes it: zero, or not."""
    return torch.full((3,), 1e-20) * 1e-20


def test_training_and_evaluation_take_denormal_numbers_for_zero_and_the_caller_does_not(flushing):
    seen = []

    def model(x):
        seen.append(tiny())
        return m(x)

    m, guide = pair()
    quiet(model, guide, X, epochs=1, compile=False)
    pv.evaluate.elbo(model, guide, X)
    assert len(seen) > 3 and not torch.stack(seen).any()
    assert tiny().all()


def test_the_mode_is_as_it_was_also_after_an_error_and_where_it_was_on(flushing):
    with pytest.raises(ZeroDivisionError), exclusive(), flushed_denormals():
        assert flushes_denormals()
        raise ZeroDivisionError
    assert not flushes_denormals() and tiny().all()
    torch.set_flush_denormal(True)
    with exclusive():
        assert not tiny().any()
    assert flushes_denormals() and not tiny().any()


def test_nothing_but_denormal_numbers_changes(flushing):
    x = torch.logspace(-37, 37, 1000)
    expected = x * 3, x.log(), x.rsqrt(), (-x).exp().clamp(min=1e-37)
    with flushed_denormals():
        actual = x * 3, x.log(), x.rsqrt(), (-x).exp().clamp(min=1e-37)
    assert all(map(torch.equal, actual, expected))
