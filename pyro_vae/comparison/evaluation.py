"""The numbers of one trained pair: bounds on log p(x), diagnostics of the guide, inference gaps."""

import copy
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn as nn
from pyro import poutine

from .. import diagnostics, evaluate
from ..data import Data
from ..diagnostics.importance import (
    RELIABLE_K,
    TAIL_SAMPLES,
    effective_sample_size,
    log_mean_error,
    median_k,
    pareto_k,
)
from ..errors import UserError, check_int_at_least, unknown_name_error
from ..evaluate.inputs import Inputs, split_inputs, why_improper
from ..evaluate.likelihood import kinds_of_terms, why_no_log_likelihood
from ..generate.decoder_arrays import decoder_arrays
from ..programs.calling import accepts_argument, as_keyword_program
from ..programs.contexts import eval_mode, fork_rng
from ..programs.layout import failure
from ..programs.modules import device_of, find_modules
from ..train import checkpoint
from ..train.steps.recorded import leaf_parameters
from .plan import PER_DATUM_HINT, PyroProgram

NUM_POSTERIORS = 10  # data points whose posterior grids are kept
#: Parameters of `inference_gaps` and `ais` that the evaluation of a cell sets.
SET_BY_EVALUATION = ("model", "guide", "x", "seed", "on_progress")

Row = dict[str, Any]  # names, numbers, flags and None: JSON values


@dataclass
class CellResult:
    """What is known of one cell.

    Attributes:
        row: its names and its numbers.
        per_datum: `{bound: one number per data point}`. Of the whole split: `split_elbo`,
            `log_likelihood`. Of the data points that gaps are computed for: `gap_log_likelihood`,
            `gap_pareto_k`, `elbo_optimal`, `elbo`, `amortization`, and `annealed`, AIS's bound on
            log p(x) of a model that guides share. `NAME_se` is the standard error of NAME. A
            model without a proper likelihood has `split_elbo` alone.
        same_model: whether the model is the same for all seeds, not trained.
    """

    row: Row
    per_datum: dict[str, list[float]]
    same_model: bool = False

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        checkpoint.write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "CellResult":
        """The result that `write` wrote.

        Raises:
            UserError: the file has another content.
        """
        return cls.of(checkpoint.read_json(path), path)

    @classmethod
    def of(cls, content: Any, path: Path) -> "CellResult":
        """The result that is the content of a file.

        Raises:
            UserError: another content.
        """
        if not (
            isinstance(content, dict)
            and content.keys() == {"row", "per_datum", "same_model"}
            and isinstance(content["row"], dict)
            and isinstance(content["per_datum"], dict)
            and all(isinstance(numbers, list) for numbers in content["per_datum"].values())
        ):
            raise UserError(
                f"{path} is not a result of a comparison: remove it to compute it again"
            )
        return cls(**content)


