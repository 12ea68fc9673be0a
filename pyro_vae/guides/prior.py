"""The prior as a guide: Gaussian stochastic neural networks, Monte Carlo likelihoods."""

from pyro import poutine

from ..pair import parameters_of
from ..program import Program


class PriorGuide(Program):
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

    def forward(self, x=None, y=None, c=None, index=None, size=None):
        (model,) = self.borrowed
        names = parameters_of(model)
        observed = {"y": y, "c": c, "index": index, "size": size}
        observed = {k: v for k, v in observed.items() if v is not None and k in names}
        if x is not None:  # the data are a program's first argument, whatever it is called
            observed["x" if "x" in names else next(iter(names))] = x
        return hide_data(model)(**observed)


def hide_data(model):
    """The program `model`, its observed sites hidden: what is left samples the prior."""
    return poutine.block(model, hide_fn=_is_data)


def _is_data(site):
    return site["type"] == "sample" and (site["is_observed"] or site["name"] == "x")
