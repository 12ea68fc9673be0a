"""One-line warnings before and after training, each with its remedy."""

import inspect
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch

from ..conditionals import Conditional, Normal, NormalLikelihood
from ..conditionals.missing import without_missing
from ..data import Data
from ..data.arrays import column_moments
from ..data.dataset import conditioned
from ..data.splitting import likelihood_for
from ..evaluate import dead_components, merged_components, occupancy, responsibilities
from ..evaluate.inputs import Inputs, split_inputs
from ..evaluate.latents import COLLAPSE_THRESHOLD, ONE_COMPONENT_THRESHOLD
from ..evaluate.likelihood import latent_kl
from ..evaluate.prior_components import prior_responsibilities
from ..evaluate.scale_bounds import learned_scales, scale_excess
from ..guides import PriorGuide
from ..models import VampPrior
from ..models.components import settable_head
from ..objectives import ELBO, as_objective
from ..programs import few_rows, layout_of, trace_pair
from ..programs.contexts import eval_mode, fork_rng
from ..programs.inspection import is_per_datum
from ..programs.interfaces import GuideInterface, ModelInterface, conditional_of, interface_of
from ..programs.modules import device_of, find_modules
from ..train import inputs as train_inputs
from ..train.steps.recorded import leaf_parameters

PACKAGE = str(Path(__file__).parents[1]) + os.sep
MAX_SCALE_RATIO = 100.0  # of the standard deviations of two columns
MAX_DATA = 500  # data points that a trained pair is checked on
MIN_DATA_PER_COMPONENT = 20  # fewer may leave a component without data by chance
LARGEST_EXCESS = 1.25  # of a learned scale over the residuals, before it is advised of


class Advice(UserWarning):
    """A warning about a run that works, but probably not as intended."""


