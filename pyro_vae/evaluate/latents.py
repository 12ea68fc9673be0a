"""What the latents do: encodings, units in use, components in use."""

import torch

from ..errors import UserError, check_int_at_least
from ..programs import trace_pair
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from ..programs.sites import holds, is_latent, mean_of, observed_site
from .inputs import observed
from .likelihood import chunks, rows_per_chunk

ACTIVE = 0.01  # variance of a unit's posterior mean over the data, above which it is active


def _map(model, guide, x, others, function, seed=0, num_samples=1, **options):
    """`function(traces, chunk)` over chunks of the data, in eval mode; `{name: [N, ...]}`, joined."""
    check_int_at_least(1, num_samples=num_samples)
    batch = observed(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    parts = []
    with torch.no_grad(), eval_mode(model, guide), seeded(seed, device):
        rows = rows_per_chunk(model, guide, batch, device) // num_samples
        for part in chunks(batch, max(1, min(len(x), rows)), device):
            parts.append(function(trace_pair(model, guide, part, **options), part))
    return {k: torch.cat([p[k] for p in parts]).to(x.device) for k in parts[0]}


def encode(model, guide, x, **others):
    """Posterior means `{latent: [N, D]}` of the guide's continuous latents.

    A latent with latent parents is encoded at their means; where the guide enumerates a discrete
    parent, the mean is over its probabilities.
    """

    def means(traces, _):
        result = {}
        for name, site in traces.guide.items():
            is_continuous = is_latent(site) and not site["fn"].has_enumerate_support
            if is_continuous and name not in traces.auxiliary:
                shape = tuple(site["fn"].event_shape)
                value = traces.expectation(site["value"], shape)
                result[name] = value.expand(-1, *shape)
        return result

    return _map(model, guide, x, others, means, at_mean=True)


def sample_posterior(model, guide, x, mean=False, seed=0, **others):
    """One joint draw of every latent given x, `{latent: [N, *shape]}`, as the guide has it.

    Discrete latents that the guide leaves out are drawn from their exact conditional posterior.

    Args:
        mean: no draw: discrete latents at their most probable values, the others at their means.
    """

    def draw(traces, _):
        chosen = traces.enumerated_assignment(most_probable=mean)
        result = {}
        for name, site in {**traces.guide, **traces.model}.items():
            if is_latent(site) and name not in traces.auxiliary:
                shape = tuple(site["fn"].event_shape)
                value = traces.select(site["value"], shape, chosen)
                result[name] = value.expand(traces.size, *shape)
        return result

    return _map(model, guide, x, others, draw, seed=seed, at_mean=mean)


def reconstruct(model, guide, x, site=None, **others):
    """`[N, *x_shape]`: the likelihood's mean at the posterior means of the latents.

    Args:
        site: which observed site. Default: the one that observes x.
        others: what else the pair is given, by name.

    Raises:
        UserError: no such site, several of which none observes x itself, or a distribution without
            a mean.
    """

    def mean(traces, part):
        name = observed_site(traces.model, site, part["x"])
        fn, seen = traces.model[name]["fn"], traces.model[name]["value"]
        means = traces.of_distribution(name, lambda fn: mean_of(name, fn))
        value = traces.expectation(means, tuple(fn.event_shape))
        source = next((v for v in part.values() if holds(seen, v)), None)
        return {"mean": value if source is None else value.reshape(source.shape)}

    return _map(model, guide, x, others, mean, at_mean=True)["mean"]


def active_units(model, guide, x, threshold=ACTIVE, **others):
    """`{latent: number of units}` with Var_x(E_q[u | x]) > threshold (arXiv 1509.00519)."""
    codes = encode(model, guide, x, **others)
    return {k: int((v.reshape(len(v), -1).var(0) > threshold).sum()) for k, v in codes.items()}


def responsibilities(model, guide, x, latent=None, num_samples=16, seed=0, **others):
    """`[N, K]` probabilities of a discrete latent given x.

    Where the guide names it, q(y | x); where the model sums it, the exact p(y | x, z) averaged over
    `num_samples` draws of z from the guide.

    Args:
        latent: its name. Default: the first discrete latent.
    """

    def probabilities(traces, _):
        name = latent or next(iter(traces.enumerated), None)
        if name not in traces.enumerated:
            known = sorted(traces.enumerated)
            raise UserError(f"no discrete latent {name or ''!r}; the pair has {known or 'none'}")
        return {"p": traces.probabilities(name).mean(0)}

    options = {"seed": seed, "num_samples": num_samples, "num_particles": num_samples}
    return _map(model, guide, x, others, probabilities, **options)["p"]


def entropy(probabilities):
    """Mean entropy of `[N, K]` probabilities, in nats; ln K where a latent says nothing of x."""
    return float(-torch.xlogy(probabilities, probabilities).sum(-1).mean())


def mutual_information(probabilities):
    """What `[N, K]` probabilities of a latent given x say of x, in nats: H(mean) - mean H."""
    return entropy(probabilities.mean(0, keepdim=True)) - entropy(probabilities)


def occupancy(probabilities):
    """`[K]` shares of the data whose most probable component each is; see `responsibilities`."""
    counts = torch.bincount(probabilities.argmax(-1), minlength=probabilities.shape[-1])
    return counts / counts.sum()
