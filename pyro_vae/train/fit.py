"""`fit`: train a model/guide pair by stochastic variational inference."""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro.infer.autoguide import AutoContinuous, AutoGuide
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm

from ..conditionals import networks_in
from ..data import Data, as_data, batches
from ..errors import UserError, positive, unknown, whole
from ..evaluate import check_pair, elbo
from ..evaluate.check import check_support
from ..objectives import ELBO
from ..pair import accepting, modules, one_hot_labels, reads_index, takes, untouched
from ..traces import run
from . import checkpoint, distributed
from .cuda_graph import GraphedStep, can_graph
from .interrupt import ctrl_c
from .recorded import PlainStep, RecordedStep, choose_backend, leaves_of
from .weights import freeze, restore, weights_of

SCHEDULES = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
}
PRECISIONS = (None, "tf32", "bf16")
CHECKPOINT_SECONDS = 10
STOP_STEPS = 50  # on GPUs, processes agree to stop after so many steps: to look is to wait for them


@dataclass
class Run:
    """What `fit` returns: the trained pair (the modules passed in), and how it went.

    `history` has a dict an epoch: `epoch, loss` (training, nats per datum), `elbo` (validation,
    beta = 1), `steps, lr, seconds`. `best_epoch` is the one that validation chose, whose weights
    the modules hold; without a validation split, the last.
    """

    model: object
    guide: object
    history: list = field(default_factory=list)
    best_epoch: int | None = None
    out: Path | None = None
    interrupted: bool = False


def fit(
    model,
    guide,
    data,
    epochs: int = 50,
    *,
    objective: ELBO | None = None,
    lr: float = 1e-3,
    batch_size: int = 128,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    patience: int | None = None,
    initialise: Callable | None = None,
    observe: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    compile: bool | str = "auto",
    precision: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    config: dict | None = None,
    progress: bool = True,
) -> Run:
    """Train a pair, ours or any Pyro pair with one data plate; returns a `Run`.

    After each epoch the ELBO of the validation split is taken, at beta = 1, in eval mode, with
    noise of its own seed; the weights of the best epoch are what the modules hold at the end.

    In processes launched by `torchrun`, each with the same call, one run goes on in all of them
    (see `train/distributed.py`): the first one's weights are taken, every process works on its share
    of each batch with noise of its own, gradients are those of the whole batch, and rank 0 validates
    (the same bound as one process would find), shows the bar and writes the files. All return alike.

    Args:
        model, guide: Pyro programs; modules are moved to `device`, trained in place, and left in
            eval mode.
        data: `pv.data.load(...)`, a tensor, `(x, y)`, a torch `Dataset`; a `DataLoader`, or any
            iterable with a length, of batches `x`, `(x, y)` or dicts: they need not fit in memory.
        epochs: passes over the training data.
        objective: one of `pv.objectives`. Default: `ELBO()`.
        lr: Adam's learning rate.
        schedule: how the rate falls over the run: constant, linear or cosine.
        batch_size: data a step, of all processes together; the last batch may be short. A loader's
            own size counts for each process.
        weight_decay: decoupled (AdamW), for every parameter.
        clip_norm: largest norm of the gradient of the mean loss; None does not clip.
        patience: stop after that many epochs without a better validation ELBO.
        initialise: a `MixtureInitialisation`, or any function of `(model, guide, data, device,
            seed, progress)`, run before the first epoch.
        observe: names of the data that the pair is given, of `("x", "y", "c")`; `model.observes`,
            else `x` alone, unless said. Labels in the data are otherwise never seen in training; where
            the model's y is categorical they are given as one-hot rows.
        device: `"cuda"`, `"cpu"`, ...; a GPU where there is one.
        compile: record the training step once and replay it, the same numbers up to rounding:
            `"auto"` (what pays for a run of this length), `True` (compiled by Inductor, which needs
            a C++ compiler), `"aten"` (as it was recorded), `False` (plain Pyro). What cannot be
            recorded is run plainly, with one warning. A program that depends on Python's state, a
            counter that will matter after many steps, needs `False`.
        precision: of matrix products in training: `"bf16"` inside this library's networks, by
            autocast; `"tf32"` on a GPU; None leaves torch's. Evaluation is as ever.
        seed: of shuffling, binarisation and sampling; of a method's initial weights too.
        out: folder for `config.json`, `metrics.jsonl`, `checkpoint.pt`.
        resume: go on from `out`'s checkpoint, if it has one; on a CPU bit for bit what an
            uninterrupted run does.
        config: more for `config.json`; `config["files"]` are further files, `{name: text}`.

    Raises:
        UserError: a pair or data that do not fit; a loss that is not finite (the site named, the
            last good checkpoint kept); a checkpoint that cannot be used.
    """
    device = choose_device(device)
    data = as_data(data)
    objective = ELBO() if objective is None else objective
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    whole(1, epochs=epochs, batch_size=batch_size)
    positive(lr=lr)
    positive(or_zero=True, weight_decay=weight_decay)
    if clip_norm is not None:
        positive(clip_norm=clip_norm)
    if patience is not None:
        whole(1, patience=patience)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, [p for p in PRECISIONS if p])
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision='tf32' is a GPU's; on a processor there is 'bf16'")
    out = None if out is None else Path(out)
    if resume and out is None:
        raise UserError("resume needs out=, the folder of the run to go on with")
    if patience is not None and getattr(data, "valid", None) is None:
        raise UserError("patience stops on the validation ELBO, and these data have no valid split")
    settings = {
        "epochs": epochs,
        "lr": lr,
        "schedule": schedule,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
        "patience": patience,
        "precision": precision,
        "seed": seed,
    }
    if hasattr(objective, "count") and isinstance(data, Data):
        objective.count(data.train.y)
    with distributed.group(device), untouched(device):
        trainer = _Trainer(
            model, guide, data, objective, settings, observe, device, out, progress, compile
        )
        torch.manual_seed(seed)
        if resume and distributed.first((out / "checkpoint.pt").exists):
            trainer.load()
        else:
            trainer.start(initialise, config or {})
        return trainer.train()


