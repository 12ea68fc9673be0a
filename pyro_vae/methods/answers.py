"""What a run says of new data: codes, profiles, reconstructions, imputations, densities."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .. import evaluate
from ..data import Data
from ..data.arrays import as_tensor
from ..data.display import named_columns
from ..data.tables import frame_like, unused_names
from ..errors import UserError
from ..evaluate.inputs import Inputs, PyroProgram, split_inputs
from ..generate.impute import impute as impute_values
from ..programs.calling import accepts_argument
from ..programs.inspection import is_per_datum
from .new_data import NewData, Tensors


def encode(new: NewData) -> Any:
    """Codes `{latent: [N, ...]}`, of a frame a frame of `code_columns`; see `Run.encode`."""
    codes = encodings(new)
    return new.frame(code_columns(codes, new.class_names)) if new.is_frame else codes


def encodings(new: NewData) -> Tensors:
    """Posterior means of continuous latents, and probabilities of the discrete one."""
    return new.apply(lambda inputs, _: _encodings(new.model, new.guide, inputs))


def split_encodings(
    model: PyroProgram, guide: PyroProgram, data: Data, split: str | None = None
) -> Tensors:
    """Those of a pair's own data: of one split, or of all of `own_splits`, one after the other."""
    parts = [_encodings(model, guide, each) for each in own_inputs(model, guide, data, split)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def own_inputs(
    model: PyroProgram, guide: PyroProgram, data: Data, split: str | None = None
) -> list[Inputs]:
    """The inputs of a pair from its own data: from one split, or from each of `own_splits`."""
    splits = own_splits(guide, data) if split is None else (split,)
    return [split_inputs(model, guide, data, name) for name in splits]


def own_splits(guide: PyroProgram, data: Data) -> tuple[str, ...]:
    """The splits that a guide encodes: all, or those that it has a row per data point for."""
    return ("train",) if is_per_datum(guide) else tuple(data.splits())


def _encodings(model: PyroProgram, guide: PyroProgram, inputs: Inputs) -> Tensors:
    codes = evaluate.encode(model, guide, **inputs)
    if accepts_argument(model, "y") and "y" not in inputs:
        # all batches have the same noise: a code depends on its row alone
        codes["y"] = evaluate.responsibilities(model, guide, **inputs)
    return codes


def profile(new: NewData) -> Any:
    """The components of new data, a row each; see `Run.profile`."""
    codes = encodings(new)
    if "y" not in codes:
        raise UserError("a profile is of components, and this model has none whose y is not given")
    x = torch.cat([inputs["x"] for inputs in new.inputs()])
    return profile_frame(new.data, x, codes["y"], new.class_names)


def profile_frame(
    data: Data, x: torch.Tensor, probabilities: torch.Tensor, class_names: Sequence[Any] | None
) -> Any:
    """A frame with a row for each component: its size, and the columns of its data.

    Args:
        data: that the pair was trained on.
        x: `[N, D]`, as the pair takes it.
        probabilities: `[N, K]` of the components.
        class_names: of the values of y. Default: their numbers.
    """
    size, components = probabilities.shape[-1], probabilities.argmax(-1).cpu().numpy()
    own = named_columns(data, x)
    columns: dict[Any, Any] = {}
    for each in evaluate.column_profiles(own, components, size):
        columns[each.name] = each.centers
        if each.kind != "fraction":
            name = f"{each.name}_{'sd' if each.kind == 'number' else 'fraction'}"
            columns |= unused_names({name: each.spreads}, own)
    counts = np.bincount(components, minlength=size)
    names = np.arange(size) if class_names is None else _as_values(class_names)
    front = {"y": names, "count": counts, "fraction": counts / max(1, len(components))}
    table = data.table
    return frame_like(
        None if table is None else table.library, {**unused_names(front, columns), **columns}
    )


def code_columns(codes: Tensors, class_names: Sequence[Any] | None = None) -> dict[str, Any]:
    """`{column: values [N]}`: `z_0, z_1, ...`; of y its most probable value, and the probability.

    Args:
        codes: as `encodings` returns them.
        class_names: of the values of y. Default: their numbers.
    """
    columns: dict[str, Any] = {}
    for name, value in codes.items():
        if name == "y":
            probability, component = (v.cpu().numpy() for v in value.max(-1))
            named = component if class_names is None else _as_values(class_names)[component]
            columns |= {"y": named, "y_probability": probability}
        else:
            flat = value.flatten(1).cpu().numpy()
            columns |= {f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
    return columns


def _as_values(class_names: Sequence[Any]) -> np.ndarray:
    """Names `[K]` as the values of a column: text as objects, numbers as numbers."""
    is_text = any(isinstance(name, str) for name in class_names)
    return np.array(class_names, dtype=object if is_text else None)


def reconstruct(new: NewData) -> Any:
    """The means of p(x | z) at the posterior means of z, in original units; see `Run.reconstruct`."""

    def of(inputs: Inputs, _: int | None) -> Tensors:
        return {"x": evaluate.reconstruct(new.model, new.guide, **inputs)}

    means = new.data.unstandardize(new.apply(of)["x"])
    if not new.is_frame or new.data.table is None:
        return means
    return new.frame(new.data.table.decode(means, round_counts=False))


def impute(new: NewData, num_samples: int, steps: int, seed: int | None) -> Any:
    """Draws of the missing values; see `Run.impute`."""

    def of(inputs: Inputs, seed: int | None) -> Tensors:
        done = impute_values(
            new.model, new.guide, num_samples=num_samples, steps=steps, seed=seed, **inputs
        )
        return {"x": done.x}

    new = replace(new, allow_missing=True)
    draws = new.data.unstandardize(new.apply(of, seed, dim=1, checks=True)["x"])
    if not new.is_frame:
        return _with_observed(new, draws)
    frames = [new.frame(new.completed(draw)) for draw in draws]
    return frames[0] if num_samples == 1 else frames


def _with_observed(new: NewData, draws: torch.Tensor) -> torch.Tensor:
    """The draws, with observed values as they came: standardizing and back rounds them.

    They are float64 if x is.
    """
    if not isinstance(new.rows, Data) or new.rows.sparse is not None:
        return draws
    read = new.rows.train.x
    is_array = isinstance(new.x, (np.ndarray, torch.Tensor))
    is_double = is_array and str(new.x.dtype).endswith("float64")
    if read.shape != draws.shape[1:] or (new.data.scaling is None and not is_double):
        return draws
    is_double = is_double and new.data.binarize == "none"
    x = read
    if is_double:
        x = new.x if isinstance(new.x, torch.Tensor) else as_tensor(np.ma.getdata(new.x))
    draws = draws.double() if is_double else draws
    return torch.where(read.isnan().to(draws.device), draws, x.detach().to(draws))


def log_likelihood(new: NewData, num_samples: int, seed: int | None) -> torch.Tensor:
    r"""`[N]`: :math:`\log p(x)` of x in its original units; see `Run.log_likelihood`."""

    def of(inputs: Inputs, seed: int | None) -> Tensors:
        value = evaluate.log_likelihood(
            new.model, new.guide, num_samples=num_samples, seed=seed, **inputs
        )
        return {"log_likelihood": value - new.data.log_abs_det_jacobian(inputs["x"]).to(value)}

    return new.apply(of, seed, checks=True)["log_likelihood"]
