"""Inference gaps: how much of log p(x) a guide loses to its family, and to its network."""

import math
from collections.abc import Callable, Sequence

import torch

from ..data.arrays import as_floats
from ..errors import UserError, check_int_at_least, check_positive
from ..evaluate.chunked import evaluate_in_chunks
from ..evaluate.inputs import Array, Batch, PyroProgram, scored_inputs
from ..evaluate.likelihood import LogWeights
from ..guides.per_datum_optimum import PerDatumOptimum
from ..programs import trace_pair
from ..programs.calling import accepts_argument
from ..programs.contexts import seeded
from ..programs.recorder import replayed
from .ais import GRADIENT_MEMORY, annealed_weights
from .bounds import MeanBound, choose_bound, mean_bound
from .importance import RELIABLE_K, TAIL_SAMPLES, log_mean_error, median_k, pareto_k

GRADIENT_DRAWS = 16  # draws of the ELBO for one gradient
WINDOW = 50  # steps between two evaluations of the bound
SELECTION_DRAWS = 500  # draws of such an evaluation, the same every time
PILOT_DATA = 16  # data points on which the bound on log p(x) is chosen
ELSEWHERE_STEPS = 200  # of the search from zero
ELSEWHERE_GAIN = 0.05  # nats that it must be better by
KEYS = ("log_likelihood", "elbo_optimal", "elbo", "approximation", "amortization")


