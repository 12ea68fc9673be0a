"""Data and latents simulated from the model, for diagnostics that need the true latents."""

import pyro
import torch

from ..conditionals import Conditional, LibrarySize
from ..data.arrays import as_named
from ..errors import UserError
from ..evaluate.inputs import Batch, PyroProgram, check_names
from ..programs.ancestral import AncestralSampler, Run, cycle
from ..programs.contexts import fork_rng
from ..programs.inspection import one_hot_labels
from ..programs.interfaces import conditional_of
from ..programs.sites import is_factor, is_latent


@torch.no_grad()
def simulate(
    model: PyroProgram,
    num_data: int,
    device: torch.device,
    example: Batch | None = None,
    **covariates: torch.Tensor,
) -> tuple[Batch, Batch]:
    """Draw data and latents from p(x, latents), or from p(x, latents | c).

    Args:
        model: a Pyro program.
        num_data: N.
        device: of the draws.
        example: `{"x": ..., ...}`, a batch for a model that does not sample with `size=`, or that
            has several observed sites. The data of its observed sites are hidden; its other arrays
            are passed to the model, row by row and repeated as needed.
        covariates: of a conditional model, N rows each. Labels stay observed.

    Returns:
        `(batch, {latent: [N, *shape]})`. The batch has the inputs of the model, each observed
        argument replaced by its draws.

    Raises:
        UserError: a name that the model does not take; a model that always draws another number of
            data points; a likelihood with a library size; no example though one is needed; a site
            outside the data plate; a site that observes a function of the data, whose draws are not
            data; a covariate that is data of the latents; a factor, which draws ignore.
    """
    p_x = conditional_of(model, "x")
    if isinstance(p_x, Conditional) and isinstance(p_x.family, LibrarySize):
        raise UserError(
            "a model with the likelihood LibrarySize cannot be simulated for this: its draws have "
            f"random library sizes, and its densities take them as known; use {p_x.family.counts!r}"
        )
    check_names(model, None, covariates)
    given = {name: as_named(value, name) for name, value in covariates.items()}
    for name, value in given.items():
        if len(value) != num_data:
            raise UserError(f"{name} has {len(value)} rows, but num_data={num_data}")
    covariates = one_hot_labels(model, {k: v.to(device) for k, v in given.items()})
    with pyro.validation_enabled(False):
        sampler = AncestralSampler(model, example, covariates)
        if sampler.plate_rows not in (None, num_data):
            raise UserError(
                f"the model always draws {sampler.plate_rows} data points: num_data must be "
                f"{sampler.plate_rows}, got {num_data}"
            )
        runs = sampler.runs(num_data, covariates)
        _check_kept(sampler, runs, num_data, covariates)
    for name, site in runs[0].items():
        if is_factor(site):
            raise UserError(f"the model has the factor {name!r}, of which no draw can take account")
    sites = _data_sites(sampler)
    batch = {} if sampler.by_size else cycle(sampler.example, torch.arange(num_data))
    batch |= covariates
    for argument, name in sites.items():
        value = sampler.values(runs, name, num_data)
        batch[argument] = value.to(batch[argument].dtype) if argument in batch else value
    latents = {
        n: sampler.values(runs, n, num_data)
        for n, s in runs[0].items()
        if is_latent(s) and n not in sites.values()
    }
    return batch, latents


def _check_kept(
    sampler: AncestralSampler, runs: list[Run], num_data: int, covariates: Batch
) -> None:
    """Raise if what stays observed depends on the latents: these are drawn as if it were not there."""
    if not sampler.kept:
        return
    with fork_rng(sampler.device):
        others = sampler.runs(num_data, covariates)  # other draws of the latents
    for name in sorted(sampler.kept):
        for run, other in zip(runs, others, strict=True):
            value = run[name]["value"]
            if not torch.equal(*(r[name]["fn"].log_prob(value) for r in (run, other))):
                raise UserError(
                    f"the site {name!r} is data of the latents, and is simulated like x: pass its data "
                    f"in example={{'x': x, ...}}, and not by name"
                )


def _data_sites(sampler: AncestralSampler) -> dict[str, str]:
    """`{argument: site that observes it}`."""
    if sampler.by_size and len(sampler.hidden) < 2:
        return {"x": sampler.data_site()}
    sites: dict[str, str] = {}
    for name, argument in sampler.hidden.items():
        if argument is None or argument in sites:
            raise UserError(f"{name!r} observes no argument itself: its draws are no data")
        sites[argument] = name
    return sites
