"""What the latents do: encodings, reconstructions, units in use, components in use.

All values are in the units in which the pair was trained. If the data were standardized in Python
(`pv.data.standardize`), x is standardized here, and so are the results; `Data.unstandardize` takes
them back. `Run` is the object that knows the data and works in their original units.
"""

from collections.abc import Callable, Sequence

import torch

from ..data.arrays import as_tensor
from ..errors import UserError, check_int_at_least
from ..programs import layout_of, trace_pair, trace_program
from ..programs.centers import CommonNoise, mean_or_median
from ..programs.sites import has_real_support, holds, is_latent, is_point, observed_site
from ..programs.traces import Traces
from .chunked import evaluate_in_chunks
from .inputs import Array, Batch, PyroProgram, pair_inputs

#: A unit is active if the variance of its posterior mean over the data is larger.
ACTIVE_THRESHOLD = 0.01
#: A latent has collapsed (it carries almost no information about x) if its KL is smaller; nats per
#: data point.
COLLAPSE_THRESHOLD = 0.1
#: A mixture has in effect one component if a component's occupancy is larger.
ONE_COMPONENT_THRESHOLD = 0.99
NUM_TRANSFORMED = 256  # draws for the mean of a latent that is a function of another draw


def _evaluate_traces(
    function: Callable[[Traces, Batch], Batch],
    model: PyroProgram,
    guide: PyroProgram,
    batch: Batch,
    seed: int | None = 0,
    at_mean: bool = False,
) -> Batch:
    """`function(traces, chunk)` of every chunk of a batch, concatenated."""

    def evaluate(chunk: Batch, _: int) -> Batch:
        traces = trace_pair(model, guide, chunk, at_mean=at_mean)
        if at_mean and (names := _transformed_draws(traces)):
            means = _means_of_draws(model, guide, chunk, names)
            traces = trace_pair(model, guide, chunk, at_mean=True, values=means)
        return function(traces, chunk)

    return evaluate_in_chunks(evaluate, model, guide, batch, seed=seed)


def _transformed_draws(traces: Traces) -> list[str]:
    """Constrained latents that are functions of an auxiliary draw, as in Pyro's AutoGuides.

    The function of the draw's mean is not their mean: for an exponential, it is the median.
    """
    if not traces.auxiliary:
        return []
    return [
        name
        for name, site in traces.guide.items()
        if name in traces.model
        and is_point(site)
        and not has_real_support(traces.model[name]["fn"])
    ]


def _means_of_draws(
    model: PyroProgram, guide: PyroProgram, chunk: Batch, names: Sequence[str]
) -> Batch:
    """`{latent: [B, *shape]}`: means of draws of the guide whose noise all rows share."""
    noise = CommonNoise(len(chunk["x"]), spread=True)
    layout = layout_of(model, guide, chunk)
    drawn = trace_program(
        guide, layout, chunk, NUM_TRANSFORMED, lambda place: noise, draw_discrete=True,
        is_guide=True,
    )  # fmt: skip
    means = {}
    for name in names:
        site = drawn.model[name]
        shape = (NUM_TRANSFORMED, len(chunk["x"]), *site["fn"].event_shape)
        means[name] = site["value"].expand(shape).mean(0)
    return means


