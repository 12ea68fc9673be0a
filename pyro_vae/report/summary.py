"""The numbers of a trained pair: one dict, and its table."""

import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .. import evaluate
from ..data import Data
from ..errors import check_int_at_least
from ..evaluate.inputs import Inputs, split_inputs
from ..evaluate.latents import ACTIVE_THRESHOLD
from ..guides import PriorGuide
from ..programs.calling import accepts_argument
from . import findings


def inputs(
    model: Callable, guide: Callable, data: Data, split: str
) -> tuple[torch.Tensor, torch.Tensor | None, Inputs]:
    """The inputs of a pair from one split.

    Returns:
        `(x, labels, others)`: `[N, *x_shape]`, `[N]` or None, and the further inputs by name.

    Raises:
        UserError: the guide has one row per training data point, and the split is another.
    """
    others = split_inputs(model, guide, data, split)
    return others.pop("x"), getattr(data, split).y, others


def summarize(
    model: Callable,
    guide: Callable,
    data: Data,
    split: str = "test",
    num_samples: int = 500,
    seed: int = 0,
    supervised: bool = False,
) -> dict:
    """Numbers of a pair on one split: bounds, KLs, active units, clustering or classification.

    Numbers are in nats per data point, at beta = 1, in eval mode. For a conditional model
    log p(x | c) is estimated twice: importance weighted with the guide, and by Monte Carlo from the
    prior. Labels score a clustering and have no other use.

    Args:
        split: train, valid or test. Only train for a guide with one row per training data point.
        num_samples: for the log-likelihood, per data point.
        seed: of all draws.
        supervised: whether training saw labels; then errors of classification take the place of the
            clustering's scores.

    Returns:
        A dict of JSON values.
    """
    check_int_at_least(1, num_samples=num_samples)
    x, y, others = inputs(model, guide, data, split)
    # its y is the class only if training saw labels; a model without y has features to classify
    classifies = (
        labelled_in_part(data) and not others and (supervised or not accepts_argument(model, "y"))
    )
    terms = evaluate.elbo_terms(model, guide, x, num_samples=10, seed=seed, **others)
    result: dict = {"split": split, "data": len(x), "num_samples": num_samples}
    result["conditional"] = "c" in others
    result["elbo"] = float(torch.as_tensor(sum(terms.values())).mean())
    proper = evaluate.has_proper_likelihood(model, guide, x, **others)
    if proper:
        bound = evaluate.log_likelihood(model, guide, x, num_samples, seed=seed, **others)
        result["log_likelihood"] = float(bound.mean())
        result["estimator"] = estimator(guide, terms)
        if "c" in others and result["estimator"] == IMPORTANCE:
            prior = PriorGuide(model)
            bound = evaluate.log_likelihood(model, prior, x, num_samples, seed=seed, **others)
            result["log_likelihood_monte_carlo"] = float(bound.mean())
    else:
        result["elbo_is_a_score"] = True
    result["terms"] = {k: float(v.mean()) for k, v in terms.items()}
    activity = evaluate.unit_activity(model, guide, x, **others)
    result["unit_activity"] = {k: v.tolist() for k, v in activity.items()}
    result["active_units"] = {k: int((v > ACTIVE_THRESHOLD).sum()) for k, v in activity.items()}
    result["units"] = {k: len(v) for k, v in activity.items()}
    if accepts_argument(model, "y") and "y" not in others:
        probabilities = evaluate.responsibilities(model, guide, x, seed=seed, **others)
        result |= _discrete(probabilities)
        if y is not None and not classifies:
            result["clustering"] = _clustering(data, x, y, probabilities, seed)
    if classifies:
        classified = classification(model, guide, data, split)
        if classified["errors"]:
            result["classification"] = classified
    return result


def _discrete(probabilities: torch.Tensor) -> dict:
    """Occupancy, entropy and mutual information, from probabilities `[N, K]` of a discrete latent."""
    return {
        "occupancy": evaluate.occupancy(probabilities).tolist(),
        "discrete": {
            "entropy": evaluate.entropy(probabilities),
            "largest": math.log(probabilities.shape[-1]),
            "mutual_information": evaluate.mutual_information(probabilities),
        },
    }


