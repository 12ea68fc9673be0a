"""`check_pair`: mistakes of a model and a guide, in one line with the site and the shapes."""

import torch

from ..errors import UserError
from ..programs import forget_layout, layout_of, trace_pair
from ..programs.contexts import eval_mode, fork_rng
from ..programs.modules import device_of
from .inputs import Array, PyroProgram, pair_inputs
from .support import check_support, data_sites


def check_pair(model: PyroProgram, guide: PyroProgram, x: Array, **others: Array | None) -> None:
    """Check that a model and a guide fit each other and the data.

    Guide and model are run once on x. Checked are: shapes; one data plate, at dim -1, with N rows;
    that the guide samples every latent that cannot be enumerated, and no other; event shapes on
    both sides; parameters within their domains; values, and the guide's draws, within supports;
    finite log-probabilities.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, a batch, as observed.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Raises:
        UserError: the first mistake, with the site and the shapes.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.check_pair(model, pv.guides.Guide(model), torch.full((4, 6), 0.5))
        Traceback (most recent call last):
        ...
        pyro_vae.errors.SupportError: x has values outside the support of its Bernoulli ...
    """
    batch = pair_inputs(model, x, others, guide)
    x = batch["x"]
    device = device_of(model, guide, default=x.device)
    batch = {k: v.to(device) for k, v in batch.items()}
    forget_layout(model)  # the program may have been changed
    with (
        torch.no_grad(),
        eval_mode(model, guide),
        fork_rng(device),  # initializes lazy parameters, and restores the stream
    ):
        layout = layout_of(model, guide, batch)
        for latent in layout.discrete_sites:
            if latent.configured == "parallel" and layout.discrete != "parallel":
                raise UserError(
                    f"{latent.name!r} is enumerated in parallel, but the pair does not broadcast over "
                    f'its values: {layout.problem}; "sequential" enumeration, or none, needs no '
                    "broadcasting"
                )
        traces = trace_pair(model, guide, batch)
    for name, site in data_sites(traces.model).items():
        check_support(site, name, site["value"])
    for kind, sites in (("guide", traces.guide), ("model", traces.model)):
        for name, site in sites.items():
            log_prob = traces.log_prob(site)
            if torch.isnan(log_prob).any() or torch.isposinf(log_prob).any():
                raise UserError(f"the log-probability of {name!r} in the {kind} is not finite")
