"""The numbers of a trained pair: one dict, and its table."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .. import evaluate
from ..conditionals import Columns
from ..data import Data
from ..diagnostics.importance import RELIABLE_K
from ..errors import UserError, check_int_at_least
from ..evaluate.inputs import Inputs, split_inputs
from ..evaluate.support import Support
from ..programs.calling import accepts_argument
from ..programs.inspection import is_per_datum, samples_by_itself
from . import findings
from .accumulate import EXACT, IMPORTANCE, MONTE_CARLO, PairNumbers
from .findings import NEW

MAX_DENSE = 10_000  # rows of a sparse matrix to which baselines are fitted
MAX_LABELED = 10_000  # labels to which classifiers of x are fitted: an SVM is slow with more


def default_split(guide: Callable, data: Data) -> str:
    """The split to report: test, else valid, else train; train for a guide with no other rows."""
    held_out = [name for name in ("test", "valid") if name in data.splits()]
    return "train" if is_per_datum(guide) or not held_out else held_out[0]


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


def own_arguments(model: Callable, inputs: Inputs, size: int) -> dict[str, Any]:
    """What `sample` needs to draw `size` rows of a program that a user has written.

    Of one with `size=`, its further arguments, such as covariates, from the data's rows in turn, but not
    what it observes; of one without, a batch to run on. A model of the library needs neither.

    Args:
        model: the generative program.
        inputs: `{"x": [N, ...], ...}`, of the pair.
        size: the number of samples.
    """
    if samples_by_itself(model):
        return {}
    if not accepts_argument(model, "size"):
        return {"example": dict(inputs)}
    names = [n for n in inputs if n not in ("x", "y", "c", "index") and accepts_argument(model, n)]
    observed = {source for source, *_ in Support(model, None, dict(inputs)).fixed.values()}
    rows = torch.arange(size) % len(inputs["x"])
    return {name: inputs[name][rows] for name in names if name not in observed}


def summarize(
    model: Callable,
    guide: Callable,
    data: Data,
    split: str = "test",
    num_samples: int = 500,
    seed: int = 0,
    supervised: bool = False,
    name: str | None = None,
) -> dict:
    """Numbers of a pair on one split: bounds, KLs, active units, clustering or classification.

    Numbers are in nats per data point, at beta = 1, in eval mode; the bounds have standard errors over
    the data points. Densities of standardized columns are converted to the original units. A clustering
    is scored if there are two labeled data points per component (`findings.ROWS_PER_COMPONENT`). For a
    conditional model log p(x | c) is estimated twice: importance weighted with the guide, and by Monte
    Carlo from the prior. Labels score a clustering and have no other use.

    Args:
        split: train, valid or test. Only train for a guide with one row per training data point.
        num_samples: for the log-likelihood, per data point.
        seed: of all draws.
        supervised: whether training saw labels; then errors of classification take the place of the
            clustering's scores.
        name: what the result calls data that are no split of the training data's.

    Returns:
        A dict of JSON values.
    """
    check_int_at_least(1, num_samples=num_samples)
    x, y, others = inputs(model, guide, data, split)
    classifies = not others and reports_classification(model, data, supervised)
    numbers = PairNumbers(model, guide, data, num_samples, seed)
    numbers.add(x, others)
    result: dict = {"split": name or split, "data": len(x), "num_samples": num_samples}
    result |= numbers.result() | _kind_of_y(model, data, supervised)
    num_labeled = 0 if y is None else int((y >= 0).sum())
    if numbers.assignments and y is not None and not classifies and num_labeled:
        (clusters,) = numbers.assignments
        num_components = len(result["occupancy"])
        if findings.too_few_for_components(num_labeled, num_components):
            result["few_labels"] = num_labeled
        else:
            result["clustering"] = _clustering(data, x, y, clusters, num_components, seed)
    if classifies:
        classified = classification(model, guide, data, split, name)
        if classified["errors"]:
            result["classification"] = classified
    if 0 < num_labeled < len(x) and {"clustering", "classification"} & set(result):
        result["labeled"] = num_labeled
    return result


def summarize_batches(
    model: Callable,
    guide: Callable,
    data: Data,
    batches: Iterable[tuple[Inputs, torch.Tensor | None]],
    num_samples: int = 500,
    seed: int = 0,
    supervised: bool = False,
) -> dict:
    """The numbers of `summarize` over batches of new data, of which one is in memory at a time.

    Baselines, which need all data at once, are left out.

    Args:
        data: what the pair was trained on.
        batches: `(inputs of the pair, labels [B] or None)`.
        num_samples, supervised: as in `summarize`.
        seed: of the draws in the first batch; those of batch n have the seed `seed + n`.

    Raises:
        UserError: no batches, or one that cannot be evaluated.
    """
    check_int_at_least(1, num_samples=num_samples)
    numbers = PairNumbers(model, guide, data, num_samples, seed)
    labels: list[torch.Tensor] = []
    for number, (batch, y) in enumerate(batches, 1):
        others = dict(batch)
        try:
            numbers.add(others.pop("x"), others)
        except UserError as e:
            raise UserError(f"batch {number}: {e}") from e
        labels += [] if y is None else [y.cpu()]
    if not numbers.num_data:
        raise UserError("there are no batches to evaluate")
    result: dict = {"split": NEW, "data": numbers.num_data, "num_samples": num_samples}
    result |= numbers.result() | _kind_of_y(model, data, supervised)
    y = torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)
    clusters = torch.cat(numbers.assignments) if numbers.assignments else y[:0]
    is_labeled = y >= 0
    if not bool(is_labeled.any()) or len(clusters) != len(y):
        return result
    if reports_classification(model, data, supervised):
        wrong = (clusters != y)[is_labeled].double().mean()
        errors = {"this model": {NEW: float(wrong)}}
        result["classification"] = {"num_labels": data.num_labels, "errors": errors}
    elif findings.too_few_for_components(int(is_labeled.sum()), len(result["occupancy"])):
        result["few_labels"] = int(is_labeled.sum())
    else:
        result["clustering"] = {"this model": evaluate.clustering_metrics(y, clusters)}
    if not bool(is_labeled.all()) and "few_labels" not in result:
        result["labeled"] = int(is_labeled.sum())
    return result


def _kind_of_y(model: Callable, data: Data, supervised: bool) -> dict[str, bool]:
    """What says in a result that y is a class, which training saw labels of; else nothing."""
    is_class = accepts_argument(model, "y") and reports_classification(model, data, supervised)
    return {"y_is_class": True} if is_class else {}


def reports_classification(model: Callable, data: Data, supervised: bool) -> bool:
    """Whether labels measure a classification.

    They do if training saw some; of a model without y, which has features, if some labels are kept
    for a classifier and others are not.
    """
    if accepts_argument(model, "y"):
        return supervised and data.num_labels > 0
    return data.labeled_in_part


def _clustering(
    data: Data,
    x: torch.Tensor,
    y: torch.Tensor,
    clusters: torch.Tensor,
    num_components: int,
    seed: int,
) -> dict:
    """Scores of the model's clustering `[N]`, and of the baselines if there are as many data."""
    rows = None if data.sparse is None else slice(MAX_DENSE)  # others are dense already
    baselines = {}
    if len(data.train) >= num_components:
        train_x = data.observed_split("train", rows).x
        baselines = evaluate.clustering_baselines(
            train_x, x, num_components, seed=seed, standardize=has_several_kinds(data)
        )
    clusterings: dict[str, Any] = {"this model": clusters, **baselines}
    return {name: evaluate.clustering_metrics(y, c) for name, c in clusterings.items()}


