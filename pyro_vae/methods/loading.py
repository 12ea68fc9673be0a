"""`load`: a run from its folder, or from an exported file."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import DATASETS, Data, as_data
from ..data import load as load_data
from ..errors import UserError
from ..programs.calling import first_argument
from ..programs.contexts import seeded
from ..train import checkpoint, choose_device
from ..train.interrupt import INTERRUPTED
from ..train.schema import data_differ, data_of_schema
from ..train.weights import weights_in
from .advice import advise
from .building import build
from .configured import Method
from .files import read_config
from .options import complete
from .preparing import shapes
from .rebuild import rebuild_pair
from .records import CONFIG, RECORD, RESTARTS, best_epoch, check_unedited, read_history
from .run import Run
from .sharing import data_of_export, export_file, load_export


def load(
    folder: Path | str,
    model: Any = None,
    guide: Any = None,
    data: Any = None,
    device: str | None = None,
    root: Path | str | None = None,
) -> Run:
    """A run from its folder: the pair with the weights of the best epoch, its history and its data.

    Example:
        >>> import tempfile, torch, pyro_vae as pv
        >>> x, model = torch.randn(20, 3), pv.models.VAE((3,), 2, likelihood="normal")
        >>> guide = pv.guides.Guide(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pv.fit(model, guide, x, epochs=1, out=folder, progress=False)
        ...     pv.load(folder, data=x)
        Run(VAE x Guide on data, epoch 1 of 1, ...)

    Args:
        folder: written by `pyro-vae fit`, `Method.fit(out=)`, `pv.fit(out=)` or `Run.save`; or a
            `.safetensors` file of `Run.export`, or its folder: the run then has no history.
        model, guide: the pair, built as it was trained. Default: it is rebuilt, which is possible for
            the library's own classes.
        data: what it was trained on. Default: they are loaded again, which is possible for named
            data sets and files that have not changed. Where they are not at hand, `Run.data` has no
            rows: the run encodes, evaluates and imputes new data and samples from its prior; all
            else says why the rows are not there.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets.

    Raises:
        UserError: no run folder, a damaged one, an edited configuration, other data, or a pair that
            cannot be rebuilt.
    """
    folder = Path(folder)
    if (model is None) != (guide is None):
        raise UserError("pass both model= and guide=, or neither")
    exported = export_file(folder)
    if exported is not None:
        return _load_export(exported, model, guide, data, device)
    record = _record_of_run(folder)
    data = None if data is None else as_data(data, missing=True)
    if not isinstance(data, Data | None):
        raise UserError(
            "data must be the training data in memory; leave data= out for a run on a loader"
        )
    config = None
    if (folder / CONFIG).exists() and model is None:
        config = _config_of_run(folder)
        check_unedited(config, record, folder)
    state = _state_of_run(folder)
    if config is not None:
        config, data = _data_of_method(config, data, root, folder, record, state)
        with seeded(config["seed"]):
            model, guide = build(config, *shapes(data))
    else:
        if model is None:
            model, guide = rebuild_pair(record.get("pair"), folder)
        data = _data_of_pair(data, root, folder, record, state)
    weights = weights_in(state, model, guide, folder / "checkpoint.pt")
    _move(model, guide, device)
    history = read_history(folder)
    reason = None if state["stop_reason"] == checkpoint.UNKNOWN else state["stop_reason"]
    _advise_if_unfinished(folder, len(history), state)
    return Run(
        model, guide, history, best_epoch(history), folder, reason == INTERRUPTED, reason, weights,
        data=data, config=config, restarts=record.get("restarts"),
        initialization=record.get("initialization"),
    )  # fmt: skip


def _advise_if_unfinished(folder: Path, num_epochs: int, state: Mapping[str, Any]) -> None:
    """Say that a run was interrupted or killed; a time limit, patience or a callback is meant."""
    planned = json.loads(state["settings"]).get("epochs")
    how_to_go_on = "--resume (resume=True) continues it"
    if num_epochs == 0:
        advise(
            f"{folder} has not been trained for an epoch yet: its weights are those of the start; "
            f"{how_to_go_on}"
        )
    elif (
        state["stop_reason"] in (None, INTERRUPTED) and planned is not None and num_epochs < planned
    ):
        what = "was interrupted" if state["stop_reason"] else "has not ended"
        advise(f"{folder} {what}: it is at epoch {num_epochs} of {planned}; {how_to_go_on}")


def _record_of_run(folder: Path) -> dict[str, Any]:
    """The record in a run folder."""
    if folder.is_file():
        raise UserError(f"{folder} is a file, and no run folder (data are named by data=, --data)")
    if (folder / RESTARTS).is_dir() and not (folder / RECORD).exists():
        raise UserError(
            f"{folder} is not finished: rerun with --resume, or load {folder / RESTARTS}/0"
        )
    record = checkpoint.read_json(folder / RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("data"), dict):
        raise UserError(f"{folder / RECORD} is not the record of a run")
    return record


def _state_of_run(folder: Path) -> dict[str, Any]:
    """The checkpoint in a run folder, whose record was not edited since training."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise UserError(
            f"{path} does not exist: a run that was interrupted before it continues "
            "with --resume (resume=True)"
        )
    state = checkpoint.load(path)
    checkpoint.check_config(folder, state)
    return state


