"""`Run`: a trained pair with its data, its evaluation, its samples, and its folder; `fit`."""

import copy
import functools
import json
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import evaluate, generate, train
from ..data import Data, Labels, as_data
from ..data.display import joined
from ..data.tables import frame_like
from ..errors import UserError, file_to_write, folder_to_write
from ..evaluate.inputs import split_inputs
from ..programs.calling import accepts_argument, first_argument, name_of
from ..programs.inspection import ignores_missing, sites_of
from ..train import checkpoint, distributed
from ..train.callbacks import Metrics, as_callbacks
from ..train.schema import example_of_schema, schema_of
from ..train.state import Progress
from ..train.weights import weights_of
from . import answers, new_data
from .advice import (
    advise,
    advise_start,
    check_data,
    check_scales,
    check_use,
    starts_at_random,
)
from .files import as_json, to_yaml
from .rebuild import describe_pair, pair_difference
from .records import CONFIG, FILES, RECORD
from .sharing import export_run
from .table import preset

EXAMPLE_ROWS = 4  # of the data, to trace an exported program
SETTLED = 10  # epochs, before which a latent that carries no information is no surprise
STILL_LEARNING = 0.9  # of the epochs, after which a best one says that more would be better


@dataclass
class Run(train.Run):
    """A trained pair, how the training went, its data and its configuration.

    `pv.fit`, `Method.fit` and `pv.load` return it.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((3,), 2, likelihood="normal")
        >>> guide = pv.guides.Guide(model)
        >>> run = pv.fit(model, guide, torch.randn(20, 3), epochs=1, progress=False)
        >>> run
        Run(VAE x Guide on data, epoch 1 of 1)
        >>> run.sample(5).shape
        torch.Size([5, 3])

    Attributes:
        data: the data that it was trained on; None for a stream of batches. Of a run that was loaded
            where they are not, they have no rows; see `load`.
        config: the configuration of a method; None for a pair built by hand.
        restarts: of several restarts: `seeds`, `scores` (nats per data point; what they are is the
            `criterion`), `agreements` (each one's mean adjusted Rand index with the others, if it was
            chosen by it), `chosen` (an index) and `stability`, the mean over all pairs.
    """

    data: Data | None = None
    config: dict[str, Any] | None = None
    restarts: dict[str, Any] | None = None

    def __repr__(self) -> str:
        data = "" if self.data is None else f" on {self.data.name}"
        bound, stability = self._validation_elbo, self.stability
        parts = [
            f"{self._name}{data}",
            f"epoch {self.epoch} of {len(self.history)}" if self.history else None,
            None if bound is None else f"validation ELBO {bound:.2f}{self._units_of_training}",
            None if stability is None else f"stability {stability:.2f}",
            None if self.out is None else str(self.out),
        ]
        return f"Run({', '.join(part for part in parts if part is not None)})"

    def __str__(self) -> str:
        """A few lines: the method or pair, its data, epochs, best validation ELBO, and folder."""
        pair = f"{name_of(self.model)}, {name_of(self.guide)}"
        bound, restarts = self._validation_elbo, self.restarts or {}
        units = self._units_of_training
        best = "" if self.epoch is None else f"; the weights are those of epoch {self.epoch}"
        agreement = "" if self.stability is None else f", stability {self.stability:.2f}"
        first = len((self.initialization or {}).get("agreements", ()))
        lines = {
            "method": None if self.config is None else f"{self._name}: {pair}",
            "model, guide": pair if self.config is None else None,
            "data": None if self.data is None else repr(self.data)[len("Data(") : -1],
            "epochs": f"{len(self.history)}{best}" if self.history else None,
            "first VAEs": f"{first}{'' if restarts else agreement}" if first else None,
            "restarts": f"{len(restarts['seeds'])}{agreement}" if restarts else None,
            "validation": None if bound is None else f"ELBO {bound:.2f} nats per data point{units}",
            "folder": None if self.out is None else str(self.out),
        }
        present = {title: text for title, text in lines.items() if text is not None}
        width = max(map(len, present))
        return "\n".join(f"{title:<{width}}  {text}" for title, text in present.items())

    @property
    def _name(self) -> str:
        """Of the method; of a pair built by hand, of its programs."""
        pair = f"{name_of(self.model)} x {name_of(self.guide)}"
        return self.config["method"] if self.config else pair

    @property
    def _validation_elbo(self) -> float | None:
        """The validation ELBO of the best epoch, nats per data point; None without validation."""
        best = (row for row in self.history if row["epoch"] == self.best_epoch)
        return next((row["elbo"] for row in best if "elbo" in row), None)

    @property
    def _units_of_training(self) -> str:
        """What the history's numbers are of, if that is not x in its original units."""
        standardized = self.data is not None and self.data.scaling is not None
        return " of standardized x" if standardized else ""

    @property
    def stability(self) -> float | None:
        """The mean adjusted Rand index of the restarts' clusterings, else of the first VAEs'."""
        source = self.restarts or self.initialization or {}
        return source.get("stability")

    @property
    def seed(self) -> int:
        """The seed of the method's run; 0 for a pair built by hand."""
        return 0 if self.config is None else self.config["seed"]

    @property
    def default_split(self) -> str:
        """The split to report: test, else valid, else train; train for a guide with no other rows."""
        from ..report.summary import default_split

        return default_split(self.guide, self._data())

    def evaluate(
        self,
        split: str | None = None,
        num_samples: int = 500,
        write: bool = False,
        data: Any = None,
    ) -> Any:
        """Numbers of the pair on one split, in nats per data point; printed, a table.

        The bounds have standard errors over the data points. Densities are those of x in its original
        units, also of data that are standardized.

        Args:
            split: train, valid or test. Default: test, if there is one.
            num_samples: importance samples per data point, for the log-likelihood.
            write: whether to write the numbers to results-SPLIT.json in the run folder.
            data: new data instead of a split, in original units: an array, a frame, `(x, y)`,
                the `Path` of a file or image folder that a method can be trained on, or a loader, of
                which one batch is in memory at a time. Labels score a clustering. With a loader there
                are no baselines.

        Returns:
            A dict, as `summary.summarize` describes it.

        Raises:
            UserError: a split and data; data that do not fit the pair; a guide with a row per
                training data point and other data.
        """
        from ..report.html import hardware
        from ..report.summary import Results, summarize

        if not isinstance(split, str | None):
            raise UserError("split is train, valid or test; new data are passed as data=")
        if data is not None:
            if split is not None or write:
                raise UserError("evaluate takes a split of the run's data or data=, not both")
            return self._evaluate_new(data, num_samples)
        split = self.default_split if split is None else split
        args = (self.model, self.guide, self._data(), split, num_samples, self.seed)
        result = Results(summarize(*args, self._supervised))
        if self.restarts is not None:
            result["restarts"] = self.restarts
        if self.initialization is not None:
            result["initialization"] = self.initialization
        if write and self.out is not None:
            path = self.out / f"results-{split}.json"
            try:
                checkpoint.write_json(path, {**result, "hardware": hardware()})
            except OSError as e:
                advise(f"{path} was not written: {e.strerror}")
        return result

    def _evaluate_new(self, data: Any, num_samples: int) -> Any:
        from ..report.summary import NEW, Results, summarize, summarize_batches

        is_path = isinstance(data, (str, Path))
        data, others = new_data.read_new(self, Path(data)) if is_path else (data, {})
        new, supervised = self._new(data, **others), self._supervised
        if new.is_stream:
            result = summarize_batches(
                self.model, self.guide, self._data(), new.labeled_inputs(), num_samples, self.seed,
                supervised,
            )  # fmt: skip
        else:
            known = new_data.as_test_split(new)
            with new.naming_values():
                result = summarize(
                    self.model, self.guide, known, "test", num_samples, self.seed, supervised, NEW
                )
        return Results(result)

    def sample(
        self, num: int | None = None, source: str = "prior", c: Any = None, **choices: Any
    ) -> torch.Tensor:
        """New data `[num, *x_shape]`, in the data's original units; see `sheet`.

        Args:
            num: how many. Default: 64, or one for each row of c.
            source, choices: as in `sheet`. `mean=True`: the likelihood's means; `mean=False`: draws.
                Default: means for images, draws for other data.
            c: `[M, ...]` covariates of a conditional model, in their original units, in order and
                repeated; of data from a frame, a frame with their columns. Default: those of the data.
        """
        return self._original(self._sample_sheet(num, source, c, **choices))

    def _sample_sheet(self, num: int | None, source: str, c: Any = None, **choices: Any) -> Any:
        num = 64 if num is None and c is None else num
        return self.sheet(source, num=num, c=c, **choices)

    def _original(self, sheet: Any) -> torch.Tensor:
        """x of a sheet in its original units, joined with its covariates."""
        data = self._data()
        return data.unstandardize(joined(data, sheet.x, sheet.c))

    def sample_frame(self, num: int | None = None, source: str = "prior", **choices: Any) -> Any:
        """New rows as a frame with the columns of the data, which come from a frame.

        They are draws: a category is one of its values, a count an integer. With the columns of the
        covariates, if the model is conditioned on them, and of the labels, where the model has them:
        of a semi-supervised model, or one conditioned on them.

        Args:
            num, choices: as in `sample`.
            source: prior, component, aggregate or ex-post.

        Raises:
            UserError: data that do not come from a frame.
        """
        table = self._data().table
        if table is None:
            raise UserError("this run was trained on arrays: sample() returns them")
        sheet = self._sample_sheet(num, source, **choices)
        columns = table.decode(self._original(sheet))
        columns |= sheet.covariates(self._data(), len(sheet.x))
        if self.class_names is not None:
            columns |= sheet.classes(self._data())
        return frame_like(table.library, columns)

    def encode(self, x: Any = None, split: str | None = None, **others: Any) -> Any:
        """Posterior means of the latents of new data, or of the run's own.

        Args:
            x: in original units: an array `[N, *x_shape]`, a frame with the columns of the data, the
                `Path` of a file or image folder, a `Dataset` or a loader. It is converted and
                standardized as the training data were. Default: the data of the run.
            split: of the data of the run: train, valid or test. Default: one after the other.
            others: further inputs by name: `c=`, `y=`.

        Returns:
            `{latent: [N, ...]}`, with probabilities `[N, K]` of a discrete latent y. Of a frame: a
            frame with the same index and with columns `z_0, z_1, ...`, and `y` (the most probable
            component, or the name of the class; see `class_names`) with `y_probability`.
        """
        if not _is_own(x, split, others):
            return answers.encode(self._new(x, **others))
        return answers.split_encodings(self.model, self.guide, self._data(), split)

    def profile(self, x: Any = None, split: str | None = None, **others: Any) -> Any:
        """What the data of each component are like: how many, and each column in original units.

        Each data point counts for its most probable component.

        Args:
            x, others: new data, as in `encode`. Default: those of the run.
            split: train, valid or test. Default: all data of the run.

        Returns:
            A frame, or for data from arrays a dict, with a row for each component: `y` (its number, or
            the name of the class), `count`, `fraction`, and for each column of the data its mean and, as
            `NAME_sd`, its standard deviation; of true and false the fraction of true; of a category
            the most frequent value and, as `NAME_fraction`, its fraction. Missing values do not count.

        Raises:
            UserError: a model without components; data that are no table and no vectors.
        """
        if not _is_own(x, split, others):
            return answers.profile(self._new(x, **others))
        data = self._data()
        rows = answers.own_inputs(self.model, self.guide, data, split)
        if not accepts_argument(self.model, "y") or "y" in rows[0]:
            raise UserError(
                "a profile is of components, and this model has none whose y is not given"
            )
        y = [evaluate.responsibilities(self.model, self.guide, **inputs) for inputs in rows]
        x = torch.cat([inputs["x"] for inputs in rows])
        return answers.profile_frame(data, x, torch.cat(y), self.class_names)

    def reconstruct(self, x: Any, **others: Any) -> Any:
        """The means of p(x | z) at the posterior means of z, in original units.

        Args:
            x, others: as in `encode`.

        Returns:
            `[N, *x_shape]`. Of a frame: a frame, with expected counts and most probable categories.
        """
        return answers.reconstruct(self._new(x, **others))

    def impute(
        self, x: Any, num_samples: int = 1, steps: int = 200, seed: int | None = 0, **others: Any
    ) -> Any:
        """Draws of the missing values (NaN) from the model's conditional; see `generate.impute`.

        Args:
            x, others: as in `encode`.
            num_samples: completions of each data point.
            steps: of the Markov chains.
            seed: of the draws.

        Returns:
            `[num_samples, N, *x_shape]` in original units. Of a frame: a completed frame, or a list
            of `num_samples` frames if there are several.
        """
        return answers.impute(self._new(x, **others), num_samples, steps, seed)

    def log_likelihood(
        self, x: Any, num_samples: int = 5000, seed: int | None = 0, **others: Any
    ) -> torch.Tensor:
        """Importance-weighted log p(x) of x in original units, `[N]` nats.

        The density of standardized columns is converted to the original units.

        Args:
            x, others: as in `encode`.
            num_samples: importance samples per data point.
            seed: of the draws.
        """
        return answers.log_likelihood(self._new(x, **others), num_samples, seed)

    def _new(self, x: Any, **others: Any) -> new_data.NewData:
        data, names = self._data(), self.class_names
        if isinstance(x, (str, Path)):
            x, read = new_data.read_new(self, Path(x))
            x, y = x if isinstance(x, tuple) else (x, None)
            # labels are no input of an encoding, but where they are the condition
            others = {**read, **({} if y is None or data.condition is None else {"y": y}), **others}
        return new_data.NewData(self.model, self.guide, data, x, others, class_names=names)

    def sheet(self, source: str = "prior", **choices: Any) -> Any:
        """New data from a source, laid out as a picture.

        Args:
            source: prior, component, aggregate, ex-post, interpolate, traverse or impute.
            choices: num, y, c, latent, mean, steps, path, observed, split, seed; see `SheetOptions`.

        Returns:
            A `SampleSheet`: `.x`, `.figure(data)`, `.arrays(data)`.
        """
        from ..report import samples

        pair = self.model, self.guide, self._data()
        return samples.make(source, *pair, class_names=self.class_names, **choices)

    def report(
        self, path: Path | str | None = None, split: str | None = None, num_samples: int = 500
    ) -> Any:
        """Write the report, one page with numbers and pictures.

        Args:
            path: of the page. Default: report.html in the run folder.
            split, num_samples: as in `evaluate`.

        Returns:
            What `evaluate` returns.
        """
        from ..report import html as report
        from ..report.figures import report_figures
        from .command import reproduction

        self._with_rows()
        if path is None:
            if self.out is None:
                raise UserError("this run has no folder: pass the path of the report")
            path = self.out / "report.html"
        path, data = file_to_write(path), self._data()
        result = self.evaluate(split, num_samples, write=True)
        sections = report_figures(
            self.model, self.guide, data, result, self.history, self.best_epoch, self.seed
        )
        names = [name_of(p) for p in (self.model, self.guide)]
        title, subtitle, details = f"{names[0]} on {data.name}", f"Guide: {names[1]}.", ""
        command = None
        if self.config is not None:
            entry = preset(self.config["method"])
            title = f"{self.config['method']} on {data.name}"
            subtitle = f"{entry.paper}. Guide: {entry.guide}."
            details = to_yaml(self.config)
            command = reproduction(self.config, data, num_samples)
        details += json.dumps(report.hardware(), indent=2)
        explore = None
        if self.out is not None and sum(result["units"].values()) > 1:
            explore = shlex.join(["pyro-vae", "explore", str(self.out)])
        report.write(path, title, subtitle, result, sections, details, command, explore)
        return result

    def explore(self, path: Path | str | None = None, split: str | None = None) -> Path:
        """Write a page on which the latent space can be explored; it works offline.

        Args:
            path: of the page. Default: explore.html in the run folder.
            split: train, valid or test. Default: test, if there is one.

        Returns:
            The path.

        Raises:
            UserError: Plotly is not installed, or x depends on fewer than two continuous latent
                numbers.
        """
        from ..exploration import explore_pair

        self._with_rows()
        if path is None:
            if self.out is None:
                raise UserError("this run has no folder: pass the path of the page")
            path = self.out / "explore.html"
        title, subtitle = None, ""
        if self.config is not None:
            entry = preset(self.config["method"])
            title = f"{self.config['method']} on {self._data().name}"
            subtitle = f"{entry.paper}. Guide: {entry.guide}."
        return explore_pair(
            self.model, self.guide, self._data(), path, split=split or self.default_split,
            title=title, subtitle=subtitle, supervised=self._supervised, seed=self.seed,
        )  # fmt: skip

    @property
    def _supervised(self) -> bool:
        """Whether training saw labels."""
        return (self.config or {}).get("objective") == "SemiSupervised"

    @property
    def class_names(self) -> tuple[Any, ...] | None:
        """The names of the classes y, in order, if y is a label that has names in the data.

        It is one if training saw labels (the objective `SemiSupervised`) or conditioned on them.
        Components that a clustering found have no names: None.
        """
        if self.data is None or self.data.class_names is None:
            return None
        condition, size = self.data.dense_condition, None
        if isinstance(condition, Labels):
            size = condition.num_classes
        elif self._supervised:
            size = sites_of(self.model)[1]["y"][0][0]
        return self.data.class_names if size == len(self.data.class_names) else None

    def save(self, folder: Path | str) -> Path:
        """Write the run to a folder that `pv.load` reopens; returns the folder.

        The folder has the best and the last weights. `pv.load` puts the best into the modules.

        Raises:
            UserError: the folder already contains a run.
        """
        folder = Path(folder)
        if (folder / "checkpoint.pt").exists():
            raise UserError(f"{folder} already contains a run; choose another directory")
        folder_to_write(folder)
        if self.out is not None and (self.out / "checkpoint.pt").exists():
            for name in FILES:
                if (self.out / name).exists():
                    shutil.copy(self.out / name, folder / name)
            return folder
        record = {"fit": {}, "data": {} if self.data is None else self.data.describe()}
        record = {**self._description(), **record}
        checkpoint.write_json(folder / RECORD, record)
        for name, text in self._files().items():
            (folder / name).write_text(text)
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        (folder / "metrics.jsonl").write_text(lines)
        weights = weights_of(self.model, self.guide)
        state: dict[str, Any] = {
            "weights": weights if self.weights is None else self.weights.last,
            # other tensors: those that are stored once would count as larger than the file
            "best": copy.deepcopy(weights) if self.weights is None else self.weights.best,
            "optimizer": {"state": {}, "param_groups": [{}]},
            "rng": torch.get_rng_state().unsqueeze(0),
            "rng_cuda": None,
            "progress": vars(Progress(epoch=len(self.history), best_epoch=self.best_epoch)),
            "history": json.dumps(self.history),
            "settings": json.dumps({"compile": "plain"}),
            "config": json.dumps(record),
            "schema": json.dumps(None if self.data is None else schema_of(self.data)),
            "stop_reason": self.stop_reason,
        }
        checkpoint.save(folder / "checkpoint.pt", state)
        return folder

    def export(self, path: Path | str, license: str | None = None) -> Path:
        """Write the weights, and how the pair is built, to one file to share; see `pv.load`.

        The file is in the safetensors format. It holds tensors and text, and no data.

        Args:
            path: a file `NAME.safetensors`, or a folder, which also gets a model card, `README.md`.
            license: of the weights, for the card, e.g. `CC-BY-4.0`.

        Returns:
            The path of the file.

        Raises:
            UserError: a file is there already, or cannot be written.
        """
        return export_run(self, path, license)

    def export_encoder(self, path: Path | str) -> Path:
        """Write the encoder as a program that runs without this library; see `export_encoder`."""
        return generate.export_encoder(self.model, self.guide, self._example(), path)

    def export_decoder(self, path: Path | str) -> Path:
        """Write the decoder as a program that runs without this library; see `export_decoder`."""
        return generate.export_decoder(self.model, self.guide, self._example(), path)

    def _example(self) -> dict[str, torch.Tensor]:
        """Inputs of the pair for a few training data points; of their shapes, if those are not here."""
        data = self._data()
        if data.absent is not None:
            data = example_of_schema(data.absent.schema, EXAMPLE_ROWS)
        return split_inputs(self.model, self.guide, data, "train", rows=slice(EXAMPLE_ROWS))

    def _description(self) -> dict[str, Any]:
        begun = {} if self.initialization is None else {"initialization": self.initialization}
        if self.config is not None:
            restarts = {} if self.restarts is None else {"restarts": self.restarts}
            return {"config": as_json(self.config), **restarts, **begun}
        pair = describe_pair(self.model, self.guide)
        return {"pair": pair, "source": _source(self.data), **begun}

    def _files(self) -> dict[str, str]:
        return {} if self.config is None else {CONFIG: to_yaml(self.config)}

    def _with_rows(self) -> Data:
        """The data, if their rows are here; else the reason why they are not is raised."""
        data = self._data()
        if data.absent is not None:
            raise data.absent.error(data.name)
        return data

    def _data(self) -> Data:
        if not isinstance(self.data, Data):
            raise UserError("this run has no data: pv.load(folder, data=...)")
        return self.data


