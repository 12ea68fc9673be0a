"""The command `pyro-vae`: fit, evaluate, sample, list."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import jsonargparse
import torch

from . import data as datasets
from . import evaluate as judge
from . import methods, plots, report, summary
from .errors import UserError, whole
from .objectives import ELBO
from .pair import reads_index
from .train import MixtureInitialisation, checkpoint, choose_device, distributed, load_weights
from .train import fit as train


def fit(
    model: str,
    data: str = "digits",
    epochs: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str | None = None,
    root: Path | None = None,
    binarise: str | None = None,
    likelihood: str | None = None,
    latent_dim: int | None = None,
    num_components: int | None = None,
    w_dim: int | None = None,
    network: str | None = None,
    hidden: list[int] | None = None,
    channels: list[int] | None = None,
    activation: str | None = None,
    component: str | None = None,
    family: str | None = None,
    discrete: str | None = None,
    centre: bool | None = None,
    initialise: str | None = None,
    initialisation: dict | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    batch_size: int | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    warmup: int | None = None,
    free_bits: dict[str, float] | None = None,
    num_particles: int | None = None,
    compile: str | None = None,
    num_samples: int = 500,
    progress: bool = True,
):
    """Train a model and report what it found.

    What is not given is the method's own setting (see `pyro-vae list`). In many processes:
    torchrun --nproc_per_node=N -m pyro_vae fit ...

    Args:
        model: a method by name: vae, mixture-vae, vade, shu-gmvae, gmvae, ...
        data: digits (embedded), mnist, fashion-mnist, kmnist, arcs, or a .npz file with x and y.
        epochs: passes over the training data.
        out: run folder; runs/MODEL-DATA-SEED unless said.
        resume: go on with the run in the run folder, with the settings that it was started with.
        seed: of weights, shuffling, noise and initialisation.
        device: cpu, cuda, ...; a GPU where there is one.
        root: folder of the torchvision data sets.
        binarise: none, static or dynamic; what fits the likelihood unless said.
        likelihood: bernoulli, binomial, continuous-bernoulli, normal, grey-bernoulli.
        latent_dim: size of z.
        num_components: K, of mixtures.
        w_dim: size of the GMVAE's w.
        network: mlp or conv.
        hidden: widths of the hidden layers, e.g. [500,500].
        channels: widths of the convolutions, from the image inwards.
        activation: relu, tanh, softplus, elu, silu.
        component: family of the mixture's components: normal (diagonal) or full.
        family: family of the guide's z: normal (diagonal) or full.
        discrete: how a discrete latent in the guide is trained: enumerate, score, relaxed.
        centre: whether the encoder sees 2x - 1 instead of x; for images, unless said.
        initialise: none, or mixture: start components from a Gaussian mixture fitted to encodings.
        initialisation: its settings, over the method's own: '{"epochs": 50, "restarts": 3}'.
        lr: Adam's learning rate.
        weight_decay: decoupled, as in AdamW.
        schedule: constant, linear or cosine.
        batch_size: data a step, of all processes together.
        clip_norm: largest gradient norm.
        patience: stop after that many epochs without a better validation ELBO.
        warmup: epochs of KL warm-up.
        free_bits: nats per latent, e.g. '{"y": 0.5}'.
        num_particles: Monte Carlo samples per datum in training.
        compile: record the training step and replay it: false, aten, true (by Inductor), auto.
        num_samples: importance samples of the final log-likelihood.
        progress: show a progress bar.
    """
    given = {k: v for k, v in locals().items() if v is not None}
    methods.method(model)
    whole(1, num_samples=num_samples)  # now, not after hours of training
    out = Path("runs") / f"{model}-{Path(data).stem}-{seed}" if out is None else out
    if resume:
        config = distributed.first(lambda: checkpoint.read_json(out / "config.json"))
        name, settings = config["method"], config["settings"]
        for key in ("epochs", "patience"):
            if key in given:
                settings[key] = given[key]
        if name != model:
            raise UserError(f"{out} holds a run of {name}, not of {model}")
        _same_settings(given, settings, out)
    else:
        if distributed.first((out / "checkpoint.pt").exists):
            raise UserError(
                f"{out} holds a run already: --resume goes on with it, --out FOLDER starts another"
            )
        settings = methods.settings(model, _pick(given), data)
        settings["seed"] = seed
    with distributed.one_first():
        loaded = load_data(settings, root)
    settings["likelihood"] = settings["likelihood"] or loaded.likelihood
    if loaded.train.x[0].numel() * settings["batch_size"] < 2**15:
        torch.set_num_threads(1)  # operations so small are slower on several threads
    torch.manual_seed(settings["seed"])
    pair = methods.build(model, settings, *shapes(loaded))
    config = {"method": model, "settings": settings, "hardware": report.hardware()}
    shown = distributed.rank() == 0  # one process speaks for all, and reports
    if shown and not resume:
        found = methods.method(model)
        print(f"{model}: {found.paper}; guide {found.guide}; run folder {out}")
    run = train(
        *pair,
        loaded,
        **fit_options(settings),
        device=device,
        out=out,
        resume=resume,
        config=config,
        progress=progress,
    )
    if run.interrupted and not shown:
        return 130
    if run.interrupted:
        print(f"\nstopped; nothing is lost: the same command with --resume goes on from {out}")
        return 130
    told = loaded, settings, out, run.history, run.best_epoch, num_samples
    result = distributed.first(lambda: _report(*pair, *told))
    if shown:
        print(summary.table(result))
        print(f"\nreport: {out / 'report.html'}")
    return 0


def evaluate(
    run: Path,
    split: str = "test",
    num_samples: int = 5000,
    device: str | None = None,
    root: Path | None = None,
):
    """Judge a trained run on a split, with as many importance samples as asked.

    Args:
        run: a run folder.
        split: train, valid or test.
        num_samples: importance samples per datum.
        device: cpu, cuda, ...
        root: folder of the torchvision data sets.
    """
    model, guide, loaded, settings = open_run(run, device, root)
    result = summary.summarise(model, guide, loaded, split, num_samples, settings["seed"])
    checkpoint.write_json(run / f"results-{split}.json", {**result, "hardware": report.hardware()})
    print(summary.table(result))
    return 0


def sample(
    run: Path,
    num: int = 64,
    y: int | None = None,
    mean: bool = True,
    seed: int = 0,
    out: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
):
    """Draw new data from a trained run, into a picture and a .npz file.

    Args:
        run: a run folder.
        num: how many.
        y: from this component alone.
        mean: the likelihood's means (smooth pictures) rather than draws.
        seed: of the draws.
        out: where to; samples.png and samples.npz in the run folder unless said.
        device: cpu, cuda, ...
        root: folder of the torchvision data sets.
    """
    import numpy as np

    model, _, loaded, _ = open_run(run, device, root)
    x = judge.sample(model, num, y=y, mean=mean, seed=seed).cpu()
    out = run / "samples" if out is None else out.with_suffix("")
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out.with_suffix(".npz"), x=x.numpy())
    print(out.with_suffix(".npz"))
    figure, ax = plots.axes(6, 6)
    if plots.is_image(loaded.x_shape):
        plots.images(ax, x)
    elif loaded.x_shape == (2,):
        plots.scatter(ax, x)
    else:
        return 0
    figure.savefig(out.with_suffix(".png"), dpi=110)
    print(out.with_suffix(".png"))
    return 0


def list_():
    """List the methods: model, guide, paper."""
    for name, found in methods.METHODS.items():
        print(f"{name:<15} {found.model.__name__:<11} {found.guide:<46} {found.paper}")
    print(f"\ndata: {', '.join(datasets.DATASETS)}, or a .npz file with x (and y)")
    return 0


def open_run(run, device=None, root=None):
    """`(model, guide, data, settings)` of a run folder, with its best weights."""
    run = Path(run)
    config = checkpoint.read_json(run / "config.json")
    if not {"method", "settings"} <= set(config):
        raise UserError(f"{run} was not written by pyro-vae fit: build its pair in Python")
    settings = config["settings"]
    loaded = load_data(settings, root)
    pair = methods.build(config["method"], settings, *shapes(loaded))
    load_weights(*pair, run / "checkpoint.pt")
    device = choose_device(device)
    return *(m.to(device) for m in pair), loaded, settings


def _pick(given):
    """Of the command's arguments, the settings of the method."""
    other = ("model", "out", "resume", "device", "root", "num_samples", "progress", "seed")
    return {k: v for k, v in given.items() if k not in other}