def advise(message: str) -> None:
    """Warn with a message of one line, at the line of the caller's program."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Advice, stacklevel=level)


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
    sd = column_moments(x.flatten(1))[1]
    sd = sd[sd > 0]
    if len(sd) > 1 and sd.max() > MAX_SCALE_RATIO * sd.min():
        advise(
            f"the columns of x have standard deviations from {sd.min():.2g} to {sd.max():.2g}: "
            "pv.data.standardize(data), or --standardize true, makes them equal"
        )


def starts_at_random(
    model: Any, guide: Any, data: Any, observed: Sequence[str] | None, objective: Any
) -> bool:
    """Whether a pair's mixture of components has random weights, and could start from a mixture.

    Not where labels are observed, and not where the components were trained or initialized before.

    Args:
        model, guide: the pair, before it is trained.
        data: what it is trained on.
        observed, objective: as in `fit`.
    """
    p_y, p_z = conditional_of(model, "y"), conditional_of(model, "z")
    if not _has_components(model) or p_y is None or not _infers_from_x_alone(guide):
        return False
    assert isinstance(p_z, Conditional)
    head = settable_head(p_z)
    if head is None or not isinstance(data, Data):
        return False  # `MixtureInitialization` would refuse the pair
    observes = interface_of(model, ModelInterface).observes
    names = (*data.observed_names(observes, observed), *as_objective(objective or ELBO()).needs)
    return "y" not in names and p_y().event_shape[0] > 1 and head.is_in_initial_range()


def advise_start(model: Any) -> None:
    """Warn that the components of a mixture started at random weights."""
    advise(
        f"the components of this {type(model).__name__} started at random weights, from which they "
        "often merge clusters or split them; initialize=pv.train.MixtureInitialization() starts "
        "them apart (initialize=None, passed to fit, keeps random weights without this advice)"
    )


def check_use(
    model: Any, guide: Any, data: Any, observed: Sequence[str] | None = None, objective: Any = None
) -> bool:
    """Warn if the latents of a trained pair carry almost no information, or a mixture has one component.

    The pair is run on at most 500 data points of the validation split (of the training split, if
    there is no other or the guide has a row per training data point), or on the first batch of a
    loader. The random stream is left as it was.

    Args:
        model, guide: any pair that `fit` has trained.
        data: what it was trained on: `Data`, or a stream of batches.
        observed, objective: as in `fit`.

    Returns:
        Whether it has warned.
    """
    if isinstance(guide, PriorGuide):
        return False
    try:
        inputs = _inputs(model, guide, data, observed, objective)
        message = _use_problem(model, guide, inputs)
    except Exception:  # advice must not cost the run: an evaluation by the user raises it again
        return False
    if message:
        advise(message)
    return bool(message)


def check_scales(
    model: Any, guide: Any, data: Any, observed: Sequence[str] | None = None, objective: Any = None
) -> None:
    """Warn if a learned scale of the likelihood is much larger than the residuals of the training data.

    Args:
        model, guide, data, observed, objective: as in `check_use`.
    """
    if not learned_scales(model):
        return  # before a batch is drawn
    try:
        train = data if not isinstance(data, Data) else replace(data, valid=None)
        excess = scale_excess(model, guide, _inputs(model, guide, train, observed, objective))
    except Exception:  # as in `check_use`
        return
    largest = max(excess.values(), default=0.0)
    if largest > LARGEST_EXCESS:
        which = "the learned scale of the likelihood is"
        if len(excess) > 1:
            num = sum(value > LARGEST_EXCESS for value in excess.values())
            which = f"learned scales of the likelihood ({num} of {len(excess)} columns) are"
        advise(
            f"{which} up to {largest:.1f} times the residuals, so that log p(x) is too low and samples "
            "are too noisy: train longer (epochs=, --epochs), or with a larger lr= (--lr)"
        )


def _inputs(
    model: Any, guide: Any, data: Any, observed: Sequence[str] | None, objective: Any
) -> Inputs:
    """What a trained pair is checked on, `{"x": [N, ...], ...}`."""
    if not isinstance(data, Data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of entries that are not used; `fit` has said so
            stream = train_inputs.Inputs(
                model, guide, data, as_objective(objective or ELBO()), observed, 1,
                device_of(model, guide), 0,
            )  # fmt: skip
            return stream.first()[1]
    split = "train" if data.valid is None or is_per_datum(guide) else "valid"
    inputs = split_inputs(model, guide, data, split, observed, rows=slice(MAX_DATA))
    # a pair may have a row for each data point without an index
    if layout_of(model, guide, inputs).fixed:
        return split_inputs(model, guide, data, "train", observed)
    return inputs


def _use_problem(model: Any, guide: Any, inputs: Inputs) -> str:
    """What is wrong with the latents of a pair, with its remedy; "" if nothing."""
    if _is_fixed(model, guide, inputs):
        return (
            "training does not change the guide: its draws depend on no parameter with a gradient; "
            "networks made once, outside the function, and pyro.param are trained"
        )
    kls = {name: float(kl.mean()) for name, kl in latent_kl(model, guide, **inputs).items()}
    given = interface_of(guide, GuideInterface).given
    is_constant = bool(given) and not any(given.values())
    if kls and max(kls.values()) < COLLAPSE_THRESHOLD and not is_constant:
        return (
            f"posterior collapse: the KL of every latent ({', '.join(kls)}) is below "
            f"{COLLAPSE_THRESHOLD} nats, so they carry almost no information about x; train longer, or with "
            "objective=pv.objectives.ELBO(warmup=EPOCHS)"
        )
    is_own = isinstance(model, ModelInterface)  # its discrete latent y is a class or a component
    for site in layout_of(model, guide, inputs).discrete_sites:
        probabilities = responsibilities(model, guide, latent=site.name, **inputs)
        if is_own and site.size > 1:
            problem = _component_problem(probabilities, None if is_constant else kls.get(site.name))
            if problem:
                return f"{problem}; {_component_remedy(model, guide)}"
        # one of two values may be a rare event
        elif site.size > 2 and occupancy(probabilities).max() > ONE_COMPONENT_THRESHOLD:
            return (
                f"one of the {site.size} values of {site.name!r} has all of the data; "
                "start them apart, or have fewer"
            )
    for name, probabilities in prior_responsibilities(model, guide, **inputs).items():
        count = probabilities.shape[-1]
        if count > 1 and occupancy(probabilities).max() > ONE_COMPONENT_THRESHOLD:
            return (
                f"one of the {count} components in the prior of {name!r} has all of the data; "
                f"{_prior_remedy(model, name)}"
            )
    return ""


def _is_fixed(model: Any, guide: Any, inputs: Inputs) -> bool:
    """Whether what a guide draws depends on no parameter that training could change.

    One whose parameters are all frozen is meant so.
    """
    own = [p for module in find_modules(guide) for p in module.parameters()]
    if own and not any(p.requires_grad for p in own):
        return False
    device = device_of(model, guide, default=inputs["x"].device)
    rows = {n: v.to(device) for n, v in few_rows(model, guide, dict(inputs), 2).items()}

    def total() -> torch.Tensor:
        sites = trace_pair(model, guide, rows).guide.values()
        return sum(
            (s["unscaled_log_prob"].sum() + s["value"].double().sum() for s in sites),
            torch.zeros((), device=device),
        )

    with eval_mode(model, guide), fork_rng(device), pyro.validation_enabled(False):
        draws = trace_pair(model, guide, rows).guide
        return bool(draws) and not leaf_parameters(total)


def _prior_remedy(model: Any, latent: str) -> str:
    if isinstance(conditional_of(model, latent), VampPrior):
        return "initialize=pv.train.PseudoInputInitialization() starts them at data"
    return (
        "fewer components may be enough; pv.models.MixtureVAE, the same density with its component "
        "as a latent, can start from a mixture"
    )


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


def _component_remedy(model: Any, guide: Any) -> str:
    if not _has_components(model):
        return "labels (pv.objectives.SemiSupervised), or a mixture prior, give y a use"
    fewer = "fewer components (num_components=) may be enough"
    if not _infers_from_x_alone(guide):  # `MixtureInitialization` would refuse it
        return f"{fewer}; a guide with z <- x alone can start from a mixture that is fitted to encodings"
    return f"initialize=pv.train.MixtureInitialization() starts them apart; {fewer}"


def _has_components(model: Any) -> bool:
    """Whether p(z | y, ...) is a distribution for each component y."""
    p_z = conditional_of(model, "z")
    return isinstance(p_z, Conditional) and "y" in p_z.given


def _infers_from_x_alone(guide: Any) -> bool:
    """Whether the guide has z <- x."""
    return interface_of(guide, GuideInterface).given.get("z") == ("x",)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
