"""What is said of a trained pair: one dict of numbers, and its table."""

import math

import torch

from .. import evaluate
from ..errors import check_int_at_least
from ..evaluate.inputs import split_inputs
from ..guides import PriorGuide
from ..programs.calling import accepts_argument


def inputs(model, guide, data, split):
    """`(x, labels, others)` of a split: `others` are the further inputs of the pair, by name."""
    others = split_inputs(model, guide, data, split)
    return others.pop("x"), getattr(data, split).y, others


def summarize(model, guide, data, split="test", num_samples=500, seed=0, supervised=False):
    """Numbers of a pair on one split, JSON values: bounds, KLs, active units, clustering.

    Of a conditional model log p(x | c) is estimated twice, importance weighted with the guide and by
    Monte Carlo from the prior, with `num_samples` each.

    All in nats per data point, at beta = 1, in eval mode. A guide with a row per training data point can be
    evaluated on the training split alone. Labels are used to score a clustering, never to make one;
    where training saw some (`supervised`), errors of classification take the clustering's place.
    """
    check_int_at_least(1, num_samples=num_samples)
    x, y, others = inputs(model, guide, data, split)
    # what it numbers 3 is class 3 only where it was told; without a y of its own, it has features
    classifies = (
        labelled_in_part(data) and not others and (supervised or not accepts_argument(model, "y"))
    )
    terms = evaluate.elbo_terms(model, guide, x, num_samples=10, seed=seed, **others)
    result = {"split": split, "data": len(x), "num_samples": num_samples}
    result["conditional"] = "c" in others
    result["elbo"] = float(sum(terms.values()).mean())
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
    result["active_units"] = evaluate.active_units(model, guide, x, **others)
    codes = evaluate.encode(model, guide, x[:2], **{k: v[:2] for k, v in others.items()})
    result["units"] = {k: v[0].numel() for k, v in codes.items()}
    if accepts_argument(model, "y") and "y" not in others:
        shares = evaluate.responsibilities(model, guide, x, seed=seed, **others)
        clusters = shares.argmax(-1)
        result["occupancy"] = evaluate.occupancy(shares).tolist()
        result["discrete"] = {
            "entropy": evaluate.entropy(shares),
            "largest": math.log(shares.shape[-1]),
            "mutual_information": evaluate.mutual_information(shares),
        }
        if y is not None and not classifies:
            result["clustering"] = {"this model": evaluate.clustering_metrics(y, clusters)}
            found = evaluate.clustering_baselines(
                data.observed_split("train").x, x, shares.shape[-1], seed=seed
            )
            for name, assigned in found.items():
                result["clustering"][name] = evaluate.clustering_metrics(y, assigned)
    if classifies:
        result["classification"] = classification(model, guide, data, split)
    return result


def labelled_in_part(data):
    """Whether some training data have labels and others were left, or made, without."""
    y = data.train.y
    return (
        y is not None
        and bool((y >= 0).any())
        and (data.withheld_labels is not None or (y < 0).any())
    )


def predictions(model, guide, x, y, *others):
    """`{classifier: [classes of each of others]}`: the model, or classifiers of its features.

    A model without a class y is M1: its active units are features, for classifiers fitted on the
    labelled of the training data `x [N, ...]`, `y [N]`.
    """
    if accepts_argument(model, "y"):
        return {"this model": [evaluate.classify(model, guide, v) for v in others]}
    codes = [evaluate.active_unit_features(model, guide, v, reference=x) for v in (x, *others)]
    found = evaluate.classifier_baselines(codes[0], y, *codes[1:])
    return {f"{name} on z": classes for name, classes in found.items()}