def _is_own(x: Any, split: str | None, others: Mapping[str, Any]) -> bool:
    """Whether the run's own data are meant: no x."""
    if x is None and others:
        raise UserError(f"{', '.join(others)}: new inputs go with new data, x=")
    if x is not None and split is not None:
        raise UserError("split names a part of the run's own data: leave out x or split")
    return x is None


@functools.wraps(train.fit)
def fit(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *args: Any, **settings: Any
) -> Run:
    if callable(model):
        data = as_data(data, first_argument(model), ignores_missing(model))
    arrays = data if isinstance(data, Data) else None
    settings["callbacks"] = with_run(settings.get("callbacks", ()), data=arrays)
    described = {"pair": describe_pair(model, guide), "source": _source(data)}
    if settings.get("resume") and settings.get("out") is not None:
        _check_same_pair(settings["out"], described["pair"])
    config = settings.get("config")
    if config is None or isinstance(config, dict):  # `train.fit` refuses anything else
        settings["config"] = {**described, **(config or {})}
    run = advised(model, guide, data, *args, **settings)
    return Run(**vars(run), data=arrays)


def _check_same_pair(folder: Path | str, pair: Mapping[str, Any] | None) -> None:
    """Raise if the run in a folder is of a pair with other settings than the one to continue with."""
    if pair is None:
        return
    before = None
    # a folder or file that cannot be used has its own error, where the run is continued
    with suppress(UserError, OSError, TypeError, ValueError):
        before = checkpoint.read_json(Path(folder) / RECORD)
    recorded = before.get("pair") if isinstance(before, dict) else None
    other = None if recorded is None else pair_difference(recorded, pair)
    if other is not None:
        raise UserError(
            f"{folder} was trained with another pair ({other}): resume with one that is built the "
            "same way"
        )


