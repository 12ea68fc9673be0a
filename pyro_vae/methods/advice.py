"""Warnings of one line before and after training; each names its remedy."""

import warnings
from typing import Any

from ..conditionals import Conditional, Normal, NormalLikelihood
from ..data import Data
from ..errors import UserError
from ..evaluate import elbo_terms, occupancy, responsibilities
from ..evaluate.inputs import split_inputs
from ..guides import PriorGuide
from ..programs.calling import accepts_argument
from ..programs.inspection import is_per_datum
from ..programs.interfaces import GuideInterface, conditional_of, interface_of
from ..programs.program import Program
from ..report.findings import COLLAPSED, ONE_COMPONENT

SCALES = 100.0  # between the standard deviations of two columns
ROWS = 500


class Advice(UserWarning):
    """A run that works and is probably not what was meant."""


def advise(message: str) -> None:
    """Warn in one line."""
    warnings.warn(message, Advice, stacklevel=4)


def check_data(model: Any, data: Any) -> None:
    """Warn of data that a Normal likelihood does not fit: counts, columns of different scales."""
    p_x = conditional_of(model, "x")
    family = p_x.family if isinstance(p_x, Conditional) else None
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
    try:
        inputs = {n: v[:ROWS] for n, v in split_inputs(model, guide, data, split).items()}
        terms = elbo_terms(model, guide, **inputs)
        shares = None
        if accepts_argument(model, "y") and "y" not in inputs:
            shares = responsibilities(model, guide, **inputs)
    except UserError:  # evaluation will say it, where it is asked for
        return
    kls = {name: -float(term.mean()) for name, term in terms.items() if name != "x"}
    latents = ", ".join(kls)
    is_constant = not any(interface_of(guide, GuideInterface).given.values())
    if kls and max(kls.values()) < COLLAPSED and not is_constant:
        advise(
            f"posterior collapse: the KL of every latent ({latents}) is below {COLLAPSED} nats, so "
            "they carry no information about x; train longer, or with "
            "objective=pv.objectives.ELBO(warmup=EPOCHS)"
        )
    elif shares is not None and shares.shape[-1] > 1:
        count = shares.shape[-1]
        if occupancy(shares).max() > ONE_COMPONENT:
            problem = f"one of the {count} components has all of the data"
        elif kls.get("y", COLLAPSED) < COLLAPSED and not is_constant:
            problem = f"the KL of y is below {COLLAPSED} nats: the {count} components do not differ"
        else:
            return
        start = "initialize=pv.train.MixtureInitialization() starts them apart"
        p_z = conditional_of(model, "z")
        if not isinstance(p_z, Conditional) or "y" not in p_z.given:
            start = "labels (pv.objectives.SemiSupervised), or a mixture prior, give y a use"
        advise(f"{problem}; {start}")
