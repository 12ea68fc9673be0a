"""`fit`: train a model/guide pair by stochastic variational inference."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ..data import Data
from ..errors import UserError, names
from ..objectives import ELBO, as_objective
from ..programs.contexts import fork_rng, set_seed
from ..programs.modules import find_modules
from ..programs.runtime import exclusive
from . import distributed
from .arguments import (
    check_folder,
    check_json,
    check_optimizer,
    check_programs,
    needs_cpu,
    saved_state,
    training_data,
)
from .begin import resume_run, start_run
from .callbacks import Callback, Metrics, as_callbacks
from .device import choose_device
from .folder import RunFolder
from .inputs import Inputs
from .loop import Loop, UserFunctions
from .optimizer import OptimizerFactory
from .result import Run
from .saving import Saving
from .settings import Schedule, as_schedule, checked_settings, name_of_function


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    epochs: int = 50,
    *,
    objective: ELBO | None = None,
    lr: float = 1e-3,
    batch_size: int = 128,
    schedule: str | Schedule = "constant",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    patience: int | None = None,
    validate_every: int = 1,
    max_time: float | None = None,
    optimizer: OptimizerFactory | None = None,
    initialize: Callable | None = None,
    valid: Any = None,
    observed: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    compile: bool | str = "auto",
    precision: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    callbacks: Sequence[Callback | Callable[[Run, Metrics], bool | None]] = (),
    progress: bool = True,
) -> Run:
    """Train a pair, this library's or any Pyro pair with one data plate; returns a `Run`.

    After an epoch (see `validate_every`) the ELBO of the validation data is computed, at beta = 1, in
    eval mode, with noise of a separate seed. At the end the modules hold the weights of the best
    epoch; `run.use("last")` puts the last ones there.

    Processes launched by `torchrun`, each with the same call, train one run (see
    `train/distributed.py`). It starts from the weights of rank 0. Every process works on its shard of
    each batch with separate noise, and gradients are those of the whole batch. Rank 0 validates (the
    same bound as one process would compute), shows the bar and writes the files. All return the same.

    One thread of a process trains at a time, because Pyro's runtime is global: while `fit` runs,
    `fit` and every evaluation in another thread raise a one-line error.

    A run that diverges raises an error. The modules then hold the weights of the best epoch by
    validation, else the latest ones that were checked: those of the last checkpoint, or, without
    `out`, of at most about ten seconds before. A run that fails before a checkpoint of trained
    weights leaves no files.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((3,), 2, likelihood="normal")
        >>> guide = pv.guides.Guide(model)
        >>> run = pv.fit(model, guide, torch.randn(20, 3), epochs=2, progress=False)
        >>> [row["epoch"] for row in run.history]
        [1, 2]

    Args:
        model, guide: Pyro programs; modules are moved to `device`, trained in place, and left in
            eval mode, without gradients. A `BatchNorm` changes its running statistics by training
            steps alone; in the step of a batch of one row it uses them.
        data: `pv.data.load(...)`, an array (a tensor, numpy, lists, a DataFrame), `(x, y)` with
            labels y `[N]`, a torch `Dataset`; a `DataLoader`, or any iterable with a length, of
            batches `x`, `(x, y)` or dicts: they need not fit in memory. Arrays of any shape go by
            the names that the program takes, `{"x": x, "ys": y}`, x to its first argument. x is made
            floats in the pair's dtype, uint8 divided by 255 (a program that reads tokens takes them
            as `x.long()`). A pair with a row for each data point, and no argument `index`, is
            trained on all rows at once, in their order: `batch_size` must be N or more. Entries of a
            dict batch that the pair does not take (file names, say) are not used.
        epochs: passes over the training data.
        objective: one of `pv.objectives`. Default: `ELBO()`.
        lr: Adam's learning rate.
        schedule: of the learning rate over the run: constant, linear or cosine (both fall to 0), or a
            function of the fraction of the training that is done, in [0, 1], which returns a factor.
        batch_size: data per step, of all processes together; the last batch may be short. A
            loader's own size counts for each process.
        weight_decay: decoupled (AdamW), for every parameter.
        clip_norm: largest norm of the gradient of the mean loss. Default: it is not clipped.
        patience: stop at a validation if the best one is at least that many epochs ago. Less than
            `validate_every` stops at the first validation that is not better. Default: train for all
            epochs.
        validate_every: epochs from one validation to the next; the last epoch is always validated.
        max_time: stop training after that many seconds of this call, between two steps. The run ends
            as one of fewer epochs does; `resume=True` continues it. The restarts of a method share
            it: each has an equal part of the time that is left. An initialization does not count.
            Default: no limit.
        optimizer: makes another optimizer than AdamW of the list of parameters, with learning rates
            that `schedule` multiplies: `lambda params: torch.optim.SGD(params, lr=0.1)`. `lr` and
            `weight_decay` are AdamW's. Its step is not part of the compiled program or CUDA graph.
        initialize: a `MixtureInitialization`, or any function of `(model, guide, data, device,
            seed, progress)`, run before the first epoch.
        valid: validation data, as arrays, `(x, y)`, `{name: array}`, or a loader of batches, in the
            units of `data`. Default: the validation split of `data`, if there is one.
        observed: names of the data that the pair gets. Default: all, of arrays by name; else
            `model.observes`, else `x` alone. Labels of `(x, y)` are otherwise never seen in
            training; where the model's y is categorical they are one-hot rows.
        device: `"cuda"`, `"cpu"`, ... Default: a GPU if there is one and the pair runs on it; a
            user-defined program that uses tensors on the CPU is trained there, with one warning.
        compile: record the training step once and replay it, the same numbers up to rounding:
            `"auto"` (chosen from the operations of the loss and the length of the run), `True`
            (compiled by Inductor, which needs a C++ compiler), `"recorded"` (as it was recorded),
            `False` (plain Pyro). What cannot be recorded is run plainly, with one warning. A program
            that depends on state outside of its modules, attributes, closures and globals (a clock, a
            file) needs `False`.
        precision: of matrix products in training: `"bf16"` inside this library's networks, by
            autocast; `"tf32"` on a GPU. Evaluation is not affected. Default: torch's.
        seed: of shuffling, binarization, sampling, an integer >= 0; of a method's initial weights
            too. A pair's own weights are taken as they are. The same seed with another backend
            (`compile`) gives another result: rounding differs, and training amplifies it.
        out: folder for `config.json`, `metrics.jsonl`, `checkpoint.pt`; it holds one run.
            If it is removed, or a write fails, training continues and writes it again later.
        resume: continue from `out`'s checkpoint, with the same settings and data (epochs, patience
            and max_time may change); on a CPU bit for bit what an uninterrupted run does. In a folder
            without a run, a run starts.
        config: more for `config.json`; `config["files"]` are further files, `{name: text}`.
        callbacks: each a `Callback`, or a function of `(run, metrics)` that is called after every
            epoch and returns True to stop. The numbers of a run do not depend on them.
        progress: show a progress bar.

    Raises:
        UserError: a pair, data or settings that do not fit; a loss, weights or a validation ELBO
            that are not finite (the site named, the last good checkpoint kept); a folder in use, or one that
            already contains a run; a checkpoint that cannot be used; another thread that trains.
    """
    check_programs(model, guide, initialize)
    training_objective = ELBO() if objective is None else as_objective(objective)
    settings = checked_settings(
        epochs=epochs, lr=lr, schedule=schedule, batch_size=batch_size, weight_decay=weight_decay,
        clip_norm=clip_norm, patience=patience, validate_every=validate_every, max_time=max_time,
        precision=precision, seed=seed,
    )  # fmt: skip
    settings["initialize"] = name_of_function(initialize)
    check_optimizer(optimizer, settings, fit)
    functions = UserFunctions(optimizer, as_schedule(schedule), as_callbacks(callbacks))
    check_json(config)
    if observed is not None and not isinstance(observed, str):
        names(observed=observed)
    check_folder(out, resume)
    any_device, device = device is None, choose_device(device)
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision='tf32' is a GPU's; on a processor there is 'bf16'")
    data, valid = training_data(model, data, valid, patience)
    with (
        exclusive("fit"),
        torch.enable_grad(),
        distributed.group(device),
        fork_rng(device),
        nullcontext() if out is None else RunFolder(out) as folder,
    ):
        saved = None
        if folder is not None:
            saved = distributed.on_rank_zero(lambda: saved_state(folder, resume))
        batch_size, seed = settings["batch_size"], settings["seed"]

        def inputs_on(device: torch.device) -> Inputs:
            for m in find_modules(model, guide):
                m.to(device)
            return Inputs(
                model, guide, data, training_objective, observed, batch_size, device, seed, valid
            )

        inputs = inputs_on(device)
        if any_device and device.type != "cpu" and needs_cpu(inputs):
            device = torch.device("cpu")
            inputs = inputs_on(device)
        if isinstance(inputs.data, Data):
            training_objective.count_labels(inputs.data.train.y)
        saving = Saving(folder)
        loop = Loop(
            model, guide, inputs, training_objective, settings, functions,
            compile, saving, progress, device,
        )  # fmt: skip
        set_seed(seed)
        if saved is not None:
            resume_run(loop, saved, (config or {}).get("files", {}))
        try:
            if saved is None:
                start_run(loop, initialize, config or {})
            return loop.train()
        except Exception:
            saving.discard_start()
            raise
