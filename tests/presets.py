"""Methods made small, for the tests that go over all of them."""

import torch

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.methods import options


def configured(name, data="digits", **overrides):
    """A method's configuration, with those of the overrides that it has the options for."""
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
