"""The command `pyro-vae`: fit, evaluate, sample, list."""

import json
import sys
from pathlib import Path

import jsonargparse
import torch

from . import data as datasets
from . import evaluate as judge
from . import methods, plots, report, summary
from .errors import UserError, unknown, whole
from .pair import reads_index
from .train import checkpoint, choose_device, load_weights
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
    objective: str | None = None,
    alpha: float | None = None,
    condition: str | None = None,
    quadrants: int | None = None,
    conditional_prior: bool | None = None,
    decoder_given: list[str] | None = None,
    baseline: str | None = None,
    compile: str | None = None,
    num_samples: int = 500,
    progress: bool = True,
):
    """Train a model and report what it found.

    What is not given is the method's own setting (see `pyro-vae list`).

    Args:
        model: a method by name: vae, mixture-vae, vade, shu-gmvae, gmvae, ...
        data: digits (embedded), mnist, fashion-mnist, kmnist, arcs, or a .npz file with x, y and c.
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
        initialise: none; mixture: start components from a Gaussian mixture fitted to encodings;
            baseline: train a CVAE's baseline first.
        initialisation: its settings, over the method's own: '{"epochs": 50, "restarts": 3}'.
        lr: Adam's learning rate.
        weight_decay: decoupled, as in AdamW.
        schedule: constant, linear or cosine.
        batch_size: data a step.
        clip_norm: largest gradient norm.
        patience: stop after that many epochs without a better validation ELBO.
        warmup: epochs of KL warm-up.
        free_bits: nats per latent, e.g. '{"y": 0.5}'.
        num_particles: Monte Carlo samples per datum in training.
        objective: elbo or hybrid.
        alpha: the ELBO's weight in the hybrid objective.
        condition: what a conditional model is given: quadrants (of an image), labels, or data (the
            array c of a .npz file); what the data have, in the order data, quadrants, labels, unless
            said.
        quadrants: how many are given: 1, 2 or 3.
        conditional_prior: whether a CVAE's prior depends on c.
        decoder_given: the parents of a CVAE's x: [z,c] or [z].
        baseline: a CVAE's, whose guess its prior sees: frozen, or joint (trained with it).
        compile: record the training step and replay it: false, aten, true (by Inductor), auto.
        num_samples: importance samples of the final log-likelihood.
        progress: show a progress bar.
    """
    given = {k: v for k, v in locals().items() if v is not None}
    methods.method(model)
    whole(1, num_samples=num_samples)  # now, not after hours of training
    out = Path("runs") / f"{model}-{Path(data).stem}-{seed}" if out is None else out
    if resume:
        config = checkpoint.read_json(out / "config.json")
        name, settings = config["method"], config["settings"]
        for key in ("epochs", "patience"):
            if key in given:
                settings[key] = given[key]
        if name != model:
            raise UserError(f"{out} holds a run of {name}, not of {model}")
        _same_settings(given, settings, out)
    else:
        if (out / "checkpoint.pt").exists():
            raise UserError(
                f"{out} holds a run already: --resume goes on with it, --out FOLDER starts another"
            )
        settings = methods.settings(model, _pick(given), data)
        settings["seed"] = seed
    _check_condition(model, settings)
    loaded = load_data(settings, root)
    settings["likelihood"] = settings["likelihood"] or loaded.likelihood
    if loaded.train.x[0].numel() * settings["batch_size"] < 2**15:
        torch.set_num_threads(1)  # operations so small are slower on several threads
    torch.manual_seed(settings["seed"])
    pair = methods.build(model, settings, *shapes(loaded))
    config = {"method": model, "settings": settings, "hardware": report.hardware()}
    if not resume:
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
    if run.interrupted:
        print(f"\nstopped; nothing is lost: the same command with --resume goes on from {out}")
        return 130
    result = _report(*pair, loaded, settings, out, run.history, run.best_epoch, num_samples)
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
        y: from this component alone; where labels are what is given, this label.
        mean: the likelihood's means (smooth pictures) rather than draws.
        seed: of the draws.
        out: where to; samples.png and samples.npz in the run folder unless said.
        device: cpu, cuda, ...
        root: folder of the torchvision data sets.
    """
    import numpy as np

    model, _, loaded, _ = open_run(run, device, root)
    if hasattr(model, "covariates"):
        x = _sample_given(model, loaded, num, y, mean, seed)
    else:
        x = judge.sample(model, num, y=y, mean=mean, seed=seed).cpu()
    out = run / "samples" if out is None else out.with_suffix("")
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out.with_suffix(".npz"), x=x.numpy())
    print(out.with_suffix(".npz"))
    figure, ax = plots.axes(6, 6)
    if plots.is_image(x.shape[1:]):
        plots.images(ax, x)
    elif loaded.x_shape == (2,):
        plots.scatter(ax, x)
    else:
        return 0
    figure.savefig(out.with_suffix(".png"), dpi=110)
    print(out.with_suffix(".png"))
    return 0


def _sample_given(model, loaded, num, y, mean, seed):
    """Samples given the first test data's covariates; or given label y, or each label in turn."""
    if isinstance(loaded.condition, datasets.Labels):
        labels = torch.arange(num) % loaded.num_classes if y is None else torch.tensor([y] * num)
        if not 0 <= labels.min() <= labels.max() < loaded.num_classes:
            raise UserError(f"labels lie in 0..{loaded.num_classes - 1}; y is {y}")
        c = torch.nn.functional.one_hot(labels, loaded.num_classes)
    elif y is not None:
        raise UserError("this run is not given labels: y is not for it")
    else:
        part = loaded.observed("train" if loaded.test is None else "test")
        c = part.c[torch.arange(num) % len(part)]
    x = judge.sample(model, num, mean=mean, seed=seed, c=c.float()).cpu()
    return report.joined(loaded, x, c)


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
    """The data of a run's settings, by name or from an .npz file, with their condition.

    `settings["condition"]` and `["quadrants"]`, where they leave it to the data, are filled in.
    """
    name = settings["data"]
    if name.endswith(".npz"):
        return _conditioned(_load_npz(Path(name), settings), settings)
    likelihood, binarise = settings["likelihood"], settings["binarise"]
    if binarise is None:
        quadrants = settings["condition"] in ("auto", "quadrants") and name != "arcs"
        binary = likelihood == "bernoulli" or (likelihood is None and "mnist" in name)
        binarise = "dynamic" if binary else "none"
        if quadrants and likelihood in (None, "bernoulli"):
            binarise = "static"  # the task's pixels are binary, what is given as well
    return _conditioned(datasets.load(name, binarise=binarise, root=root), settings)


