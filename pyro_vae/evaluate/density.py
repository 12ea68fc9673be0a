"""The aggregate posterior, and a density fitted to it after training."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine

from ..conditionals import MultivariateNormal
from ..conditionals.families import LOG_SCALE_BOUND
from ..errors import UserError, check_int_at_least, check_positive, checked_seed, unknown_name_error
from ..models.components import fit_components
from ..models.priors import FlowPrior, MixturePrior, prior_of
from ..programs.calling import as_keyword_program
from ..programs.checks import check_rows
from ..programs.contexts import seeded
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.layout import layout_of
from ..programs.modules import device_of
from ..programs.program import Program
from ..programs.sites import choose_latent, has_real_support, is_latent, sites_in
from .chunked import evaluate_in_chunks, evaluation_mode
from .inputs import Array, Batch, PyroProgram, pair_inputs
from .latents import encode

KINDS = ("mixture", "flow")
CHUNK_SIZE = 5000  # data points that the guide encodes at once
FEW_ROWS = 1000  # of fewer data points several draws are made at once


def aggregate_posterior(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    latent: str | None = None,
    draws: int = 1,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    r"""Draws from the aggregate posterior :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`.

    They are stratified: every data point has the same number of draws.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        latent: the name of the latent. Default: the one that has the model's free prior, else z,
            else the guide's first continuous latent.
        draws: per data point.
        seed: of the draws. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `[draws * N, D]`; the N rows of each draw are in the order of the data.

    Raises:
        UserError: the guide has no such continuous latent.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.aggregate_posterior(model, guide, torch.ones(4, 6), draws=3).shape
        torch.Size([12, 2])
    """
    check_int_at_least(1, draws=draws)
    return _draws(model, guide, x, latent, draws, seed, others)


def _draws(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    latent: str | None,
    draws: int,
    seed: int | None,
    others: Mapping[str, Array | None],
    check: Callable[[str, Any], None] = lambda name, fn: None,
) -> torch.Tensor:
    """The draws of `aggregate_posterior`; `check` gets the latent's name and its distribution."""
    preferred = interface_of(model, ModelInterface).prior_latent
    batch = pair_inputs(model, x, others, guide)
    guide_program = as_keyword_program(guide)

    def draw(chunk: Batch, _: int) -> Batch:
        sites = sites_in(poutine.trace(guide_program).get_trace(**chunk))
        check_rows(sites, len(chunk["x"]))
        name = choose_latent(_continuous_latents(sites), latent, preferred)
        check(name, sites[name]["fn"])
        return {"z": sites[name]["value"]}

    device = device_of(model, guide, default=batch["x"].device)
    at_once = max(1, FEW_ROWS // len(batch["x"]))
    if at_once > 1 and not layout_of(model, guide, batch).divisible:
        at_once = 1

    def repeated(times: int) -> Batch:
        return batch if times == 1 else {n: torch.cat([v] * times) for n, v in batch.items()}

    with evaluation_mode(model, guide, seed=seed, device=device):
        parts = [
            evaluate_in_chunks(
                draw,
                model,
                guide,
                repeated(min(at_once, draws - done)),
                seed=None,
                chunk_size=CHUNK_SIZE,
            )["z"]
            for done in range(0, draws, at_once)
        ]
    return torch.cat(parts)


def _check_real(name: str, fn: Any) -> None:
    """Raise if a distribution states a support other than the reals."""
    if not has_real_support(fn):
        raise UserError(
            f"{name!r} has the support {fn.support}, and the priors that are fitted are on the reals"
        )


def _continuous_latents(sites: Mapping[str, Any]) -> list[str]:
    """The names of the continuous latents among the sites of a guide's trace."""
    return [
        n
        for n, s in sites.items()
        if is_latent(s) and not s["fn"].has_enumerate_support and not s["infer"].get("is_auxiliary")
    ]


def fit_ex_post_prior(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    latent: str | None = None,
    kind: str = "mixture",
    num_components: int = 10,
    draws: int = 10,
    seed: int | None = 0,
    reg_covar: float = 1e-4,
    transforms: int = 2,
    epochs: int = 40,
    **others: Array | None,
) -> MixturePrior | FlowPrior:
    r"""A prior fitted to the encodings of the data after training.

    A decoder has learned to decode the aggregate posterior :math:`q(z)`, not p(z). The returned
    prior is fitted to it by maximum likelihood. `pv.models.with_prior` puts it into the model.

    Of all priors p, the one that maximizes the mean ELBO of a trained pair maximizes
    :math:`E_{q(z)} \log p(z)`. Therefore it is fitted to draws of q(z | x). The paper fits it to
    posterior means (`draws=0`), which suits an autoencoder. For a VAE the density of the means is
    too narrow, by the width of q; if many units are unused, it can be worse than the standard
    normal (`python -m benchmarks.quality.priors --compare`).

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, training data, as observed, in the units in which the pair was trained.
        latent: the name of the latent. Default: as in `aggregate_posterior`. One with parents can
            be sampled from its density (`pv.sample(model, source={latent: density})`), but not
            evaluated with it.
        kind: `"mixture"`: of Gaussians with full covariances, as in the paper. `"flow"`: neural
            spline, fitted by Adam; a tenth of the data is held out to choose the epoch.
        num_components: K of the mixture.
        draws: of q(z | x) per data point; 0 for posterior means.
        seed: of the draws and of the fit.
        reg_covar: added to the diagonal of the covariances.
        transforms: of the flow.
        epochs: of the flow.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        The prior, in eval mode, on the device of the pair.

    Raises:
        UserError: an unknown kind or latent, a model without a free prior, or fewer encodings than
            components.

    References:
        Ghosh et al. 2020, From variational to deterministic autoencoders, arXiv 1903.12436.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> x = torch.rand(20, 6).round()
        >>> prior = pv.evaluate.fit_ex_post_prior(
        ...     model, pv.guides.Guide(model), x, num_components=2)
        >>> pv.sample(pv.models.with_prior(model, prior), 3).shape
        torch.Size([3, 6])
    """
    if latent is None and isinstance(model, Program):
        latent = prior_of(model)[0]
    seed = None if seed is None else checked_seed(seed, bits=32)
    check_int_at_least(0, draws=draws)
    check_int_at_least(1, num_components=num_components, transforms=transforms, epochs=epochs)
    check_positive(or_zero=True, reg_covar=reg_covar)
    if kind not in KINDS:
        raise unknown_name_error("kind of density", kind, KINDS)
    drawn = _draws(model, guide, x, latent, max(1, draws), seed, others, _check_real)
    if draws:
        codes = drawn
    else:
        means = encode(model, guide, x, **others)
        codes = means[choose_latent(means, latent)]
    if codes.dim() != 2:
        raise UserError(
            f"the encodings have shape {list(codes.shape)}: a prior is fitted to those of a vector, [N, D]"
        )
    if len(codes) < num_components:
        raise UserError(f"{len(codes)} encodings cannot make {num_components} components")
    device, size = device_of(model, guide, default=codes.device), codes.shape[-1]
    if kind == "flow" and len(codes) < 2 * max(1, draws):
        raise UserError("a flow is fitted to two data points or more: one chooses the epoch")
    density: MixturePrior | FlowPrior
    with seeded(seed, device):
        if kind == "flow":
            scale = codes.std(0).clamp_min(1e-3)
            density = FlowPrior(size, "spline", transforms, loc=codes.mean(0), scale=scale)
            density.to(codes)
            _fit_flow(density, codes.reshape(max(1, draws), -1, size), epochs)
        else:
            _warn_of_units(codes, reg_covar)
            density = MixturePrior(size, num_components, MultivariateNormal()).to(codes)
            fit_components(density, codes.cpu(), 3, reg_covar, seed or 0)
    return density.to(device).eval()


def _warn_of_units(codes: torch.Tensor, reg_covar: float) -> None:
    """Warn where a mixture's scales cannot be those of the codes `[N, D]`."""
    sd = codes.std(0)
    largest, smallest = float(sd.max()), float(sd.min())
    if largest > 0.5 * math.exp(LOG_SCALE_BOUND) or smallest**2 < 10 * reg_covar:
        warnings.warn(
            f"the encodings have standard deviations from {smallest:.2g} to {largest:.2g}: the components "
            f"of a mixture have scales up to {math.exp(LOG_SCALE_BOUND):.2g}, and their variances are "
            f"larger by reg_covar={reg_covar:g}; kind='flow' has the units of the encodings",
            stacklevel=3,
        )


def _fit_flow(density: FlowPrior, codes: torch.Tensor, epochs: int) -> None:
    """Fit a flow to `[draws, N, D]` by Adam; keep the epoch with the best held-out likelihood.

    An epoch has 20 steps or more: a flow begins far from its codes, however few they are.
    """
    data = codes.transpose(0, 1)[torch.randperm(codes.shape[1])]
    num_held_out = max(1, len(data) // 10)  # all draws of a data point are on one side
    held_out, rows = (
        part.flatten(0, 1) for part in data.split([num_held_out, len(data) - num_held_out])
    )
    batch_size = min(512, max(32, len(rows) // 20))
    optimizer = torch.optim.Adam(density.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, state = -torch.inf, None
    for _ in range(epochs):
        for part in rows[torch.randperm(len(rows))].split(batch_size):
            optimizer.zero_grad()
            (-density().log_prob(part).mean()).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            score = float(density().log_prob(held_out).mean())
        if score > best:
            best, state = score, {k: v.clone() for k, v in density.state_dict().items()}
    if state is None:
        raise UserError("the flow's likelihood of the encodings is not finite")
    density.load_state_dict(state)
