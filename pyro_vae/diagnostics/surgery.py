"""ELBO surgery: the KL divergence as mutual information plus the mismatch of the prior."""

import math

import torch

from ..errors import UserError, check_int_at_least
from ..evaluate import chunked
from ..evaluate.chunked import evaluation_mode, rows_per_chunk, split_rows
from ..evaluate.inputs import Array, Batch, PyroProgram, pair_inputs
from ..evaluate.latents import ACTIVE_THRESHOLD, active_units
from ..programs.modules import device_of
from .joint import Joint
from .supports import differs_between_rows, have_equal_bounds

ALL = "all"  # the key of the joint distribution of all latents


def elbo_surgery(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 1,
    seed: int | None = 0,
    **others: Array | None,
) -> dict[str, dict[str, float]]:
    r"""The mean KL divergence of q(z|x) from the prior, split into two terms.

    .. math:: \underbrace{\frac1N \sum_n \mathrm{KL}(q(z|x_n) \,\|\, p(z))}_{\text{kl}} =
              \underbrace{I_q(n; z)}_{\text{mutual\_information}} +
              \underbrace{\mathrm{KL}(q(z) \,\|\, p(z))}_{\text{marginal\_kl}}

    :math:`q(z) = \frac1N \sum_n q(z|x_n)` is the exact mixture over all of x. The first term is the
    information that z carries about which data point it is, at most log N. The second is what a
    better prior could gain. All three are means over the same draws, so that the identity is exact.
    The cost is `num_samples * N^2` densities of the guide. Pass a whole split: on a minibatch the
    information would be too low, and the marginal KL too high by as much.

    A discrete latent y is marginalized: q(z|x) is :math:`\sum_y q(y|x)\, q(z|x,y)`, and p(z) is
    :math:`\sum_y p(y)\, p(z|y)`. If the guide has y, this KL therefore is not the term of z in
    `elbo_terms`, :math:`E_{q(y|x)} \mathrm{KL}(q(z|x,y) \,\|\, p(z|y))`. It is at most that term
    plus the term of y. For y itself, see `mutual_information(responsibilities(...))`.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, all the data that are aggregated, in the units in which the pair was trained.
        num_samples: draws per data point.
        seed: of the draws. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{latent: {"kl", "mutual_information", "marginal_kl", "active_units", "units"}}`, the first
        three in nats per data point, for every continuous latent whose distribution depends on no
        other continuous latent, neither in the guide nor in the model. If there are several
        latents, `"all"` is their joint distribution.

    Raises:
        UserError: a name that the pair does not take; a guide without a density; a latent whose
            bounds differ between data points, which have no common q(z), or that is masked in some.

    References:
        Hoffman, Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence
        lower bound.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> terms = pv.diagnostics.elbo_surgery(model, pv.guides.Guide(model), torch.eye(6))["z"]
        >>> gap = terms["kl"] - terms["mutual_information"] - terms["marginal_kl"]
        >>> abs(gap) < 1e-6
        True
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = pair_inputs(model, x, others, guide)
    device = device_of(model, guide, default=batch["x"].device)
    with evaluation_mode(model, guide, seed=seed, device=device):
        size = max(1, rows_per_chunk(model, guide, batch, device) // num_samples)
        chunks = split_rows(batch, min(len(batch["x"]), size), device)
        joints = [Joint(model, chunk, guide) for chunk in chunks]
        _check_supports(joints)
        draws = [joint.draw(num_samples) for joint in joints]
        names = _independent_latents(joints[0], draws[0])
        if len(joints[0].shapes) > 1 or not names:
            names.append(ALL)
        densities = [_log_densities(j, u, names) for j, u in zip(joints, draws, strict=True)]
        aggregate = _log_aggregate(joints, torch.cat([u.flatten(0, 1) for u in draws]), names)
    result = {}
    for name in names:
        log_q, log_p = (
            torch.cat([d[name][i].flatten() for d in densities]).double() for i in (0, 1)
        )
        result[name] = {
            "kl": float((log_q - log_p).mean()),
            "mutual_information": float((log_q - aggregate[name]).mean()),
            "marginal_kl": float((aggregate[name] - log_p).mean()),
        }
    active = active_units(model, guide, x, ACTIVE_THRESHOLD, **others)
    for name in names:
        shapes = joints[0].shapes if name == ALL else {name: joints[0].shapes[name]}
        free = {member: math.prod(shape) for member, shape in shapes.items()}
        if all(member in active for member in shapes):
            # a simplex of three numbers has two free ones
            result[name]["active_units"] = sum(min(active[m], free[m]) for m in shapes)
        result[name]["units"] = sum(free.values())
    return result


def _check_supports(joints: list[Joint]) -> None:
    """Check that each latent has one support for all data points, and that all have it."""
    for name in joints[0].shapes:
        if any(name in joint.masked for joint in joints):
            raise UserError(
                f"{name!r} is masked in some rows, which have no q(z) of it: pass the other rows alone"
            )
        supports = [joint.supports[name] for joint in joints]
        if differs_between_rows(supports[0]) or not have_equal_bounds(supports):
            raise UserError(
                f"the bounds of {name!r} differ between data points: their posteriors have no common "
                "support over which q(z), their mean, could be compared with the prior"
            )


def _log_aggregate(joints: list[Joint], u: torch.Tensor, names: list[str]) -> Batch:
    """`{name: [R]}`: log q(u), the mean over all data points, at every draw `u [R, D]`; float64."""
    result = {name: u.new_full((len(u),), -math.inf) for name in names}
    num_data, numbers = sum(joint.rows for joint in joints), max(joints[0].size, 8)
    for joint in joints:
        size = max(1, chunked.MEMORY_BUDGET // (32 * numbers * joint.rows))
        parts = [_log_sum(joint, part, names) for part in u.split(size)]
        for name in names:
            log_sum = torch.cat([part[name] for part in parts])
            result[name] = torch.logaddexp(result[name], log_sum)
    return {name: value.double() - math.log(num_data) for name, value in result.items()}


def _log_sum(joint: Joint, u: torch.Tensor, names: list[str]) -> Batch:
    """`{name: [R]}`: log of the sum of q(u_r | x) over the data points of a chunk."""
    u = u.unsqueeze(1).expand(-1, joint.rows, -1)
    log_q = joint.log_marginals(joint.guide, u) if set(names) - {ALL} else {}
    if ALL in names:
        log_q[ALL] = joint.log_guide(u)
    return {name: log_q[name].logsumexp(1) for name in names}


def _log_densities(
    joint: Joint, u: torch.Tensor, names: list[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """`{name: (log q(u | x), log p(u))}`, `[S, B]` each, at draws for their own data points."""
    log_q, log_p = (joint.log_marginals(program, u) for program in (joint.guide, joint.model))
    result = {name: (log_q[name], log_p[name]) for name in names if name != ALL}
    if ALL in names:
        result[ALL] = joint.log_guide(u), joint.log_prior(u)
    return result


def _independent_latents(joint: Joint, u: torch.Tensor) -> list[str]:
    """The latents whose log-density does not change when all others are drawn again."""
    names = []
    for name in joint.shapes:
        parts = joint.split(joint.draw(len(u)))
        parts[name] = joint.split(u)[name]
        redrawn = torch.cat([p.reshape(*u.shape[:2], -1) for p in parts.values()], -1)
        unchanged = [
            torch.allclose(
                joint.log_marginals(program, u)[name],
                joint.log_marginals(program, redrawn)[name],
                rtol=1e-4,
                atol=1e-4,
            )
            for program in (joint.guide, joint.model)
        ]
        if all(unchanged):
            names.append(name)
    return names
