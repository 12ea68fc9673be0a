"""Effect handlers: values substituted for draws, and the treatment of discrete latents."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from .._pyro_internals import MARKOV_SCOPE
from .centers import center_of
from .sites import Site, is_subsample


class Substitute(Messenger):
    """Latents take the values `{site: value}`, and stay latents: their log-probs count."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Site) -> None:
        if not msg["done"] and not msg["is_observed"] and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class SubstituteMean(Messenger):
    """Continuous latents take their conditional mean in place of a draw; see `center_of`."""

    def _pyro_sample(self, msg: Site) -> None:
        if msg["done"] or msg["is_observed"] or is_subsample(msg):
            return
        if not msg["fn"].has_enumerate_support:
            msg["value"], msg["done"] = center_of(msg["fn"]), True


class Choose(Messenger):
    """Discrete latents take one value of their support each, `{site: its number}`."""

    def __init__(self, choice: Mapping[str, int]) -> None:
        super().__init__()
        self.choice = choice

    def _pyro_sample(self, msg: Site) -> None:
        if msg["done"] or msg["is_observed"] or msg["name"] not in self.choice:
            return
        fn = msg["fn"]
        value = fn.enumerate_support(expand=False)[self.choice[msg["name"]]]
        msg["value"] = value.expand(tuple(fn.batch_shape) + tuple(fn.event_shape)).contiguous()
        msg["done"] = True


class WithoutMarkov(Messenger):
    """`pyro.markov` counts as `range`: no dimension is used twice, and no site is out of scope.

    `Traces` sums over every enumerated dimension at once. Pyro would use a dimension again for later
    sites of a chain, and these would be summed together.
    """

    def _pyro_sample(self, msg: Site) -> None:
        msg["infer"].pop(MARKOV_SCOPE, None)


def enumerate_discrete(site: Any) -> Any:
    """An `infer_config` function: every discrete latent is enumerated in parallel."""
    return {"enumerate": "parallel"} if is_discrete_latent(site) else {}


def sample_discrete(site: Any) -> Any:
    """An `infer_config` function: every discrete latent is sampled."""
    return {"enumerate": None} if is_discrete_latent(site) else {}


def is_discrete_latent(site: Any) -> bool:
    """Whether a message is a latent whose values can be listed."""
    if site["type"] != "sample" or site["is_observed"] or is_subsample(site):
        return False
    return site["fn"].has_enumerate_support