class _WithRun(train.Callback):
    """A callback that is called with a `Run` of this module."""

    def __init__(self, callback: train.Callback, fields: dict[str, Any]) -> None:
        self.callback, self.fields = callback, fields

    def on_start(self, run: train.Run) -> None:
        self.callback.on_start(Run(**vars(run), **self.fields))

    def on_epoch(self, run: train.Run, metrics: Metrics) -> bool | None:
        return self.callback.on_epoch(Run(**vars(run), **self.fields), metrics)

    def on_end(self, run: train.Run) -> None:
        self.callback.on_end(Run(**vars(run), **self.fields))


def with_run(callbacks: Iterable[object], **fields: Any) -> list[train.Callback]:
    """The callbacks, called with a `Run` of this module.

    Args:
        callbacks: as in `pv.fit`.
        fields: `data` and `config` of the run.
    """
    return [_WithRun(callback, fields) for callback in as_callbacks(callbacks)]


def _source(data: Any) -> dict[str, Any] | None:
    """Arguments of `load` that give the same data; None for arrays and streams."""
    if not isinstance(data, Data) or data.source is None:
        return None
    return {**data.source, "binarize": data.binarize}


def advised(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *args: Any, **settings: Any
) -> train.Run:
    """`train.fit`, with a warning of results that are probably not what was meant."""
    check_data(model, data)
    how = settings.get("observed"), settings.get("objective")
    # a method, or a call that says initialize=, has chosen its start
    is_new = "initialize" not in settings and not settings.get("resume")
    at_random = is_new and starts_at_random(model, guide, data, *how)
    run = train.fit(model, guide, data, *args, **settings)
    if len(run.history) >= SETTLED and not run.interrupted and distributed.size() == 1:
        if not check_use(model, guide, data, *how):
            if at_random:
                advise_start(model)
            if (run.best_epoch or 0) >= STILL_LEARNING * len(run.history):
                check_scales(model, guide, data, *how)
    return run
