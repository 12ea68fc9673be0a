"""Simulation-based calibration: whether a guide's posteriors are right on average."""

import numpy as np
import torch

from ..errors import UserError, check_int_at_least
from ..evaluate.likelihood import chunks, rows_per_chunk
from ..programs.contexts import eval_mode, seeded
from .joint import Joint
from .simulate import home, simulate


@torch.no_grad()
def simulation_based_calibration(
    model,
    guide,
    num_data=1000,
    num_samples=99,
    oversample=1,
    bins=20,
    seed=0,
    example=None,
    **covariates,
):
    r"""Simulation-based calibration (Talts et al. 2018, arXiv 1804.06788), for each latent number.

    Of data drawn from the model, the latents drawn with them are a draw of the posterior; among
    `num_samples` draws L from q(z | x) their rank, the number of draws that are smaller, is then
    uniform on 0..L if q is the posterior. A rank histogram (`plots.ranks`) like a U tells of guides
    too narrow, like a dome of guides too wide, on a slope of ones moved aside.

    Args:
        num_data: how many data to simulate.
        num_samples: L.
        oversample: candidates for each of the L draws; above 1, one of them is taken in proportion
            to its importance weight, so that the guide is evaluated as `log_likelihood` uses it. An
            exact guide stays exact; what is tested of another one comes nearer to the posterior with
            more candidates.
        bins: of the chi-square test; `num_samples + 1` is a multiple of it.
        example: a batch, for a model that does not sample with `size=`.
        covariates: of a conditional model, `num_data` rows each.

    Returns:
        `{latent: {"ranks": [N, *shape], "chi2_p": [*shape], "ks_p": [*shape]}}`: p-values of a
        chi-square and a Kolmogorov-Smirnov test of uniformity, for each number of the latent (on
        the reals, where its support is constrained). Discrete latents are summed.

    Raises:
        UserError: bins that do not fit; a guide without a density; no way to simulate.
    """
    check_int_at_least(1, num_data=num_data, num_samples=num_samples, oversample=oversample)
    check_int_at_least(2, bins=bins)
    if (num_samples + 1) % bins:
        raise UserError(f"num_samples + 1 = {num_samples + 1} is no multiple of bins={bins}")
    device = home(model, guide, example)
    ranks = []
    with eval_mode(model, guide), seeded(seed, device):
        batch, latents = simulate(model, num_data, device, example, **covariates)
        rows = rows_per_chunk(model, guide, batch, device) // (num_samples * oversample)
        for part in chunks({**batch, **latents}, max(1, rows), device):
            truth = {name: part.pop(name).unsqueeze(0) for name in latents}
            joint = Joint(model, part, guide)
            exact = joint.unconstrained({n: truth[n] for n in joint.shapes})
            draws = joint.draw(num_samples * oversample)
            if oversample > 1:
                draws = _resampled(joint, draws, num_samples)
            ranks.append((draws < exact).sum(0))
        ranks = torch.cat(ranks)
        jitter = torch.rand(ranks.shape, device=device)
    uniform = (ranks + jitter) / (num_samples + 1)
    split = {n: v[0] for n, v in joint.split(ranks.unsqueeze(0)).items()}
    levels = {n: v[0] for n, v in joint.split(uniform.unsqueeze(0)).items()}
    width = (num_samples + 1) // bins
    return {
        name: {
            "ranks": value,
            "chi2_p": _each(value, lambda r: _chi_square(r // width, bins)),
            "ks_p": _each(levels[name], _kolmogorov_smirnov),
        }
        for name, value in split.items()
    }


def _kolmogorov_smirnov(levels):
    from scipy import stats

    return stats.kstest(levels, "uniform").pvalue


def _resampled(joint, draws, num_samples):
    """`[L, B, D]` of draws `[L * M, B, D]`: one of M candidates each, by importance weights.

    Candidates are not shared: draws that had some in common would not be independent, and the ranks
    of an exact guide not uniform.
    """
    start, log_p = joint.log_densities(draws)
    log_w = (log_p - start).unflatten(0, (num_samples, -1)).movedim(1, -1)  # [L, B, M]
    chosen = torch.distributions.Categorical(logits=log_w, validate_args=False).sample()
    chosen = chosen[:, None, :, None].expand(-1, -1, -1, draws.shape[-1])
    return draws.unflatten(0, (num_samples, -1)).gather(1, chosen).squeeze(1)


def _chi_square(binned, bins):
    from scipy import stats

    return stats.chisquare(np.bincount(binned, minlength=bins)).pvalue


def _each(value, test):
    """`test` of every column of `[N, *shape]`, as `[*shape]`."""
    columns = value.reshape(len(value), -1).cpu().numpy().T
    return torch.tensor([float(test(c)) for c in columns]).reshape(value.shape[1:])
