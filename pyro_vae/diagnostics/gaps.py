"""How much a guide loses, and to what: its family, or its network."""

import math
from collections.abc import Callable

import torch

from ..errors import check_int_at_least, check_positive
from ..evaluate.inputs import scored
from ..evaluate.likelihood import chunks, log_weights, rows_per_chunk
from ..guides.per_datum_optimum import PerDatumOptimum
from ..programs import trace_pair
from ..programs.calling import accepts_argument
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from .ais import GRADIENT, annealed_weights
from .importance import log_mean_error, pareto_k

DRAWS = 16  # for each gradient
WINDOW = 50  # steps between two evaluations of the bound
LOOK = 500  # draws of such an evaluation, the same each time
PILOT = 16  # data points on which the bound on log p(x) is chosen
TAIL = 100  # samples that a fit of the tail of the importance weights needs
KEYS = ("log_likelihood", "elbo_optimal", "elbo", "approximation", "amortization")


def inference_gaps(
    model,
    guide,
    x,
    num_samples=1000,
    importance_samples=5000,
    annealing=None,
    log_likelihood=None,
    max_steps=5000,
    lr=0.1,
    tolerance=3e-4,
    seed=0,
    on_progress: Callable[[float], None] | None = None,
    **others,
):
    r"""What a guide loses of log p(x), per data point (Cremer, Li and Duvenaud 2018, 1801.03558).

    .. math:: \underbrace{\log p(x) - L[q^*]}_{\text{approximation}}
              + \underbrace{L[q^*] - L[q]}_{\text{amortization}} = \log p(x) - L[q]

    :math:`q^*` is the best of the guide's own family for that data point. Adam finds it, starting
    from the guide, over numbers that belong to the data point (`guides.per_datum_optimum.PerDatumOptimum` says which; in
    short, all that the network outputs, for each value of an enumerated parent), with new noise at
    each step. The learning rate falls by three whenever 50 steps gain less than `tolerance` nats, on
    average over the data, on noise that stays the same, until it is a thirtieth of what it was.
    For constants and per-datum guides too the family is free per data point: their amortization gap
    is what sharing, or unfinished training, costs.

    No number is chosen on the draws that it is reported from. Where the search's result is not
    better than the guide on separate draws, :math:`q^*` is the guide. log p(x) is one of two lower
    bounds, AIS from the prior and the importance-weighted one with :math:`q^*`: the one that is
    larger on average in a pilot of up to 16 data points with separate draws. Where that bound is
    loose, the approximation gap is too small. L[q] and L[q*] are estimated on the same noise, so
    an amortization gap near zero may come out negative, within its standard error.

    A factor with a *sampled* latent among its parents (z2 <- z1) is free only by a constant, so that
    its part of the amortization gap is called approximation.

    Args:
        num_samples: draws for L[q] and L[q*].
        importance_samples: of the importance-weighted bound.
        annealing: options of `ais`, e.g. `{"num_steps": 1000}`; False leaves it out.
        log_likelihood: `[N]`, in place of both bounds and taken as exact: for several guides of one
            model.
        max_steps, lr, tolerance: of the search.
        on_progress: called during the search with the fraction that is done, at most 1.
        others: further observed values and `index`, by name.

    Returns:
        `{"log_likelihood", "elbo_optimal", "elbo", "approximation", "amortization": [N]}`, nats per
        data point, and for each of them its Monte Carlo standard error, `"log_likelihood_se"` and
        so on, `[N]` (NaN of a single draw). Errors of a mean over the data: the root of the sum of
        their squares, over N. `"pareto_k"`: k-hat of the importance weights that give log p(x),
        `[N]`; above 0.7 they cannot be trusted. NaN where log p(x) comes from elsewhere, and of
        fewer than 100 weights.

    Raises:
        UserError: grey values in a Bernoulli; a guide whose distributions cannot be optimized.
    """
    check_int_at_least(
        1, num_samples=num_samples, importance_samples=importance_samples, max_steps=max_steps
    )
    check_positive(lr=lr, tolerance=tolerance)
    batch = scored(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    bounded, weighted, pilot, done = [], [], [], 0
    with eval_mode(model, guide), seeded(seed, device):
        rows = max(1, rows_per_chunk(model, guide, batch, device) // GRADIENT)
        for part in chunks(batch, max(1, min(len(x), rows // DRAWS)), device):
            at_once = max(1, rows // len(part["x"]))
            noise = int(torch.randint(2**31, ()))  # another one, or chunks would err together
            free = PerDatumOptimum(model, guide, part)
            report = _scaled(on_progress, done / len(x), len(part["x"]) / len(x) / max_steps)
            optimize(model, free, max_steps, lr, tolerance, noise, at_once, report)
            done += len(part["x"])
            with torch.no_grad():
                keep_better(model, free, noise + 1, at_once)
                bounded.append(_bounds(model, free, num_samples, noise + 2, at_once))
                if log_likelihood is None:
                    weighted.append(_weighted(model, free, importance_samples, at_once))
                if log_likelihood is None and annealing is not False:
                    pilot.append(_weighted(model, free, importance_samples, at_once)[0])
    result = {k: torch.cat([b[k] for b in bounded]).to(x.device) for k in bounded[0]}
    if log_likelihood is not None:
        evidence, error = log_likelihood, torch.zeros_like(result["elbo"])
        tail = torch.full_like(error, math.nan)
    else:
        evidence, error, tail = (torch.cat(v).to(x.device) for v in zip(*weighted, strict=True))
        if annealing is not False:
            of_model = {k: v for k, v in others.items() if accepts_argument(model, k)}
            options = {**(annealing or {}), **of_model}
            few = torch.linspace(0, len(x) - 1, min(len(x), PILOT)).round().long().tolist()
            if _pilot(model, x, few, options, noise + 3) > float(torch.cat(pilot)[few].mean()):
                evidence, error = annealed_bound(model, x, seed=seed, **options)
                tail = torch.full_like(error, math.nan)
    result["log_likelihood"] = evidence.to(result["elbo"])
    result["log_likelihood_se"] = error.to(result["elbo"])
    result["approximation"] = result["log_likelihood"] - result["elbo_optimal"]
    result["approximation_se"] = result["log_likelihood_se"].hypot(result["elbo_optimal_se"])
    return {k: result[k] for k in (*KEYS, *(f"{k}_se" for k in KEYS))} | {"pareto_k": tail}


def _scaled(on_progress, start, per_step):
    """A function of the number of steps that reports the fraction of the whole search."""
    if on_progress is None:
        return lambda steps: None
    return lambda steps: on_progress(min(1.0, start + per_step * steps))


def _pilot(model, x, few, options, seed):
    """The mean of AIS's bound over the data points `few`, the options' arrays cut to them."""
    options = {k: v[few] if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return float(annealed_bound(model, x[few], seed=seed, **options)[0].mean())


def annealed_bound(model, x, **options):
    """`(AIS bound on log p(x), standard error)`, `[N]` each, float64."""
    log_w = annealed_weights(model, x, **options)
    return log_w.logsumexp(0) - math.log(len(log_w)), log_mean_error(log_w)


def _weighted(model, guide, num_samples, at_once):
    """`(importance-weighted bound, standard error, k-hat)`, `[B]` each."""
    log_w = torch.cat(list(log_weights(model, guide, guide.batch, num_samples, at_once)))
    bound = log_w.logsumexp(0) - math.log(num_samples)
    k = pareto_k(log_w) if num_samples >= TAIL else torch.full_like(bound, math.nan)
    return bound, log_mean_error(log_w), k


def _bounds(model, free, num_samples, noise, at_once):
    """`{"elbo", "elbo_optimal", "amortization": [B]}` and their standard errors, on one noise."""
    draws = [
        _elbo_draws(model, q, free.batch, num_samples, at_once, noise) for q in (free.start, free)
    ]
    result = {}
    for name, value in zip(
        ("elbo", "elbo_optimal", "amortization"), (*draws, draws[1] - draws[0]), strict=True
    ):
        result[name] = value.mean(0)
        result[f"{name}_se"] = value.std(0) / math.sqrt(num_samples)
    return result


def keep_better(model, free, noise, at_once):
    """Of each data point, leave the shifts only where they are better than none on other draws."""
    parameter_offsets, rows = list(free.parameter_offsets.values()), list(free.rows.values())
    start, moved = (
        _elbo_draws(model, q, free.batch, LOOK, at_once, noise).mean(0) for q in (free.start, free)
    )
    _put(
        parameter_offsets,
        [
            s.where(_along(moved > start, row), 0.0)
            for s, row in zip(parameter_offsets, rows, strict=True)
        ],
    )


def optimize(model, free, max_steps, lr, tolerance, noise, at_once, on_step=lambda steps: None):
    """Put the best numbers for each data point into `free.parameter_offsets`; returns the steps."""
    batch, parameter_offsets, rows = (
        free.batch,
        list(free.parameter_offsets.values()),
        list(free.rows.values()),
    )
    adam = torch.optim.Adam(parameter_offsets, lr=lr)
    best, steps = [s.detach().clone() for s in parameter_offsets], 0

    @torch.no_grad()
    def evaluate_bound(at):
        was = [s.clone() for s in parameter_offsets]
        _put(parameter_offsets, at)
        reached = _elbo_draws(model, free, batch, LOOK, at_once, noise).mean(0)
        _put(parameter_offsets, was)
        return reached

    reached = evaluate_bound(best)
    while steps < max_steps and adam.param_groups[0]["lr"] > lr / 30:
        mean = [torch.zeros_like(s) for s in best]
        for _ in range(WINDOW):
            with torch.enable_grad():
                bound = trace_pair(model, free, batch, DRAWS).elbo().mean(0).sum()
                gradients = torch.autograd.grad(
                    -bound, parameter_offsets, allow_unused=True, materialize_grads=True
                )
            for shift, gradient in zip(parameter_offsets, gradients, strict=True):
                shift.grad = gradient
            adam.step()
            for m, shift in zip(mean, parameter_offsets, strict=True):
                m += shift.detach() / WINDOW
        steps += WINDOW
        on_step(steps)
        now = evaluate_bound(mean)
        for kept, m, row in zip(best, mean, rows, strict=True):
            kept.copy_(torch.where(_along(now > reached, row), m, kept))
        gain = float((now - reached).clamp(min=0).mean())
        reached = torch.maximum(now, reached)
        if gain < tolerance:
            adam.param_groups[0]["lr"] /= 3
    _put(parameter_offsets, best)
    return steps


@torch.no_grad()
def _put(parameter_offsets, values):
    for shift, value in zip(parameter_offsets, values, strict=True):
        shift.copy_(value)


def _along(better, row):
    """`[B]` flags, to be broadcast along dimension `row` of a shift."""
    return better.reshape((-1,) + (1,) * (-1 - row))


def _elbo_draws(model, guide, batch, num_samples, at_once, noise):
    """`[S, B]` draws of the ELBO, of the random stream `noise`."""
    draws, left, size = [], num_samples, len(batch["x"])
    with seeded(noise, batch["x"].device):
        while left:
            s = min(left, at_once)
            draws.append(trace_pair(model, guide, batch, s).elbo().expand(s, size))
            left -= s
    return torch.cat(draws)