def _clustering(
    data: Data, x: torch.Tensor, y: torch.Tensor, probabilities: torch.Tensor, seed: int
) -> dict:
    """Scores of the model's clustering, and of the baselines if there are as many data as clusters."""
    train_x, num_clusters = data.observed_split("train").x, probabilities.shape[-1]
    baselines = {}
    if len(train_x) >= num_clusters:
        baselines = evaluate.clustering_baselines(train_x, x, num_clusters, seed=seed)
    clusterings: dict[str, Any] = {"this model": probabilities.argmax(-1), **baselines}
    return {name: evaluate.clustering_metrics(y, c) for name, c in clusterings.items()}


def labelled_in_part(data: Data) -> bool:
    """Whether some training data have labels and others have none, or withheld ones."""
    y = data.train.y
    if y is None or not bool((y >= 0).any()):
        return False
    return data.withheld_labels is not None or bool((y < 0).any())


def predictions(
    model: Callable, guide: Callable, x: torch.Tensor, y: torch.Tensor, *others: torch.Tensor
) -> dict[str, list[torch.Tensor]]:
    """Predicted classes of the model, or of classifiers of its features.

    The active units of a model without a class y, as M1, are features for classifiers.

    Args:
        x, y: `[N, ...]`, `[N]` training data; classifiers are fitted on those with a label.
        others: data to classify, `[M, ...]` each.

    Returns:
        `{classifier: [classes [M] of each of others]}`.
    """
    if accepts_argument(model, "y"):
        return {"this model": [evaluate.classify(model, guide, v) for v in others]}
    codes = [evaluate.active_unit_features(model, guide, v, reference=x) for v in (x, *others)]
    predictions = evaluate.classifier_baselines(codes[0], y, *codes[1:])
    return {f"{name} on z": classes for name, classes in predictions.items()}


def classification(model: Callable, guide: Callable, data: Data, split: str) -> dict:
    """Error rates of the model, and of classical classifiers trained with the same labels.

    Classifiers need labels of two classes; with one class the model alone has error rates.

    Returns:
        `{"num_labels": n, "errors": {classifier: {part: error}}}`. The parts are the labelled
        training data, the unlabelled ones (among the first 10,000, if their labels are withheld),
        and the split.
    """
    train, part = data.observed_split("train"), data.observed_split(split)
    x, y = train.x, train.y
    assert y is not None  # see `labelled_in_part`
    truth = y if data.withheld_labels is None else data.withheld_labels
    first = torch.arange(len(y)) < 10_000
    parts = {"labelled": (x[y >= 0], y[y >= 0])}
    unseen = (y < 0) & (truth >= 0) & first
    if unseen.any():
        parts["unlabelled"] = (x[unseen], truth[unseen])
    if split != "train" and part.y is not None and bool((part.y >= 0).any()):
        parts[split] = (part.x[part.y >= 0], part.y[part.y >= 0])
    inputs_of_parts = [v for v, _ in parts.values()]
    predicted, several = {}, len(y[y >= 0].unique()) > 1
    if several or accepts_argument(model, "y"):
        predicted = predictions(model, guide, x, y, *inputs_of_parts)
    if several:
        on_x = evaluate.classifier_baselines(x, y, *inputs_of_parts, spreading=True)
        predicted |= {f"{name} on x": classes for name, classes in on_x.items()}
    errors = {
        name: {
            part: float((guess != labels).double().mean())
            for (part, (_, labels)), guess in zip(parts.items(), classes, strict=True)
        }
        for name, classes in predicted.items()
    }
    return {"num_labels": int((y >= 0).sum()), "errors": errors}


IMPORTANCE, MONTE_CARLO, EXACT = "importance weighted", "Monte Carlo from the prior", "exact"


def estimator(guide: Callable, terms: Mapping[str, torch.Tensor]) -> str:
    """The name of the estimator that `log_likelihood` uses with this guide."""
    if set(terms) == {"x"}:
        return EXACT
    return MONTE_CARLO if isinstance(guide, PriorGuide) else IMPORTANCE


