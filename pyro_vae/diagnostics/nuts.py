"""NUTS on a few data points, with the decoder frozen: reference draws from their posteriors."""

from typing import NamedTuple

import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin

from ..errors import check_int_at_least
from ..evaluate.chunked import evaluation_mode
from ..evaluate.inputs import Array, Batch, PyroProgram, scored_inputs
from ..programs.modules import device_of
from .joint import Joint


class NutsResult(NamedTuple):
    """Draws by `nuts_posterior`, with diagnostics of each number on the unconstrained scale."""

    draws: Batch  #: `{latent: [num_chains * num_samples, N, *shape]}`
    r_hat: Batch  #: `{latent: [N, *shape]}`, split R-hat; above 1.01 the chains disagree
    ess: Batch  #: `{latent: [N, *shape]}`, effective number of draws of all chains


def nuts_posterior(
    model: PyroProgram,
    x: Array,
    num_samples: int = 500,
    warmup: int = 500,
    num_chains: int = 4,
    seed: int | None = 0,
    **others: Array | None,
) -> NutsResult:
    r"""Draws from :math:`p(z \mid x)` by Pyro's No-U-Turn sampler.

    Discrete latents are summed exactly. All data points and chains, which are independent, form
    one state, with one step size and one scale per number; this works for some tens of data
    points. Chains start from the prior. If modes are far apart, chains may not find all of them,
    which `r_hat` shows. An angle (`VonMises`) is cut at pi: a mode there has two halves.

    Args:
        model: the generative program.
        x: `[N, ...]`, a few data points, in the units in which the model was trained.
        num_samples: draws of each chain, after the warm-up.
        warmup: steps of each chain in which the step size and the scales are adapted.
        num_chains: chains per data point, 2 or more.
        seed: of the chains. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`), each with N rows.

    Returns:
        `NutsResult`: `draws`, `r_hat` and `ess`, on the device of x.

    Raises:
        UserError: as `log_likelihood`; no continuous latent.

    References:
        Hoffman, Gelman 2014, The No-U-Turn sampler, arXiv 1111.4246.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2, network=pv.conditionals.MLP((4,)))
        >>> result = pv.diagnostics.nuts_posterior(
        ...     model, torch.ones(2, 6), num_samples=4, warmup=2, num_chains=2)
        >>> result.draws["z"].shape
        torch.Size([8, 2, 2])
    """
    check_int_at_least(2, num_chains=num_chains)
    check_int_at_least(4, num_samples=num_samples)
    check_int_at_least(1, warmup=warmup)
    batch = scored_inputs(model, x, others)
    input_device = batch["x"].device
    device = device_of(model, default=input_device)
    with evaluation_mode(model, seed=seed, device=device):
        joint = Joint(model, {k: v.to(device) for k, v in batch.items()})

        def potential(state: Batch) -> torch.Tensor:
            return -joint.log_densities(state["u"])[1].sum()

        chains = MCMC(
            NUTS(potential_fn=potential),
            num_samples,
            warmup,
            initial_params={"u": joint.draw(num_chains)},
            disable_progbar=True,
        )
        with torch.enable_grad():
            chains.run()
        u = chains.get_samples()["u"]  # [samples, chains, N, D]
        draws = joint.latents(u.transpose(0, 1).flatten(0, 1))
    r_hat, ess = (
        {n: v[0] for n, v in joint.split(f(u, chain_dim=1, sample_dim=0).unsqueeze(0)).items()}
        for f in (split_gelman_rubin, effective_sample_size)
    )
    return NutsResult(
        *({n: v.to(input_device) for n, v in part.items()} for part in (draws, r_hat, ess))
    )
