"""What the library asks of an objective, with defaults; and Pyro's own objectives."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from ..errors import UserError


class Objective:
    """Base class of objectives: what `fit` minimizes.

    A subclass defines `differentiable_loss`. The rest has defaults. `fit` also takes Pyro's own ELBOs,
    and any object with a `differentiable_loss`; see `as_objective`.

    Attributes:
        needs: names of the data that the objective takes in addition to those of the pair, as keyword
            arguments. Default: `()`.
        epoch: the current epoch, from 0, a float. `fit` sets it; outside of training it is infinite.

    Example:
        >>> import torch, pyro_vae as pv
        >>> class HalfKL(pv.objectives.Objective):
        ...     def differentiable_loss(self, model, guide, *args, **kwargs):
        ...         terms = pv.programs.trace_pair(model, guide, kwargs).site_terms()
        ...         return -(terms["x"] + 0.5 * terms["z"]).sum()
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide, x = pv.guides.Guide(model), torch.ones(4, 6)
        >>> run = pv.fit(model, guide, x, 1, objective=HalfKL(), progress=False)
    """

    needs: tuple[str, ...] = ()
    epoch: float = math.inf

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> torch.Tensor:
        """The loss, in nats, summed over the data of the minibatch; a scalar.

        Args:
            model, guide: the pair.
            args, kwargs: what the pair is called with, and what `needs` names.
        """
        raise NotImplementedError

    def schedule_values(self) -> dict[str | None, float]:
        """The numbers in the loss that change between epochs, by name. Default: none."""
        return {}

    @contextmanager
    def with_schedule_values(self, tensors: Mapping[str | None, torch.Tensor]) -> Iterator[None]:
        """Within, the loss is a function of these tensors, in place of `schedule_values()`.

        So a recorded step reads the numbers, instead of a copy from the time of the recording.
        """
        yield

    def scheduled_attributes(self) -> tuple[str, ...]:
        """The names of attributes that a recorded step need not have fixed.

        These are `epoch`, and those that `schedule_values` gives.
        """
        return ("epoch", *(name for name in self.schedule_values() if name is not None))

    def count_labels(self, labels: torch.Tensor | None) -> None:
        """Take note of the training labels `[N]`, -1 where there is none. `fit` calls it first."""

    def describe(self) -> dict[str, object]:
        """The settings, for `config.json`."""
        return {"name": type(self).__name__}


def as_objective(objective: object) -> Objective:
    """An `Objective` for any object with a `differentiable_loss`, such as one of Pyro's ELBOs.

    Args:
        objective: an `Objective`, which is returned as it is; or another object. What that declares
            under an `Objective`'s names is kept.

    Raises:
        UserError: no `differentiable_loss`, or a class instead of an object.

    Example:
        >>> import pyro.infer, pyro_vae as pv
        >>> pv.objectives.as_objective(pyro.infer.Trace_ELBO()).describe()
        {'name': 'Trace_ELBO'}
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, type) or not hasattr(objective, "differentiable_loss"):
        raise UserError(
            f"objective must be one of pv.objectives, e.g. pv.objectives.ELBO(), not {objective!r}"
        )
    return _UserObjective(objective)


class _UserObjective(Objective):
    """An object that is not an `Objective`, with the defaults for what it does not declare."""

    def __init__(self, objective: object) -> None:
        self.objective = objective
        for name in vars(Objective):
            if not name.startswith("_") and name != "epoch" and hasattr(objective, name):
                setattr(self, name, getattr(objective, name))

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "epoch":  # the object may have a schedule
            setattr(self.objective, name, value)

    def describe(self) -> dict[str, object]:
        return {"name": type(self.objective).__name__}
