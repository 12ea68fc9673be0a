"""Data and latents from the model itself: for diagnostics that need the truth."""

import pyro
import torch

from ..errors import UserError
from ..programs.ancestral import AncestralSampler, cycle
from ..programs.inspection import one_hot_labels
from ..programs.modules import device_of
from ..programs.sites import is_factor, is_latent


def home(model, guide, example):
    """The device of a pair, or of what it is to be run on."""
    tensors = [v for v in (example or {}).values() if isinstance(v, torch.Tensor)]
    return device_of(model, guide, default=tensors[0].device if tensors else "cpu")


@torch.no_grad()
def simulate(model, num_data, device, example=None, **covariates):
    """`(batch, {latent: [num_data, *shape]})`, drawn from p(x, latents), or from p(x, latents | c).

    Args:
        example: `{"x": ..., ...}` to run a model on that does not sample with `size=`. Its data, of
            every observed site, are hidden; what else it holds is given to the model, in turn.
        covariates: of a conditional model, `num_data` rows each; labels stay observed.

    Returns:
        The batch that the model takes, each observed argument replaced by its draws, and the
        latents.

    Raises:
        UserError: no example where one is needed, a site outside the data plate, one that observes
            a function of the data, for draws of it are no data, or a factor, for draws ignore it.
    """
    for name, value in covariates.items():
        if len(value) != num_data:
            raise UserError(f"{name} has {len(value)} rows, but num_data={num_data}")
    covariates = one_hot_labels(model, {k: v.to(device) for k, v in covariates.items()})
    with pyro.validation_enabled(False):
        sampler = AncestralSampler(model, example, covariates)
        runs = sampler.runs(num_data, covariates)
    for name, site in runs[0].items():
        if is_factor(site):
            raise UserError(f"the model has the factor {name!r}, of which no draw can take account")
    if sampler.by_size:
        data = {"x": sampler.data_site()}
    else:
        data = {}
        for name, source in sampler.hidden.items():
            if source is None or source in data:
                raise UserError(f"{name!r} observes no argument itself: its draws are no data")
            data[source] = name
    batch = {} if sampler.by_size else cycle(sampler.example, torch.arange(num_data))
    batch |= covariates
    for argument, name in data.items():
        value = sampler.values(runs, name, num_data)
        batch[argument] = value.to(batch[argument].dtype) if argument in batch else value
    latents = {
        n: sampler.values(runs, n, num_data)
        for n, s in runs[0].items()
        if is_latent(s) and n not in data.values()
    }
    return batch, latents