def encode(
    model: PyroProgram, guide: PyroProgram, x: Array, **others: Array | None
) -> dict[str, torch.Tensor]:
    """Posterior means of the guide's continuous latents.

    A latent whose parents are latents is encoded at their means. If the guide enumerates a
    discrete parent, the mean is taken over the parent's probabilities. A distribution whose mean is
    not known in closed form, such as a flow, is encoded by the mean of 32 draws, and a constrained
    latent of an AutoGuide, which is a function of an unconstrained draw, by that of 256. Their noise
    is fixed and common to all rows: equal rows have equal codes, in every batch.

    Where a distribution has no finite mean, the code is its median: `loc` of a Cauchy, or of
    Student's t with at most one degree of freedom. If torch has no quantiles of the distribution, the
    code is its mode, and without a mode the median of 32 draws.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained: of data that were
            standardized, the standardized values.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{latent: [N, *shape]}`, empty if the guide has no continuous latent.

    Raises:
        UserError: a name that the pair does not take, or NaN.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.evaluate.encode(model, pv.guides.Guide(model), torch.ones(4, 6))["z"].shape
        torch.Size([4, 2])
    """

    def means(traces: Traces, _: Batch) -> Batch:
        result = {}
        for name, site in traces.guide.items():
            is_continuous = is_latent(site) and not site["fn"].has_enumerate_support
            if is_continuous and name not in traces.auxiliary:
                shape = tuple(site["fn"].event_shape)
                value = traces.expectation(site["value"], shape)
                result[name] = value.expand(-1, *shape)
        return result

    batch = pair_inputs(model, x, others, guide)
    return _evaluate_traces(means, model, guide, batch, at_mean=True)


def sample_posterior(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    mean: bool = False,
    seed: int | None = 0,
    **others: Array | None,
) -> dict[str, torch.Tensor]:
    """One joint draw of every latent given x, from the guide.

    Discrete latents that the guide leaves out are drawn from their exact conditional posterior.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        mean: no draw: discrete latents take their most probable values, the others their means
            (see `encode`).
        seed: of the draw. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{latent: [N, *shape]}`.

    Raises:
        UserError: a name that the pair does not take, or NaN.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.MixtureVAE((6,), num_components=3, latent_dim=2)
        >>> draw = pv.evaluate.sample_posterior(model, pv.guides.Guide(model), torch.ones(4, 6))
        >>> {name: list(value.shape) for name, value in draw.items()}
        {'z': [4, 2], 'y': [4, 3]}
    """

    def draw(traces: Traces, _: Batch) -> Batch:
        assignment = traces.enumerated_assignment(most_probable=mean)
        result = {}
        for name, site in {**traces.guide, **traces.model}.items():
            if is_latent(site) and name not in traces.auxiliary:
                shape = tuple(site["fn"].event_shape)
                value = traces.select(site["value"], shape, assignment)
                result[name] = value.expand(traces.size, *shape)
        return result

    batch = pair_inputs(model, x, others, guide)
    return _evaluate_traces(draw, model, guide, batch, seed, at_mean=mean)


def reconstruct(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    site: str | None = None,
    **others: Array | None,
) -> torch.Tensor:
    """The mean of the likelihood at the posterior means of the latents.

    The latents have the values that `encode` gives. A likelihood without a finite mean, such as a
    Cauchy, is replaced by its median in the same way.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained. The result is in
            the same units: of data that were standardized, `data.unstandardize` takes it back.
        site: the observed site. Default: the one that observes x.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `[N, *x_shape]`.

    Raises:
        UserError: no such site; several sites, none of which observes x itself; a distribution
            without a mean.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.evaluate.reconstruct(model, pv.guides.Guide(model), torch.ones(4, 6)).shape
        torch.Size([4, 6])
    """

    def mean(traces: Traces, chunk: Batch) -> Batch:
        name = observed_site(traces.model, site, chunk["x"])
        fn, observed = traces.model[name]["fn"], traces.model[name]["value"]
        means = traces.of_distribution(name, lambda fn: mean_or_median(name, fn))
        value = traces.expectation(means, tuple(fn.event_shape))
        source = next((v for v in chunk.values() if holds(observed, v)), None)
        return {"mean": value if source is None else value.reshape(source.shape)}

    batch = pair_inputs(model, x, others, guide)
    return _evaluate_traces(mean, model, guide, batch, at_mean=True)["mean"]


def active_units(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    threshold: float = ACTIVE_THRESHOLD,
    **others: Array | None,
) -> dict[str, int]:
    r"""The number of units of each continuous latent that vary with x.

    A unit u is active if :math:`\mathrm{Var}_x(E_q[u \mid x])` is above the threshold.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        threshold: of the variance.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{latent: number of active units}`.

    References:
        Burda, Grosse, Salakhutdinov 2016, arXiv 1509.00519, section 5.2.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.evaluate.active_units(model, pv.guides.Guide(model), torch.ones(4, 6))
        {'z': 0}
    """
    codes = encode(model, guide, x, **others)
    return {k: int((variance_over_data(v) > threshold).sum()) for k, v in codes.items()}


