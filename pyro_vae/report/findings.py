"""The results of a run in words: a headline, and warnings with their remedies."""

import math
from collections.abc import Callable, Mapping

from ..diagnostics.importance import RELIABLE_K
from ..evaluate.latents import ACTIVE_THRESHOLD, COLLAPSE_THRESHOLD, ONE_COMPONENT_THRESHOLD

NEW = "new"  # the split of a result on data that are none of the run's
UNSTABLE = 0.2  # adjusted Rand index of the clusterings of several runs; 0 is chance
#: With one data point per component, some clustering agrees with any labels. Fewer say nothing.
ROWS_PER_COMPONENT = 2


def too_few_for_components(num_data: float, num_components: int) -> bool:
    """Whether so few data points say nothing about so many components.

    Example:
        >>> from pyro_vae.report.findings import too_few_for_components
        >>> too_few_for_components(19, 10), too_few_for_components(20, 10)
        (True, False)
    """
    return num_data < ROWS_PER_COMPONENT * num_components


def _few_data(result: Mapping) -> bool:
    """Whether the data are too few for a statement about the components."""
    return too_few_for_components(result.get("data", math.inf), len(result.get("occupancy", [])))


def omissions(result: Mapping) -> list[str]:
    """What is not stated because there are too few data, in a sentence; empty otherwise.

    Args:
        result: as `summary.summarize` returns it.

    Example:
        >>> from pyro_vae.report.findings import omissions
        >>> print(*omissions({"data": 1, "occupancy": [0.0, 1.0, 0.0]}))
        1 data point is too few for statements about 3 components, which take 6: clustering scores and
        the components in use are left out.
    """
    if "classification" in result or result.get("y_is_class"):  # classes are not matched to labels
        return []
    if _few_data(result):
        count, kind = result["data"], "data"
        left_out = "clustering scores and the components in use are left out"
    elif "few_labels" in result:
        count, kind = result["few_labels"], "labeled data"
        left_out = "clustering scores are left out"
    else:
        return []
    k = len(result["occupancy"])
    points = _verb([""] * count, "point is", "points are")
    components = _verb([""] * k, "component", "components")
    return [
        f"{count} {kind} {points} too few for statements about {k} {components}, which take "
        f"{ROWS_PER_COMPONENT * k}: {left_out}."
    ]


def headline(result: Mapping) -> str:
    """The main results, in one or two sentences.

    Args:
        result: as `summary.summarize` returns it.

    Example:
        >>> from pyro_vae.report.findings import headline
        >>> scores = {"this model": {"accuracy": 0.85}, "k-means": {"accuracy": 0.78}}
        >>> print(headline({"split": "test", "elbo": -9.0, "occupancy": [0.5, 0.5],
        ...     "clustering": scores, "units": {"z": 10}, "active_units": {"z": 7}}))
        2 components; the clustering agrees with the labels for 85 % of the test data (k-means: 78 %).
        7 of 10 latent units are active.
    """
    return " ".join([_result(result), *_units(result)])


def warnings(result: Mapping) -> list[str]:
    """Signs of an unintended result, such as posterior collapse, each with its remedy.

    Args:
        result: as `summary.summarize` returns it.

    Example:
        >>> from pyro_vae.report.findings import warnings
        >>> result = {"terms": {"x": -20.0, "z": -0.003}, "unit_activity": {"z": [1e-5, 1e-6]}}
        >>> print(warnings(result)[0])
        Posterior collapse: the KL of z is 0.00 nats per data point, so z carries almost no ...
    """
    others = result.get("other_terms", {})
    kl = {
        n: abs(v)
        for n, v in result["terms"].items()
        if n in result["unit_activity"] and n not in others
    }
    idle = [n for n, v in kl.items() if v < COLLAPSE_THRESHOLD]
    messages = []
    # what the run has learned shows in its own data: others may be copies, or of one component
    own = result.get("split") != NEW
    varies = own and result.get("data") != 1  # one data point has one posterior mean
    if varies and kl and not any(v for n in kl for v in result["unit_activity"][n]):
        if not result.get("conditional"):
            names = _names(list(kl))
            messages.append(
                f"The guide does not depend on x: its posterior means are constants, so {names} "
                f"{_verb(list(kl), 'carries', 'carry')} no information about single data points."
            )
    elif idle and any(kl.values()):
        numbers = " and ".join(f"{kl[n]:.2f}" for n in idle)
        messages.append(
            f"Posterior collapse: the KL of {_names(idle)} is {numbers} nats per data point, so "
            f"{_names(idle)} {_verb(idle, 'carries', 'carry')} almost no information about x."
            f"{_active_though_collapsed(result, idle)} Remedies: train longer, a warm-up of the KL "
            "(objective=ELBO(warmup=EPOCHS), --objective.warmup EPOCHS), or free bits (free_bits=, "
            "--objective.free-bits)."
        )
    fractions = result.get("occupancy", [])
    is_one = len(fractions) > 1 and max(fractions) > ONE_COMPONENT_THRESHOLD
    if is_one and own and not result.get("y_is_class") and not _few_data(result):
        messages.append(
            f"One of the {len(fractions)} components has {100 * max(fractions):.0f} % of the data. "
            "Remedy: a mixture initialization (initialize=MixtureInitialization(), --initialize "
            "MixtureInitialization), or labels for some of the data."
        )
    stability = (result.get("restarts") or result.get("initialization") or {}).get("stability")
    if stability is not None and stability < UNSTABLE:
        messages.append(
            f"Another run would find other clusters: the clusterings behind this one agree hardly more "
            f"than by chance (stability {stability:.2f}, of at most 1). A smaller latent_dim= "
            "(--latent-dim), of a table with few columns, or another num_components= may help."
        )
    return messages


