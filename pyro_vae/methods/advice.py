"""One-line warnings before and after training, each with its remedy."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch

from ..conditionals import Conditional, Normal, NormalLikelihood
from ..conditionals.missing import without_missing
from ..data import Data
from ..data.arrays import column_means
from ..data.dataset import conditioned
from ..data.splitting import likelihood_for
from ..errors import UserError
from ..evaluate import (
    dead_components,
    elbo_terms,
    merged_components,
    occupancy,
    responsibilities,
)
from ..evaluate.inputs import split_inputs
from ..evaluate.latents import COLLAPSE_THRESHOLD, ONE_COMPONENT_THRESHOLD
from ..guides import PriorGuide
from ..programs.calling import accepts_argument
from ..programs.inspection import is_per_datum
from ..programs.interfaces import GuideInterface, conditional_of, interface_of
from ..programs.program import Program

MAX_SCALE_RATIO = 100.0  # of the standard deviations of two columns
MAX_DATA = 500  # data points that a trained pair is checked on
MIN_DATA_PER_COMPONENT = 20  # fewer may leave a component without data by chance


class Advice(UserWarning):
    """A warning about a run that works, but probably not as intended."""


def advise(message: str) -> None:
    """Warn with a message of one line."""
    warnings.warn(message, Advice, stacklevel=4)


def check_data(model: Any, data: Any) -> None:
    """Warn if a normal likelihood does not fit the data: counts, or columns of different scales."""
    p_x = conditional_of(model, "x")
    family = without_missing(p_x.family) if isinstance(p_x, Conditional) else None
    if not isinstance(data, Data) or not isinstance(family, (Normal, NormalLikelihood)):
        return
    x = conditioned(data.train[:10_000], data.condition).x
    if len(x) < 2:
        return
    values = x[~x.isnan()]
    if likelihood_for(values) == "negative-binomial":
        advise(
            "x are whole numbers, as counts are, and the likelihood is normal: "
            "likelihood='poisson' or 'negative-binomial' fits counts"
        )
        return
    x = x.flatten(1)
    means = column_means(x)
    sd = column_means((x - means) ** 2).sqrt()
    sd = sd[sd > 0]
    if len(sd) > 1 and sd.max() > MAX_SCALE_RATIO * sd.min():
        advise(
            f"the columns of x have standard deviations from {sd.min():.2g} to {sd.max():.2g}: "
            "pv.data.standardize(data), or --standardize true, makes them equal"
        )


def check_use(model: Any, guide: Any, data: Any) -> None:
    """Warn if the latents of a trained pair carry no information, or its mixture has one component.

    It checks the library's own models, on at most 500 data points of the validation split (of the
    training split, if there is no other or the guide has a row per training data point).
    """
    is_checked = isinstance(model, Program) and not isinstance(guide, PriorGuide)
    if not isinstance(data, Data) or not is_checked:
        return
    split = "train" if data.valid is None or is_per_datum(guide) else "valid"
    try:
        inputs = split_inputs(model, guide, data, split, rows=slice(MAX_DATA))
        terms = elbo_terms(model, guide, **inputs)
        probabilities = None
        if accepts_argument(model, "y") and "y" not in inputs:
            probabilities = responsibilities(model, guide, **inputs)
    except UserError:  # an evaluation by the user raises it again
        return
    kls = {name: -float(term.mean()) for name, term in terms.items() if name != "x"}
    latents = ", ".join(kls)
    is_constant = not any(interface_of(guide, GuideInterface).given.values())
    if kls and max(kls.values()) < COLLAPSE_THRESHOLD and not is_constant:
        advise(
            f"posterior collapse: the KL of every latent ({latents}) is below "
            f"{COLLAPSE_THRESHOLD} nats, so they carry no information about x; train longer, or with "
            "objective=pv.objectives.ELBO(warmup=EPOCHS)"
        )
    elif probabilities is not None and probabilities.shape[-1] > 1:
        problem = _component_problem(probabilities, None if is_constant else kls.get("y"))
        if problem:
            advise(f"{problem}; {_component_remedy(model)}")


def _component_problem(probabilities: torch.Tensor, kl: float | None) -> str:
    """What is wrong with the components of a mixture; "" if nothing.

    Args:
        probabilities: `[N, K]`, their responsibilities.
        kl: of the component, nats per data point, if a guide has one.
    """
    size, count = probabilities.shape
    if occupancy(probabilities).max() > ONE_COMPONENT_THRESHOLD:
        return f"one of the {count} components has all of the data"
    if kl is not None and kl < COLLAPSE_THRESHOLD:
        return (
            f"the KL of y is below {COLLAPSE_THRESHOLD} nats: the {count} components do not differ"
        )
    if size < MIN_DATA_PER_COMPONENT * count:
        return ""
    problems = []
    if dead := dead_components(probabilities):
        problems.append(f"components {_listed(dead)} of {count} have no data")
    if merged := merged_components(probabilities):
        pairs = ", ".join(f"{first} and {second}" for first, second in merged)
        problems.append(f"these pairs of components do not differ: {pairs}")
    return "; ".join(problems)


def _component_remedy(model: Any) -> str:
    p_z = conditional_of(model, "z")
    if not isinstance(p_z, Conditional) or "y" not in p_z.given:
        return "labels (pv.objectives.SemiSupervised), or a mixture prior, give y a use"
    return (
        "initialize=pv.train.MixtureInitialization() starts them apart; fewer components "
        "(num_components=) may be enough"
    )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
