"""The optimizer of a run: AdamW, or a user's; its learning rates, and its state in a checkpoint."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import UserError

#: Makes an optimizer of the parameters that are trained.
OptimizerFactory = Callable[[list[torch.Tensor]], torch.optim.Optimizer]

# Tensors of an optimizer's state that have the shape of their parameter.
OF_PARAMETER_SHAPE = ("exp_avg", "exp_avg_sq", "momentum_buffer")


class RunOptimizer:
    """A torch optimizer whose learning rates follow a schedule, and whose state can be saved.

    Args:
        parameters: what is trained, or may be later: frozen ones have no gradient, and are left alone.
        settings: `lr` and `weight_decay` of AdamW, as `fit` takes them.
        factory: makes another optimizer. Default: AdamW.
        graph_device: the device of a CUDA graph that contains AdamW's step. Default: no graph.

    Attributes:
        optimizer: the torch optimizer.

    Raises:
        UserError: the factory returns no optimizer, or one that `fit` cannot use.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        settings: dict[str, Any],
        factory: OptimizerFactory | None = None,
        graph_device: torch.device | None = None,
    ) -> None:
        lr = settings["lr"]
        if factory is not None:
            self.optimizer = _made_by(factory, list(parameters))
            self.rates = [float(g["lr"]) for g in self.groups if "lr" in g]
            return
        self.rates = [lr]
        if graph_device is not None:  # a fused Adam reads a float32, whatever the parameters are
            lr = torch.tensor(lr, dtype=torch.float32, device=graph_device)
        self.optimizer = torch.optim.AdamW(
            parameters, lr=lr,
            weight_decay=settings["weight_decay"], fused=True, capturable=graph_device is not None,
        )  # fmt: skip

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups of parameters."""
        return self.optimizer.param_groups

    def describe(self) -> str:
        """The optimizer and its settings, as a checkpoint records a user's optimizer."""
        settings = ", ".join(f"{n}={v!r}" for n, v in sorted(self.optimizer.defaults.items()))
        return f"{type(self.optimizer).__name__}({settings})"

    @property
    def lr(self) -> float:
        """The current learning rate of the first group; 0 for an optimizer without one."""
        return next((float(g["lr"]) for g in self.groups if "lr" in g), 0.0)

    def set_rate_factor(self, factor: float) -> None:
        """Multiply every group's initial learning rate by a factor, in place if a graph reads it."""
        scheduled = (group for group in self.groups if "lr" in group)
        for group, rate in zip(scheduled, self.rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the state from a checkpoint; settings that depend on the device stay.

        Raises:
            ValueError: other groups, or moments of another shape.
        """
        own: list[dict[str, Any]] = [
            {name: group[name] for name in ("lr", "capturable") if name in group}
            for group in self.groups
        ]
        self.optimizer.load_state_dict(state)
        for group, kept in zip(self.groups, own, strict=True):
            group.update(kept)  # the rate is set before each step
        for parameter, values in self.optimizer.state.items():
            for name in OF_PARAMETER_SHAPE:
                value = values.get(name)
                if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
                    raise ValueError(f"{name} has shape {list(value.shape)}")


def is_plain(value: object) -> bool:
    """Whether a value of an optimizer's state is a tensor, or what JSON has."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (torch.Tensor, bool, int, float, str))


def _made_by(factory: OptimizerFactory, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    optimizer = factory(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            "optimizer must return a torch optimizer of the parameters, e.g. "
            f"lambda params: torch.optim.SGD(params, lr=0.1), not {type(optimizer).__name__}"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"{type(optimizer).__name__} calls the loss itself (a closure), and fit takes one step "
            "per batch: choose an optimizer whose step() needs no closure"
        )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if missing := [p for p in parameters if p.requires_grad and id(p) not in trained]:
        raise UserError(
            f"the optimizer leaves out {len(missing)} of {len(parameters)} parameters: pass it all, "
            "or freeze the others by requires_grad_(False)"
        )
    for group in optimizer.param_groups:
        for name, value in group.items():
            if name != "params" and not is_plain(value):
                raise UserError(
                    f"the optimizer's setting {name!r} is a {type(value).__name__}, which a "
                    "checkpoint cannot hold"
                )
    return optimizer
