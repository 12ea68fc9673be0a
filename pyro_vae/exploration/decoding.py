"""How a page decodes: by the layers of the network, or from pictures on a grid of the plane."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import plots
from ..conditionals import Conditional
from ..data import Condition, Data
from ..data.display import joined
from ..errors import UserError
from ..generate import sample
from ..generate.decoder_arrays import arrays_or_reason
from ..programs.inspection import sites_of
from ..programs.interfaces import ModelInterface, conditional_of, interface_of
from ..report.context import PairContext
from .densities import Window
from .payload import JsonValue, as_bytes, pack, packed_decoder

MOST_BYTES = 1_500_000  # of all pictures of a grid
LEAST_NODES, MOST_NODES = 9, 41  # of a grid, per axis
CONDITIONS_OF_A_GRID = 10  # data points whose covariates a grid is decoded for
DECODED_AT_ONCE = 2000


@dataclass(frozen=True)
class Conditions:
    """What x depends on in addition to the continuous latents: a class, or covariates.

    Attributes:
        name: y or c.
        values: `[M, size]`: one-hot classes, or covariates.
        is_class: whether the values are classes.
        of_data: for each data point, the row of `values` that it has.
        names: of the values: of classes that have names, or of the columns of a table.
    """

    name: str
    values: torch.Tensor
    is_class: bool
    of_data: list[int]
    names: list[str] | None = None

    def described(self) -> dict[str, JsonValue]:
        """The conditions as JSON values."""
        each = "" if self.is_class else "that of data point "
        return {
            "title": f"Condition: {'class ' if self.is_class else ''}{self.name}",
            "names": self.names or [f"{each}{i}" for i in range(len(self.values))],
            "values": pack(self.values),
            "is_class": self.is_class,
            "of_data": self.of_data,
        }


def _named(columns: Iterable[Any], row: Iterable[Any]) -> str:
    """The covariates of a row as text: `batch c, age 51`."""
    texts = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)
    return ", ".join(f"{name} {text}" for name, text in zip(columns, texts, strict=True))


class LatentSpace:
    """The continuous latents that x depends on, as one vector of units, and its decoder.

    Args:
        context: the pair, and the data points that are shown.

    Attributes:
        sizes: `{latent: number of units}`.
        codes: `[N, D]` posterior means.
        names: of the units.
        white: the value that is shown as white, in the original units of the data.
        conditions: None if x depends on the latents alone.
        why_no_arrays: why the page does not have the decoder itself, as a clause; "" if it has.

    Raises:
        UserError: x depends on fewer than two latent numbers, or on latents that are neither
            continuous nor the class y.
    """

    def __init__(self, context: PairContext) -> None:
        self.context, self.model = context, context.model
        codes = {n: v.detach().reshape(len(context.x), -1).cpu() for n, v in context.codes.items()}
        self.event_shapes = {n: tuple(v.shape[1:]) for n, v in context.codes.items()}
        self.white = plots.white_of(context.data.unstandardize(context.data.train.x))
        latents = self._latents(list(codes))
        self.sizes = {name: codes[name].shape[1] for name in latents}
        kind = type(self.model).__name__
        if not latents:
            raise UserError(f"{kind} has no continuous latent to explore")
        if sum(self.sizes.values()) < 2:
            raise UserError(
                f"a plane needs two latent numbers, and {kind} has one: pyro-vae sample RUN "
                "--source traverse shows it"
            )
        self.codes = torch.cat([codes[name] for name in latents], 1)
        self.names = [f"{n}[{i}]" for n, size in self.sizes.items() for i in range(size)]
        self.conditions = self._conditions()
        self.why_no_arrays = ""
        self.arrays = self._arrays()
        if self.arrays is None and self.conditions is not None and not self.conditions.is_class:
            names = self.conditions.names and self.conditions.names[:CONDITIONS_OF_A_GRID]
            kept = self.conditions.values[:CONDITIONS_OF_A_GRID]
            self.conditions = replace(self.conditions, values=kept, names=names)

    def _latents(self, encoded: list[str]) -> list[str]:
        """The continuous parents of x in the model; of a user-defined model, all its latents."""
        conditional = conditional_of(self.model, "x")
        if isinstance(conditional, Conditional):
            return [name for name in conditional.given if name in encoded]
        return encoded

    def _conditions(self) -> Conditions | None:
        context, conditional = self.context, conditional_of(self.model, "x")
        n = len(context.x)
        if "c" in context.others:
            c = context.others["c"].cpu()
            if "c" in interface_of(self.model, ModelInterface).class_covariates:
                names = context.label_names
                names = names if names is not None and len(names) == c.shape[1] else None
                return Conditions("c", torch.eye(c.shape[1]), True, c.argmax(-1).tolist(), names)
            table = context.data.table
            if table is not None and table.covariates and c.dim() == 2:
                values, of_data, counts = c.unique(dim=0, return_inverse=True, return_counts=True)
                order = counts.argsort(descending=True, stable=True)  # a grid keeps the first
                values, of_data = values[order], order.argsort()[of_data]
                columns = table.decode_covariates(context.data.unstandardize_covariates(values))
                rows = zip(*(column.tolist() for column in columns.values()), strict=True)
                names = [_named(columns, row) for row in rows]
                return Conditions("c", values.float(), False, of_data.tolist(), names)
            return Conditions("c", c.reshape(n, -1).float(), False, list(range(n)))
        if context.responsibilities is None:
            return None
        if isinstance(conditional, Conditional) and "y" not in conditional.given:
            return None
        k = context.responsibilities.shape[-1]
        most_probable = context.responsibilities.argmax(-1).tolist()
        names = context.label_names if context.has_some_labels else None
        return Conditions("y", torch.eye(k), True, most_probable, names)

    def _arrays(self) -> dict[str, JsonValue] | None:
        """The fully connected decoder and where its inputs come from; None for another decoder."""
        arrays = arrays_or_reason(self.model)
        if isinstance(arrays, str):
            self.why_no_arrays = arrays
            return None
        name = None if self.conditions is None else self.conditions.name
        others = [p for p in arrays.parents if p not in self.sizes and p != name]
        if others:
            self.why_no_arrays = f"it also depends on {', '.join(others)}"
            return None
        starts, start = {}, 0
        for latent, size in self.sizes.items():
            starts[latent], start = start, start + size
        inputs: list[JsonValue] = [
            ["units", starts[parent], size] if parent in starts else ["condition", 0, size]
            for parent, size in arrays.parents.items()
        ]
        result: dict[str, JsonValue] = {**packed_decoder(arrays), "inputs": inputs}
        data, join = self.context.data, None
        if self.conditions is not None and self.conditions.name == "c":
            join = _join(data, self.context.x, self.context.others["c"])
            result |= {} if join is None else {"join": join}
        if data.scaling is not None:
            scaling = data.observed_scaling if join is None else data.scaling
            shift, scale = (s.flatten().tolist() for s in scaling)
            result |= {"scale": scale, "shift": shift}
        return result

    # ---------------------------------------------------------------------- values

    def shown(self, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """x `[N, ...]` as it is shown: in its original units, the whole image of a part."""
        data = self.context.data
        whole = data.unstandardize(joined(data, x, c))
        return whole.flatten(1).cpu()

    def decode(self, units: torch.Tensor, condition: int = 0, seed: int = 0) -> torch.Tensor:
        """The mean of x as it is shown, `[N, values]`, at `units [N, D]`, by the model itself."""
        parts = units.split(list(self.sizes.values()), 1)
        values = {
            name: part.reshape(len(units), *self.event_shapes[name])
            for name, part in zip(self.sizes, parts, strict=True)
        }
        c = None
        if self.conditions is not None:
            row = self.conditions.values[condition]
            if self.conditions.name == "c":
                c = row.reshape(1, *self.context.others["c"].shape[1:])
                c = c.expand(len(units), *c.shape[1:])
                values["c"] = c
            else:
                values["y"] = torch.full((len(units),), condition)
        x = sample(self.model, mean=True, seed=seed, example=self.context.example(), **values)
        return self.shown(x, c)

    # ---------------------------------------------------------------------- JSON values

    def described(self, window: Window, axes: tuple[int, int]) -> dict[str, JsonValue]:
        """The decoder as JSON values: its layers, or pictures on a grid of the plane."""
        return self._grid(window, axes) if self.arrays is None else self.arrays

    def _grid(self, window: Window, axes: tuple[int, int]) -> dict[str, JsonValue]:
        context = self.context
        self._check_deterministic()
        rows = 1 if self.conditions is None else len(self.conditions.values)
        num_values = self.shown(context.x[:1], context.first_inputs(1).get("c")).shape[1]
        num = int(math.sqrt(MOST_BYTES / (rows * num_values)))
        num = max(LEAST_NODES, min(MOST_NODES, num))
        units = torch.zeros(num * num, self.codes.shape[1])
        units[:, list(axes)] = window.grid(num).reshape(-1, 2).float()
        decoded = torch.stack(
            [
                torch.cat([self.decode(part, i) for part in units.split(DECODED_AT_ONCE)])
                for i in range(rows)
            ]
        )
        images = as_bytes(decoded, self.white) if context.is_image else decoded
        return {"images": pack(images), **window.described(num)}

    def _check_deterministic(self) -> None:
        """Raise if x depends on a latent that is neither a unit nor a condition."""
        first, second = (self.decode(self.codes[:4], seed=seed) for seed in (0, 1))
        if not torch.allclose(first, second, atol=1e-4):
            _, latents = sites_of(self.model, self.context.example())
            others = [n for n in latents if n not in self.sizes]
            raise UserError(
                f"a place in {', '.join(self.sizes)} has no single picture: x also depends on "
                f"{', '.join(others) or 'further random variables'}"
            )


def _join(data: Data, x: torch.Tensor, c: torch.Tensor) -> list[int] | None:
    """Where each value of the whole image comes from: index i of x, or -1 - j for index j of c.

    None if x is shown as it is.

    Raises:
        UserError: the condition does more than arrange the values of x and c.
    """
    if not isinstance(data.dense_condition, Condition):
        return None
    number_x = torch.arange(x[0].numel(), dtype=torch.float64).reshape(1, *x.shape[1:])
    number_c = -1 - torch.arange(c[0].numel(), dtype=torch.float64).reshape(1, *c.shape[1:])
    numbers = data.dense_condition.join(number_x, number_c).flatten().round().long()
    first_x, first_c = x[:1].cpu().flatten(), c[:1].cpu().flatten()
    rearranged = torch.where(
        numbers >= 0, first_x[numbers.clamp(min=0)], first_c[(-1 - numbers).clamp(min=0)]
    )
    if not torch.equal(rearranged, data.dense_condition.join(x[:1], c[:1]).cpu().flatten()):
        raise UserError("the page cannot show this condition: join(x, c) computes new values")
    join = numbers.tolist()
    return None if join == list(range(x[0].numel())) else join
