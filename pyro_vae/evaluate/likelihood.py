"""Bounds on log p(x), per datum and in nats, for any model/guide pair with one data plate."""

import math

import torch

from ..errors import UserError, whole
from ..guides import PriorGuide
from ..pair import device_of, eval_mode, one_hot_labels, seeded
from ..programs import few_rows, layout_of, trace_pair

BYTES = 256 * 2**20  # what one chunk's largest tensors may take together
INDIVISIBLE = 2**60  # rows a chunk of a pair that takes its batch whole
AT_ONCE = 100  # draws of such a pair


def observed(model, x, others):
    """The batch of all data, without what is None; labels one-hot where the model's y is."""
    batch = {"x": x, **{k: v for k, v in others.items() if v is not None}}
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{name} must be a tensor, not {type(value).__name__}")
        if len(value) != len(x):
            raise UserError(f"{name} has {len(value)} rows, x has {len(x)}")
    if len(x) == 0:
        raise UserError("x is empty")
    built = getattr(getattr(model, "p_x", None), "shape", x.shape[1:])
    if tuple(x.shape[1:]) != tuple(built):
        raise UserError(
            f"'x' has shape {list(x.shape)}, but this model was built for [..., {', '.join(map(str, built))}]"
        )
    return one_hot_labels(model, batch)


def chunks(batch, size, device):
    """The batch in slices of `size` rows, on `device`."""
    for start in range(0, len(batch["x"]), size):
        yield {k: v[start : start + size].to(device) for k, v in batch.items()}


def rows_per_chunk(model, guide, batch, device):
    """How many (particle, datum) rows fit in `BYTES`, from one row's traced sizes.

    Of a pair that cannot be run on some of its rows, more than there are.
    """
    if not layout_of(model, guide, batch).divisible:
        return INDIVISIBLE
    one = {k: v.to(device) for k, v in few_rows(model, guide, batch, 2).items()}
    traces = trace_pair(model, guide, one)
    floats = 0
    for site in traces.model.values():
        rows = site["log_prob"].numel() / len(one["x"])
        # a mixture density is taken in each of its components
        copies = getattr(site["fn"], "_num_component", 1)
        floats = max(floats, rows * copies * math.prod(site["fn"].event_shape))
        base = site["fn"]
        while hasattr(base, "base_dist"):
            base = base.base_dist
        for parameter in vars(base).values():  # a categorical has more numbers than its value
            if isinstance(parameter, torch.Tensor):
                floats = max(floats, parameter.numel() / len(one["x"]))
    return max(1, int(BYTES / (4 * 8 * max(floats, 512))))


@torch.no_grad()
def elbo_terms(model, guide, x, num_samples=1, seed=0, **others):
    """Each site's part of the ELBO, `{site: [N]}` in nats per datum, on x's device.

    An observed site's term is its expected log-likelihood; a latent's is minus its KL; they sum to
    `elbo`. Always at beta = 1, in eval mode, discrete latents summed exactly, whatever objective
    trained the pair.

    Args:
        x: `[N, ...]`, as observed (binarised where the likelihood is binary).
        num_samples: Monte Carlo samples per datum to average.
        seed: of those samples; None takes torch's stream as it is.
        others: further observed values and `index`, by name, each with N rows.
    """
    whole(1, num_samples=num_samples)
    batch = observed(model, x, others)
    device = device_of(model, guide, default=x.device)
    parts = []
    with eval_mode(model, guide), seeded(seed, device):
        rows = rows_per_chunk(model, guide, batch, device)
        for part in chunks(batch, max(1, min(len(x), rows // num_samples)), device):
            terms = trace_pair(model, guide, part, num_samples).site_terms()
            size = len(part["x"])
            parts.append({k: t.expand(num_samples, size).mean(0) for k, t in terms.items()})
    return {k: torch.cat([p[k] for p in parts]).to(x.device) for k in parts[0]}


def elbo(model, guide, x, num_samples=1, seed=0, **others):
    """`[N]` evidence lower bounds, nats per datum; the sum of `elbo_terms`."""
    return sum(elbo_terms(model, guide, x, num_samples, seed, **others).values())


def is_proper(model, guide, x, **others):
    """Whether every observed site's law is a probability (False for grey values in a Bernoulli)."""
    device = device_of(model, guide, default=x.device)
    batch = {k: v.to(device) for k, v in observed(model, x, others).items()}
    batch = few_rows(model, guide, batch, 1)
    with torch.no_grad(), eval_mode(model, guide), seeded(0, device):
        sites = trace_pair(model, guide, batch).model.values()
    return all(_proper(s["fn"]) for s in sites if s["is_observed"])


def check_proper(model, x, guide=None, **others):
    """Raise unless p(x) is a probability: `is_proper`, with the prior's draws for want of a guide."""
    if not is_proper(model, PriorGuide(model) if guide is None else guide, x, **others):
        raise UserError(
            "grey values in a Bernoulli have a score, not a log-likelihood; "
            "binarise, or use a likelihood that fits"
        )


def _proper(fn):
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return getattr(fn, "proper", True)


@torch.no_grad()
def log_likelihood(model, guide, x, num_samples=5000, seed=0, **others):
    r"""`[N]` importance-weighted bounds on log p(x), nats per datum (arXiv 1509.00519).

    .. math:: \log \frac1S \sum_s \sum_y \frac{p(x, z_s, y)}{q(z_s \mid x, y)}, \quad z_s \sim q

    Discrete latents are summed exactly, on whichever side; weights are per datum; particles and
    data are worked through in chunks, so memory stays bounded. It is a lower bound in expectation,
    rising to log p(x) with `num_samples`; how fast depends on the guide. With `PriorGuide(model)` it
    is the Monte Carlo estimate from the prior, of a conditional model log p(x | c).

    Raises:
        UserError: the model scores grey values with a Bernoulli, which is no likelihood.
    """
    whole(1, num_samples=num_samples)
    batch = observed(model, x, others)
    check_proper(model, x, guide, **others)
    device = device_of(model, guide, default=x.device)
    out = []
    with eval_mode(model, guide), seeded(seed, device):
        rows = rows_per_chunk(model, guide, batch, device)
        for part in chunks(batch, max(1, min(len(x), rows)), device):
            size = len(part["x"])
            total = torch.full((size,), -math.inf, dtype=torch.float64, device=device)
            for log_w in log_weights(model, guide, part, num_samples, rows // size):
                total = torch.logaddexp(total, log_w.double().logsumexp(0))
            out.append(total - math.log(num_samples))
    return torch.cat(out).to(device=x.device, dtype=x.dtype)


def log_weights(model, guide, batch, num_samples, at_once):
    """The log importance weights of one chunk of data, `[at_once, B]` at a time, S in all."""
    size = len(batch["x"])
    if not layout_of(model, guide, batch).divisible:
        at_once = AT_ONCE
    while num_samples:
        s = max(1, min(num_samples, at_once))
        yield trace_pair(model, guide, batch, s).log_weight().expand(s, size)
        num_samples -= s
