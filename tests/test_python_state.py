"""Which Python values of a program are seen, and what a trial run leaves of them."""

import functools
import random

import numpy as np
import torch
import torch.nn as nn

from pyro_vae.programs.python_state import PythonState


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps, self.size, self.name, self.options = 0, 0, "first", {"rate": 0.5}
        self.flag, self.weights, self.tensor = False, [1.0, 2.0], torch.zeros(2)


def test_a_change_of_any_plain_value_is_seen_and_a_change_back_too():
    layer = Layer()
    outer = nn.Sequential(nn.Dropout(0.5), layer)
    numbers = {"k": 1}
    program = functools.partial(lambda x, k: outer(x) * numbers["k"], k=2)
    state = PythonState(program)
    first = state.values()

    def changes(container, name, value):
        before = container[name]
        container[name] = value
        seen = state.values() != first
        container[name] = before
        assert state.values() == first
        return seen

    assert changes(vars(outer[0]), "p", 0.1) and changes(vars(layer), "name", "second")
    assert changes(vars(layer), "flag", True) and changes(layer.options, "rate", 0.1)
    assert changes(layer.weights, 1, 3.0) and changes(numbers, "k", 2)
    assert changes(program.keywords, "k", 3)
    assert not changes(vars(layer), "tensor", torch.ones(2))  # a recording reads it by reference
    outer.eval()  # part of the key of a recording anyway
    assert state.values() == first
    layer.added = 1.0
    assert state.values() != first


def test_a_trial_restores_counters_and_random_streams_and_keeps_what_changed_once():
    layer = Layer()
    state = PythonState(layer)
    random.seed(0), np.random.seed(0)
    expected = random.random(), np.random.rand()
    random.seed(0), np.random.seed(0)
    with state.trial():
        for _ in range(3):
            state.mark()
            layer.steps, layer.size, layer.name = layer.steps + 1, 5, "second"
            random.random(), np.random.rand()
            assert state.changed() in ("Layer.steps", "Layer.size")
    assert (layer.steps, layer.size, layer.name) == (0, 5, "second")
    assert (random.random(), np.random.rand()) == expected


def test_random_draws_of_python_and_numpy_are_seen():
    state = PythonState(Layer())
    for draw, name in ((random.random, "Python"), (np.random.rand, "numpy")):
        with state.trial():
            assert state.changed() is None
            draw()
            assert state.changed() == f"the random stream of {name}"
