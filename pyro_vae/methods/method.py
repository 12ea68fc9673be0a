"""`method`: a published method for some data, as a preset that can be changed, built and trained."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

from .. import data as datasets
from ..conditionals import Bernoulli, likelihood
from ..data import DATASETS, Data, as_data
from ..data.sets import default_condition
from ..errors import UserError
from ..programs.contexts import seeded
from ..train import checkpoint, choose_device, distributed
from ..train import fit as train
from . import options
from .building import build, make
from .run import CONFIG, RECORD, Run, advised, check_unedited

SMALL_BATCH = 2**15  # numbers in a batch, below which several threads are slower than one


def method(name: str, data: str | Path | Data = "digits", **overrides) -> "Method":
    """A published method by name, with its preset for the data: what `pyro-vae fit NAME` trains.

    Example:
        >>> import pyro_vae as pv
        >>> method = pv.method("gmvae", "digits", num_components=20, epochs=5)
        >>> method.config["model.num_components"]
        20

    Args:
        name: see `pyro-vae list`.
        data: a data set's name, an .npz file, `Data`, a tensor or `(x, y)`.
        overrides: options, by their full names (`**{"model.num_components": 20}`) or by short ones
            where they are clear (`num_components=20`); `pyro-vae fit NAME --help` lists them.

    Raises:
        UserError: an unknown method, an option that it does not have, or a value of the wrong type.
    """
    data = str(data) if isinstance(data, (str, Path)) else as_data(data)
    if not isinstance(data, (str, Data)):
        raise UserError("a method needs all data in memory: pv.data, a tensor, (x, y) or a Dataset")
    options.preset(name)
    root = overrides.pop("root", None)
    config = options.configure(name, data, overrides)
    return Method(config, data if isinstance(data, Data) else None, root)


class Method:
    """A method with its data and its complete configuration.

    Args:
        config: a complete configuration; see `configure`.
        data: `Data`. Default: those that the configuration names.
        root: folder of the torchvision data sets.

    Attributes:
        config: the configuration, what depends on the data filled in.
        data: the data as the method needs them: binarized, conditioned, labels withheld.
        model, guide: the pair: with its weights at the start, or as `fit` trained it last.
    """

    def __init__(self, config: dict, data: Data | None = None, root=None):
        self.config = dict(config)
        make(self.config, "objective")  # what is wrong with them is said before data are loaded
        make(self.config, "initialize")
        make(self.config, "network"), make(self.config, "family")
        with distributed.main_process_first():
            self.data = _prepare(self.config, data, root)
        self._pair, self._trained = None, False

    @property
    def name(self) -> str:
        """The method's name."""
        return self.config["method"]

    @property
    def preset(self):
        """Its entry in the table of methods."""
        return options.preset(self.name)

    @property
    def shapes(self) -> tuple:
        """What `build` needs to know of the data."""
        return shapes(self.data)

    def build(self):
        """A new pair `(model, guide)`, its weights drawn by the configuration's seed."""
        with seeded(self.config["seed"]):
            return build(self.config, *self.shapes)

    @property
    def model(self):
        """The model; a Pyro program."""
        return self._built()[0]

    @property
    def guide(self):
        """The guide; a Pyro program."""
        return self._built()[1]

    def _built(self):
        if self._pair is None:
            self._pair = self.build()
        return self._pair

    def objective(self):
        """The objective that the configuration describes."""
        return make(self.config, "objective")

    def initialization(self):
        """How the configuration starts the pair; None for its random weights."""
        kind = self.config["initialize"]
        trains = kind not in (
            None,
            "PseudoInputInitialization",
        )  # then with the run's own kind of step
        return make(self.config, "initialize", **self._compile() if trains else {})

    def _compile(self):
        return {"compile": self.config["compile"]}

    def fit_options(self) -> dict:
        """The arguments of `pv.fit`: `pv.fit(*method.build(), method.data, **method.fit_options())`."""
        names = options.parameters(train, options.FIT)
        return {
            **{n: self.config[n] for n in names},
            "objective": self.objective(),
            "initialize": self.initialization(),
        }

    def fit(
        self,
        out: Path | str | None = None,
        resume: bool = False,
        device: str | None = None,
        progress: bool = True,
    ) -> Run:
        """Train the pair; every call starts from the same weights.

        Args:
            out: run folder, with config.yaml, metrics.jsonl and checkpoint.pt.
            resume: continue the run in `out`, which must have this configuration.
            device: cpu, cuda, ... Default: a GPU if there is one.
            progress: show a progress bar.

        Raises:
            UserError: a folder that already contains a run, or to resume a run that has another
                configuration.
        """
        out = None if out is None else Path(out)
        device = choose_device(device)
        with distributed.group(device):
            if out is not None:
                distributed.on_rank_zero(lambda: self._claim(out, resume))
            if self._trained:
                self._pair = None
            pair, self._trained = self._built(), True
            with _threads(self.data, self.config["batch_size"]):
                run = advised(
                    *pair,
                    self.data,
                    **self.fit_options(),
                    device=device,
                    out=out,
                    resume=resume,
                    config={
                        "config": options.as_json(self.config),
                        "files": {CONFIG: options.to_yaml(self.config)},
                    },
                    progress=progress,
                )
        return Run(**vars(run), data=self.data, config=self.config)

    def _claim(self, out, resume):
        """Check that `out` can hold this run."""
        if resume:
            found = options.read_config(out / CONFIG)
            self._check_same(found, out)
            if (out / "checkpoint.pt").exists():
                check_unedited(found, checkpoint.read_json(out / RECORD), out)
            text = options.to_yaml(self.config)  # its epochs and patience may be others
            checkpoint.write_atomically(out / CONFIG, lambda p: p.write_text(text))
            return
        try:
            occupied = (out / "checkpoint.pt").exists()
            parent = next(p for p in (out, *out.absolute().parents) if p.exists())
            with tempfile.TemporaryDirectory(dir=parent):
                pass  # it can be written to
        except (OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or e
            raise UserError(f"{str(out)[:60]!r} cannot be a run folder: {reason}") from None
        if occupied:
            raise UserError(
                f"{out} already contains a run; use --resume to continue it or --out to choose "
                "another directory"
            )

    def _check_same(self, found, out):
        if found["method"] != self.name:
            raise UserError(f"{out} contains a run of {found['method']}, not of {self.name}")
        for key in {**found, **self.config}:
            have, want = found.get(key), options.plain(self.config.get(key))
            if key not in options.EXTENDABLE and have != want:
                raise UserError(f"{out} was started with {key}={have}, not {want}")


def shapes(data: Data) -> tuple:
    """`(x_shape, num_data, c_shape, num_classes)`: what `build` needs to know of the data."""
    return data.x_shape, len(data.train), data.c_shape, data.num_classes


def _prepare(config, data, root):
    """The data of a configuration; what it leaves to the data is filled in."""
    conditional = options.is_conditional(config["method"])
    condition, quadrants = config.get("condition"), config.get("quadrants")
    if quadrants and condition is None:
        condition = "quadrants"
    if data is None and config["data"] is None:
        raise UserError("this run was trained on arrays: pass data=")
    own = {n: config[n] for n in ("num_labels", "label_seed", "standardize")}
    named = config["data"]
    binarize = config["binarize"]
    if binarize is None and named in DATASETS and (data is None or data.binarize == "none"):
        of_images = conditional and condition in (None, "quadrants")
        binarize = default_binarization(DATASETS[named], config["model.likelihood"], of_images)
    if data is None:
        seeds = {n: config[n] for n in ("split_seed", "binarize_seed")}
        data = datasets.load(named, binarize or "none", root, **seeds, **own)
    else:
        data = datasets.prepare(data, binarize, **own)
        config |= {n: getattr(data, n) for n in ("split_seed", "binarize_seed")}
        if data.withheld_labels is not None:
            config["num_labels"] = int((data.train.y >= 0).sum())
    if conditional:
        if condition is None:
            condition, quadrants = default_condition(data)
        data = datasets.prepare(data, condition=condition, quadrants=quadrants)
        if condition == "quadrants":
            quadrants = data.condition.observed
        config |= {"condition": condition, "quadrants": quadrants}
    config["binarize"] = data.binarize
    if config["model.likelihood"] is None:
        config["model.likelihood"] = data.likelihood
    if "model.num_classes" in config and config["model.num_classes"] is None:
        config["model.num_classes"] = data.num_classes or 10
    return data


def default_binarization(found, name, of_quadrants):
    """What is done to grey values, for the likelihood: binary pixels for a Bernoulli."""
    bernoulli = name is not None and type(likelihood(_plain(name))) is Bernoulli
    if of_quadrants and found.images and (name is None or bernoulli):
        return "static"  # the task's pixels are binary, those of the condition too
    return "dynamic" if bernoulli or (name is None and found.binarize == "dynamic") else "none"


def _plain(value):
    from .building import part

    return part(value)


@contextmanager
def _threads(data, batch_size):
    """Within, one thread for small batches: operations so small are slower on several."""
    before = torch.get_num_threads()
    if data.train.x[0].numel() * batch_size < SMALL_BATCH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