def _conditioned(loaded, settings):
    """The data, given what `settings["condition"]` says."""
    condition, quadrants = settings["condition"], settings["quadrants"]
    if condition == "auto":
        if loaded.c_shape is not None:
            condition = "data"
        elif len(loaded.x_shape) == 3 or quadrants:
            condition = "quadrants"
        elif loaded.num_classes:
            condition = "labels"
        else:
            raise UserError(
                f"a conditional model needs something to be given, and {loaded.name} has neither "
                "covariates c, nor images to take quadrants of, nor labels"
            )
    if quadrants and condition != "quadrants":
        raise UserError(f"quadrants={quadrants} is of the condition quadrants, not {condition}")
    settings["condition"] = condition
    if condition is None:
        return loaded
    if condition == "data":
        if loaded.c_shape is None:
            raise UserError(f"{loaded.name} has no covariates c: an .npz file may have an array c")
        return loaded
    if condition == "labels":
        if not loaded.num_classes or (loaded.train.y < 0).any():
            raise UserError(f"{loaded.name} has no label for every datum to condition on")
        return loaded.given(datasets.Labels(loaded.num_classes))
    if condition == "quadrants":
        settings["quadrants"] = quadrants or 1
        return loaded.given(datasets.Quadrants(settings["quadrants"], loaded.x_shape))
    raise unknown("condition", condition, ("data", "quadrants", "labels"))


def _check_condition(name, settings):
    conditional = "c" in getattr(methods.method(name).model, "observes", ())
    if (settings["condition"] or settings["quadrants"]) and not conditional:
        raise UserError(f"{name} is given nothing but x: condition and quadrants are not for it")


def _load_npz(path, settings):
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "x" not in arrays:
                raise UserError(f"{path} has no array x; it has {', '.join(arrays)}")
            x, y, c = (arrays[name] if name in arrays else None for name in "xyc")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{path} is not an .npz file of plain arrays: {e}") from e
    binarise = settings["binarise"] or "none"
    return datasets.from_arrays(x, y, c=c, name=path.stem, binarise=binarise)


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
    options["objective"] = _objective(settings)
    options["compile"] = {"true": True, "false": False}.get(
        settings["compile"], settings["compile"]
    )
    options["initialise"] = _initialisation(settings)
    return options


def _objective(settings):
    name = settings["objective"]
    if name not in methods.OBJECTIVES:
        raise unknown("objective", name, methods.OBJECTIVES)
    options = {k: settings[k] for k in ("warmup", "free_bits", "num_particles")}
    if settings["alpha"] is not None:
        if name == "elbo":
            raise UserError(
                "alpha weighs the parts of another objective; the ELBO has no such part"
            )
        options["alpha"] = settings["alpha"]
    return methods.OBJECTIVES[name](**options)


def _initialisation(settings):
    name = settings["initialise"]
    if name == "none":
        return None
    if name not in methods.INITIALISATIONS:
        raise unknown("initialisation", name, ("none", *methods.INITIALISATIONS))
    return methods.INITIALISATIONS[name](**settings["initialisation"])


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
        return COMMANDS[arguments.command](**options.as_dict())
    except UserError as e:
        print(f"pyro-vae: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