def variance_over_data(codes: torch.Tensor) -> torch.Tensor:
    """`[D]`: the variance of each unit of codes `[N, ...]`; zero if there is one data point."""
    return codes.reshape(len(codes), -1).var(0, correction=min(1, len(codes) - 1))


def responsibilities(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    latent: str | None = None,
    num_samples: int = 16,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    """Probabilities of the values of a discrete latent given x.

    If the guide has the latent, they are q(y | x). If the model enumerates it, they are the exact
    p(y | x, z), averaged over `num_samples` draws of z from the guide. All rows have the same noise
    in these draws: the answer for a row does not depend on the rows beside it. The quantiles of the
    noise are spread evenly over the draws (a Latin hypercube).

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        latent: the name of the latent. Default: the first discrete one.
        num_samples: draws of the continuous latents per data point.
        seed: of the draws. None uses torch's random stream.
        others: further inputs by name (`c=`, `index=`), each with N rows.

    Returns:
        `[N, K]`; rows sum to 1.

    Raises:
        UserError: the pair has no such discrete latent.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.MixtureVAE((6,), num_components=3, latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.responsibilities(model, guide, torch.ones(4, 6)).shape
        torch.Size([4, 3])
    """
    check_int_at_least(1, num_samples=num_samples)
    noise_seed = int(torch.randint(2**31, ())) if seed is None else seed

    def probabilities(chunk: Batch, _: int) -> Batch:
        noise = CommonNoise(len(chunk["x"]), noise_seed, spread=True)
        traces = trace_pair(model, guide, chunk, num_samples, noise=noise)
        name = latent or next(iter(traces.enumerated), None)
        if name not in traces.enumerated:
            known = sorted(traces.enumerated)
            raise UserError(f"no discrete latent {name or ''!r}; the pair has {known or 'none'}")
        return {"p": traces.probabilities(name).mean(0)}

    batch = pair_inputs(model, x, others, guide)
    return evaluate_in_chunks(
        probabilities, model, guide, batch, seed=seed, num_particles=num_samples
    )["p"]


def entropy(probabilities: Array) -> float:
    """The mean entropy of discrete distributions.

    Args:
        probabilities: `[N, K]`, of a latent given each data point; see `responsibilities`.

    Returns:
        Nats per data point, from 0 to ln K. It is ln K if all values are equally probable.

    Example:
        >>> import torch, pyro_vae as pv
        >>> round(pv.evaluate.entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])), 4)  # (ln 2) / 2
        0.3466
    """
    p = as_tensor(probabilities, "probabilities")
    return float(-torch.xlogy(p, p).sum(-1).mean())


def mutual_information(probabilities: Array) -> float:
    """The mutual information of a discrete latent and x: H(mean) - mean H.

    Args:
        probabilities: `[N, K]`, of the latent given each data point; see `responsibilities`.

    Returns:
        Nats, from 0 to ln K. It is 0 if the latent carries no information about x.

    Example:
        >>> import torch, pyro_vae as pv
        >>> round(pv.evaluate.mutual_information(torch.eye(2)), 4)  # ln 2
        0.6931
    """
    p = as_tensor(probabilities, "probabilities")
    return entropy(p.mean(0, keepdim=True)) - entropy(p)


def occupancy(probabilities: Array) -> torch.Tensor:
    """The fraction of the data points for which each component is the most probable.

    Args:
        probabilities: `[N, K]`, of the components given each data point; see `responsibilities`.

    Returns:
        `[K]`, summing to 1.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.evaluate.occupancy(torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]]))
        tensor([0.2500, 0.7500])
    """
    p = as_tensor(probabilities, "probabilities")
    counts = torch.bincount(p.argmax(-1), minlength=p.shape[-1])
    return counts / counts.sum()
