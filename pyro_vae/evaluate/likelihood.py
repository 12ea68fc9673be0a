"""Bounds on log p(x), per data point and in nats, for any model/guide pair with one data plate."""

import math

import torch

from .._torch_internals import num_components
from ..errors import check_int_at_least
from ..programs import few_rows, layout_of, trace_pair
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from ..programs.sites import base_distribution
from .inputs import scored

BYTES = 256 * 2**20  # what one chunk's largest tensors may take together
INDIVISIBLE = 2**60  # rows a chunk of a pair that takes its batch whole
AT_ONCE = 100  # draws of such a pair


def chunks(batch, size, device):
    """The batch in slices of `size` rows, on `device`."""
    for start in range(0, len(batch["x"]), size):
        yield {k: v[start : start + size].to(device) for k, v in batch.items()}


def rows_per_chunk(model, guide, batch, device):
    """How many (particle, data point) rows fit in `BYTES`, from one row's traced sizes.

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
        copies = num_components(site["fn"])
        floats = max(floats, rows * copies * math.prod(site["fn"].event_shape))
        base = base_distribution(site["fn"])
        for parameter in vars(base).values():  # a categorical has more numbers than its value
            if isinstance(parameter, torch.Tensor):
                floats = max(floats, parameter.numel() / len(one["x"]))
    return max(1, int(BYTES / (4 * 8 * max(floats, 512))))


@torch.no_grad()
def elbo_terms(model, guide, x, num_samples=1, seed=0, **others):
    """Each site's part of the ELBO, `{site: [N]}` in nats per data point, on x's device.

    An observed site's term is its expected log-likelihood; a latent's is minus its KL; they sum to
    `elbo`. Always at beta = 1, in eval mode, discrete latents summed exactly, whatever objective
    trained the pair.

    Args:
        x: `[N, ...]`, as observed (binarized where the likelihood is binary).
        num_samples: Monte Carlo samples per data point to average.
        seed: of those samples; None takes torch's stream as it is.
        others: further observed values and `index`, by name, each with N rows.

    Raises:
        UserError: names that the pair does not take, NaN, values outside a likelihood's support.
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = scored(model, x, others, guide, proper=False)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    parts = []
    with eval_mode(model, guide), seeded(seed, device):
        rows = rows_per_chunk(model, guide, batch, device)
        for part in chunks(batch, max(1, min(len(x), rows // num_samples)), device):
            terms = trace_pair(model, guide, part, num_samples).site_terms()
            size = len(part["x"])
            parts.append({k: t.expand(num_samples, size).mean(0) for k, t in terms.items()})
    return {k: torch.cat([p[k] for p in parts]).to(x.device) for k in parts[0]}


def elbo(model, guide, x, num_samples=1, seed=0, **others):
    """`[N]` evidence lower bounds, nats per data point; the sum of `elbo_terms`."""
    return sum(elbo_terms(model, guide, x, num_samples, seed, **others).values())


@torch.no_grad()
def log_likelihood(model, guide, x, num_samples=5000, seed=0, **others):
    r"""`[N]` importance-weighted bounds on log p(x), nats per data point (arXiv 1509.00519).

    .. math:: \log \frac1S \sum_s \sum_y \frac{p(x, z_s, y)}{q(z_s \mid x, y)}, \quad z_s \sim q

    Discrete latents are summed exactly, on whichever side; weights are per data point; particles and
    data are worked through in chunks, so memory stays bounded. It is a lower bound in expectation,
    rising to log p(x) with `num_samples`; how fast depends on the guide. With `PriorGuide(model)` it
    is the Monte Carlo estimate from the prior, of a conditional model log p(x | c).

    Raises:
        UserError: names that the pair does not take, NaN, values outside a likelihood's support;
            grey values scored with a Bernoulli, or a `pyro.factor`, which are no likelihoods.
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = scored(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
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