def classification(model, guide, data, split):
    """Shares of wrong classes, the model's beside classical classifiers' given the same labels.

    `{"num_labels": n, "errors": {classifier: {part: error}}}`; the parts are the labelled training
    data, the unlabelled (of the first 10,000; where their labels were hidden and so are known), and
    the split.
    """
    train, part = data.observed_split("train"), data.observed_split(split)
    x, y = train.x, train.y
    truth = y if data.withheld_labels is None else data.withheld_labels
    first = torch.arange(len(y)) < 10_000
    parts = {"labelled": (x[y >= 0], y[y >= 0])}
    unseen = (y < 0) & (truth >= 0) & first
    if unseen.any():
        parts["unlabelled"] = (x[unseen], truth[unseen])
    if split != "train" and part.y is not None and (part.y >= 0).any():
        parts[split] = (part.x[part.y >= 0], part.y[part.y >= 0])
    data_in = [v for v, _ in parts.values()]
    found = predictions(model, guide, x, y, *data_in)
    on_x = evaluate.classifier_baselines(x, y, *data_in, spreading=True)
    found |= {f"{name} on x": classes for name, classes in on_x.items()}
    errors = {
        name: {
            part: float((predicted != labels).double().mean())
            for (part, (_, labels)), predicted in zip(parts.items(), classes, strict=True)
        }
        for name, classes in found.items()
    }
    return {"num_labels": int((y >= 0).sum()), "errors": errors}


def discrete_line(found):
    """The entropy of a discrete latent, in words."""
    return (
        f"of ln K = {found['largest']:.2f}; mutual information with x "
        f"{found['mutual_information']:.2f}"
    )


IMPORTANCE, MONTE_CARLO, EXACT = "importance weighted", "Monte Carlo from the prior", "exact"


def estimator(guide, terms):
    """What `log_likelihood` is, with this guide."""
    if set(terms) == {"x"}:
        return EXACT
    return MONTE_CARLO if isinstance(guide, PriorGuide) else IMPORTANCE


def rows(result):
    """The numbers of `summarize` as `[(name, nats per data point, note)]`."""
    found = [("ELBO", result["elbo"], "nats per data point")]
    if result.get("elbo_is_a_score"):
        found = [
            (
                "score_function",
                result["elbo"],
                "nats per data point; grey in a Bernoulli: no likelihood",
            )
        ]
    likelihood = "log p(x | c)" if result.get("conditional") else "log-likelihood"
    for key, how in (
        ("log_likelihood", result.get("estimator", IMPORTANCE)),
        ("log_likelihood_monte_carlo", MONTE_CARLO),
    ):
        if key in result:
            samples = f"{result['num_samples']} samples" if how != EXACT else "there is no latent"
            found.append((likelihood, result[key], f"{how}, {samples}"))
    for name, value in result["terms"].items():
        if name in result["units"]:
            note = f"{result['active_units'][name]} of {result['units'][name]} units active"
            found.append((f"KL of {name}", 0.0 - value, note))
        elif name != "x":
            found.append((f"KL of {name}", 0.0 - value, "discrete, summed exactly"))
        else:
            found.append(("E log p(x | ...)", value, "reconstruction"))
    if "discrete" in result:
        y = result["discrete"]
        found.append(("entropy q(y | x)", y["entropy"], discrete_line(y)))
    return found


def table(result):
    """The numbers of `summarize` as lines of text."""
    lines = [f"{a:<18}{b:>10.2f}   {c}" for a, b, c in rows(result)]
    lines.insert(0, f"{result['data']} {result['split']} data")
    if "clustering" in result:
        lines += ["", f"{'clusters':<18}{'accuracy':>10}{'purity':>9}{'NMI':>8}{'ARI':>8}"]
        for name, m in result["clustering"].items():
            lines.append(
                f"{name:<18}{m['accuracy']:>10.3f}{m['purity']:>9.3f}{m['nmi']:>8.3f}{m['ari']:>8.3f}"
            )
    if "classification" in result:
        found = result["classification"]
        parts = list(next(iter(found["errors"].values())))
        head = f"errors, {found['num_labels']} labels"
        lines += ["", f"{head:<26}" + "".join(f"{part:>12}" for part in parts)]
        for name, errors in found["errors"].items():
            lines.append(f"{name:<26}" + "".join(f"{errors[p]:>12.3f}" for p in parts))
    return "\n".join(lines)


class Results(dict):
    """The numbers of `summarize`; printed, their table."""

    def __repr__(self):
        return table(self)
