"""How much a guide loses, and to what: its family, or its network."""

import math

import torch

from ..errors import positive, whole
from ..guides.free import Free
from ..pair import device_of, eval_mode, seeded, takes
from ..programs import trace_pair
from .ais import GRADIENT, ais
from .inputs import scored
from .likelihood import chunks, log_weights, rows_per_chunk

DRAWS = 16  # for each gradient
WINDOW = 50  # steps between looks
LOOK = 500  # draws of a look, the same each time


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
    **others,
):
    r"""What a guide loses of log p(x), datum by datum (Cremer, Li and Duvenaud 2018, 1801.03558).

    .. math:: \underbrace{\log p(x) - L[q^*]}_{\text{approximation}}
              + \underbrace{L[q^*] - L[q]}_{\text{amortisation}} = \log p(x) - L[q]

    :math:`q^*` is the best of the guide's own family for that datum. It is found by Adam, from what
    the guide says, on numbers of the datum's own (`guides.free.Free` says which; in short, all that
    the network outputs, for each value of an enumerated parent), with new noise at each of
    its steps; the learning rate falls by three whenever 50 steps gain less than `tolerance` nats, on
    average over the data, on noise that stays the same, until it is a thirtieth of what it was.
    For constants and per-datum guides too the family is free per datum: their amortisation gap is
    what sharing, or unfinished training, costs.

    log p(x) is one of two lower bounds, AIS from the prior and the importance-weighted one with
    :math:`q^*`, that whose mean over the data is larger (a larger one for each datum would be no
    bound); where it is loose, the approximation gap is too small. L[q] and L[q*] are estimated on
    the same noise, and L[q*] is L[q] where the search found nothing better.

    A factor with a *sampled* latent among its parents (z2 <- z1) is free only by a constant, so that
    its part of the amortisation gap is called approximation.

    Args:
        num_samples: draws for L[q] and L[q*].
        importance_samples: of the importance-weighted bound.
        annealing: options of `ais`, e.g. `{"num_steps": 1000}`; False leaves it out.
        log_likelihood: `[N]`, in place of both bounds: for several guides of one model.
        max_steps, lr, tolerance: of the search.
        others: further observed values and `index`, by name.

    Returns:
        `{"log_likelihood", "elbo_optimal", "elbo", "approximation", "amortisation": [N]}`, nats.

    Raises:
        UserError: grey values in a Bernoulli; a guide whose laws cannot be optimised.
    """
    whole(1, num_samples=num_samples, importance_samples=importance_samples, max_steps=max_steps)
    positive(lr=lr, tolerance=tolerance)
    batch = scored(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    parts = []
    with eval_mode(model, guide), seeded(seed, device):
        rows = max(1, rows_per_chunk(model, guide, batch, device) // GRADIENT)
        noise = int(torch.randint(2**31, ()))
        for part in chunks(batch, max(1, min(len(x), rows // DRAWS)), device):
            at_once = max(1, rows // len(part["x"]))
            free = Free(model, guide, part)
            optimise(model, free, max_steps, lr, tolerance, noise, at_once)
            with torch.no_grad():
                found = [
                    _bound(model, q, part, num_samples, at_once, noise + 1) for q in (guide, free)
                ]
                result = {"elbo": found[0], "elbo_optimal": torch.maximum(*found)}
                if log_likelihood is None:
                    log_w = list(log_weights(model, free, part, importance_samples, at_once))
                    result["log_likelihood"] = torch.cat(log_w).logsumexp(0) - math.log(
                        importance_samples
                    )
            parts.append(result)
    result = {k: torch.cat([p[k] for p in parts]).to(x.device) for k in parts[0]}
    if log_likelihood is not None:
        result["log_likelihood"] = log_likelihood.to(result["elbo"])
    elif annealing is not False:
        of_model = {k: v for k, v in others.items() if takes(model, k)}
        annealed = ais(model, x, seed=seed, **(annealing or {}), **of_model)
        result["log_likelihood"] = best_bound(result["log_likelihood"], annealed)
    result["approximation"] = result["log_likelihood"] - result["elbo_optimal"]
    result["amortisation"] = result["elbo_optimal"] - result["elbo"]
    order = ("log_likelihood", "elbo_optimal", "elbo", "approximation", "amortisation")
    return {k: result[k] for k in order}


def best_bound(*bounds):
    """Of lower bounds `[N]` the one that is largest on average; the largest for each datum is none."""
    return max(bounds, key=lambda bound: float(bound.mean()))


def optimise(model, free, max_steps, lr, tolerance, noise, at_once):
    """Put each datum's best numbers into `free.shifts`; how many steps it took."""
    batch, shifts, rows = free.batch, list(free.shifts.values()), list(free.rows.values())
    adam = torch.optim.Adam(shifts, lr=lr)
    best, steps = [s.detach().clone() for s in shifts], 0

    @torch.no_grad()
    def look(at):
        was = [s.clone() for s in shifts]
        _put(shifts, at)
        reached = _bound(model, free, batch, LOOK, at_once, noise)
        _put(shifts, was)
        return reached

    reached = look(best)
    while steps < max_steps and adam.param_groups[0]["lr"] > lr / 30:
        mean = [torch.zeros_like(s) for s in best]
        for _ in range(WINDOW):
            with torch.enable_grad():
                bound = trace_pair(model, free, batch, DRAWS).elbo().mean(0).sum()
                gradients = torch.autograd.grad(-bound, shifts)
            for shift, gradient in zip(shifts, gradients, strict=True):
                shift.grad = gradient
            adam.step()
            for m, shift in zip(mean, shifts, strict=True):
                m += shift.detach() / WINDOW
        steps += WINDOW
        now = look(mean)
        for kept, m, row in zip(best, mean, rows, strict=True):
            better = (now > reached).reshape((-1,) + (1,) * (-1 - row))
            kept.copy_(torch.where(better, m, kept))
        gain = float((now - reached).clamp(min=0).mean())
        reached = torch.maximum(now, reached)
        if gain < tolerance:
            adam.param_groups[0]["lr"] /= 3
    _put(shifts, best)
    return steps


@torch.no_grad()
def _put(shifts, values):
    for shift, value in zip(shifts, values, strict=True):
        shift.copy_(value)


def _bound(model, guide, batch, num_samples, at_once, noise):
    """`[B]` ELBO, `num_samples` draws, of the random stream `noise`."""
    total, left, size = 0.0, num_samples, len(batch["x"])
    with seeded(noise, batch["x"].device):
        while left:
            s = min(left, at_once)
            total = total + trace_pair(model, guide, batch, s).elbo().expand(s, size).sum(0)
            left -= s
    return total / num_samples
