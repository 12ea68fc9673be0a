"""The training loop: epochs, validation, checkpoints, and what happens when a run diverges."""

import json
import math
import re
import time
import warnings
from contextlib import contextmanager
from functools import partial

import pyro
import torch
from tqdm.auto import tqdm

from ..conditionals import network_autocast
from ..data import Data
from ..errors import UserError
from ..evaluate import check_pair, elbo
from ..evaluate.scale_floor import warn_at_scale_floor
from ..programs import trace_pair
from ..programs.contexts import eval_mode
from ..programs.inspection import is_per_datum
from ..programs.modules import find_modules
from . import distributed, state
from .interrupt import interrupt_event
from .settings import SCHEDULES
from .steps.recorded import choose_backend
from .steps.stepper import Stepper
from .weights import restore, weights_of

CHECKPOINT_SECONDS = 10
STOP_STEPS = 50  # on GPUs, processes agree to stop after so many steps: to look is to wait for them
NAMING_ROWS = 256  # at once, where the site of a value that is not finite is looked for


class Loop:
    """A run: its state, and what takes it from one epoch to the next.

    Args:
        model, guide: the pair, on `device`.
        inputs: the `Inputs` of the pair.
        settings: those of `fit` that a resumed run must share.
        folder: a `RunFolder`, or None.
    """

    def __init__(
        self, model, guide, inputs, objective, settings, compile, folder, progress, device
    ):
        self.model, self.guide, self.inputs, self.objective = model, guide, inputs, objective
        self.settings, self.compile, self.folder, self.device = settings, compile, folder, device
        self.rank, self.processes = distributed.rank(), distributed.size()
        self.progress = progress and self.rank == 0
        self.epochs, self.seed = settings["epochs"], settings["seed"]
        has_valid = isinstance(inputs.data, Data) and inputs.data.valid is not None
        self.validates = has_valid and not is_per_datum(guide)
        self.stepper, self.at, self.history, self.best = None, state.Progress(), [], None
        self.last = None  # (batch, epoch, step) of the latest step
        self.good = None  # the latest weights that were checked
        self.unsaved = None  # the error of a last write that failed

    def described(self):
        """The settings as a checkpoint records them, for `state.check_settings`."""
        parts = [
            re.sub(r" at 0x[0-9a-f]+", "", str(m)) for m in find_modules(self.model, self.guide)
        ]
        return {**self.recorded(), "data": self.inputs.describe(), "modules": parts}

    def recorded(self):
        """The settings as `config.json` records them."""
        describe = getattr(self.objective, "describe", lambda: type(self.objective).__name__)
        return {**self.settings, "objective": describe(), "observed": list(self.inputs.observed)}

    # ---------------------------------------------------------------- to begin

    def start(self, initialize, config):
        """Check the pair, make the optimizer, initialize, and write the first checkpoint."""
        first, given = self.inputs.first()
        check_pair(self.model, self.guide, **given)
        self._check_all(given)
        self._make_stepper(first)
        self._share_weights()
        if self.folder is not None:  # from here on files are written
            distributed.on_rank_zero(lambda: self._start_folder(config))
        if initialize is not None:
            data = self.inputs.data
            initialize(self.model, self.guide, data, self.device, self.seed, self.progress)
            self._make_stepper(first)
            self._share_weights()
        getattr(self.model, "check_trainable", lambda: None)()
        self._part_noise()
        self._keep()

    def load(self, saved):
        """Continue from what `state.capture` returned."""
        path = self.folder.checkpoint
        settings = json.loads(saved["settings"])
        if self.compile == "auto":
            self.compile = settings["compile"]  # the same arithmetic as before, to the last bit
        self.settings["compile"] = choose_backend(self.compile, 0, 0)
        state.check_settings(settings, json.loads(json.dumps(self.described())), path)
        first, given = self.inputs.first()
        self._check_all(given)
        state.freeze_as(self, saved)
        self._make_stepper(first)
        self._part_noise()  # of a process that was not there before
        state.resume(self, saved, path)
        self.good = saved["weights"]
        config = json.loads(saved["config"])
        distributed.on_rank_zero(lambda: self.folder.resume(config, self.history))

    def _check_all(self, given):
        self.inputs.check_all(given)
        self.validates = self.validates and not self.inputs.all_rows

    def _start_folder(self, config):
        self.folder.claim()
        data = self.inputs.data
        data = data.describe() if isinstance(data, Data) else {"name": "stream"}
        many = {"processes": self.processes} if self.processes > 1 else {}
        self.folder.start({**config, "fit": self.recorded(), **many, "data": data})

    def _make_stepper(self, first):
        steps = self.epochs * len(self.inputs)
        self.stepper = Stepper(
            (self.model, self.guide), self.objective, self.settings, self.compile, steps, first,
            self.device,
        )  # fmt: skip

    def _share_weights(self):
        """Everyone's weights and buffers become rank 0's."""
        states = [t for m in find_modules(self.model, self.guide) for t in m.state_dict().values()]
        distributed.broadcast_(states + self.stepper.free)

    def _part_noise(self):
        """From here on each process draws its own noise; rank 0 what one process would."""
        if self.rank:
            torch.manual_seed(self.seed + 15_485_863 * self.rank)

    def set_cuda_stream(self, stream):
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(stream, self.device)

    # ---------------------------------------------------------------- to train

    def train(self):
        """Epochs until done, out of patience, or Ctrl-C; True if it was interrupted."""
        bar = tqdm(
            total=self.epochs, initial=self.at.epoch, disable=not self.progress, unit="epoch",
            dynamic_ncols=True,
        )  # fmt: skip
        self.stepper.step.on_status = bar.set_description
        try:
            with (
                bar,
                interrupt_event(twice=self.processes == 1) as stop,
                pyro.validation_enabled(False),
            ):
                interrupted = self._train_epochs(stop, bar)
                self._keep(final=True)
            if not interrupted:
                self._finish()
        finally:
            self.objective.epoch = math.inf  # outside of training, warm-up is over
            self.stepper.clear_gradients()
            for m in find_modules(self.model, self.guide):
                m.eval()
        if self.unsaved is not None:
            raise self.unsaved
        return interrupted

    def _finish(self):
        if self.best is not None:
            self._restore(self.best)
        if self.rank == 0 and self.last is not None:
            warn_at_scale_floor(self.model, self.guide, self.inputs.for_pair(self.last[0]))

    def _train_epochs(self, stop, bar):
        saved, self.stops = time.monotonic(), 0.0
        while self.at.epoch < self.epochs and not self._out_of_patience():
            with _in_precision(self.settings["precision"]):
                whole = self._train_epoch(stop)
            if not whole:
                return True
            self._end_epoch(bar)
            due = time.monotonic() - saved > CHECKPOINT_SECONDS
            due, stopped = distributed.any_process(due, stop.is_set())
            if due:
                self._keep()
                saved = time.monotonic()
            if stopped:
                return self.at.epoch < self.epochs
        return False

    def _train_epoch(self, stop):
        """The rest of this epoch; False if it was interrupted."""
        started, at, steps = time.monotonic(), self.at, len(self.inputs)
        for m in find_modules(
            self.model, self.guide
        ):  # one that is frozen whole stays in eval mode
            trained = [p.requires_grad for p in m.parameters()]
            m.train(any(trained) or not trained)
        self.objective.epoch = at.epoch
        schedule = SCHEDULES[self.settings["schedule"]]
        for batch, count in self.inputs.epoch(at.epoch, start=at.batch):
            self.stepper.set_lr(
                self.settings["lr"] * schedule((at.epoch + at.batch / steps) / self.epochs)
            )
            loss, count, stops = self.stepper(batch, count, stop.is_set())
            self.last = batch, at.epoch + 1, at.batch + 1
            if self.device.type == "cpu" and not math.isfinite(loss.item()):
                self._fail("the loss is not finite", batch)
            self.stepper.update()
            self.stops = self.stops + stops
            at.total = at.total + loss.double() * count
            at.seen = at.seen + count
            at.batch += 1
            # before the next batch is drawn: it would take from the stream that is saved
            if at.batch < steps and self._stopped(stop):
                at.seconds += time.monotonic() - started
                return False
        if self.device.type == "cuda":
            # once an epoch, or its time would be that of queueing
            torch.cuda.synchronize(self.device)
        at.seconds += time.monotonic() - started
        return True

    def _stopped(self, stop):
        """Whether to stop after this step: of several processes, all do if one was asked to."""
        if self.processes == 1:
            return stop.is_set()
        due = self.device.type == "cpu" or self.at.batch % STOP_STEPS == 0
        return due and float(self.stops) > 0

    def _end_epoch(self, bar):
        at = self.at
        at.seen = int(at.seen)
        loss = float(at.total) / at.seen
        if not math.isfinite(loss):  # on a GPU it is looked at here, so that no step waits for it
            self._fail("the loss is not finite", self.last[0])
        row = {"epoch": at.epoch + 1, "loss": loss, "seconds": round(at.seconds, 3)}
        row["lr"] = self.stepper.lr
        row["steps"] = len(self.inputs)
        row["data_per_second"] = round(at.seen / max(at.seconds, 1e-9))
        self._share_weights()  # running statistics; and other machines may round otherwise
        if self.validates:
            row["elbo"] = distributed.on_rank_zero(self._validate)
            if not math.isfinite(row["elbo"]):
                self._fail("the validation ELBO is not finite", self.inputs.valid())
            if row["elbo"] > at.best_elbo:
                at.best_elbo, at.best_epoch = row["elbo"], at.epoch + 1
                self.best = weights_of(self.model, self.guide, self.stepper.free)
        self.history.append(row)
        at.next_epoch()
        if self.folder is not None and self.rank == 0:
            self._written(partial(self.folder.write_metrics, self.history))
        shown = {"loss": f"{loss:.2f}"}
        if self.validates:
            shown["valid ELBO"] = f"{row['elbo']:.2f}"
        shown["data/s"] = f"{row['data_per_second']:,}"
        bar.set_postfix(shown, refresh=False)
        bar.update()

    def _validate(self):
        given = self.inputs.valid()
        return float(elbo(self.model, self.guide, **given, seed=self.seed).mean())

    def _out_of_patience(self):
        patience = self.settings["patience"]
        if patience is None or self.at.best_epoch is None:
            return False
        return self.at.epoch - self.at.best_epoch >= patience

    # ---------------------------------------------------------------- to keep

    def _keep(self, final=False):
        """Check the weights, keep a copy of them, and write the checkpoint.

        A write that fails is tried again at the next checkpoint; after the last one it is an error.
        """
        if self.last is not None:
            # no further step has looked at what the latest one left; validation, after an epoch, has
            validated = self.validates and self.at.batch == 0
            finite = self.stepper.is_finite(None if validated else self.last[0])
            if not all(distributed.gathered(finite)):
                self._fail("the loss is not finite", self.last[0], after=True)
        self._share_weights()
        captured = state.capture(self)
        self.good = captured["weights"]
        if self.folder is not None:
            save = partial(self.folder.save, captured)
            self.unsaved = distributed.on_rank_zero(lambda: self._written(save, final))

    def _written(self, write, final=False):
        """The error of a write that failed, or None; all but the last one are only warned of."""
        try:
            return write()
        except UserError as e:
            if not final:
                warnings.warn(f"{e}; training continues, and writes again later", stacklevel=2)
            return e

    def _restore(self, weights):
        restore(self.model, self.guide, self.stepper.free, weights, "the best epoch")

    # ---------------------------------------------------------------- to fail

    def _fail(self, what, batch, after=False):
        """Put the last good weights into the modules; raise with the site, the epoch and the step."""
        _, epoch, step = self.last
        bad = [n for n, v in batch.items() if v.is_floating_point() and not v.isfinite().all()]
        bad = sum(distributed.gathered(bad), [])
        site = self._site(batch)
        why = "a lower lr or clip_norm= may help"
        if bad:
            why = f"the batch has NaN or infinite values in {bad[0]!r}"
        if self.good is not None:
            self._restore(self.best or self.good)
        kept = ""
        if self.folder is not None and self.folder.checkpoint.exists():
            kept = f"; the last good checkpoint is {self.folder.checkpoint}"
        where = f"at site {site!r}" if site else "in its weighting"
        after = "after " if after else ""
        raise UserError(f"{what} {where}, {after}epoch {epoch}, step {step}{kept}; {why}")

    def _site(self, batch):
        """The first site with a log-probability that is not finite, in any process."""
        bad = []
        try:
            given = self.inputs.for_pair(batch)
            for start in range(0, len(next(iter(given.values()))), NAMING_ROWS):
                part = {n: v[start : start + NAMING_ROWS] for n, v in given.items()}
                part = {n: v.to(self.device) for n, v in part.items()}
                with torch.no_grad(), eval_mode(self.model, self.guide):
                    traces = trace_pair(self.model, self.guide, part)
                sites = [*traces.guide.items(), *traces.model.items()]
                bad += [n for n, s in sites if not torch.isfinite(traces.log_prob(s)).all()]
        except (RuntimeError, ValueError):  # a program may raise on values that are not finite
            pass
        bad = sum(distributed.gathered(bad), [])
        return bad[0] if bad else None


@contextmanager
def _in_precision(name):
    """Within, matrix products are of this precision: see `fit`."""
    before = torch.get_float32_matmul_precision()
    try:
        if name == "tf32":
            torch.set_float32_matmul_precision("high")
        with network_autocast(torch.bfloat16 if name == "bf16" else None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
