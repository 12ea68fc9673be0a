"""The aggregate posterior, and a density fitted to it after training."""

import torch
from pyro import poutine

from ..conditionals import MultivariateNormal
from ..errors import UserError, check_int_at_least, unknown_name_error
from ..models.priors import FlowPrior, MixturePrior, fit_components, prior_of
from ..programs.calling import as_keyword_program
from ..programs.contexts import eval_mode, seeded
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.modules import device_of
from ..programs.program import Program
from ..programs.sites import choose_latent, is_latent
from .inputs import observed
from .latents import encode
from .likelihood import chunks

KINDS = ("mixture", "flow")


@torch.no_grad()
def aggregate_posterior(model, guide, x, latent=None, draws=1, seed=0, **others):
    r"""`[draws * N, D]` from :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`: `draws` for each data point.

    Args:
        latent: its name. Default: the latent that has the model's free prior, else z, else the
            guide's first continuous latent.
        seed: None takes torch's stream as it is.

    Raises:
        UserError: the guide has no such continuous latent.
    """
    check_int_at_least(1, draws=draws)
    preferred = interface_of(model, ModelInterface).prior_latent
    batch = observed(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    guide_of, result = as_keyword_program(guide), []
    with eval_mode(model, guide), seeded(seed, device):
        for _ in range(draws):
            for part in chunks(batch, 5000, device):
                trace = poutine.trace(guide_of).get_trace(**part)
                name = choose_latent(_continuous(trace), latent, preferred)
                result.append(trace.nodes[name]["value"])
    return torch.cat(result).to(x.device)


def _continuous(trace):
    """The continuous latents that a guide samples."""
    return [
        n
        for n, s in trace.nodes.items()
        if is_latent(s) and not s["fn"].has_enumerate_support and not s["infer"].get("is_auxiliary")
    ]


def fit_ex_post_prior(
    model,
    guide,
    x,
    latent=None,
    kind="mixture",
    num_components=10,
    draws=10,
    seed=0,
    reg_covar=1e-4,
    transforms=2,
    epochs=40,
    **others,
):
    r"""A prior fitted, after training, to the encodings of `x` (Ghosh et al. 2020, arXiv 1903.12436).

    What a decoder has learned to decode is the aggregate posterior :math:`q(z)`, not p(z). Returned
    is a `MixturePrior` or a `FlowPrior` of largest likelihood on it, for `pv.models.with_prior`:

        density = pv.evaluate.fit_ex_post_prior(model, guide, data.train.x)
        model = pv.models.with_prior(model, density)

    Of all priors p, the one that maximizes the mean ELBO of a trained pair maximizes
    :math:`E_{q(z)} \log p(z)`; so it is `draws` of q(z | x) that are fitted, unless the paper's way,
    posterior means, is asked for with `draws=0`. Means suit an autoencoder. For a VAE their density
    is too narrow, by q's own width: most where units go unused, and there it can be worse than the
    standard normal (`python -m benchmarks.quality.priors --compare`).

    Args:
        x: training data, as observed.
        latent: its name. Default: as in `aggregate_posterior`. One with parents can be sampled from its density (`pv.sample(model, source={latent: density})`), but not
            evaluated with it.
        kind: `"mixture"`: scikit-learn's, full covariances, the paper's; or `"flow"`: neural spline,
            by Adam, a tenth of the data held out to choose the epoch.
        num_components: K of the mixture.
        draws: of q(z | x) for each data point; 0 for posterior means.
        seed: of draws and of the fit.
        reg_covar: added to the covariances' diagonal.
        transforms, epochs: of the flow.
        others: further observed values and `index`, by name.

    Raises:
        UserError: an unknown kind or latent, no free prior, fewer encodings than components.
    """
    if latent is None and isinstance(model, Program):
        latent = prior_of(model)[0]
    check_int_at_least(0, draws=draws)
    check_int_at_least(1, num_components=num_components, transforms=transforms, epochs=epochs)
    if kind not in KINDS:
        raise unknown_name_error("kind of density", kind, KINDS)
    if draws:
        codes = aggregate_posterior(model, guide, x, latent, draws, seed, **others)
    else:
        means = encode(model, guide, x, **others)
        codes = means[choose_latent(means, latent)]
    if len(codes) < num_components:
        raise UserError(f"{len(codes)} encodings cannot make {num_components} components")
    device, size = device_of(model, guide, default=x.device), codes.shape[-1]
    with seeded(seed, device):
        if kind == "flow":
            scale = codes.std(0).clamp_min(1e-3)
            density = FlowPrior(size, "spline", transforms, loc=codes.mean(0), scale=scale)
            density.to(codes)
            _fit_flow(density, codes.reshape(max(1, draws), -1, size), epochs)
        else:
            density = MixturePrior(size, num_components, MultivariateNormal()).to(codes)
            fit_components(density, codes.double().cpu().numpy(), 3, reg_covar, seed or 0)
    return density.to(device).eval()


def _fit_flow(density, codes, epochs, lr=4e-3, batch_size=512):
    """Maximum likelihood of `[draws, N, D]` by Adam; the epoch that held-out data choose."""
    data = codes.transpose(0, 1)[torch.randperm(codes.shape[1])]
    held = max(1, len(data) // 10)  # all draws of a data point on one side
    held, rows = (part.flatten(0, 1) for part in data.split([held, len(data) - held]))
    optimizer = torch.optim.Adam(density.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, state = -torch.inf, None
    for _ in range(epochs):
        for part in rows[torch.randperm(len(rows))].split(batch_size):
            optimizer.zero_grad()
            (-density().log_prob(part).mean()).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            reached = float(density().log_prob(held).mean())
        if reached > best:
            best, state = reached, {k: v.clone() for k, v in density.state_dict().items()}
    if state is None:
        raise UserError("the flow's likelihood of the encodings is not finite")
    density.load_state_dict(state)
