"""What `fit` is called with: checks, and the data as they are trained on."""

import inspect
import json
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ..data import Data, as_data
from ..errors import UserError
from ..programs import layout_of
from ..programs.calling import check_program, first_argument
from ..programs.modules import find_modules
from . import checkpoint, distributed
from .folder import RunFolder
from .inputs import Inputs, with_validation


def training_data(
    model: Callable[..., Any], data: Any, valid: Any, patience: int | None
) -> tuple[Any, Any]:
    """`(data, stream of validation batches or None)`, as `Inputs` takes them."""
    first = first_argument(model)
    data, valid = with_validation(as_data(data, first), valid, first)
    has_validation = valid is not None or (isinstance(data, Data) and data.valid is not None)
    if patience is not None and not has_validation:
        raise UserError(
            "patience stops on the validation ELBO, and these data have no valid split: pass valid="
        )
    return data, valid


def needs_cpu(inputs: Inputs) -> bool:
    """Whether a user-defined pair uses tensors on the CPU, so that it fails elsewhere; warns if so."""
    try:
        layout_of(inputs.model, inputs.guide, inputs.first()[1])
    except UserError as error:
        if "device" not in str(error.__cause__) or distributed.size() > 1:
            return False  # another fault, which `check_pair` names
        warnings.warn(
            f"the pair is trained on the CPU, not on {inputs.device}: its programs use tensors on the "
            "CPU; create those with device=x.device, or register them as buffers of a module",
            stacklevel=4,
        )
        return True
    return False


def check_programs(model: object, guide: object, initialize: object) -> None:
    """Raise unless model, guide and start can be called, and the pair can be trained."""
    for name, program in (("model", model), ("guide", guide)):
        check_program(name, program)
    if initialize is not None and not callable(initialize):
        raise UserError(
            f"initialize must be one of pv.train's, e.g. MixtureInitialization(), not {initialize!r}"
        )
    if torch.is_inference_mode_enabled():
        raise UserError("fit takes gradients: call it outside of torch.inference_mode()")
    parameters = [p for m in find_modules(model, guide) for p in m.parameters()]
    if any(p.is_inference() for p in parameters if not is_lazy(p)):
        raise UserError("the pair was made under torch.inference_mode(), and cannot be trained")


def check_optimizer(optimizer: object, settings: dict[str, Any], fit: Callable[..., Any]) -> None:
    """Raise unless it makes an optimizer, and what AdamW takes is at `fit`'s defaults."""
    if optimizer is None:
        return
    if isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer):
        raise UserError(
            "optimizer must be a function that makes one of the parameters, e.g. "
            f"lambda params: torch.optim.SGD(params, lr=0.1), not {type(optimizer).__name__}"
        )
    declared = inspect.signature(fit).parameters
    for name in ("lr", "weight_decay"):
        if settings[name] != declared[name].default:
            raise UserError(f"{name} is AdamW's: set the rates where optimizer= makes its own")


def check_folder(out: object, resume: bool) -> None:
    """Raise unless `out` is a path, or None for a run that is not resumed."""
    if out is not None and not isinstance(out, (str, os.PathLike)):
        raise UserError(f"out must be the path of a folder, not {out!r}")
    if resume and out is None:
        raise UserError("resume needs out=, the folder of the run to resume")


def check_json(config: object, name: str = "config") -> None:
    """Raise unless `config`, called `name`, is a dict that JSON can hold, or None."""
    if config is not None and not isinstance(config, dict):
        raise UserError(f"{name} must be a dict, not {config!r}")
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise UserError(f"{name} must be what JSON can hold: {e}") from None


def saved_state(folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to resume from; None for a new run.

    Raises:
        UserError: the folder contains a run that is not to be resumed.
    """
    if not resume:
        folder.check_free()
        return None
    if not os.path.exists(folder.path):  # of a name that is too long, too
        return None
    folder.claim()
    if not folder.can_resume():
        return None
    state = checkpoint.load(folder.checkpoint)
    checkpoint.check_config(folder.path, state)
    return state