def has_several_kinds(data: Data) -> bool:
    """Whether the columns of x have several kinds, and so several scales: reals, counts, categories."""
    likelihood = data.likelihood
    kinds = [kind for kind, _ in likelihood.blocks] if isinstance(likelihood, Columns) else []
    return any(kind != kinds[0] for kind in kinds)


def predictions(
    model: Callable, guide: Callable, x: torch.Tensor, y: torch.Tensor, *others: torch.Tensor
) -> dict[str, list[torch.Tensor]]:
    """Predicted classes of the model, or of classifiers of its features.

    The active units of a model without a class y, as M1, are features for classifiers.

    Args:
        x, y: `[N, ...]`, `[N]` training data; classifiers are fitted on those with a label.
        others: data to classify, `[M, ...]` each.

    Returns:
        `{classifier: [classes [M] of each of others]}`, empty for a model without features: none of
        its units is active, or its latents are discrete.
    """
    if accepts_argument(model, "y"):
        return {"this model": [evaluate.classify(model, guide, v) for v in others]}
    if not evaluate.encode(model, guide, x[:1]):
        return {}
    codes = [evaluate.active_unit_features(model, guide, v, reference=x) for v in (x, *others)]
    if not codes[0].shape[1]:
        return {}
    predictions = evaluate.classifier_baselines(codes[0], y, *codes[1:])
    return {f"{name} on z": classes for name, classes in predictions.items()}


