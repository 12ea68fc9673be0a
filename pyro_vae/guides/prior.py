"""The prior as a guide: Gaussian stochastic neural networks, Monte Carlo likelihoods."""

from pyro import poutine

from ..programs.calling import as_wrapper, parameters_of
from .base import BaseGuide


class PriorGuide(BaseGuide):
    r"""q(latents | x, c) = p(latents | c): the model's own conditionals, as a guide, for any model.

    * Trained with it, a conditional model is a Gaussian stochastic neural network (GSNN; Sohn, Lee
      and Yan, NeurIPS 2015): the ELBO is :math:`E_{p(z|c)}[\log p(x | z, c)]`, its KL zero.
    * `evaluate.log_likelihood` with it is the Monte Carlo estimate from the prior,
      :math:`\log \frac1S \sum_s p(x | z_s, c),\ z_s \sim p(z | c)`.

    It runs the model on what is observed, and hides the observed sites. Discrete latents are
    enumerated in the guide where the model would enumerate them. It holds the model without
    registering it: it has no parameters and no state of its own, and a deep copy of the pair is a
    pair again.
    """

    def __init__(self, model):
        super().__init__()
        self.borrowed = (model,)  # in a tuple, so that torch does not make it a submodule
        self.stands_for = model, "prior"

    @property
    def program_arguments(self):
        """What the model takes, as `pair.parameters_of` has it."""
        return parameters_of(self.borrowed[0])

    def forward(self, *args, **kwargs):
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
        if batch.get(data) is None:  # the model samples: x is data that it draws
            program = poutine.block(program, hide=["x"])
        return program(**batch)


def hide_data(model):
    """The program `model`, its observed sites hidden: what is left samples the prior."""
    return as_wrapper(poutine.block(model, hide_fn=_is_observed), model, "prior")


def _is_observed(site):
    return site["type"] == "sample" and site["is_observed"]