def _config_of_run(folder: Path) -> dict[str, Any]:
    """The complete configuration of a run, also where the file that it names is gone."""
    config = read_config(folder / CONFIG)
    named = config.get("data")
    if not isinstance(named, str) or named in DATASETS or Path(named).exists():
        return complete(config)
    return {**complete({**config, "data": None}), "data": named}  # as of arrays: a file's preset


def _data_of_method(
    config: dict[str, Any],
    data: Data | None,
    root: Path | str | None,
    folder: Path,
    record: Mapping[str, Any],
    state: Mapping[str, Any],
) -> tuple[dict[str, Any], Data]:
    """`(config, data)` of a method's run; data that cannot be loaded again have no rows."""
    schema = json.loads(state["schema"])
    try:
        with warnings.catch_warnings(action="ignore"):  # these were given before the training
            method = Method(config, data, root)
        _check_same_data(folder, record, state, method.data)
    except UserError as e:
        if data is not None or schema is None:
            raise
        return config, data_of_schema(schema, str(e))
    return method.config, method.data


def _data_of_pair(
    data: Data | None,
    root: Path | str | None,
    folder: Path,
    record: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Data | None:
    """The data of a pair built by hand; without rows if their source does not give them again."""
    source, schema = record.get("source"), json.loads(state["schema"])
    if data is not None:
        _check_same_data(folder, record, state, data)
        return data
    reason = "they were in the memory of the program that trained the pair"
    if isinstance(source, dict):
        options = dict(source)
        try:
            with warnings.catch_warnings(action="ignore"):  # these were given before the training
                data = load_data(options.pop("data"), root=root, **options)
            _check_same_data(folder, record, state, data)
            return data
        except (UserError, KeyError, TypeError) as e:
            reason = str(e)
    if schema is None:
        return None
    known = data_of_schema(schema, reason)
    return dataclasses.replace(known, source=source if isinstance(source, dict) else None)


def _check_same_data(
    folder: Path, record: Mapping[str, Any], state: Mapping[str, Any], data: Data
) -> None:
    """Raise unless these are the data that the run was trained on."""
    recorded = json.loads(state["settings"]).get("data") or record["data"]
    other = data_differ(recorded, json.loads(state["schema"]), data)
    if other is not None:
        raise UserError(
            f"{folder} was trained on other data ({other}): restore them, or pass data="
        )


def _load_export(path: Path, model: Any, guide: Any, data: Any, device: str | None) -> Run:
    """The pair in a file of `Run.export`, as a run without history."""
    model, guide, record = load_export(path, model, guide)
    if data is not None:
        data = data_of_export(record, as_data(data, first_argument(model)), path)
    elif record["schema"] is not None:
        data = data_of_schema(record["schema"], "an export has no data")
    _move(model, guide, device)
    return Run(model, guide, data=data, config=record["config"])


def _move(model: Any, guide: Any, device: str | None) -> None:
    target = choose_device(device)
    for module in (model, guide):
        if isinstance(module, torch.nn.Module):
            module.to(target)