def classification(
    model: Callable, guide: Callable, data: Data, split: str, name: str | None = None
) -> dict:
    """Error rates of the model, and of classical classifiers trained with the same labels.

    Classifiers need labels of two classes, and those of x have at most 10,000. With one class, or
    without the rows of the training data, the model alone has error rates.

    Args:
        split: train, valid or test.
        name: what the result calls the split. Default: its own name.

    Returns:
        `{"num_labels": n, "errors": {classifier: {part: error}}}`. The parts are the labeled
        training data, the unlabeled ones (among the first 10,000, if their labels are withheld),
        and the split.
    """
    part = data.observed_split(split)
    train = data.train if data.absent else data.observed_split("train")
    x, y = train.x, train.y
    assert y is not None  # see `Data.labeled_in_part`
    truth = y if data.withheld_labels is None else data.withheld_labels
    first = torch.arange(len(y)) < 10_000
    parts = {} if data.absent else {"labeled": (x[y >= 0], y[y >= 0])}
    unseen = (y < 0) & (truth >= 0) & first
    if unseen.any():
        parts["unlabeled"] = (x[unseen], truth[unseen])
    if split != "train" and part.y is not None and bool((part.y >= 0).any()):
        parts[name or split] = (part.x[part.y >= 0], part.y[part.y >= 0])
    inputs_of_parts = [v for v, _ in parts.values()]
    predicted, several = {}, len(y[y >= 0].unique()) > 1
    if several or accepts_argument(model, "y"):
        predicted = predictions(model, guide, x, y, *inputs_of_parts)
    if several and data.num_labels <= MAX_LABELED:
        on_x = evaluate.classifier_baselines(
            x, y, *inputs_of_parts, spreading=True, standardize=has_several_kinds(data)
        )
        predicted |= {f"{name} on x": classes for name, classes in on_x.items()}
    errors = {
        name: {
            part: float((predicted_y != labels).double().mean())
            for (part, (_, labels)), predicted_y in zip(parts.items(), classes, strict=True)
        }
        for name, classes in predicted.items()
    }
    return {"num_labels": data.num_labels, "errors": errors}


OTHER_TERMS = {  # of the ELBO, by kind: a symbol and a note
    "data": ("E log p({} | ...)", "reconstruction"),
    "factor": ("E {}", "pyro.factor"),
    "guide factor": ("E {}", "pyro.factor of the guide"),
    "units": ("{}", "from standardized to original units"),
    "point": ("log p({})", "the guide puts it at a point"),
}


def rows(result: Mapping) -> list[tuple[str, float, str]]:
    """The numbers of `summarize` as `[(name, nats per data point, note)]`."""
    errors = {k: f", standard error {v:.2g}" for k, v in result.get("standard_errors", {}).items()}
    named = [
        _bound_row(result, errors.get("elbo", "")),
        *_likelihood_rows(result, errors),
        *(_term_row(result, name, value) for name, value in result["terms"].items()),
    ]
    if "discrete" in result:
        y = result["discrete"]
        note = f"of ln K = {y['largest']:.2f}; mutual information with x "
        named.append(("entropy q(y | x)", y["entropy"], note + f"{y['mutual_information']:.2f}"))
    return named


def _bound_row(result: Mapping, error: str) -> tuple[str, float, str]:
    """The ELBO, or the score that takes its place."""
    name, note = "ELBO", ""
    if "no_log_likelihood" in result:
        name, note = "score", f"; {result['no_log_likelihood']}, so no likelihood"
    elif "guide factor" in result.get("other_terms", {}).values():
        name, note = "score", "; with the guide's pyro.factor, so no bound"
    return name, result["elbo"], f"nats per data point{error}{note}"


def _likelihood_rows(
    result: Mapping, errors: Mapping[str, str]
) -> Iterator[tuple[str, float, str]]:
    """The estimates of log p(x)."""
    likelihood = "log p(x | c)" if result.get("conditional") else "log-likelihood"
    for key, how in (
        ("log_likelihood", result.get("estimator", IMPORTANCE)),
        ("log_likelihood_monte_carlo", MONTE_CARLO),
    ):
        if key in result:
            samples = f"{result['num_samples']} samples" if how != EXACT else "there is no latent"
            doubt = ""
            if how == IMPORTANCE and result.get("pareto_k", 0.0) > RELIABLE_K:
                doubt = f"; a lower bound (median k-hat {result['pareto_k']:.2f})"
            yield likelihood, result[key], f"{how}, {samples}{errors.get(key, '')}{doubt}"


