"""`method`: a published method for some data, as a preset that can be changed, built and trained."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from ..conditionals import likelihood
from ..conditionals.count_start import CountStart
from ..data import Data, as_data
from ..errors import UserError, check_int_at_least
from ..guides.checks import check_discrete
from ..objectives import ELBO
from ..programs.backends import check_compile
from ..programs.contexts import seeded
from ..programs.interfaces import conditional_of
from ..train import Callback, Initialization, checkpoint, choose_device, distributed
from ..train import fit as train
from ..train.folder import RunFolder
from ..train.pool import num_workers
from ..train.settings import EXTENDABLE, SETTINGS, check_epochs, checked_settings
from . import preparing
from .advice import advise
from .building import build, make, part
from .count_start import count_start
from .effects import check_workers
from .files import as_json, plain, read_config, to_yaml
from .groups import FIT
from .options import configure
from .records import CONFIG, RECORD, check_unedited
from .restarts import fit_restarts
from .run import SETTLED, Run, advised, with_run
from .signatures import parameters
from .sizes import LEAST_EPOCHS
from .table import Preset, preset

SMALL_BATCH = 2**15  # numbers in a batch, below which several threads are slower than one


@contextmanager
def threads_for(num_values: int) -> Iterator[None]:
    """Within, one thread for small batches: operations so small are slower on several.

    Args:
        num_values: numbers in a batch.
    """
    before = torch.get_num_threads()
    if num_values < SMALL_BATCH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def method(name: str, data: Any = "digits", **overrides: Any) -> "Method":
    """A published method by name, with its preset for the data: what `pyro-vae fit NAME` trains.

    Example:
        >>> import torch, pyro_vae as pv
        >>> method = pv.method("gmvae", "digits", num_components=20, epochs=5)
        >>> method.config["model.num_components"]
        20

    Args:
        name: the method; `pyro-vae list` names them all.
        data: a data set's name, a file or image folder, `Data`, a frame, a tensor or `(x, y)`. The columns of a table
            with a normal likelihood are standardized; `standardize=False` leaves them.
        overrides: options, by their full names (`**{"model.num_components": 20}`) or by short ones
            where they are clear (`num_components=20`); `pyro-vae fit NAME --help` lists them.

    Raises:
        UserError: an unknown method, an option that it does not have, one that is set twice or has
            no effect, or a value of the wrong type.
    """
    preset(name)
    if isinstance(data, (str, Path)):
        data = str(data)
    else:
        in_memory = isinstance(data, Data)
        data = as_data(data, missing=bool(overrides.get("missing")))
        if not in_memory and isinstance(data, Data) and not data.missing:
            overrides.pop("missing", None)  # arrays without NaN
    if not isinstance(data, (str, Data)):
        raise UserError("a method needs all data in memory: pv.data, a tensor, (x, y) or a Dataset")
    root = overrides.pop("root", None)
    config = configure(name, data, overrides)
    return Method(config, data if isinstance(data, Data) else None, root)


class Method:
    """A method with its data and its complete configuration.

    Example:
        >>> import torch, pyro_vae as pv
        >>> x = torch.randn(40, 3)
        >>> data = pv.data.standardize(pv.data.from_arrays(x))
        >>> method = pv.method("vae", data, hidden=[8], latent_dim=2, epochs=2)
        >>> method
        Method(vae on data: z <- x)
        >>> run = method.fit(progress=False)

    Args:
        config: a complete configuration; see `configure`.
        data: `Data`. Default: those that the configuration names.
        root: folder of the torchvision data sets.

    Attributes:
        config: the configuration, what depends on the data filled in.
        data: the data as the method needs them: binarized, conditioned, labels withheld.
        model, guide: the pair: with its weights at the start, or as `fit` trained it last.
    """

    valid_weight: torch.Tensor | None = None  # of the rows that choose a restart: all are equal

    def __init__(
        self,
        config: Mapping[str, Any],
        data: Data | None = None,
        root: Path | str | None = None,
    ) -> None:
        self.config = dict(config)
        self._check_settings()
        with distributed.main_process_first():
            self.data = preparing.prepare(self.config, data, root)
        self._pair: tuple[Any, Any] | None = None
        self._trained = False

    def _check_settings(self) -> None:
        """Raise for a wrong setting, before the data are loaded."""
        for group in ("objective", "initialize", "network", "family"):
            make(self.config, group)
        check_compile(self.config["compile"])
        check_discrete(self.config.get("guide.discrete", "enumerate"))
        settings = {name: self.config[name] for name in SETTINGS}
        if settings["epochs"] is None:  # the data determine them
            settings["epochs"] = LEAST_EPOCHS
        checked_settings(**settings)
        check_int_at_least(1, restarts=self.config["restarts"])
        if self.config.get("num_labels") is not None:
            check_int_at_least(1, num_labels=self.config["num_labels"])

    def __repr__(self) -> str:
        return f"Method({self.name} on {self.data.name}: {self.preset.guide})"

    @property
    def name(self) -> str:
        """The method's name."""
        return self.config["method"]

    @property
    def preset(self) -> Preset:
        """The method's entry in the table of methods."""
        return preset(self.name)

    @property
    def shapes(self) -> preparing.Shapes:
        """What `build` needs to know of the data."""
        return preparing.shapes(self.data)

    def build(self) -> tuple[Any, Any]:
        """A new pair `(model, guide)`, its weights drawn by the configuration's seed."""
        with seeded(self.config["seed"]):
            model, guide = build(self.config, *self.shapes)
        start = self.count_start
        if start is not None:
            start.apply(conditional_of(model, "x"))
        return model, guide

    @property
    def count_start(self) -> CountStart | None:
        """Where the decoder starts, of a table with counts."""
        return count_start(self.data, likelihood(part(self.config["model.likelihood"])))

    @property
    def model(self) -> Any:
        """The model; a Pyro program."""
        return self._built()[0]

    @property
    def guide(self) -> Any:
        """The guide; a Pyro program."""
        return self._built()[1]

    def _built(self) -> tuple[Any, Any]:
        if self._pair is None:
            self._pair = self.build()
        return self._pair

    def new_pair(self) -> tuple[Any, Any]:
        """The pair to train: `model` and `guide` with their weights at the start."""
        if self._trained:
            self._pair = None
        self._trained = True
        return self._built()

    def with_seed(self, seed: int, max_time: float | None = None) -> "Method":
        """The method on the same data with another seed, as one run without restarts.

        Args:
            seed: of the run.
            max_time: seconds of its training. Default: the method's.
        """
        result = copy.copy(self)
        result.config = {**self.config, "seed": seed, "restarts": 1}
        result.config |= {} if max_time is None else {"max_time": max_time}
        result._pair, result._trained = None, False
        return result

    def threads(self) -> AbstractContextManager[None]:
        """Within, one thread for small batches; see `threads_for`."""
        is_sparse = self.data.sparse is not None
        width = math.prod(self.data.x_shape) if is_sparse else self.data.train.x[0].numel()
        return threads_for(width * self.config["batch_size"])

    def objective(self) -> ELBO:
        """The objective that the configuration describes."""
        return make(self.config, "objective")

    def initialization(self) -> Initialization | None:
        """How the pair is initialized; None for random weights."""
        trains = self.config["initialize"] not in (None, "PseudoInputInitialization")
        options = {"compile": self.config["compile"]} if trains else {}  # as the run's own steps
        return make(self.config, "initialize", **options)

    def fit_options(self) -> dict[str, Any]:
        """The arguments of `pv.fit`: `pv.fit(*method.build(), method.data, **method.fit_options())`."""
        return {
            **{n: self.config[n] for n in ("epochs", *parameters(train, FIT))},
            "objective": self.objective(),
            "initialize": self.initialization(),
        }

    def fit(
        self,
        out: Path | str | None = None,
        resume: bool = False,
        device: str | None = None,
        progress: bool = True,
        workers: int | None = None,
        callbacks: Sequence[Callback | Callable[..., bool | None]] = (),
    ) -> Run:
        """Train the pair; every call starts from the same weights.

        With the option `restarts` this many pairs are trained, and one is chosen without labels: see
        `restarts.py`. Each has a folder `restarts/INDEX` in the run folder. With the option `vaes` of
        a `MixtureInitialization` this many VAEs are trained first.

        Args:
            out: run folder, with config.yaml, metrics.jsonl and checkpoint.pt.
            resume: continue the run in `out`, which must have this configuration; start it if the
                folder has none.
            device: cpu, cuda, ... Default: a GPU if there is one.
            progress: show a progress bar.
            workers: processes that train restarts or first VAEs on a CPU, with the same results.
                Default: one for each idle core, if a run is long enough.
            callbacks: called during the run; see `pv.fit`.

        Raises:
            UserError: a folder that already contains a run, to resume a run that has another
                configuration, or several `workers` for one run.
        """
        out = None if out is None else Path(out)
        target = choose_device(device)
        with distributed.group(target), num_workers(workers):
            check_workers(workers, self.config)
            if out is not None:
                distributed.on_rank_zero(lambda: self._claim(out, resume))
            if self.config["restarts"] > 1:
                return fit_restarts(self, out, resume, target, progress, callbacks)
            pair = self.new_pair()
            with self.threads():
                run = advised(
                    *pair,
                    self.data,
                    **self.fit_options(),
                    device=target,
                    out=out,
                    resume=resume,
                    config={
                        "config": as_json(self.config),
                        "files": {CONFIG: to_yaml(self.config)},
                    },
                    callbacks=with_run(callbacks, data=self.data, config=self.config),
                    progress=progress,
                )
        self._note_warmup()
        return Run(**vars(run), data=self.data, config=self.config)

    def _note_warmup(self) -> None:
        """Advise of a warm-up that the run does not reach the end of."""
        warmup = self.config.get("objective.warmup") or 0
        longest = max(warmup.values(), default=0) if isinstance(warmup, Mapping) else warmup
        if longest > self.config["epochs"] >= SETTLED:
            advise(
                f"the warm-up of the KL takes {longest} epochs, and the run has {self.config['epochs']}: "
                "its weight does not reach 1; objective.warmup (--objective.warmup) is its length"
            )

    def _claim(self, out: Path, resume: bool) -> None:
        """Check that `out` can hold this run; `fit` refuses one that contains another run."""
        if resume and (out / CONFIG).exists():
            started = read_config(out / CONFIG)
            self._check_same(started, out)
            if (out / "checkpoint.pt").exists():
                check_unedited(started, checkpoint.read_json(out / RECORD), out)
            return
        if resume:  # with a run in it, but none of a method
            RunFolder(out).check_free("it is not of a method: continue it by pv.fit")
        RunFolder(out).check_writable()

    def _check_same(self, started: Mapping[str, Any], out: Path) -> None:
        if started["method"] != self.name:
            raise UserError(f"{out} contains a run of {started['method']}, not of {self.name}")
        for key in {**started, **self.config}:
            have, want = started.get(key), plain(self.config.get(key))
            if key not in EXTENDABLE and have != want:
                raise UserError(f"{out} was started with {key}={have}, not {want}")
        # before `config.yaml` is written, or the next call would be refused too
        check_epochs(started, self.config)
