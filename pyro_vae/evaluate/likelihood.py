"""Bounds on log p(x), per data point and in nats, for any pair with one data plate."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch

from ..errors import check_int_at_least
from ..programs import layout_of, trace_pair
from ..programs.centers import CommonNoise
from ..programs.modules import device_of
from ..programs.recorder import replayed
from ..programs.sites import is_latent
from ..programs.traces import Traces
from .chunked import evaluate_in_chunks, evaluation_mode, trace_few
from .inputs import Array, Batch, PyroProgram, pair_inputs, scored_inputs

PARTICLES_PER_RUN = 100  # for a pair that cannot be run on some of its rows
# Of few rows rather than few of many rows: what does not depend on z is then computed once for all.
PARTICLES_AT_ONCE = 50


def elbo_terms(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 1,
    seed: int | None = 0,
    **others: Array | None,
) -> dict[str, torch.Tensor]:
    r"""The term of each site in the ELBO.

    The term of an observed site is its expected log-likelihood, :math:`E_q \log p(x \mid z)`. The
    term of a latent is minus its KL divergence from the prior. A `pyro.factor` in the data plate has
    its expectation (the guide's, with the sign that it has in Pyro's ELBO); one outside, such as a
    penalty of the weights, is of no data point, and is left out. The terms sum to `elbo`. They are
    taken at beta = 1, in eval mode, with discrete latents summed exactly, whatever objective trained
    the pair.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed (binarized if the likelihood is binary), in the units in which
            the pair was trained.
        num_samples: Monte Carlo samples per data point, which are averaged.
        seed: of the samples. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{site: [N]}`, nats per data point, on the device of x.

    Raises:
        UserError: a name that the pair does not take, NaN, values outside a likelihood's support.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> terms = pv.evaluate.elbo_terms(model, guide, torch.ones(4, 6))
        >>> {site: list(term.shape) for site, term in terms.items()}
        {'z': [4], 'x': [4]}
    """
    return _mean_terms(Traces.site_terms, model, guide, x, num_samples, seed, others)


def latent_kl(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 1,
    seed: int | None = 0,
    **others: Array | None,
) -> dict[str, torch.Tensor]:
    """The KL of each latent from its prior: minus the terms of `elbo_terms` that are no likelihood.

    A latent that the guide puts at a point has none, and is left out. The arguments and the errors
    are those of `elbo_terms`.

    Returns:
        `{latent: [N]}`, nats per data point. Where the guide draws all latents as one vector, as
        Pyro's AutoMultivariateNormal does, one entry of their names has the KL of all.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.evaluate.likelihood import latent_kl
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> latent_kl(model, pv.guides.Guide(model), torch.ones(4, 6))["z"].shape
        torch.Size([4])
    """
    return _mean_terms(_latent_kl, model, guide, x, num_samples, seed, others)


def _latent_kl(traces: Traces) -> Batch:
    terms = {n: term for n, term in traces.site_terms().items() if n not in traces.points()}
    known = {*traces.scored, *traces.guide_factors}
    joint = [-term for n, term in terms.items() if n not in known]
    latents = {
        n: -term for n, term in terms.items() if n in traces.model and is_latent(traces.model[n])
    }
    if joint and latents:
        return {", ".join(latents): functools.reduce(torch.add, [*latents.values(), *joint])}
    return latents


def kinds_of_terms(
    model: PyroProgram, guide: PyroProgram, x: Array, **others: Array | None
) -> dict[str, str]:
    """What each of `elbo_terms` is of; the arguments are the same.

    Returns:
        `{site: kind}`: "data"; "latent"; "point", a latent that the guide puts at a point; "factor"
        of the model; "guide factor"; or "joint", a draw of the guide that several latents are part of.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.evaluate.likelihood import kinds_of_terms
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> kinds_of_terms(model, pv.guides.Guide(model), torch.ones(4, 6))
        {'z': 'latent', 'x': 'data'}
    """
    batch = pair_inputs(model, x, others, guide)
    device = device_of(model, guide, default=batch["x"].device)
    with evaluation_mode(model, guide, seed=0, device=device):
        traces = trace_few(model, guide, batch, device)
    points = traces.points()

    def kind(name: str) -> str:
        if name not in traces.model:
            if name in traces.guide_factors:
                return "guide factor"
            return "factor" if name in traces.scored else "joint"
        if not is_latent(traces.model[name]):
            return "data"
        return "point" if name in points else "latent"

    return {name: kind(name) for name in traces.site_terms()}


def why_no_log_likelihood(kinds: Mapping[str, str], improper: str | None) -> str | None:
    """Why `log_likelihood` refuses a pair, in a few words; None if it does not.

    Args:
        kinds: of its terms, from `kinds_of_terms`.
        improper: why p(x) is not a probability, from `why_improper`.

    Example:
        >>> from pyro_vae.evaluate.likelihood import why_no_log_likelihood
        >>> why_no_log_likelihood({"z": "point", "x": "data"}, None)
        "the guide puts 'z' at a point"
    """
    points = [repr(name) for name, kind in kinds.items() if kind == "point"]
    return f"the guide puts {', '.join(points)} at a point" if points else improper


def _mean_terms(
    terms_of: Callable[[Traces], Batch],
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int,
    seed: int | None,
    others: Mapping[str, Array | None],
) -> Batch:
    """`{name: [N]}`: terms of a pair's traces, averaged over samples; the rest is as in `elbo_terms`."""
    check_int_at_least(1, num_samples=num_samples)
    batch = scored_inputs(model, x, others, guide, proper=False)

    def means(chunk: Batch, _: int) -> Batch:
        terms = terms_of(trace_pair(model, guide, chunk, num_samples))
        size = len(chunk["x"])
        return {n: term.expand(num_samples, size).mean(0) for n, term in terms.items()}

    return evaluate_in_chunks(means, model, guide, batch, seed=seed, num_particles=num_samples)


def elbo(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 1,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    """Evidence lower bounds: the sum of `elbo_terms`, whose arguments and errors it shares.

    Returns:
        `[N]`, nats per data point, on the device of x.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.evaluate.elbo(model, pv.guides.Guide(model), torch.ones(4, 6), num_samples=10).shape
        torch.Size([4])
    """
    terms = elbo_terms(model, guide, x, num_samples, seed, **others)
    return functools.reduce(torch.add, terms.values())


def log_likelihood(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 5000,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    r"""Importance-weighted lower bounds on log p(x).

    .. math:: \log \frac1S \sum_s \sum_y \frac{p(x, z_s, y)}{q(z_s \mid x, y)}, \quad z_s \sim q

    Discrete latents y are summed exactly, whether the model or the guide enumerates them. In
    expectation the bound rises to log p(x) with S; how fast depends on the guide. With
    `PriorGuide(model)` it is the Monte Carlo estimate from the prior; for a conditional model, of
    log p(x | c). Particles and data points are processed in chunks, so that memory stays bounded.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained. Of standardized
            data the result is a log-density of the standardized values.
        num_samples: S, importance samples per data point.
        seed: of the samples. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `[N]`, nats per data point, on the device of x.

    Raises:
        UserError: a name that the pair does not take, NaN, values outside a likelihood's support;
            gray values scored with a Bernoulli, or a `pyro.factor`: neither is a likelihood.

    References:
        Burda, Grosse, Salakhutdinov 2016, Importance weighted autoencoders, arXiv 1509.00519.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.log_likelihood(model, guide, torch.ones(4, 6), num_samples=50).shape
        torch.Size([4])
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = scored_inputs(model, x, others, guide)
    return importance_bounds(model, guide, batch, num_samples, seed)


def importance_bounds(
    model: PyroProgram,
    guide: PyroProgram,
    batch: Batch,
    num_samples: int,
    seed: int | None,
    common_noise: int | None = None,
) -> torch.Tensor:
    """`log_likelihood` of a batch that was checked; `common_noise` is that of `LogWeights`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.evaluate.likelihood import importance_bounds
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> importance_bounds(model, pv.guides.Guide(model), {"x": torch.ones(4, 6)}, 50, 0).shape
        torch.Size([4])
    """
    weights = LogWeights(model, guide, batch, num_samples, common_noise)

    def bound(chunk: Batch, capacity: int) -> Batch:
        total = chunk["x"].new_full((len(chunk["x"]),), -math.inf, dtype=torch.float64)
        for log_w in weights.parts(chunk, capacity):
            total = torch.logaddexp(total, log_w.double().logsumexp(0))
        return {"bound": total - math.log(num_samples)}

    bounds = evaluate_in_chunks(
        bound, model, guide, batch, seed=seed, num_particles=weights.particles_at_once
    )["bound"]
    return bounds.to(batch["x"].dtype)


class LogWeights:
    """The log importance weights of a batch, chunk by chunk, in parts of some samples.

    Many parts are replayed, and compiled if that pays (see `programs.recorder`): a program that was
    recorded for one chunk serves all chunks of its size.

    Args:
        model, guide: the pair, in evaluation mode while parts are taken.
        batch: `{name: [N, ...]}`, which the chunks are rows of.
        num_samples: S, of each row.
        common_noise: seed of noise that all rows share: the weights of a row do not depend on the rows
            beside it. Such draws are not replayed. Default: each row has separate noise.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.evaluate.likelihood import LogWeights
        >>> model, batch = pv.models.VAE((6,), latent_dim=2), {"x": torch.ones(4, 6)}
        >>> weights = LogWeights(model, pv.guides.Guide(model), batch, num_samples=10)
        >>> [part.shape for part in weights.parts(batch, capacity=8)]
        [torch.Size([8, 4]), torch.Size([2, 4])]
    """

    def __init__(
        self,
        model: PyroProgram,
        guide: PyroProgram,
        batch: Batch,
        num_samples: int,
        common_noise: int | None = None,
    ) -> None:
        self.model, self.guide, self.num_samples = model, guide, num_samples
        self.common_noise = common_noise
        self.layout, self.rows_left = layout_of(model, guide, batch), len(batch["x"])
        self.repeated: dict[tuple[int, int], Callable[..., Sequence[torch.Tensor]]] = {}

    @property
    def particles_at_once(self) -> int:
        """How many samples of each row one part should have, if so many fit in memory."""
        is_looped = self.layout.particles == "loop"  # then a run has one
        return 1 if is_looped else min(self.num_samples, PARTICLES_AT_ONCE)

    def parts(self, chunk: Batch, capacity: int) -> Iterator[torch.Tensor]:
        """`[S', B]`, of S samples in all, at most `capacity` of them at once."""
        capacity = max(1, capacity if self.layout.divisible else PARTICLES_PER_RUN)
        size, noise = len(chunk["x"]), None
        if self.common_noise is not None:  # the parts are as large in every chunk
            capacity = min(capacity, self.particles_at_once)
            noise = CommonNoise(size, self.common_noise)
        number, rest = divmod(self.num_samples, capacity)
        draw = partial(self._draw, tuple(chunk), noise)
        if noise is not None:
            self.repeated[capacity, size] = partial(draw, capacity)
        if number and (capacity, size) not in self.repeated:
            values = list(chunk.values())
            self.repeated[capacity, size] = replayed(
                partial(draw, capacity), values, [v.flip(0) for v in values],
                device=chunk["x"].device, calls=number * max(1, self.rows_left // size),
            )  # fmt: skip
        self.rows_left -= size
        for _ in range(number):
            yield self.repeated[capacity, size](*chunk.values())[0]
        if rest:
            yield draw(rest, *chunk.values())[0]

    def _draw(
        self,
        names: Sequence[str],
        noise: CommonNoise | None,
        num_samples: int,
        *values: torch.Tensor,
    ) -> list[torch.Tensor]:
        batch = dict(zip(names, values, strict=True))
        log_w = trace_pair(self.model, self.guide, batch, num_samples, noise=noise).log_weight()
        return [log_w.expand(num_samples, len(batch["x"]))]