def _term_row(result: Mapping, name: str, value: float) -> tuple[str, float, str]:
    """A term of the ELBO: of x, of a latent, or another one."""
    others = result.get("other_terms", {})
    if name in others:
        symbol, note = OTHER_TERMS[others[name]]
        return symbol.format(name), value, note
    units = result["units"]
    if name in units:
        active = "" if result.get("data") == 1 else f"{result['active_units'][name]} of "
        note = f"{active}{units[name]} units{' active' if active else ''}"
        return f"KL of {name}", 0.0 - value, note
    if name == "x":
        return "E log p(x | ...)", value, "reconstruction"
    together = ", " in name and not set(name.split(", ")).isdisjoint(units)
    note = "one draw of the guide" if together else "discrete, summed exactly"
    return f"KL of {name}", 0.0 - value, note


def restart_sentence(restarts: Mapping) -> str:
    """How a run was chosen among its restarts, and how far they agree.

    Args:
        restarts: as `Run.restarts`.

    Example:
        >>> from pyro_vae.report.summary import restart_sentence
        >>> print(restart_sentence({"criterion": "ELBO, valid split, 100 samples", "chosen": 1,
        ...     "scores": [-9.5, -9.25], "seeds": [0, 7], "agreements": None, "stability": 0.5}))
        Of 2 restarts, number 1 (from 0) was chosen by the ELBO, valid split, 100 samples: -9.25
        (others: -9.50). Stability 0.50: the mean adjusted Rand index of the restarts' clusterings.
    """
    scores, chosen = restarts["scores"], restarts["chosen"]
    sentence = f"Of {len(scores)} restarts, number {chosen} (from 0) was chosen by the "
    score = f"{restarts['criterion']}: {_one_and_others(scores, chosen)}."
    if restarts["agreements"] is None:
        sentence += score
    else:
        sentence += (
            "agreement of its clusters with the others', mean adjusted Rand index: "
            f"{_one_and_others(restarts['agreements'], chosen)}. Its {score}"
        )
    if restarts["stability"] is None:
        return sentence
    return (
        f"{sentence} Stability {restarts['stability']:.2f}: the mean adjusted Rand index of the "
        "restarts' clusterings."
    )


def initialization_sentence(initialization: Mapping) -> str:
    """How a run began at the consensus of several VAEs, and how far they agree.

    Args:
        initialization: as `MixtureInitialization` returns it.

    Example:
        >>> from pyro_vae.report.summary import initialization_sentence
        >>> print(initialization_sentence({"agreements": [0.8, 0.9, 0.85], "chosen": 1,
        ...     "seeds": [0, 7, 3], "stability": 0.85}))
        It started at the consensus of 3 VAEs' clusterings, in number 1 (from 0), ...
    """
    agreements, chosen = initialization["agreements"], initialization["chosen"]
    sentence = (
        f"It started at the consensus of {len(agreements)} VAEs' clusterings, in number {chosen} "
        "(from 0), which agrees most with the others, mean adjusted Rand index: "
        f"{_one_and_others(agreements, chosen)}."
    )
    if initialization["stability"] is None:
        return sentence
    return (
        f"{sentence} Stability {initialization['stability']:.2f}: the mean adjusted Rand index of the "
        "VAEs' clusterings."
    )


def choice_sentences(result: Mapping) -> list[str]:
    """How the run was chosen among restarts, and how it began at a consensus, if it did."""
    sentences = []
    if "restarts" in result:
        sentences.append(restart_sentence(result["restarts"]))
    if "agreements" in result.get("initialization", {}):  # a user's initialization records others
        sentences.append(initialization_sentence(result["initialization"]))
    return sentences


def _one_and_others(values: Sequence[float | None], index: int) -> str:
    """`0.93 (others: 0.85, -)`."""
    texts = ["-" if v is None else f"{v:.2f}" for v in values]
    others = ", ".join(t for n, t in enumerate(texts) if n != index)
    return f"{texts[index]} (others: {others})"


def table(result: Mapping) -> str:
    """The numbers of `summarize` as lines of text, after a headline and warnings."""
    words = [findings.headline(result), *findings.warnings(result), *findings.omissions(result)]
    lines = [line for sentence in words for line in textwrap.wrap(sentence, 88)]
    lines += ["", f"{result['data']} {result['split']} data points"]
    lines += [f"{a:<18}{b:>10.2f}   {c}" for a, b, c in rows(result)]
    if "clustering" in result:
        lines += ["", f"{'clusters':<18}{'accuracy':>10}{'purity':>9}{'NMI':>8}{'ARI':>8}"]
        for name, m in result["clustering"].items():
            lines.append(
                f"{name:<18}{m['accuracy']:>10.3f}{m['purity']:>9.3f}{m['nmi']:>8.3f}{m['ari']:>8.3f}"
            )
    for sentence in choice_sentences(result):
        lines += ["", *textwrap.wrap(sentence, 88)]
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