def _same_settings(given, settings, out):
    for key, value in _pick(given).items():
        if key == "initialisation":  # was merged over the method's own
            value = {**settings[key], **value}
        if key in ("epochs", "patience") or settings.get(key) == value:
            continue
        if key == "data" and value == "digits":  # the default, so perhaps not said
            continue
        raise UserError(f"{out} was started with {key}={settings.get(key)}, not {value}")


def load_data(settings, root=None):
    """The data of a run's settings: by name, or from an .npz file."""
    name = settings["data"]
    if name.endswith(".npz"):
        return _load_npz(Path(name), settings)
    likelihood, binarise = settings["likelihood"], settings["binarise"]
    if binarise is None:
        binary = likelihood == "bernoulli" or (likelihood is None and "mnist" in name)
        binarise = "dynamic" if binary else "none"
    return datasets.load(name, binarise=binarise, root=root)


def _load_npz(path, settings):
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "x" not in arrays:
                raise UserError(f"{path} has no array x; it has {', '.join(arrays)}")
            x, y = arrays["x"], arrays["y"] if "y" in arrays else None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{path} is not an .npz file of plain arrays: {e}") from e
    return datasets.from_arrays(x, y, name=path.stem, binarise=settings["binarise"] or "none")


def shapes(loaded):
    """What `methods.build` needs to know of the data."""
    return loaded.x_shape, len(loaded.train), loaded.c_shape, loaded.num_classes


