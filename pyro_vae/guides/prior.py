"""The prior as a guide: Gaussian stochastic neural networks, Monte Carlo likelihoods."""

import inspect
from collections.abc import Callable
from typing import Any

from pyro import poutine
from pyro.poutine.runtime import Message

from ..programs.calling import as_wrapper, parameters_of
from .base import BaseGuide


class PriorGuide(BaseGuide):
    r"""q(latents | x, c) = p(latents | c): the conditionals of the model itself, for any model.

    * A conditional model trained with it is a Gaussian stochastic neural network (GSNN): the ELBO
      is :math:`E_{p(z|c)}[\log p(x | z, c)]`, and its KL is zero.
    * `evaluate.log_likelihood` with it is the Monte Carlo estimate from the prior,
      :math:`\log \frac1S \sum_s p(x | z_s, c),\ z_s \sim p(z | c)`.

    It runs the model on what is observed, and hides the observed sites. Discrete latents are
    enumerated in the guide if the model enumerates them. The guide refers to the model without
    registering it as a submodule: it has no parameters and no state. A deep copy of the pair is a
    pair again.

    Args:
        model: a Pyro program.

    References:
        Sohn, Lee and Yan 2015, NeurIPS.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.PriorGuide(model)
        >>> pv.evaluate.elbo_terms(model, guide, torch.zeros(3, 6))["z"]  # minus the KL
        tensor([0., 0., 0.])
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__()
        self.borrowed = (model,)  # in a tuple, so that torch does not make it a submodule

    @property
    def stands_for(self) -> tuple[Callable[..., Any], str]:
        """The key of the pair's layout; see `programs.layout`."""
        return self.borrowed[0], "prior"

    @property
    def program_arguments(self) -> dict[str, inspect.Parameter]:
        """What the model takes; see `programs.calling.parameters_of`."""
        return parameters_of(self.borrowed[0])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Samples the model's latents, given the arguments of the model; `x` is its first one."""
        (model,) = self.borrowed
        names = list(self.program_arguments)
        data = "x" if "x" in names else names[0]
        batch = {**dict(zip(names, args, strict=False)), **kwargs}
        if "index" not in names:
            batch.pop("index", None)
        if "x" in batch:
            batch[data] = batch.pop("x")
        program = hide_data(model)
        if batch.get(data) is None:  # the model samples x: hide this draw
            program = poutine.block(program, hide=["x"])
        return program(**batch)


def hide_data(model: Callable[..., Any]) -> Callable[..., Any]:
    """The program `model` without its observed sites: it samples the prior."""
    return as_wrapper(poutine.block(model, hide_fn=_is_observed), model, "prior")


def _is_observed(site: Message) -> bool:
    return site["type"] == "sample" and site["is_observed"]