def rows(result: Mapping) -> list[tuple[str, float, str]]:
    """The numbers of `summarize` as `[(name, nats per data point, note)]`."""
    named = [("ELBO", result["elbo"], "nats per data point")]
    if result.get("elbo_is_a_score"):
        note = "nats per data point; gray values in a Bernoulli, so no likelihood"
        named = [("score", result["elbo"], note)]
    likelihood = "log p(x | c)" if result.get("conditional") else "log-likelihood"
    for key, how in (
        ("log_likelihood", result.get("estimator", IMPORTANCE)),
        ("log_likelihood_monte_carlo", MONTE_CARLO),
    ):
        if key in result:
            samples = f"{result['num_samples']} samples" if how != EXACT else "there is no latent"
            named.append((likelihood, result[key], f"{how}, {samples}"))
    for name, value in result["terms"].items():
        if name in result["units"]:
            note = f"{result['active_units'][name]} of {result['units'][name]} units active"
            named.append((f"KL of {name}", 0.0 - value, note))
        elif name != "x":
            named.append((f"KL of {name}", 0.0 - value, "discrete, summed exactly"))
        else:
            named.append(("E log p(x | ...)", value, "reconstruction"))
    if "discrete" in result:
        y = result["discrete"]
        note = f"of ln K = {y['largest']:.2f}; mutual information with x "
        named.append(("entropy q(y | x)", y["entropy"], note + f"{y['mutual_information']:.2f}"))
    return named


def restart_sentence(restarts: Mapping) -> str:
    """How a run was chosen among its restarts, and how far they agree.

    Args:
        restarts: as `Run.restarts`.

    Example:
        >>> from pyro_vae.report.summary import restart_sentence
        >>> print(restart_sentence({"criterion": "ELBO, valid split, 100 samples", "chosen": 1,
        ...     "scores": [-9.5, -9.25], "seeds": [0, 7], "stability": 0.5}))
        Of 2 restarts, number 1 (from 0) was chosen by the ELBO, valid split, 100 samples: -9.25
        (others: -9.50). Stability 0.50: the mean adjusted Rand index of the restarts' clusterings.
    """
    scores, chosen = restarts["scores"], restarts["chosen"]
    others = ", ".join(f"{s:.2f}" for n, s in enumerate(scores) if n != chosen)
    sentence = (
        f"Of {len(scores)} restarts, number {chosen} (from 0) was chosen by the "
        f"{restarts['criterion']}: {scores[chosen]:.2f} (others: {others})."
    )
    if restarts["stability"] is None:
        return sentence
    return (
        f"{sentence} Stability {restarts['stability']:.2f}: the mean adjusted Rand index of the "
        "restarts' clusterings."
    )


def table(result: Mapping) -> str:
    """The numbers of `summarize` as lines of text, after a headline and warnings."""
    words = [findings.headline(result), *findings.warnings(result)]
    lines = [line for sentence in words for line in textwrap.wrap(sentence, 88)]
    lines += ["", f"{result['data']} {result['split']} data points"]
    lines += [f"{a:<18}{b:>10.2f}   {c}" for a, b, c in rows(result)]
    if "clustering" in result:
        lines += ["", f"{'clusters':<18}{'accuracy':>10}{'purity':>9}{'NMI':>8}{'ARI':>8}"]
        for name, m in result["clustering"].items():
            lines.append(
                f"{name:<18}{m['accuracy']:>10.3f}{m['purity']:>9.3f}{m['nmi']:>8.3f}{m['ari']:>8.3f}"
            )
    if "restarts" in result:
        lines += ["", *textwrap.wrap(restart_sentence(result["restarts"]), 88)]
    if "classification" in result:
        classified = result["classification"]
        parts = list(next(iter(classified["errors"].values())))
        head = f"errors, {classified['num_labels']} labels"
        lines += ["", f"{head:<26}" + "".join(f"{part:>12}" for part in parts)]
        for name, errors in classified["errors"].items():
            lines.append(f"{name:<26}" + "".join(f"{errors[p]:>12.3f}" for p in parts))
    return "\n".join(lines)


class Results(dict):
    """The numbers of `summarize`; they print as a table."""

    def __repr__(self) -> str:
        return table(self)
