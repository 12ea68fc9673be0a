"""The handler that hides what a program observes, and finds out which argument that was."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from ..errors import UserError
from .sites import Site, holds, is_data


class HideData(Messenger):
    """Hides the data that a program observes, except those that stay observed.

    Args:
        example: `{argument: value}`, whose observations are hidden.
        given: `{argument: value}`, whose observations stay.

    Attributes:
        sources: the hidden sites, `{site: the argument of the example that it observes, or None}`.
        kept: the sites that stay observed.
    """

    def __init__(self, example: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        super().__init__()
        self.example, self.given = _tensors(example), _tensors(given)
        self.sources: dict[str, str | None] = {}
        self.kept: set[str] = set()
        self.used: set[str] = set()  # arguments that the kept sites observe
        self.unexplained: list[str] = []  # hidden sites that observe no argument

    def _pyro_sample(self, msg: Site) -> None:
        if not is_data(msg):
            return
        seen = _observed_arguments(msg, {**self.example, **self.given})
        example, given = ([n for n in seen if n in part] for part in (self.example, self.given))
        if example and given:
            raise UserError(
                f"{msg['name']!r} observes the same values as {example[0]} and {given[0]}: "
                "pass an example with other data"
            )
        if given:
            self.kept.add(msg["name"])
            self.used.update(given)
            return
        self.sources[msg["name"]] = example[0] if example else None
        if not example and not _sharing(msg, self.example):
            self.unexplained.append(msg["name"])
        msg["is_observed"], msg["value"], msg["done"] = False, None, False
        msg["infer"] = {**msg["infer"], "was_observed": True}

    def check(self) -> None:
        """Raise if a site may observe a function of a given argument: it would be drawn again."""
        if self.unexplained and set(self.given) - self.used and len(self.sources) > 1:
            name = self.unexplained[0]
            raise UserError(
                f"{name!r} observes no argument itself, perhaps a function of one: "
                f"pass its value by its name, {name}="
            )


def _observed_arguments(msg: Site, arguments: Mapping[str, torch.Tensor]) -> list[str]:
    """The arguments that a site observes: those in the same memory, else those of equal values."""
    same_size = {n: v for n, v in arguments.items() if v.numel() == msg["value"].numel()}
    return _sharing(msg, same_size) or [n for n, v in same_size.items() if holds(msg["value"], v)]


def _sharing(msg: Site, arguments: Mapping[str, torch.Tensor]) -> list[str]:
    """The arguments that a site's value is a view of."""
    memory = msg["value"].untyped_storage().data_ptr()
    return [n for n, v in arguments.items() if v.untyped_storage().data_ptr() == memory]


def _tensors(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
