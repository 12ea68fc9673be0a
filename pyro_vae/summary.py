"""What is said of a trained pair: one dict of numbers, and its table."""

import torch

from . import evaluate
from .guides import PriorGuide
from .pair import reads_index, takes


def inputs(model, guide, data, split):
    """`(x, labels, others)` of a split: `others` is what the pair is given besides x."""
    part = data.observed(split)
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
    x, y, others = inputs(model, guide, data, split)
    terms = evaluate.elbo_terms(model, guide, x, num_samples=10, seed=seed, **others)
    result = {"split": split, "data": len(x), "num_samples": num_samples}
    result["elbo"] = float(sum(terms.values()).mean())
    proper = evaluate.is_proper(model, guide, x, **others)
    if proper:
        bound = evaluate.log_likelihood(model, guide, x, num_samples, seed=seed, **others)
        result["log_likelihood"] = float(bound.mean())
        if "c" in others:
            result["estimator"] = estimator(guide, terms)
        if result.get("estimator") == IMPORTANCE:
            bound = evaluate.log_likelihood(
                model, PriorGuide(model), x, num_samples, seed=seed, **others
            )
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
    """What `log_likelihood` of log p(x | c) is, with this guide."""
    if set(terms) == {"x"}:
        return EXACT
    return MONTE_CARLO if isinstance(guide, PriorGuide) else IMPORTANCE


def conditional_rows(result):
    """`(name, nats per datum, note)` of each estimate of log p(x | c) in a `summarise`."""
    samples = f"{result['num_samples']} samples"
    note = result["estimator"]
    note = f"{note}: there is no latent" if note == EXACT else f"{note}, {samples}"
    rows = [("log p(x | c)", result["log_likelihood"], note)]
    if "log_likelihood_monte_carlo" in result:
        value = result["log_likelihood_monte_carlo"]
        rows.append(("log p(x | c)", value, f"{MONTE_CARLO}, {samples}"))
    return rows


def table(result):
    """The numbers of `summarise` as lines of text."""
    bound = "score" if result.get("elbo_is_a_score") else "ELBO"
    rows = [(bound, f"{result['elbo']:.2f}", "nats per datum")]
    if "estimator" in result:
        rows += [(a, f"{b:.2f}", c) for a, b, c in conditional_rows(result)]
    elif "log_likelihood" in result:
        note = f"importance weighted, {result['num_samples']} samples"
        rows.append(("log-likelihood", f"{result['log_likelihood']:.2f}", note))
    for name, value in result["terms"].items():
        if name in result["units"]:
            units = f"{result['active_units'][name]} of {result['units'][name]} units active"
            rows.append((f"KL of {name}", f"{-value:.2f}", units))
        elif name != "x":
            rows.append((f"KL of {name}", f"{-value:.2f}", "discrete, summed exactly"))
        else:
            rows.append(("E log p(x | ...)", f"{value:.2f}", "reconstruction"))
    lines = [f"{a:<18}{b:>10}   {c}" for a, b, c in rows]
    lines.insert(0, f"{result['data']} {result['split']} data")
    if "clustering" in result:
        lines += ["", f"{'clusters':<18}{'accuracy':>10}{'purity':>9}{'NMI':>8}{'ARI':>8}"]
        for name, m in result["clustering"].items():
            lines.append(
                f"{name:<18}{m['accuracy']:>10.3f}{m['purity']:>9.3f}{m['nmi']:>8.3f}{m['ari']:>8.3f}"
            )
    return "\n".join(lines)