def inference_gaps(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 1000,
    importance_samples: int = 5000,
    annealing: dict[str, int] | bool | None = None,
    log_likelihood: torch.Tensor | None = None,
    max_steps: int = 5000,
    lr: float = 0.1,
    tolerance: float = 3e-4,
    seed: int | None = 0,
    on_progress: Callable[[float], None] | None = None,
    **others: Array | None,
) -> dict[str, torch.Tensor]:
    r"""How much of log p(x) a guide loses, and to what.

    .. math:: \underbrace{\log p(x) - L[q^*]}_{\text{approximation}}
              + \underbrace{L[q^*] - L[q]}_{\text{amortization}} = \log p(x) - L[q]

    :math:`q^*` is the best distribution of the guide's family for a data point. Adam searches for
    it from the guide, and from zero outputs (normals: N(0, 1)) where that is better. It searches over
    numbers that belong to the data point: all that the network outputs, for each value of an enumerated
    parent (see `guides.per_datum_optimum.PerDatumOptimum`). Every step has new noise. The learning rate
    is divided by three when 50 steps gain less than `tolerance` nats, on average over the data and on
    fixed noise, until it is a thirtieth of its first value. The family is free per data point for
    constant and per-datum guides too: their amortization gap is the cost of sharing, or of unfinished
    training.

    No number is chosen on the draws from which it is reported. If the result of the search is not
    better than the guide on separate draws, :math:`q^*` is the guide. log p(x) is one of two lower
    bounds, AIS from the prior and the importance-weighted bound with :math:`q^*`: the more precise one,
    unless the other is larger beyond the noise, in a pilot of up to 16 data points with separate
    draws. If that bound is loose, the approximation gap is too small. What the search has not found
    makes it too large: some thousandths of a nat, or more where it ends in a worse mode of the
    posterior. No standard error contains either. L[q] and L[q*] are estimated on the same noise; an
    amortization gap near zero may be negative, within its standard error.

    If a factor has a *sampled* latent among its parents (z2 <- z1), only a constant is free, so
    that its part of the amortization gap counts as approximation.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        num_samples: draws for L[q] and L[q*].
        importance_samples: of the importance-weighted bound.
        annealing: options of `ais`, e.g. `{"num_steps": 1000}`. False leaves AIS out.
        log_likelihood: `[N]`, used instead of both bounds and taken to be exact: for several guides
            of one model.
        max_steps: of the search.
        lr: the first learning rate of the search.
        tolerance: of the search, in nats per data point.
        seed: of all draws. None uses torch's random stream.
        on_progress: called during the search with the fraction that is done, at most 1.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{"log_likelihood", "elbo_optimal", "elbo", "approximation", "amortization": [N]}`, nats per
        data point, and the Monte Carlo standard error of each, `"log_likelihood_se"` and so on (NaN
        for a single draw). The standard error of a mean over the data is the root of the sum of the
        squared errors, divided by N. `"pareto_k"`: k-hat of the importance weights that give log
        p(x), `[N]`; above 0.7 they cannot be trusted. NaN if log p(x) comes from elsewhere, or
        from fewer than 100 weights.

    Raises:
        UserError: gray values in a Bernoulli; a guide whose distributions cannot be optimized.

    References:
        Cremer, Li, Duvenaud 2018, Inference suboptimality in variational autoencoders, arXiv
        1801.03558.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2, network=pv.conditionals.MLP((4,)))
        >>> guide = pv.guides.Guide(model, network=pv.conditionals.MLP((4,)))
        >>> gaps = pv.diagnostics.inference_gaps(model, guide, torch.ones(2, 6), num_samples=20,
        ...     importance_samples=20, annealing=False, max_steps=1)
        >>> gaps["approximation"].shape
        torch.Size([2])
    """
    check_int_at_least(
        1, num_samples=num_samples, importance_samples=importance_samples, max_steps=max_steps
    )
    check_positive(lr=lr, tolerance=tolerance)
    batch = scored_inputs(model, x, others, guide)
    size, done = len(batch["x"]), 0
    if log_likelihood is not None:
        log_likelihood = _checked_log_likelihood(log_likelihood, batch["x"])
    with_annealing = log_likelihood is None and annealing is not False
    noise_seeds: list[int] = []

    def evaluate(chunk: Batch, capacity: int) -> Batch:
        nonlocal done

        def on_step(steps: int) -> None:
            if on_progress is not None:
                on_progress(min(1.0, (done + len(chunk["x"]) * steps / max_steps) / size))

        capacity = max(1, capacity // GRADIENT_MEMORY)
        noise = int(torch.randint(2**31, ()))  # one per chunk, or their errors would agree
        noise_seeds.append(noise)
        with torch.enable_grad():
            optimum = PerDatumOptimum(model, guide, chunk)
        _Search(model, optimum, max_steps, lr, tolerance, noise, capacity).run(on_step)
        done += len(chunk["x"])
        result = _elbos(model, optimum, num_samples, noise + 2, capacity)
        if log_likelihood is None:
            result |= _importance_bound(model, optimum, importance_samples, capacity)
        if with_annealing:
            pilot = _importance_bound(model, optimum, importance_samples, capacity)
            result |= {f"pilot_{name}": value for name, value in pilot.items()}
        return result

    memory = GRADIENT_MEMORY * GRADIENT_DRAWS
    result = evaluate_in_chunks(evaluate, model, guide, batch, seed=seed, num_particles=memory)
    replacement = None  # for the importance-weighted bound and its standard error
    if log_likelihood is not None:
        replacement = log_likelihood, torch.zeros_like(result["elbo"])
    elif with_annealing:
        options = annealing if isinstance(annealing, dict) else {}
        pilot_seed = noise_seeds[-1] + 3
        replacement = _preferred_annealed_bound(model, batch, result, options, seed, pilot_seed)
    if replacement is not None:
        result["log_likelihood"], result["log_likelihood_se"] = replacement
        result["pareto_k"] = torch.full_like(result["elbo"], math.nan)
    for key in ("log_likelihood", "log_likelihood_se"):
        result[key] = result[key].to(result["elbo"])
    result["approximation"] = result["log_likelihood"] - result["elbo_optimal"]
    result["approximation_se"] = result["log_likelihood_se"].hypot(result["elbo_optimal_se"])
    return {k: result[k] for k in (*KEYS, *(f"{k}_se" for k in KEYS), "pareto_k")}


def _checked_log_likelihood(log_likelihood: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A user's log p(x), `[N]`."""
    log_likelihood = as_floats(log_likelihood, "log_likelihood").to(x.device)
    if log_likelihood.shape != (len(x),):
        raise UserError(
            f"log_likelihood must have a number for each of the {len(x)} data points, not "
            f"shape {list(log_likelihood.shape)}"
        )
    return log_likelihood


def _preferred_annealed_bound(
    model: PyroProgram,
    batch: Batch,
    result: Batch,
    options: dict[str, int],
    seed: int | None,
    pilot_seed: int,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`annealed_bound`; None if the pilot prefers the importance-weighted bound.

    Args:
        result: with the importance-weighted bound of the pilot, `pilot_log_likelihood` and so on.
        options: of `ais`.
        seed, pilot_seed: of AIS's draws.
    """
    inputs = {k: v for k, v in batch.items() if k == "x" or accepts_argument(model, k)}
    size = len(batch["x"])
    rows = torch.linspace(0, size - 1, min(size, PILOT_DATA)).round().long().tolist()
    names = ("log_likelihood", "log_likelihood_se", "pareto_k")
    value, error, k = (result[f"pilot_{name}"][rows] for name in names)
    weighted = mean_bound(value, error, median_k(k) > RELIABLE_K)
    if choose_bound([weighted, _pilot(model, inputs, rows, options, pilot_seed)]) == 0:
        return None
    return annealed_bound(model, **inputs, seed=seed, **options)


def _pilot(
    model: PyroProgram, inputs: Batch, rows: list[int], options: dict[str, int], seed: int
) -> MeanBound:
    """The mean of AIS's bound over some data points."""
    few = {name: value[rows] for name, value in inputs.items()}
    return mean_bound(*annealed_bound(model, **few, seed=seed, **options))


def annealed_bound(
    model: PyroProgram, x: Array, **options: Array | int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(AIS bound on log p(x), standard error)`, `[N]` each, float64.

    Args:
        model: the generative program.
        x: `[N, ...]`, as observed.
        options: of `ais`, and further inputs by name.
    """
    log_w = annealed_weights(model, x, **options)  # type: ignore[arg-type]
    return log_w.logsumexp(0) - math.log(len(log_w)), log_mean_error(log_w)


def _importance_bound(
    model: PyroProgram, optimum: PerDatumOptimum, num_samples: int, capacity: int
) -> Batch:
    """The importance-weighted bound, its standard error and k-hat, `[B]` each."""
    weights = LogWeights(model, optimum, optimum.batch, num_samples)
    log_w = torch.cat(list(weights.parts(optimum.batch, capacity)))
    bound = log_w.logsumexp(0) - math.log(num_samples)
    tail = pareto_k(log_w) if num_samples >= TAIL_SAMPLES else torch.full_like(bound, math.nan)
    return {
        "log_likelihood": bound,
        "log_likelihood_se": log_mean_error(log_w),
        "pareto_k": tail,
    }


def _elbos(
    model: PyroProgram, optimum: PerDatumOptimum, num_samples: int, noise: int, capacity: int
) -> Batch:
    """`{"elbo", "elbo_optimal", "amortization": [B]}` and standard errors, on the same noise."""
    elbo, elbo_optimal = (
        _elbo_draws(model, guide, optimum.batch, num_samples, capacity, noise)
        for guide in (optimum.start, optimum)
    )
    draws = {"elbo": elbo, "elbo_optimal": elbo_optimal, "amortization": elbo_optimal - elbo}
    result = {}
    for name, value in draws.items():
        result[name] = value.mean(0)
        sd = value.std(0) if num_samples > 1 else torch.full_like(value[0], math.nan)
        result[f"{name}_se"] = sd / math.sqrt(num_samples)
    return result


class _Search:
    """The search for q* of the data points of a chunk, in `evaluation_mode`.

    Args:
        model: the generative program.
        optimum: the guide whose offsets are optimized, in place.
        max_steps, lr, tolerance: as in `inference_gaps`.
        noise: seed of the draws on which bounds are compared.
        capacity: how many particles per data point fit in memory.
    """

    def __init__(
        self,
        model: PyroProgram,
        optimum: PerDatumOptimum,
        max_steps: int,
        lr: float,
        tolerance: float,
        noise: int,
        capacity: int,
    ) -> None:
        self.model, self.optimum, self.max_steps = model, optimum, max_steps
        self.lr, self.tolerance, self.noise, self.capacity = lr, tolerance, noise, capacity
        self.device = optimum.batch["x"].device
        self.gradients = replayed(self._gradients, [], [], device=self.device, calls=max_steps)

    def run(self, on_step: Callable[[int], None]) -> None:
        """Search from the guide, and from zero outputs where that is better."""
        self._optimize(self.max_steps, on_step)
        with seeded(self.noise + 4, self.device):  # leaves the random stream of what follows
            if self._search_from_zero():
                self._optimize(self.max_steps)
        self._keep_better()

    def _search_from_zero(self) -> bool:
        """A short search from zero outputs; data points for which it is better keep its result.

        A guide that is far from the posterior may lie in reach of a worse mode.

        Returns:
            Whether there are such data points.
        """
        optimum = self.optimum
        before, offsets = self._bounds(optimum), [offset.clone() for offset in optimum.offsets]
        optimum.set_offsets(optimum.offsets_to_zero())
        self._optimize(min(self.max_steps, ELSEWHERE_STEPS))
        is_better = self._bounds(optimum) > before + ELSEWHERE_GAIN
        optimum.set_offsets(optimum.select(is_better, optimum.offsets, offsets))
        return bool(is_better.any())

    def _keep_better(self) -> None:
        """Reset the offsets of data points where, on other draws, they are not better than none."""
        optimum, offsets = self.optimum, self.optimum.offsets
        before, after = (self._bounds(q, self.noise + 1) for q in (optimum.start, optimum))
        zeros = [torch.zeros_like(offset) for offset in offsets]
        optimum.set_offsets(optimum.select(after > before, offsets, zeros))

    def _optimize(
        self, max_steps: int, on_step: Callable[[int], None] = lambda steps: None
    ) -> None:
        """Maximize the ELBO of every data point over its offsets.

        Of the averages over at most 50 steps each, every data point keeps the one with the best ELBO.
        """
        optimum = self.optimum
        adam = torch.optim.Adam(optimum.offsets, lr=self.lr)
        best, best_bound = [offset.clone() for offset in optimum.offsets], self._bounds(optimum)
        steps = 0
        while steps < max_steps and adam.param_groups[0]["lr"] > self.lr / 30:
            window = min(WINDOW, max_steps - steps)
            mean = self._mean_of_steps(adam, window)
            steps += window
            on_step(steps)
            bound = self._bounds_at(mean)
            best = optimum.select(bound > best_bound, mean, best)
            gain = float((bound - best_bound).clamp(min=0).mean())
            best_bound = torch.maximum(bound, best_bound)
            if gain < self.tolerance:
                adam.param_groups[0]["lr"] /= 3
        optimum.set_offsets(best)

    def _mean_of_steps(self, adam: torch.optim.Adam, num: int) -> list[torch.Tensor]:
        """Make `num` steps; returns the mean of the offsets after each."""
        offsets = self.optimum.offsets
        mean = [torch.zeros_like(offset) for offset in offsets]
        for _ in range(num):
            for offset, gradient in zip(offsets, self.gradients(), strict=True):
                offset.grad = gradient
            adam.step()
            for average, offset in zip(mean, offsets, strict=True):
                average += offset / num
        return mean

    def _bounds_at(self, offsets: Sequence[torch.Tensor]) -> torch.Tensor:
        """`_bounds` at other offsets, which are not kept."""
        current = [offset.clone() for offset in self.optimum.offsets]
        self.optimum.set_offsets(offsets)
        bounds = self._bounds(self.optimum)
        self.optimum.set_offsets(current)
        return bounds

    def _bounds(self, guide: PyroProgram, noise: int | None = None) -> torch.Tensor:
        """`[B]` ELBOs, by which offsets are compared. Default: on the search's own noise."""
        noise, batch = self.noise if noise is None else noise, self.optimum.batch
        draws = _elbo_draws(self.model, guide, batch, SELECTION_DRAWS, self.capacity, noise)
        return draws.mean(0)

    def _gradients(self) -> Sequence[torch.Tensor]:
        """The gradients of minus the sum of the ELBOs of the data points, at the offsets."""
        optimum = self.optimum
        with torch.enable_grad():
            bound = trace_pair(self.model, optimum, optimum.batch, GRADIENT_DRAWS).elbo()
            return torch.autograd.grad(
                -bound.mean(0).sum(), optimum.offsets, allow_unused=True, materialize_grads=True
            )


def _elbo_draws(
    model: PyroProgram,
    guide: PyroProgram,
    batch: Batch,
    num_samples: int,
    capacity: int,
    noise: int,
) -> torch.Tensor:
    """`[S, B]` draws of the ELBO, from the random stream seeded by `noise`."""
    draws, left, size = [], num_samples, len(batch["x"])
    with seeded(noise, batch["x"].device):
        while left:
            part = min(left, capacity)
            draws.append(trace_pair(model, guide, batch, part).elbo().expand(part, size))
            left -= part
    return torch.cat(draws)