@dataclass
class EvaluationOptions:
    """What is evaluated: the split, the numbers of samples, and the options of the gap search."""

    split: str
    num_samples: int = 500
    num_gap_data: int = 100
    gap_options: dict[str, Any] | None = None
    observed: list[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_int_at_least(1, num_samples=self.num_samples)
        check_int_at_least(0, num_gap_data=self.num_gap_data)
        check_gap_options(self.gap_options or {})


def check_gap_options(gap_options: dict[str, Any]) -> None:
    """Check the names of options of `inference_gaps`, and of AIS within them.

    Raises:
        UserError: an unknown name, with the nearest known one.
    """
    annealing = gap_options.get("annealing")
    for function, options in (
        (diagnostics.inference_gaps, gap_options),
        (diagnostics.ais, annealing if isinstance(annealing, dict) else {}),
    ):
        parameters = inspect.signature(function).parameters.values()
        known = [p.name for p in parameters if p.kind != p.VAR_KEYWORD]
        known = [name for name in known if name not in SET_BY_EVALUATION]
        for name in options:
            if name not in known:
                raise unknown_name_error(f"option of {function.__name__}", name, known)


def x_and_inputs(
    model: PyroProgram, guide: PyroProgram, data: Data, split: str, observed: list[str] | None
) -> tuple[torch.Tensor, Inputs]:
    """`(x, further inputs by name)` of a pair, for the split to which its per-datum rows are fitted."""
    others = split_inputs(model, guide, data, split, observed, fitted_split=split)
    return others.pop("x"), others


def model_inputs(model: PyroProgram, others: Inputs) -> Inputs:
    """Of the inputs to a pair, those that the model accepts."""
    return {name: value for name, value in others.items() if accepts_argument(model, name)}


def evaluate_pair(
    model: PyroProgram,
    guide: PyroProgram,
    data: Data,
    options: EvaluationOptions,
    valid_guide: PyroProgram | None = None,
    annealed: Callable[[torch.Tensor, Inputs], tuple[torch.Tensor, torch.Tensor] | None]
    | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Row, dict[str, list[float]]]:
    """`(numbers, bounds per data point)` of a trained pair; see `CellResult`.

    Densities of standardized columns are converted to the original units.

    Args:
        valid_guide: the guide for the validation data. Default: no ELBO of them.
        annealed: for a model that several guides share: AIS's bound and its standard error for
            `(x, further inputs)`, or None without AIS.
        on_progress: receives the fraction of the gap search that is done.
    """
    seed, observed = options.seed, options.observed
    x, others = x_and_inputs(model, guide, data, options.split, observed)
    log_volume = data.log_abs_det_jacobian(x)
    row: Row = {"valid_elbo": None}
    if valid_guide is not None:
        valid, valid_others = x_and_inputs(model, valid_guide, data, "valid", observed)
        bound = evaluate.elbo(model, valid_guide, valid, num_samples=10, seed=seed, **valid_others)
        row["valid_elbo"] = float((bound - data.log_abs_det_jacobian(valid).to(bound)).mean())
    elbo = evaluate.elbo(model, guide, x, num_samples=10, seed=seed, **others)
    elbo = elbo - log_volume.to(elbo)
    row |= {
        "elbo": float(elbo.double().mean()),
        "ess": None,
        "pareto_k": None,
        "heavy_tailed": False,
    }
    bounds = {"split_elbo": elbo}
    kinds = kinds_of_terms(model, guide, x, **others)
    reason = why_no_log_likelihood(kinds, why_improper(model, guide, x, **others))
    if "guide factor" in kinds.values():
        warnings.warn("the guide has a pyro.factor: its ELBO is a score and no bound", stacklevel=2)
    if reason is not None:
        warnings.warn(
            f"no log p(x), ESS and gaps of a guide, and its ELBO is a score and no bound: {reason}",
            stacklevel=2,
        )
    else:
        numbers, weighted = _importance_weighted(model, guide, x, others, options)
        weighted["log_likelihood"] -= log_volume.to(weighted["log_likelihood"])
        row, bounds = row | numbers, bounds | weighted
        if options.num_gap_data:
            n = options.num_gap_data
            few, few_others = x[:n], {k: v[:n] for k, v in others.items()}
            gaps = _gaps(model, guide, few, few_others, options, annealed, on_progress)
            for name in ("gap_log_likelihood", "elbo_optimal", "elbo", "annealed"):
                if name in gaps:
                    gaps[name] = gaps[name] - log_volume[:n].to(gaps[name])
            bounds |= gaps
    return row, {name: value.tolist() for name, value in bounds.items()}


def _importance_weighted(
    model: PyroProgram,
    guide: PyroProgram,
    x: torch.Tensor,
    others: Inputs,
    options: EvaluationOptions,
) -> tuple[Row, dict[str, torch.Tensor]]:
    """ESS and k-hat of the guide's importance weights, and their bound on log p(x)."""
    num_samples = options.num_samples
    log_w = diagnostics.importance_weights(
        model, guide, x, num_samples, seed=options.seed, **others
    ).double()
    numbers: Row = {"ess": float(effective_sample_size(log_w).mean())}
    if num_samples >= TAIL_SAMPLES:
        k = median_k(pareto_k(log_w))
        numbers |= {"pareto_k": k if math.isfinite(k) else None, "heavy_tailed": k > RELIABLE_K}
    return numbers, {
        "log_likelihood": log_w.logsumexp(0) - math.log(num_samples),
        "log_likelihood_se": log_mean_error(log_w),
    }


def _gaps(
    model: PyroProgram,
    guide: PyroProgram,
    x: torch.Tensor,
    others: Inputs,
    options: EvaluationOptions,
    annealed: Callable[[torch.Tensor, Inputs], tuple[torch.Tensor, torch.Tensor] | None] | None,
    on_progress: Callable[[float], None] | None,
) -> dict[str, torch.Tensor]:
    """The bounds that the inference gaps are differences of, and their standard errors."""
    gap_options = dict(options.gap_options or {})
    if annealed is not None:  # one bound of AIS serves all guides
        gap_options["annealing"] = False
    gaps = diagnostics.inference_gaps(
        model, guide, x, **gap_options, seed=options.seed, on_progress=on_progress, **others
    )
    bounds = {"gap_pareto_k": gaps["pareto_k"]}
    for end in ("", "_se"):
        bounds[f"gap_log_likelihood{end}"] = gaps[f"log_likelihood{end}"]
        for name in ("elbo_optimal", "elbo", "amortization"):
            bounds[name + end] = gaps[name + end]
    of_model = None if annealed is None else annealed(x, others)
    if of_model is not None:
        bounds["annealed"], bounds["annealed_se"] = of_model
    return bounds


def posteriors_of_first(
    model: PyroProgram, guide: PyroProgram, data: Data, x: torch.Tensor, others: Inputs
) -> dict[str, Any] | None:
    """The posterior grids of the first data points, if the model has two latent numbers.

    With them `x`, and `decoder`: the fields of `generate.decoder_arrays.DecoderArrays`, if a fully
    connected decoder depends on nothing but the latent. log p(x) is in the data's original units.
    """
    x = x[:NUM_POSTERIORS]
    first: dict[str, Any] = {k: v[:NUM_POSTERIORS] for k, v in others.items()}
    codes = evaluate.encode(model, guide, x, **first)
    if sum(v[0].numel() for v in codes.values()) != 2:
        return None
    grid = diagnostics.posterior_grid(model, x, guide, num=60, **first)._asdict()
    if not all(value.isfinite().all() for value in grid.values()):
        raise UserError("a density is not finite")
    grid["log_likelihood"] -= data.log_abs_det_jacobian(x).to(grid["log_likelihood"])
    arrays, decoder = decoder_arrays(model), None
    if arrays is not None and list(arrays.parents) == list(codes):
        decoder = vars(arrays)
    return {name: value.cpu() for name, value in grid.items()} | {"x": x.cpu(), "decoder": decoder}


# ---------------------------------------------------------------------- parameters


def trainable_leaves(kind: str, program: PyroProgram, batch: Inputs) -> list[torch.Tensor]:
    """The parameters that a program's log-density depends on, those in Pyro's store included.

    Args:
        kind: "model" or "guide".

    Raises:
        UserError: the program fails.
    """
    device = device_of(program, default=batch["x"].device)
    batch = {k: v[:2].to(device) for k, v in batch.items()}
    with (
        torch.enable_grad(),
        eval_mode(program),  # running statistics change by training steps alone
        fork_rng(device),
        pyro.validation_enabled(False),
    ):
        trace = poutine.trace(as_keyword_program(program))
        try:
            return leaf_parameters(lambda: torch.as_tensor(trace.get_trace(**batch).log_prob_sum()))
        except UserError:
            raise
        except Exception as error:  # any kind, from a user's program
            hint = f"; {PER_DATUM_HINT}" if kind == "guide" else ""
            raise UserError(failure(kind, error, batch) + hint) from error


def count_guide_parameters(
    model: PyroProgram, guide: PyroProgram, x: torch.Tensor, others: Inputs
) -> int:
    """How many numbers a guide has to train, not counting the model's."""
    batch = {"x": x, **others}
    of_model = {id(p) for p in trainable_leaves("model", model, batch)}
    return sum(p.numel() for p in trainable_leaves("guide", guide, batch) if id(p) not in of_model)


def has_parameters(batch: Inputs, **programs: PyroProgram) -> bool:
    """Whether anything in the model= or the guide= can be trained; both are left as they are."""
    modules = find_modules(*programs.values())
    if any(p.requires_grad for module in modules for p in module.parameters()):
        return True
    for kind, program in programs.items():  # it may make parameters when it first runs: try a copy
        if isinstance(program, nn.Module):
            program = copy.deepcopy(program)
        with pyro.get_param_store().scope():
            if trainable_leaves(kind, program, batch):
                return True
    return False


def freeze(model: PyroProgram, batch: Inputs) -> None:
    """Stop the training of the model's parameters; a guide in the same module keeps its own."""
    for parameter in trainable_leaves("model", model, batch):
        parameter.requires_grad_(False)
