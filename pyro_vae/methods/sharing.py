"""A trained pair as one file to share: weights in safetensors, how the pair is built, a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..data import Data
from ..errors import UserError, folder_to_write
from ..programs.calling import name_of
from ..programs.modules import find_modules
from ..train import checkpoint
from ..train.safetensors import read_tensors, write_tensors
from ..train.schema import data_differ, schema_of
from ..train.untrusted import Unsafe, parse_json
from ..train.weights import Weights, freeze, restore, weights_of
from .building import build
from .files import as_json
from .options import complete
from .preparing import prepare, shapes
from .rebuild import BoundedMemory, describe_pair, rebuild_pair
from .table import preset

if TYPE_CHECKING:
    from .run import Run

KIND = "pyro_vae export"
FORMAT = f"{KIND} 3"
RECORD = "pyro_vae"  # the name of the text in the file that describes the pair
TENSORS = "pt"  # the library of the tensors, as a safetensors file names it
FILE, CARD = "model.safetensors", "README.md"
MAX_COLUMNS = 50  # of a table, that the card names
# A pair that is built creates its weights, their initial values, and masks: so many values at most.
MEMORY_FACTOR, MEMORY_SLACK = 20, 10_000_000


def export_run(run: "Run", path: Path | str, license: str | None = None) -> Path:
    """Write the weights of a run, and how its pair is built, to a file that `pv.load` opens.

    Args:
        run: the run.
        path: a file `NAME.safetensors`, or a folder, which gets `model.safetensors` and a model card,
            `README.md`.
        license: of the weights, as the card names it, e.g. `CC-BY-4.0`. Default: the card says that
            none is stated.

    Returns:
        The file of the weights.

    Raises:
        UserError: a file is there already, or cannot be written; parameters outside of modules.
    """
    path = Path(path)
    is_file = path.suffix == ".safetensors"
    target = path if is_file else path / FILE
    written = [target] if is_file else [target, path / CARD]
    for existing in written:
        if existing.exists():
            raise UserError(f"{existing} exists already: name another path (export --out)")
    weights = weights_of(run.model, run.guide)
    if run.weights is not None and len(run.weights.free):
        raise UserError("parameters of pyro.param are in no module, and cannot be exported")
    tensors = _by_name(weights)
    record = _record(run, weights)
    record["digest"] = checkpoint.digest([tensors, record])
    folder_to_write(target.parent)
    try:
        write_tensors(target, tensors, {"format": TENSORS, RECORD: json.dumps(record)})
        if not is_file:
            card = model_card(run, record, license)
            checkpoint.write_atomically(path / CARD, lambda p: p.write_text(card))
    except OSError as e:
        raise UserError(f"cannot write to {str(path)[:60]!r}: {e.strerror}") from e
    return target


def export_file(path: Path) -> Path | None:
    """The file of an export, if `path` is one, or its folder; else None."""
    if path.suffix == ".safetensors":
        return path
    is_run = (path / "config.json").exists() or (path / "checkpoint.pt").exists()
    return path / FILE if (path / FILE).exists() and not is_run else None


def load_export(path: Path, model: Any, guide: Any) -> tuple[Any, Any, dict[str, Any]]:
    """`(model, guide, record)` of a file that `export_run` wrote.

    Args:
        path: the file.
        model, guide: the pair, built as it was trained. Default: it is built again.

    Raises:
        UserError: the file is missing, damaged or foreign; a pair that cannot be built again, or
            that the weights do not fit.
    """
    tensors, texts = read_tensors(path)
    record = _checked_record(path, tensors, texts)
    weights = _as_weights(tensors, record["frozen"])
    if model is None:
        num_values = sum(value.numel() for value in tensors.values())
        try:
            with BoundedMemory(MEMORY_FACTOR * num_values + MEMORY_SLACK):
                model, guide = _build(record, path)
        except Unsafe as e:
            raise UserError(f"{path} is damaged: {e}") from e
    restore(model, guide, [], weights, path)
    freeze(model, guide, weights)
    for module in find_modules(model, guide):
        module.eval()
    return model, guide, record


def data_of_export(record: Mapping[str, Any], data: Any, path: Path) -> Data:
    """The data that an exported pair was trained on, prepared as they were for it.

    Raises:
        UserError: other data, or a stream of batches.
    """
    if not isinstance(data, Data):
        raise UserError("pass the data of the run, not batches")
    if record["config"] is not None:
        data = prepare(complete(record["config"]), data, None)
    other = data_differ(record["data"] or {}, record["schema"], data)
    if other is not None:
        raise UserError(
            f"{path} was trained on other data ({other}): leave data= out, and pass new data to "
            "run.encode or run.evaluate"
        )
    return data


def model_card(run: "Run", record: Mapping[str, Any], license: str | None) -> str:
    """The text of a model card, in Markdown."""
    kinds = " with guide ".join(name_of(p) for p in (run.model, run.guide))
    name = kinds if run.config is None else run.config["method"]
    lines = ["---", "library_name: pyro_vae"]
    lines += [] if license is None else [f"license: {json.dumps(license)}"]
    lines += ["---", "", f"# {name}", ""]
    if run.config is not None:
        entry = preset(run.config["method"])
        lines += [f"{entry.model_name} with guide {entry.guide} ({entry.paper}).", ""]
    described = record["data"]
    if described:
        sizes = ", ".join(f"{n} {split}" for split, n in described.get("sizes", {}).items())
        lines += [f"**Data.** {described['name']}: {sizes}; x {described['x_shape']}.", ""]
    lines += _columns_and_classes(run)
    lines += [f"**Training.** {len(run.history)} epochs; weights of epoch {run.epoch}.", ""]
    numbers = _numbers(run)
    if numbers:
        lines += ["| number | value |", "|---|---|"]
        lines += [f"| {label} | {value:.4g} |" for label, value in numbers.items()]
        lines += [""]
    stated = "not stated" if license is None else license
    lines += [
        f"**License.** {stated}.", "",
        "```python", "import pyro_vae as pv", "",
        f'run = pv.load("{FILE}")  # run.model and run.guide', "```", "",
        f"Written by pyro_vae {__version__}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _columns_and_classes(run: "Run") -> list[str]:
    """What new data must have: the columns of a table, with their kinds; and what y is called."""
    table = None if run.data is None else run.data.table
    lines = []
    if table is not None:
        columns = [
            f"`{column.name}` ({column.kind}"
            + (f": {', '.join(map(str, column.categories))})" if column.categories else ")")
            for column in (*table.columns, *table.covariates)
        ]
        more = f", and {len(columns) - MAX_COLUMNS} more" if len(columns) > MAX_COLUMNS else ""
        lines += [f"**Columns.** {', '.join(columns[:MAX_COLUMNS])}{more}.", ""]
    if run.class_names is not None:
        lines += [f"**Classes.** {', '.join(map(str, run.class_names))}.", ""]
    return lines


def _numbers(run: "Run") -> dict[str, float]:
    """The results in the run folder, else the validation ELBO; nats per data point."""
    # the files in the folder are of the best weights, as the command line evaluates a run
    folder = run.out if run.epoch == run.best_epoch else None
    for split in ("test", "valid", "train"):
        path = None if folder is None else folder / f"results-{split}.json"
        if path is not None and path.exists():
            results = checkpoint.read_json(path)
            names = {"elbo": "ELBO", "log_likelihood": "log-likelihood"}
            return {
                f"{label}, {split}, nats per data point": float(results[key])
                for key, label in names.items()
                if isinstance(results.get(key), float)
            }
    row = next((r for r in run.history if r["epoch"] == run.epoch), {})
    standardized = run.data is not None and run.data.scaling is not None
    label = f"ELBO{' of standardized x' if standardized else ''}, valid, nats per data point"
    return {label: row["elbo"]} if "elbo" in row else {}


def _record(run: "Run", weights: Weights) -> dict[str, Any]:
    """How the pair is built, and what it was trained on, as JSON values."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "frozen": weights["frozen"],
        "data": None if run.data is None else run.data.fingerprint(),
        "schema": None if run.data is None else schema_of(run.data),
        "pair": None,
        "config": None,
        "shapes": None,
    }
    if run.config is not None and run.data is not None:
        record["config"] = {**as_json(run.config), "data": None}
        record["shapes"] = list(shapes(run.data))
    else:
        record["pair"] = describe_pair(run.model, run.guide)
    return json.loads(json.dumps(record))  # as it is read: tuples are lists


