"""Methods made small, for the tests that go over all of them."""

import copy

import torch

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.methods import options

_configurations = {}


def configured(name, data="digits", **overrides):
    """A method's configuration, with those of the overrides that it has the options for.

    It is remembered: hundreds of tests build the same few, and to check one takes 20 ms.
    """
    key = name, data, repr(sorted(overrides.items()))
    if key not in _configurations:
        _configurations[key] = _configure(name, data, overrides)
    return copy.deepcopy(_configurations[key])


def _configure(name, data, overrides):
    base = methods.defaults(name)
    chosen = options.choices(name, base, overrides)
    base = options.switch_classes(name, base, chosen)
    return methods.configure(name, data, {k: v for k, v in overrides.items() if has(name, k, base)})


def has(name, option, known):
    """Whether the method has the option."""
    try:
        return bool(options.resolve(name, option, known))
    except pv.UserError:
        return False


def built(name, x_shape, *shapes, seed=None, overrides=None, **more):
    """The pair of a small configuration, weights from torch's stream or by a seed."""
    if seed is not None:
        torch.manual_seed(seed)
    return methods.build(configured(name, **(overrides or {})), x_shape, *shapes, **more)
