"""Simulation-based calibration: whether a guide's posteriors are right on average."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError, check_int_at_least
from ..evaluate.chunked import evaluate_in_chunks, evaluation_mode
from ..evaluate.inputs import Batch, PyroProgram
from ..programs.calling import accepts_argument
from ..programs.inspection import Example, as_example
from ..programs.modules import pair_device
from .joint import Joint
from .simulate import simulate


def simulation_based_calibration(
    model: PyroProgram,
    guide: PyroProgram,
    num_data: int = 1000,
    num_samples: int = 99,
    oversample: int = 1,
    bins: int = 20,
    seed: int | None = 0,
    example: Example | None = None,
    **covariates: torch.Tensor,
) -> dict[str, dict[str, torch.Tensor]]:
    r"""Simulation-based calibration of every number of the continuous latents.

    The latents that were drawn with simulated data are a draw from their posterior. If q(z | x) is
    the posterior, their rank among L draws from it (the number of draws that are smaller) is
    uniform on 0..L. A rank histogram (`plots.ranks`) shaped like a U means that the guide is too
    narrow; like a dome, too wide; on a slope, shifted. Discrete latents are marginalized.

    Args:
        model: the generative program.
        guide: the guide of the model.
        num_data: N, the number of data points to simulate: of a model or guide whose plate has its
            own size, that size.
        num_samples: L.
        oversample: M, candidates for each of the L draws. If M > 1, one candidate is drawn in
            proportion to its importance weight, so that the guide is tested as `log_likelihood`
            uses it. An exact guide stays exact; any other comes closer to the posterior as M grows.
        bins: of the chi-square test; L + 1 must be a multiple of it.
        seed: of the data and the draws. None uses torch's random stream.
        example: x, or a batch `{"x": x, ...}`, for a model that does not sample with `size=`.
        covariates: of a conditional model, N rows each.

    Returns:
        `{latent: {"ranks": [N, *shape], "chi2_p": [*shape], "ks_p": [*shape]}}`: the ranks, and
        the p-values of a chi-square and a Kolmogorov-Smirnov test that they are uniform, for each
        number of the latent (on the reals, if its support is constrained).

    Raises:
        UserError: N is not the size of the pair's plate; L + 1 is not a multiple of `bins`; a guide
            without a density; no way to simulate.

    References:
        Talts et al. 2018, arXiv 1804.06788.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> result = pv.diagnostics.simulation_based_calibration(
        ...     model, guide, num_data=20, num_samples=9, bins=5)
        >>> {name: list(value.shape) for name, value in result["z"].items()}
        {'ranks': [20, 2], 'chi2_p': [2], 'ks_p': [2]}
    """
    check_int_at_least(1, num_data=num_data, num_samples=num_samples, oversample=oversample)
    check_int_at_least(2, bins=bins)
    if (num_samples + 1) % bins:
        raise UserError(f"num_samples + 1 = {num_samples + 1} is not a multiple of bins={bins}")
    example = as_example(model, example)
    device = pair_device(model, guide, batch=example)
    joints: list[Joint] = []

    def rank(chunk: Batch, _: int) -> Batch:
        exact = {name: chunk.pop(name).unsqueeze(0) for name in latents}
        joint = Joint(model, chunk, guide)
        joints.append(joint)
        u = joint.unconstrained({name: exact[name] for name in joint.shapes})
        draws = joint.draw(num_samples * oversample)
        if oversample > 1:
            draws = _resampled(joint, draws, num_samples)
        return {"ranks": (draws < u).sum(0)}

    with evaluation_mode(model, guide, seed=seed, device=device):
        batch, latents = simulate(model, num_data, device, example, **covariates)
        try:
            ranks = evaluate_in_chunks(
                rank,
                model,
                guide,
                batch,
                seed=None,
                num_particles=num_samples * oversample,
                rows={**batch, **latents},
            )["ranks"]
        except UserError as e:
            drawn = [name for name in latents if accepts_argument(model, name)]
            if not drawn:
                raise
            given = ", ".join(f"'{name}': {name}" for name in ("x", *drawn))
            raise UserError(
                f"{e} ({', '.join(drawn)} was drawn as a latent; if it is data, pass "
                f"example={{{given}}})"
            ) from e
        jitter = torch.rand(ranks.shape, device=device)
    levels = (ranks + jitter) / (num_samples + 1)
    return _tests(joints[0], ranks, levels, num_samples, bins)


def _tests(
    joint: Joint, ranks: torch.Tensor, levels: torch.Tensor, num_samples: int, bins: int
) -> dict[str, dict[str, torch.Tensor]]:
    """The ranks `[N, D]` and tests of uniformity by latent; `levels` are jittered to [0, 1]."""
    from scipy import stats

    width = (num_samples + 1) // bins
    ranks_of, levels_of = joint.split(ranks.unsqueeze(0)), joint.split(levels.unsqueeze(0))
    return {
        name: {
            "ranks": ranks_of[name][0],
            "chi2_p": _by_column(
                ranks_of[name][0],
                lambda r: stats.chisquare(np.bincount(r // width, minlength=bins)).pvalue,
            ),
            "ks_p": _by_column(levels_of[name][0], lambda u: stats.kstest(u, "uniform").pvalue),
        }
        for name in joint.shapes
    }


def _resampled(joint: Joint, draws: torch.Tensor, num_samples: int) -> torch.Tensor:
    """`[L, B, D]` of draws `[L * M, B, D]`: one of M candidates each, by importance weights.

    Every draw has candidates of its own. Draws that shared some would not be independent, and the
    ranks of an exact guide would not be uniform.
    """
    start, log_p = joint.log_densities(draws)
    log_w = (log_p - start).unflatten(0, (num_samples, -1)).movedim(1, -1)  # [L, B, M]
    index = torch.distributions.Categorical(logits=log_w, validate_args=False).sample()
    index = index[:, None, :, None].expand(-1, -1, -1, draws.shape[-1])
    return draws.unflatten(0, (num_samples, -1)).gather(1, index).squeeze(1)


def _by_column(value: torch.Tensor, test: Callable[[NDArray[Any]], float]) -> torch.Tensor:
    """`test` of every column of `[N, *shape]`, as `[*shape]`."""
    columns = value.reshape(len(value), -1).cpu().numpy().T
    return torch.tensor([float(test(c)) for c in columns]).reshape(value.shape[1:])
