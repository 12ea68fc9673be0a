"""Warnings of one line before and after training; each names its remedy."""

import warnings
from typing import Any

import torch

from ..conditionals import Normal, NormalLikelihood
from ..data import Data
from ..errors import UserError
from ..evaluate import elbo_terms, occupancy, responsibilities
from ..guides import PriorGuide
from ..programs.calling import accepts_argument
from ..programs.inspection import is_per_datum
from ..programs.program import Program

COLLAPSED = 0.1  # nats per data point, below which a latent carries no information
ONE_COMPONENT = 0.99  # of the data, in one component
SCALES = 100.0  # between the standard deviations of two columns
ROWS = 500


class Advice(UserWarning):
    """A run that works and is probably not what was meant."""


def advise(message: str) -> None:
    """Warn in one line."""
    warnings.warn(message, Advice, stacklevel=4)


def check_data(model: Any, data: Any) -> None:
    """Warn of data that a Normal likelihood does not fit: counts, columns of different scales."""
    family = getattr(getattr(model, "p_x", None), "family", None)
    if not isinstance(data, Data) or not isinstance(family, (Normal, NormalLikelihood)):
        return
    x = data.train.x[:10_000]
    if x.min() >= 0 and x.max() > 1 and bool((x == x.round()).all()):
        advise(
            "x are whole numbers, as counts are, and the likelihood is normal: "
            "likelihood='poisson' or 'negative-binomial' fits counts"
        )
        return
    sd = x.flatten(1).std(0)
    sd = sd[sd > 0]
    if len(sd) > 1 and sd.max() > SCALES * sd.min():
        advise(
            f"the columns of x have standard deviations from {sd.min():.2g} to {sd.max():.2g}: "
            "pv.data.standardize(data), or --standardize true, makes them equal"
        )


def check_use(model: Any, guide: Any, data: Any) -> None:
    """Warn of a trained pair whose latents carry no information, or whose mixture has one component.

    Of the library's own models, on at most 500 data points of the validation split.
    """
    own = isinstance(model, Program) and not isinstance(guide, PriorGuide)
    if not isinstance(data, Data) or not own:
        return
    split = "train" if data.valid is None or is_per_datum(guide) else "valid"
    part = data.observed_split(split)[:ROWS]
    inputs = {n: getattr(part, n) for n in getattr(model, "observes", ("x",)) if n != "x"}
    if is_per_datum(guide):
        inputs["index"] = torch.arange(len(part))
    try:
        terms = elbo_terms(model, guide, part.x, **inputs)
        shares = None
        if accepts_argument(model, "y") and "y" not in inputs:
            shares = responsibilities(model, guide, part.x, **inputs)
    except UserError:  # evaluation will say it, where it is asked for
        return
    kls = {name: -float(term.mean()) for name, term in terms.items() if name != "x"}
    latents = ", ".join(kls)
    if kls and max(kls.values()) < COLLAPSED and any(getattr(guide, "given", {}).values()):
        advise(
            f"posterior collapse: the KL of every latent ({latents}) is below {COLLAPSED} nats, so "
            "they carry no information about x; train longer, or with "
            "objective=pv.objectives.ELBO(warmup=EPOCHS)"
        )
    elif shares is not None and shares.shape[-1] > 1 and occupancy(shares).max() > ONE_COMPONENT:
        start = "initialize=pv.train.MixtureInitialization() starts them apart"
        if (
            not hasattr(model, "p_z")
            or not hasattr(model.p_z, "given")
            or "y" not in model.p_z.given
        ):
            start = "labels (pv.objectives.SemiSupervised), or a mixture prior, give y a use"
        advise(f"one of the {shares.shape[-1]} components has all of the data; {start}")
