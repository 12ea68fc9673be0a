"""NUTS on a few data, the decoder frozen: the reference picture of their posteriors."""

from typing import NamedTuple

import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin

from ..errors import check_int_at_least
from ..evaluate.inputs import scored
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from .joint import Joint


class NutsResult(NamedTuple):
    """What `nuts` returns; `r_hat` and `ess` of each number, on the reals where it is constrained."""

    draws: dict  #: `{latent: [num_chains * num_samples, N, *shape]}`
    r_hat: dict  #: `{latent: [N, *shape]}`, split; above 1.01 the chains disagree
    ess: dict  #: `{latent: [N, *shape]}`, effective number of draws, of all chains


def nuts_posterior(model, x, num_samples=500, warmup=500, num_chains=4, seed=0, **others):
    r"""Draws of :math:`p(z \mid x)` by Pyro's No-U-Turn sampler (arXiv 1111.4246), as `Draws`.

    Discrete latents are summed exactly. All data and chains, which are independent, are one state
    with one step size and a scale for each number: good for some tens of data. Chains start from the
    prior; where modes lie apart they may not find each other, which `r_hat` shows.

    Args:
        x: `[N, ...]`, a few data.
        num_samples, warmup: of each chain.
        others: further observed values, by name, each with N rows.
    """
    check_int_at_least(2, num_chains=num_chains)
    check_int_at_least(4, num_samples=num_samples)
    check_int_at_least(1, warmup=warmup)
    batch = scored(model, x, others)
    x, device = batch["x"], device_of(model, default=batch["x"].device)
    with eval_mode(model), seeded(seed, device):
        joint = Joint(model, {k: v.to(device) for k, v in batch.items()})

        def potential(state):
            return -joint.log_densities(state["u"])[1].sum()

        chain = MCMC(
            NUTS(potential_fn=potential),
            num_samples,
            warmup,
            initial_params={"u": joint.draw(num_chains)},
            disable_progbar=True,
        )
        chain.run()
        u = chain.get_samples()["u"]  # [samples, chains, N, D]
        with torch.no_grad():
            draws = joint.latents(u.transpose(0, 1).flatten(0, 1))
    evaluated = [
        {n: v[0] for n, v in joint.split(f(u, chain_dim=1, sample_dim=0).unsqueeze(0)).items()}
        for f in (split_gelman_rubin, effective_sample_size)
    ]
    found = [{n: v.to(x.device) for n, v in part.items()} for part in (draws, *evaluated)]
    return NutsResult(*found)