def choose_device(name=None):
    """A `torch.device`: the one named, else a GPU where there is one, else the CPU.

    Of a machine's processes under `torchrun`, each has a GPU of its own.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; e.g. cpu, cuda, cuda:1") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("no GPU here that torch can use; device='cpu' trains on the processor")
        if device.index is None:
            index = distributed.local_rank()
            index = torch.cuda.current_device() if index is None else index
            if index >= torch.cuda.device_count():
                raise UserError(f"{index + 1} or more processes, {torch.cuda.device_count()} GPUs")
            device = torch.device("cuda", index)
    return device


class _Trainer:
    """The state of a run: what a checkpoint holds, and what takes it one step further."""

    def __init__(
        self, model, guide, data, objective, settings, observe, device, out, progress, compile
    ):
        self.model, self.guide, self.data, self.objective = model, guide, data, objective
        self.settings, self.device, self.out = settings, device, out
        self.rank, self.processes = distributed.rank(), distributed.size()
        self.progress = progress and self.rank == 0
        self.epochs, self.lr, self.seed = settings["epochs"], settings["lr"], settings["seed"]
        self.compile = compile
        self.observe = tuple(observe or getattr(model, "observes", ("x",)))
        for m in modules(model, guide):
            m.to(device)
        share = self.rank, self.processes
        self.batches = batches(data, settings["batch_size"], device, self.seed, share)
        self.programs = accepting(model), accepting(guide)
        self.labels_checked = self._check_labels()  # else every step would wait for a GPU to tell
        has_valid = isinstance(data, Data) and data.valid is not None
        self.validates = has_valid and not reads_index(guide)
        # progress: whole epochs, batches of the epoch under way, and its sums so far
        self.epoch, self.batch, self.total, self.seen, self.seconds = 0, 0, 0.0, 0, 0.0
        self.history, self.best, self.best_elbo, self.best_epoch = [], None, -math.inf, None

    # -------------------------------------------------------------- before

    def _described(self):
        """The settings as `config.json` and the checkpoint record them."""
        describe = getattr(self.objective, "describe", lambda: type(self.objective).__name__)
        return {**self.settings, "objective": describe()}

    def pick(self, batch, check=False):
        """Of a batch, what the pair is given; its labels checked if asked, or not checked before."""
        missing = [n for n in self.observe if batch.get(n) is None]
        if missing:
            raise UserError(f"the pair observes {missing[0]!r}, which the data do not have")
        given = {n: v for n, v in batch.items() if n in (*self.observe, "index")}
        return one_hot_labels(self.model, given, check or not self.labels_checked)

    def _check_labels(self):
        """All training labels, once; a stream's are checked batch by batch. True if it is done."""
        observed = "y" in self.observe and "y" not in getattr(self.objective, "needs", ())
        if not isinstance(self.data, Data) or self.data.train.y is None or not observed:
            return False
        one_hot_labels(self.model, {"y": self.data.train.y})
        return True

    def pick_all(self, batch):
        """Of a batch, what the objective is given: the pair's data, and what it needs itself."""
        needs = getattr(self.objective, "needs", ())
        for name in needs:
            if batch.get(name) is None:
                raise UserError(f"the objective needs {name!r}, which the data do not have")
            if name in self.observe:
                raise UserError(f"{name!r} is the objective's: it cannot be observed besides")
        return {**self.pick(batch), **{name: batch[name] for name in needs}}

    def start(self, initialise, config):
        """Check the pair, build the optimiser, initialise, and write the first checkpoint."""
        with untouched(self.device):
            batch = next(iter(self.batches.epoch(0)))
            first, given = self.pick_all(batch), self.pick(batch)
        _refuse_auto(self.guide)
        check_pair(self.model, self.guide, **{k: v[:8] for k, v in given.items()})
        self._check_all_data(given)
        self._make_optimiser(first)
        self._share_weights()
        if self.out is not None:
            distributed.first(lambda: self._write_config(config))
        if initialise is not None:
            initialise(self.model, self.guide, self.data, self.device, self.seed, self.progress)
            self._make_optimiser(first)
            self._share_weights()
        self._part_noise()
        self.save()

    def _write_config(self, config):
        self.out.mkdir(parents=True, exist_ok=True)
        data = self.data.describe() if isinstance(self.data, Data) else {"name": "stream"}
        many = {"processes": self.processes} if self.processes > 1 else {}
        config = dict(config)
        for name, text in config.pop("files", {}).items():
            checkpoint.write_atomically(self.out / name, lambda p, text=text: p.write_text(text))
        checkpoint.write_json(
            self.out / "config.json", {**config, "fit": self._described(), **many, "data": data}
        )
        (self.out / "metrics.jsonl").write_text("")

    def _share_weights(self):
        """Everyone's weights and buffers become rank 0's."""
        states = [t for m in modules(self.model, self.guide) for t in m.state_dict().values()]
        distributed.same(states + self.free)

    def _part_noise(self):
        """From here on each process draws noise of its own; rank 0 what one process would."""
        if self.rank:
            torch.manual_seed(self.seed + 15_485_863 * self.rank)

    def _check_all_data(self, first):
        """Every training datum, not only the first batch, lies in its likelihood's support."""
        if not isinstance(self.data, Data):
            return
        with torch.no_grad(), untouched(self.device):
            traces = run(self.model, self.guide, {k: v[:1] for k, v in first.items()})
        site = traces.model.get("x")
        if site is not None and site["is_observed"]:
            check_support(site, "x", self.data.observed("train").x)

    def _make_optimiser(self, batch):
        """Adam over the modules' parameters, and any that a user's program keeps elsewhere."""
        # each once: a guide made of parts of its model has them too
        owned = [*dict.fromkeys(p for m in modules(self.model, self.guide) for p in m.parameters())]
        with untouched(self.device), pyro.validation_enabled(False):
            loss_of = partial(self.objective.differentiable_loss, *self.programs, **batch)
            leaves = leaves_of(loss_of)
        ids = {id(p) for p in owned}
        self.free = [p for p in leaves if id(p) not in ids]
        self.parameters = [p for p in owned if p.requires_grad] + self.free
        if not self.parameters:
            raise UserError("the pair has no parameters to train")
        backend = self._make_step(len(batch["x"]))
        # one graph holds the whole step, but not the exchange of gradients between processes
        graphed = can_graph(self.device) and self.processes == 1 and backend != "plain"
        lr = torch.tensor(self.lr, device=self.device) if graphed else self.lr
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=lr, weight_decay=self.settings["weight_decay"], fused=True,
            capturable=graphed,
        )  # fmt: skip
        clip_norm = self.settings["clip_norm"]
        self.graphed = GraphedStep(self.step, self.optimiser, clip_norm) if graphed else None

    def _set_lr(self, value):
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(value)  # where a CUDA graph reads it
            else:
                group["lr"] = value

    def _make_step(self, size):
        """What takes a batch to a loss and gradients: the pair itself, or its recording.

        Returns its backend.
        """
        steps = self.epochs * len(self.batches)
        flops = 6 * size * sum(p.numel() for p in self.parameters)
        cuda = self.device.type == "cuda"
        backend = distributed.first(lambda: choose_backend(self.compile, steps, flops, cuda))
        self.settings["compile"] = backend
        pair = self.model, self.guide
        if backend == "plain":
            self.step = PlainStep(self.objective, pair)
        else:
            self.step = RecordedStep(self.objective, pair, backend, size)
        return backend

    # -------------------------------------------------------------- during

    def train(self):
        """Epochs until done, out of patience, or Ctrl-C, which ends it with nothing lost."""
        bar = tqdm(
            total=self.epochs, initial=self.epoch, disable=not self.progress, unit="epoch",
            dynamic_ncols=True,
        )  # fmt: skip
        interrupted, saved, self.told = False, time.monotonic(), 0.0
        self.step.announce = bar.set_description
        with bar, ctrl_c(twice=self.processes == 1) as stop, pyro.validation_enabled(False):
            while self.epoch < self.epochs and not self._out_of_patience():
                with _in_precision(self.settings["precision"]):
                    whole_epoch = self._train_epoch(stop)
                if not whole_epoch:
                    interrupted = True
                    break
                self._end_epoch(bar)
                due = time.monotonic() - saved > CHECKPOINT_SECONDS
                due, stopped = distributed.any_of(due, stop.is_set())
                if due:
                    self.save()
                    saved = time.monotonic()
                if stopped:
                    interrupted = self.epoch < self.epochs
                    break
            self.objective.epoch = math.inf  # outside of training, warm-up is over
            self.save()
        if interrupted:
            return self._run(interrupted=True)
        if self.best is not None:
            restore(self.model, self.guide, self.free, self.best, "the best epoch")
        for m in modules(self.model, self.guide):
            m.eval()
        return self._run()

    def _run(self, interrupted=False):
        best = self.best_epoch if self.best_epoch is not None else self.epoch
        return Run(self.model, self.guide, self.history, best, self.out, interrupted)

    def _train_epoch(self, stop):
        """The rest of this epoch; False if it was interrupted."""
        started = time.monotonic()
        for m in modules(self.model, self.guide):  # one that is frozen whole stays as it is judged
            trained = [p.requires_grad for p in m.parameters()]
            m.train(any(trained) or not trained)
        self.objective.epoch = self.epoch
        steps = len(self.batches)
        for batch in self.batches.epoch(self.epoch, start=self.batch):
            count = batch.get("count", len(batch["x"]))
            batch = self.pick_all(batch)
            progress = (self.epoch + self.batch / steps) / self.epochs
            self._set_lr(self.lr * SCHEDULES[self.settings["schedule"]](progress))
            self._step(batch, count, stop)
            self.batch += 1
            self.last = batch
            # before the next batch is drawn: it would take from the stream that is saved
            if self.batch < steps and self._stopped(stop):
                self.seconds += time.monotonic() - started
                return False
        if self.device.type == "cuda":
            torch.cuda.synchronize(
                self.device
            )  # once an epoch, or its time would be the queueing's
        self.seconds += time.monotonic() - started
        return True

    def _stopped(self, stop):
        """Whether to stop after this step: of several processes, all do if one was told to."""
        if self.processes == 1:
            return stop.is_set()
        return (self.device.type == "cpu" or self.batch % STOP_STEPS == 0) and float(self.told) > 0

    def _step(self, batch, count, stop):
        """One step; `count` is the size of this process's share of the batch."""
        if self.graphed:
            loss = self.graphed(batch)
        else:
            self.optimiser.zero_grad(set_to_none=True)
            loss = self.step(batch)
            if self.processes > 1:
                told = stop.is_set()
                loss, count, told = distributed.whole_batch(self.parameters, loss, count, told)
                self.told = self.told + told
            if self.device.type == "cpu" and not math.isfinite(loss.item()):
                self._not_finite(batch)
            if self.settings["clip_norm"] is not None:
                clip_grad_norm_(self.parameters, self.settings["clip_norm"])
            self.optimiser.step()
        self.total = self.total + loss.double() * count
        self.seen = self.seen + count

    def _not_finite(self, batch):
        with torch.no_grad():
            traces = run(self.model, self.guide, self.pick(batch))
        sites = [*traces.guide.items(), *traces.model.items()]
        bad = [n for n, s in sites if not torch.isfinite(traces.log_prob(s)).all()]
        bad = sum(distributed.gathered(bad), [])
        where = f"at site {bad[0]!r}" if bad else "in its weighting"
        kept = f"; the last good checkpoint is {self.out / 'checkpoint.pt'}" if self.out else ""
        raise UserError(
            f"the loss is not finite {where}, epoch {self.epoch + 1}, step {self.batch + 1}"
            f"{kept}; a lower lr or clip_norm= may help"
        )

    def _end_epoch(self, bar):
        self.seen = int(self.seen)
        loss = float(self.total) / self.seen
        if not math.isfinite(loss):  # on a GPU it is looked at here, so that no step waits for it
            self._not_finite(self.last)
        row = {"epoch": self.epoch + 1, "loss": loss, "seconds": round(self.seconds, 3)}
        row["lr"] = float(self.optimiser.param_groups[0]["lr"])
        row["steps"] = len(self.batches)
        row["data_per_second"] = round(self.seen / max(self.seconds, 1e-9))
        self._share_weights()  # running statistics; and other machines may round otherwise
        if self.validates:
            row["elbo"] = distributed.first(self._validate)
            if row["elbo"] > self.best_elbo:
                self.best_elbo, self.best_epoch = row["elbo"], self.epoch + 1
                self.best = weights_of(self.model, self.guide, self.free)
        self.history.append(row)
        if self.out is not None and self.rank == 0:
            with open(self.out / "metrics.jsonl", "a") as f:
                f.write(json.dumps(row) + "\n")
        self.epoch, self.batch, self.total, self.seen, self.seconds = self.epoch + 1, 0, 0.0, 0, 0.0
        shown = {"loss": f"{loss:.2f}"}
        if self.validates:
            shown["valid ELBO"] = f"{row['elbo']:.2f}"
        shown["data/s"] = f"{row['data_per_second']:,}"
        bar.set_postfix(shown, refresh=False)
        bar.update()

    def _validate(self):
        valid = self.data.observed("valid")
        given = self.pick({"x": valid.x, "y": valid.y, "c": valid.c}, check=True)
        return float(elbo(self.model, self.guide, **given, seed=self.seed).mean())

    def _out_of_patience(self):
        patience = self.settings["patience"]
        if patience is None or self.best_epoch is None:
            return False
        return self.epoch - self.best_epoch >= patience

    # --------------------------------------------------------------- files

    def save(self):
        """The whole state, so that `load` goes on as if nothing had happened."""
        if self.out is None:
            return
        self._share_weights()
        cuda = self.device.type == "cuda"
        streams = distributed.gathered(
            (torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if cuda else None)
        )
        state = {
            "weights": weights_of(self.model, self.guide, self.free),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.stack([cpu for cpu, _ in streams]),  # [processes, ...]
            "rng_cuda": torch.stack([gpu for _, gpu in streams]) if cuda else None,
            "progress": {
                "epoch": self.epoch, "batch": self.batch, "total": float(self.total),
                "seen": int(self.seen), "seconds": self.seconds, "best_elbo": self.best_elbo,
                "best_epoch": self.best_epoch,
            },
            "history": json.dumps(self.history),
            "settings": json.dumps(self._described()),
        }  # fmt: skip
        distributed.first(lambda: checkpoint.save(self.out / "checkpoint.pt", state))

    def load(self):
        """Restore what `save` wrote."""
        path = self.out / "checkpoint.pt"
        state = distributed.first(lambda: checkpoint.load(path))
        settings = {"compile": "plain", **json.loads(state["settings"])}
        if self.compile == "auto":
            self.compile = settings["compile"]  # the same arithmetic as before, to the last bit
        self.settings["compile"] = choose_backend(self.compile, 0, 0)
        same = json.loads(json.dumps(self._described()))
        for name, value in same.items():
            if name not in ("epochs", "patience") and settings.get(name) != value:
                raise UserError(
                    f"{path} was trained with {name}={settings.get(name)}, not {value}: "
                    "resume with the same settings (only epochs and patience may change)"
                )
        schedule = self.settings["schedule"]
        if settings["epochs"] != self.epochs and schedule != "constant":
            raise UserError(
                f"a {schedule} schedule of {settings['epochs']} epochs cannot be extended"
            )
        with untouched(self.device):
            first = self.pick_all(next(iter(self.batches.epoch(0))))
        freeze(self.model, self.guide, state["weights"])  # before: what is frozen is not optimised
        self._make_optimiser(first)
        restore(self.model, self.guide, self.free, state["weights"], path)
        (group,) = self.optimiser.param_groups
        own = {name: group[name] for name in ("lr", "capturable")}  # the device's, not the run's
        self.optimiser.load_state_dict(state["optimiser"])
        self.optimiser.param_groups[0].update(own)  # the rate is set before each step
        self.best = state["best"]
        self.history = json.loads(state["history"])
        for name, value in state["progress"].items():
            setattr(self, name, value)
        self.total = torch.tensor(self.total, dtype=torch.float64, device=self.device)
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        if self.rank == 0:
            checkpoint.write_atomically(self.out / "metrics.jsonl", lambda p: p.write_text(lines))
        self._part_noise()  # of a process that was not there before
        for name, set_stream in (("rng", torch.set_rng_state), ("rng_cuda", self._set_cuda_stream)):
            streams = () if state[name] is None else torch.atleast_2d(state[name])
            if self.rank < len(streams):
                set_stream(streams[self.rank].clone())  # a view into the stack crashes torch

    def _set_cuda_stream(self, stream):
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(stream, self.device)


def _refuse_auto(guide):
    """An AutoGuide's rows are in the order of the data it first saw: shuffled data need `index`."""
    if not isinstance(guide, AutoGuide):
        return
    if isinstance(guide, AutoContinuous) or not takes(guide, "index"):
        name = type(guide).__name__
        raise UserError(
            f"{name} has a row for each of all data, and minibatches would not meet theirs: "
            f"pv.guides.Auto({name}, model, num_data=N) has them by index"
        )


@contextmanager
def _in_precision(name):
    """Within, matrix products are of this precision: see `fit`."""
    before = torch.get_float32_matmul_precision()
    try:
        if name == "tf32":
            torch.set_float32_matmul_precision("high")
        with networks_in(torch.bfloat16 if name == "bf16" else None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
