"""What is said of a trained pair: one dict of numbers, and its table."""

import torch

from . import evaluate
from .errors import UserError, whole
from .guides import PriorGuide
from .pair import reads_index, takes


def inputs(model, guide, data, split):
    """`(x, labels, others)` of a split: `others` is what the pair is given besides x."""
    part = data.observed(split)
    if reads_index(guide) and split != "train":
        raise UserError("a guide with a row per training datum is judged on the train split alone")
    others = {"index": torch.arange(len(part))} if reads_index(guide) else {}
    others |= {n: getattr(part, n) for n in getattr(model, "observes", ()) if n != "x"}
    return part.x, part.y, others


def summarise(model, guide, data, split="test", num_samples=500, seed=0):
    """Numbers of a pair on one split, JSON values: bounds, KLs, active units, clustering.

    Of a conditional model log p(x | c) is estimated twice, importance weighted with the guide and by
    Monte Carlo from the prior, with `num_samples` each.

    All in nats per datum, at beta = 1, in eval mode. A guide with a row per training datum can be
    judged on the training split alone. Labels are used to score a clustering, never to make one.
    """
    whole(1, num_samples=num_samples)
    x, y, others = inputs(model, guide, data, split)
    terms = evaluate.elbo_terms(model, guide, x, num_samples=10, seed=seed, **others)
    result = {"split": split, "data": len(x), "num_samples": num_samples}
    result["conditional"] = "c" in others
    result["elbo"] = float(sum(terms.values()).mean())
    proper = evaluate.is_proper(model, guide, x, **others)
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
    if takes(model, "y") and "y" not in others:
        shares = evaluate.responsibilities(model, guide, x, seed=seed, **others)
        clusters = shares.argmax(-1)
        result["occupancy"] = evaluate.occupancy(shares).tolist()
        if y is not None:
            result["clustering"] = {"this model": evaluate.clustering(y, clusters)}
            found = evaluate.baselines(data.observed("train").x, x, shares.shape[-1], seed=seed)
            for name, assigned in found.items():
                result["clustering"][name] = evaluate.clustering(y, assigned)
    return result


IMPORTANCE, MONTE_CARLO, EXACT = "importance weighted", "Monte Carlo from the prior", "exact"


def estimator(guide, terms):
    """What `log_likelihood` is, with this guide."""
    if set(terms) == {"x"}:
        return EXACT
    return MONTE_CARLO if isinstance(guide, PriorGuide) else IMPORTANCE


def rows(result):
    """The numbers of `summarise` as `[(name, nats per datum, note)]`."""
    found = [("ELBO", result["elbo"], "nats per datum")]
    if result.get("elbo_is_a_score"):
        found = [("score", result["elbo"], "nats per datum; grey in a Bernoulli: no likelihood")]
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
    return found


def table(result):
    """The numbers of `summarise` as lines of text."""
    lines = [f"{a:<18}{b:>10.2f}   {c}" for a, b, c in rows(result)]
    lines.insert(0, f"{result['data']} {result['split']} data")
    if "clustering" in result:
        lines += ["", f"{'clusters':<18}{'accuracy':>10}{'purity':>9}{'NMI':>8}{'ARI':>8}"]
        for name, m in result["clustering"].items():
            lines.append(
                f"{name:<18}{m['accuracy']:>10.3f}{m['purity']:>9.3f}{m['nmi']:>8.3f}{m['ari']:>8.3f}"
            )
    return "\n".join(lines)