def _active_though_collapsed(result: Mapping, idle: list[str]) -> str:
    """Why a collapsed latent may have active units: they are counted by another threshold."""
    if not any(v > ACTIVE_THRESHOLD for n in idle for v in result["unit_activity"][n]):
        return ""
    return (
        " Active units are counted by another criterion: the variance of their posterior mean over "
        f"the data exceeds {ACTIVE_THRESHOLD:g}, which takes little KL."
    )


def _result(result: Mapping) -> str:
    """The main result, with its baselines."""
    split = result["split"]
    scored = f"the {split} data"
    if "labeled" in result:
        scored = f"the {result['labeled']} {split} data that have a label"
    if "classification" in result:
        classified = result["classification"]
        errors = {n: e[split] for n, e in classified["errors"].items() if split in e}
        # a model without features has only the classifiers of x to show
        name, error = next(iter(errors.items()), ("", 0.0))
        if name and not name.endswith(" on x"):
            start = f"With {classified['num_labels']} training labels "
            model = "the model" if name == "this model" else name
            others = _best(errors, name, min)
            return f"{start}{model} misclassifies {_percent(error)} of {scored}{others}."
    fractions = result.get("occupancy", [])
    if "clustering" in result:
        scores = {n: m["accuracy"] for n, m in result["clustering"].items()}
        agreement = _percent(scores["this model"])
        return (
            f"{len(fractions)} components; the clustering agrees with the labels for {agreement} "
            f"of {scored}{_best(scores, 'this model', max)}."
        )
    start = ""
    if fractions and not result.get("y_is_class") and not _few_data(result):
        used = f"{sum(f > 0 for f in fractions)} of {len(fractions)} components"
        start = f"The new data are of {used}. " if split == NEW else f"{used} are in use. "
    if "log_likelihood" in result:
        what = "log p(x | c)" if result.get("conditional") else "log p(x)"
        kind = "is" if result.get("estimator") == "exact" else "is estimated as"
        if result.get("pareto_k", 0.0) > RELIABLE_K:
            kind = "is at least about"
        # two lower bounds of a conditional model
        value = max(result["log_likelihood"], result.get("log_likelihood_monte_carlo", -math.inf))
    else:
        what = "the score" if "no_log_likelihood" in result else "the ELBO"
        kind, value = "is", result["elbo"]
    return f"{start}On the {split} data {what} {kind} {value:.2f} nats per data point."


def _best(scores: Mapping[str, float], ours: str, better: Callable) -> str:
    """The best of the baselines, and k-means if it is one of them."""
    others = {n: v for n, v in scores.items() if n != ours}
    if not others:
        return ""
    best = better(others, key=others.__getitem__)
    named = [n for n in dict.fromkeys(("k-means", best)) if n in others]
    return " (" + ", ".join(f"{n}: {_percent(others[n])}" for n in named) + ")"


def _units(result: Mapping) -> list[str]:
    """The number of active units of each latent; one data point has no variance over data."""
    if result.get("data") == 1:
        return []
    counts = [(n, result["active_units"][n], total) for n, total in result["units"].items()]
    if not counts:
        return []
    if len(counts) == 1:
        ((_, active, total),) = counts
        return [f"{active} of {total} latent {_verb([''] * total, 'unit is', 'units are')} active."]
    parts = ", ".join(f"{active} of {total} units of {name}" for name, active, total in counts)
    return [f"Active: {parts}."]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 else f"{100 * fraction:.1f} %"


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _verb(subjects: list[str], one: str, many: str) -> str:
    return one if len(subjects) == 1 else many
