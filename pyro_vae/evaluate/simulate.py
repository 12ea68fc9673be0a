"""Data and latents from the model itself: where a judge has to know the truth."""

import pyro
import torch
from pyro import poutine

from ..errors import UserError
from ..pair import accepting, device_of, is_subsample, takes


def home(model, guide, example):
    """The device of a pair, or of what it is to be run on."""
    return device_of(model, guide, default="cpu" if example is None else example["x"].device)


@torch.no_grad()
def simulate(model, num_data, device, example=None, **covariates):
    """`(batch, {latent: [num_data, *shape]})`, drawn from p(x, latents), or from p(x, latents | c).

    Args:
        example: `{"x": ...}` to run a model on that does not sample with `size=`: its x says how
            many and of what shape, nothing else.
        covariates: of a conditional model, `num_data` rows each.

    Raises:
        UserError: no example where one is needed, or data of more than one site.
    """
    for name, value in covariates.items():
        if len(value) != num_data:
            raise UserError(f"{name} has {len(value)} rows, but num_data={num_data}")
    covariates = {k: v.to(device) for k, v in covariates.items()}
    if takes(model, "size"):
        batch = {"size": num_data, **covariates}
    elif example is None:
        raise UserError(
            "this model does not sample with size=: pass example={'x': data like its own}"
        )
    else:
        rows = torch.arange(num_data, device=device) % len(example["x"])
        batch = {**{k: v.to(device)[rows] for k, v in example.items()}, **covariates}
    program = poutine.uncondition(accepting(model))
    with pyro.validation_enabled(False):
        trace = poutine.trace(program).get_trace(**batch)
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not is_subsample(s)}
    data = [n for n, s in sites.items() if n == "x" or s["infer"].get("was_observed")]
    if len(data) != 1:
        raise UserError(f"data of one site are simulated; this model has {data or 'none'}")
    x = sites[data[0]]["value"]
    if "x" in batch:
        x = x.reshape(batch["x"].shape).to(batch["x"].dtype)
    latents = {n: s["value"] for n, s in sites.items() if n != data[0]}
    return {"x": x, **covariates}, latents
