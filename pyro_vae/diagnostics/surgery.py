"""ELBO surgery: what of the KL is information, and what is a prior that the codes do not fill."""

import math

import torch

from ..errors import check_int_at_least
from ..evaluate.inputs import observed
from ..evaluate.latents import active_units
from ..evaluate.likelihood import BYTES, chunks, rows_per_chunk
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from .joint import Joint


@torch.no_grad()
def elbo_surgery(model, guide, x, num_samples=1, seed=0, **others):
    r"""The mean KL of q(z|x) from the prior, cut in two (Hoffman and Johnson 2016), nats per data point.

    .. math:: \underbrace{\frac1N \sum_n \mathrm{KL}(q(z|x_n) \,\|\, p(z))}_{\text{kl}} =
              \underbrace{I_q(n; z)}_{\text{mutual\_information}} +
              \underbrace{\mathrm{KL}(q(z) \,\|\, p(z))}_{\text{marginal\_kl}}

    :math:`q(z) = \frac1N \sum_n q(z|x_n)` is the exact mixture over all of x. The first part is what
    z tells of which data point it is, at most log N; the second is what a better prior could win. All
    three are means over the same draws, `num_samples` of each data point, so that the identity is exact.
    It takes `num_samples * N^2` densities of the guide: pass a whole split, not a minibatch, which
    would put the information too low and the marginal KL as much too high.

    A discrete latent y is enumerated (marginalized): q(z|x) is
    :math:`\sum_y q(y|x)\, q(z|x,y)` and p(z) :math:`\sum_y p(y)\, p(z|y)`. Where y has values in
    the guide, this KL therefore is not z's term of `elbo_terms`,
    :math:`E_{q(y|x)} \mathrm{KL}(q(z|x,y) \,\|\, p(z|y))`; it is at most that term plus y's.

    Args:
        x: `[N, ...]`, all the data over which codes are aggregated.

    Returns:
        `{latent: {"kl", "mutual_information", "marginal_kl", "active_units", "units"}}` for every
        continuous latent whose distribution hangs on no other continuous one, in the guide nor in the
        model; where there are several latents also `"all"`, their joint distribution. Discrete latents are
        summed (of themselves, `mutual_information(responsibilities(...))` tells).
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = observed(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    with eval_mode(model, guide), seeded(seed, device):
        rows = rows_per_chunk(model, guide, batch, device) // num_samples
        parts = chunks(batch, max(1, min(len(x), rows)), device)
        joints = [Joint(model, part, guide) for part in parts]
        draws = [joint.draw(num_samples) for joint in joints]
        names = _independent(joints[0], draws[0])
        if len(joints[0].shapes) > 1 or not names:
            names.append("all")
        own = [_densities(j, u, names) for j, u in zip(joints, draws, strict=True)]
        every = torch.cat([u.flatten(0, 1) for u in draws])
        size = joints[0].size
        aggregate = {n: every.new_full((len(every),), -math.inf) for n in names}
        for joint in joints:
            at_once = max(1, BYTES // (32 * max(size, 8) * joint.rows))
            log_q = [_of_guide(joint, u, names) for u in every.split(at_once)]
            for n in names:
                new = torch.cat([part[n] for part in log_q])
                aggregate[n] = torch.logaddexp(aggregate[n], new)
    result = {}
    for n in names:
        log_q, log_p = (torch.cat([o[n][i].flatten() for o in own]).double() for i in (0, 1))
        log_aggregate = aggregate[n].double() - math.log(len(x))
        result[n] = {
            "kl": float((log_q - log_p).mean()),
            "mutual_information": float((log_q - log_aggregate).mean()),
            "marginal_kl": float((log_aggregate - log_p).mean()),
        }
    active = active_units(model, guide, x, **others)
    for n in names:
        members = joints[0].shapes if n == "all" else {n: joints[0].shapes[n]}
        if all(m in active for m in members):
            result[n]["active_units"] = sum(active[m] for m in members)
        result[n]["units"] = sum(math.prod(s) for s in members.values())
    return result


def _densities(joint, u, names):
    """`{name: (log q(u | own x), log p(u))}`, `[S, B]` each."""
    q, p = (joint.log_marginals(program, u) for program in (joint.guide, joint.model))
    found = {n: (q[n], p[n]) for n in names if n != "all"}
    if "all" in names:
        found["all"] = joint.log_guide(u), joint.log_prior(u)
    return found


def _of_guide(joint, u, names):
    """`{name: [R]}`: log of the sum over the chunk's data of q(u_r | x), for `u [R, D]`."""
    wide = u.unsqueeze(1).expand(-1, joint.rows, -1)
    q = joint.log_marginals(joint.guide, wide) if set(names) - {"all"} else {}
    if "all" in names:
        q["all"] = joint.log_guide(wide)
    return {n: q[n].logsumexp(1) for n in names}


def _independent(joint, u):
    """The latents whose density stays as it is when all others are drawn anew."""
    names, programs = [], (joint.guide, joint.model)
    for name in joint.shapes:
        parts = joint.split(joint.draw(len(u)))
        parts[name] = joint.split(u)[name]
        moved = torch.cat([p.reshape(*u.shape[:2], -1) for p in parts.values()], -1)
        same = [
            torch.allclose(
                joint.log_marginals(program, u)[name],
                joint.log_marginals(program, moved)[name],
                rtol=1e-4,
                atol=1e-4,
            )
            for program in programs
        ]
        if all(same):
            names.append(name)
    return names