def fit_options(settings):
    """What `fit` is told, of a method's settings."""
    names = (
        "epochs",
        "lr",
        "schedule",
        "batch_size",
        "weight_decay",
        "clip_norm",
        "patience",
        "seed",
    )
    options = {name: settings[name] for name in names}
    options["objective"] = ELBO(
        warmup=settings["warmup"],
        free_bits=settings["free_bits"],
        num_particles=settings["num_particles"],
    )
    options["compile"] = {"true": True, "false": False}.get(
        settings["compile"], settings["compile"]
    )
    options["initialise"] = _initialisation(settings)
    return options


def _initialisation(settings):
    name = settings["initialise"]
    if name == "none":
        return None
    if name != "mixture":
        raise UserError(f"unknown initialisation {name!r}; known: none, mixture")
    return MixtureInitialisation(**settings["initialisation"])


def _report(model, guide, loaded, settings, out, history, best_epoch, num_samples):
    split = "train" if reads_index(guide) or loaded.test is None else "test"
    seed = settings["seed"]
    result = summary.summarise(model, guide, loaded, split, num_samples, seed)
    config = checkpoint.read_json(out / "config.json")
    checkpoint.write_json(out / f"results-{split}.json", {**result, "hardware": report.hardware()})
    method = methods.method(config["method"])
    figures = report.pictures(model, guide, loaded, result, history, best_epoch, seed)
    report.write(
        out / "report.html",
        f"{config['method']} on {loaded.name}",
        f"{method.paper}. Guide: {method.guide}.",
        result,
        figures,
        json.dumps(config, indent=2),
    )
    return result


class _Parser(jsonargparse.ArgumentParser):
    """Errors as one line."""

    def error(self, message, ex=None):
        text = str(message if ex is None else ex).strip()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        print(f"pyro-vae: {' '.join(lines[:3])}", file=sys.stderr)
        raise SystemExit(2)


COMMANDS = {"fit": fit, "evaluate": evaluate, "sample": sample, "list": list_}


def main(argv=None):
    """Entry point; returns the exit status."""
    parser = _Parser(prog="pyro-vae", description=__doc__, allow_abbrev=False)
    commands = parser.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        described = function.__doc__.split("\n\n")[0]
        sub = _Parser(prog=f"pyro-vae {name}", description=described, allow_abbrev=False)
        sub.add_function_arguments(function, as_positional=True)
        for action in sub._actions:
            if isinstance(action.default, bool) and action.dest != "help":
                action.nargs, action.const = "?", True  # `--resume` alone means `--resume true`
        commands.add_subcommand(name, sub)
    arguments = parser.parse_args(argv)
    options = arguments[arguments.command]
    try:
        fits = arguments.command == "fit"
        # what `torchrun` launched is connected from here on: they agree before there is a pair
        with distributed.group(choose_device(options.device)) if fits else nullcontext():
            return COMMANDS[arguments.command](**options.as_dict())
    except UserError as e:
        rank = int(os.environ.get("RANK", 0))
        print(f"pyro-vae{f' (process {rank})' if rank else ''}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