def _build(record: Mapping[str, Any], path: Path) -> tuple[Any, Any]:
    if record["config"] is None:
        return rebuild_pair(record["pair"], path)
    try:
        x_shape, num_data, c_shape, num_classes = record["shapes"]
        config = complete(record["config"])
        return build(config, tuple(x_shape), num_data, c_shape and tuple(c_shape), num_classes)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, OverflowError) as e:
        if isinstance(e, (UserError, Unsafe)):
            raise
        raise UserError(f"{path} does not say how its pair was built") from e


def _checked_record(
    path: Path, tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]
) -> dict[str, Any]:
    """What the file says of the pair, if it is an export of this library and not damaged."""
    try:
        record = parse_json(texts.get(RECORD, ""))
    except ValueError:
        record = None
    written_as = record.get("format") if isinstance(record, dict) else None
    if written_as != FORMAT:
        if isinstance(written_as, str) and written_as.startswith(KIND):
            raise UserError(
                f"{path} is a {written_as!r}, and pyro_vae {__version__} reads {FORMAT!r}: use the "
                "version that wrote it"
            )
        raise UserError(f"{path} was not written by run.export() of this library")
    digest = record.pop("digest", None)
    expected = {"format", "version", "frozen", "data", "schema", "pair", "config", "shapes"}
    is_whole = record.keys() == expected and texts.get("format") == TENSORS
    if not is_whole or checkpoint.digest([dict(tensors), record]) != digest:
        raise UserError(f"{path} is damaged: its content does not match its digest")
    frozen, numbers = record["frozen"], {name.partition(".")[0] for name in tensors}
    if (
        not isinstance(frozen, list)
        or not all(isinstance(names, list) for names in frozen)
        or not numbers <= {str(number) for number in range(len(frozen))}
    ):
        raise UserError(f"{path} is damaged: its weights are not those of its modules")
    return record


def _by_name(weights: Weights) -> dict[str, torch.Tensor]:
    """`{"0.NAME": tensor}`: the modules' weights, numbered in their order."""
    tensors = {
        f"{number}.{name}": value
        for number, module in enumerate(weights["modules"])
        for name, value in module.items()
    }
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"the state {name!r} is no tensor, and cannot be exported")
    return tensors


def _as_weights(tensors: Mapping[str, torch.Tensor], frozen: list[list[str]]) -> Weights:
    modules: list[dict[str, torch.Tensor]] = [{} for _ in frozen]
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        modules[int(number)][name] = value
    return {"modules": modules, "free": [], "frozen": frozen}
