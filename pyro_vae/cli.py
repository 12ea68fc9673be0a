"""The command `pyro-vae`: fit, evaluate, sample, compare, list."""

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import jsonargparse
import torch

from . import comparison, gallery, methods, report, summary
from . import data as datasets
from .errors import UserError, unknown, whole
from .pair import reads_index
from .pictures import pictures
from .train import checkpoint, choose_device, distributed, load_weights
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
    num_labels: int | None = None,
    label_seed: int | None = None,
    likelihood: str | None = None,
    levels: int | None = None,
    standardise: bool | None = None,
    latent_dim: int | None = None,
    num_components: int | None = None,
    w_dim: int | None = None,
    auxiliary_dim: int | None = None,
    z2_dim: int | None = None,
    network: str | None = None,
    hidden: list[int] | None = None,
    channels: list[int] | None = None,
    activation: str | None = None,
    component: str | None = None,
    family: str | None = None,
    family_options: dict | None = None,
    svi_steps: int | None = None,
    svi_lr: float | None = None,
    discrete: str | None = None,
    centre: bool | None = None,
    prior: str | None = None,
    prior_flow: str | None = None,
    prior_transforms: int | None = None,
    initialise: str | None = None,
    initialisation: dict | None = None,
    objective: str | None = None,
    alpha: float | None = None,
    sleep: float | None = None,
    leave_one_out: bool | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    batch_size: int | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    warmup: int | dict[str, int] | None = None,
    warmup_from: float | None = None,
    free_bits: dict[str, float] | None = None,
    num_particles: int | None = None,
    analytic_kl: bool | None = None,
    condition: str | None = None,
    quadrants: int | None = None,
    conditional_prior: bool | None = None,
    decoder_given: list[str] | None = None,
    baseline: str | None = None,
    compile: str | None = None,
    precision: str | None = None,
    num_samples: int = 500,
    progress: bool = True,
):
    """Train a model and report what it found.

    What is not given is the method's own setting (see `pyro-vae list`). In many processes:
    torchrun --nproc_per_node=N -m pyro_vae fit ...

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
        num_labels: keep so many training labels, in balanced classes, and hide the others.
        label_seed: of that choice.
        likelihood: bernoulli, binomial, continuous-bernoulli, discretised-logistic, categorical,
            poisson, negative-binomial, normal, grey-bernoulli.
        levels: grey levels of discretised-logistic and categorical; 256 unless said.
        standardise: columns of x less their mean and over their sd, by the training split.
        latent_dim: size of z.
        num_components: K, of mixtures.
        w_dim: size of the GMVAE's w.
        auxiliary_dim: size of the auxiliary model's a; that of z unless said.
        z2_dim: size of z2, of the hierarchical VAE and of M1+M2; latent_dim is z1's.
        network: mlp or conv.
        hidden: widths of the hidden layers, e.g. [500,500].
        channels: widths of the convolutions, from the image inwards.
        activation: relu, tanh, softplus, elu, silu.
        component: family of the mixture's components: normal (diagonal) or full.
        family: family of the guide's z: normal (diagonal), full, low-rank, mixture, or a flow: iaf, maf,
            spline, coupling.
        family_options: its arguments, e.g. '{"num_components": 8, "training": "pathwise"}'.
        svi_steps: gradient steps per datum from the encoder's answer; 0 for none.
        svi_lr: their size.
        discrete: how a discrete latent in the guide is trained: enumerate, score, relaxed.
        centre: whether the encoder sees 2x - 1 instead of x; for images, unless said.
        prior: of the model's continuous latent without parents: standard, mixture, vamp, flow.
        prior_flow: spline, coupling or maf.
        prior_transforms: layers of that flow.
        initialise: none; mixture: start components from a Gaussian mixture fitted to encodings;
            pseudo-inputs: start a VampPrior's at training data; stack: M1+M2's first stage;
            baseline: train a CVAE's baseline first.
        initialisation: its settings, over the method's own: '{"epochs": 50, "restarts": 3}'.
        objective: elbo; stl: its path derivative; iwae: importance weighted; dreg: doubly
            reparameterised; renyi; rws: reweighted wake-sleep; hybrid: the ELBO and the GSNN
            objective; semi-supervised: labelled data have their label, others sum over it.
        alpha: the Renyi bound's order (--alpha=-.inf: the largest weight); the ELBO's weight in the
            hybrid objective; of the semi-supervised one, the weight of its classification term.
        sleep: of rws, the sleep phase's share of the guide's gradient.
        leave_one_out: a baseline for latents that are sampled (discrete=score).
        lr: Adam's learning rate.
        weight_decay: decoupled, as in AdamW.
        schedule: constant, linear or cosine.
        batch_size: data a step, of all processes together.
        clip_norm: largest gradient norm.
        patience: stop after that many epochs without a better validation ELBO.
        warmup: epochs of KL warm-up, or by latent: '{"z": 50}'.
        warmup_from: the KL's weight at its start; above 1, that latent comes into use late.
        free_bits: nats per latent, e.g. '{"y": 0.5}'.
        num_particles: Monte Carlo samples per datum in training; of iwae, dreg, renyi and rws 5
            unless said.
        analytic_kl: KL in closed form, where there is one, instead of a sample of it.
        condition: what a conditional model is given: quadrants (of an image), labels, or data (the
            array c of a .npz file); what the data have, in the order data, quadrants, labels, unless
            said.
        quadrants: how many are given: 1, 2 or 3.
        conditional_prior: whether a CVAE's prior depends on c.
        decoder_given: the parents of a CVAE's x: [z,c] or [z].
        baseline: a CVAE's, whose guess its prior sees: frozen, or joint (trained with it).
        compile: record the training step and replay it, the same numbers up to rounding: auto
            (what pays for a run of this length), true (by Inductor), aten (no compiler), false.
        precision: of matrix products in training: tf32 (on a GPU), bf16 (inside the networks).
        num_samples: importance samples of the final log-likelihood.
        progress: show a progress bar.
    """
    given = {k: v for k, v in locals().items() if v is not None}
    methods.method(model)
    whole(1, num_samples=num_samples)  # now, not after hours of training
    out = Path("runs") / f"{model}-{Path(data).stem}-{seed}" if out is None else out
    if resume:
        config = distributed.first(lambda: checkpoint.read_json(out / "config.json"))
        name, settings = config["method"], {**methods.DEFAULTS, **config["settings"]}
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
    _check_condition(model, settings)
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
    result = summary.summarise(
        model, guide, loaded, split, num_samples, settings["seed"], _supervised(settings)
    )
    checkpoint.write_json(run / f"results-{split}.json", {**result, "hardware": report.hardware()})
    print(summary.table(result))
    return 0


def sample(
    run: Path,
    source: str | None = None,
    num: int | None = None,
    y: int | None = None,
    latent: str | None = None,
    mean: bool = True,
    steps: int | None = None,
    path: str = "spherical",
    observed: str = "top",
    split: str = "test",
    seed: int = 0,
    out: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
):
    """Make new data with a trained run, into a picture and a .npz file.

    The sources: prior; component (a row each); aggregate (the posterior of a training datum at
    random); ex-post (a mixture fitted to the training data's encodings); interpolate (between
    data); traverse (one latent unit at a time); complete (the missing half of data).

    Args:
        run: a run folder.
        source: prior, component, aggregate, ex-post, interpolate, traverse or complete.
        num: how many samples, samples a component, paths, units, or completions of a datum.
        y: from this component alone; of this class, or given this label.
        latent: which latent is refitted, walked along or traversed; z, or the topmost.
        mean: the likelihood's means (smooth pictures) rather than draws.
        steps: on a path (9), or of the chains that complete (200).
        path: spherical or linear.
        observed: the half that is not missing: top, bottom, left or right.
        split: whose data are walked between, traversed and completed.
        seed: of the draws.
        out: where to; samples.png and .npz in the run folder (interpolate.png, ...) unless said.
        device: cpu, cuda, ...
        root: folder of the torchvision data sets.
    """
    import numpy as np

    model, guide, loaded, _ = open_run(run, device, root)
    made = gallery.make(
        source or "prior", model, guide, loaded, num=num, y=y, latent=latent, mean=mean,
        steps=steps, path=path, observed=observed, split=split, seed=seed,
    )  # fmt: skip
    out = run / ("samples" if source in (None, "prior") else source) if out is None else out
    out = out.with_suffix("")
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out.with_suffix(".npz"), **made.arrays(loaded))
    print(out.with_suffix(".npz"))
    figure = made.figure(loaded)
    if figure is not None:
        figure.savefig(out.with_suffix(".png"), dpi=110)
        print(out.with_suffix(".png"))
    return 0


def compare(
    runs: list[Path],
    model: str | None = None,
    guides: str = "diagonal,full",
    objectives: str | None = None,
    seeds: int = 3,
    decoder: str = "trained",
    base: str | None = None,
    data: str = "digits",
    epochs: int | None = None,
    settings: dict | None = None,
    split: str = "test",
    num_samples: int = 500,
    gap_data: int = 100,
    workers: int = 1,
    out: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
    progress: bool = True,
):
    """Compare runs, or train and compare the guides of a model: one table, one figure.

    Either run folders, or --model: pyro-vae compare runs/a runs/b; pyro-vae compare --model vae
    --guides diagonal,full,spline. The second goes on where it was stopped.

    Args:
        runs: run folders, of the same data.
        model: a method by name; see pyro-vae list.
        guides: of default, constants, per-datum, semi-amortised, diagonal, full, low-rank, mixture,
            iaf, maf, spline, coupling, with commas between.
        objectives: of elbo, stl, iwae, dreg, renyi, rws, hybrid, semi-supervised, with commas
            between; the method's own unless said. Their options are settings.
        seeds: how many.
        decoder: trained: each guide trains a model of its own; frozen: one model for all.
        base: the guide that trains the model that is then frozen; the method's own unless said.
        data: digits (embedded), mnist, fashion-mnist, kmnist, arcs, or a .npz file.
        epochs: passes over the training data.
        settings: any of pyro-vae fit's, e.g. '{"latent_dim": 2, "hidden": [200]}'.
        split: whose data are judged.
        num_samples: importance samples for log p(x), ESS and k-hat.
        gap_data: how many data the gaps are of; 0 for none.
        workers: processes, each with a seed.
        out: folder; runs/compare-MODEL-DATA, or runs/compare, unless said.
        device: cpu, cuda, ...
        root: folder of the torchvision data sets.
        progress: show a progress bar.
    """
    judged = {"split": split, "num_samples": num_samples, "gap_data": gap_data}
    whole(1, num_samples=num_samples)
    whole(0, gap_data=gap_data)
    if (model is None) == (not runs):
        raise UserError("either run folders, or --model NAME --guides A,B,...")
    if runs:
        found = comparison.compare_runs(
            {run: _named_run(run, device, root) for run in runs}, **judged
        )
        out = out or Path("runs/compare")
        found.save(out)
    else:
        told = {**(settings or {}), "epochs": epochs, "data": data}
        chosen = methods.settings(model, told, data)
        _check_condition(model, chosen)
        loaded = load_data(chosen, root)
        chosen["likelihood"] = chosen["likelihood"] or loaded.likelihood
        made = model, chosen, shapes(loaded)
        if base is not None or decoder == "frozen":
            base = methods.MakeGuide(*made, base or "default")
        options = fit_options(chosen)
        del options["seed"], options["objective"]
        objectives = objectives.split(",") if objectives else [chosen["objective"]]
        out = out or Path("runs") / f"compare-{model}-{Path(data).stem}"
        found = comparison.compare(
            {model: methods.MakeModel(*made)},
            {name: methods.MakeGuide(*made, name) for name in guides.split(",")},
            loaded,
            objectives={
                name: methods.objective(methods.settings(model, {**told, "objective": name}, data))
                for name in objectives
            },
            seeds=seeds, decoder=decoder, base=base, workers=workers, out=out, device=device,
            progress=progress, **judged, **options,
        )  # fmt: skip
    print(found)
    print(f"\n{out / 'compare.csv'}\n{out / 'compare.png'}")
    return 0


def _named_run(run, device, root):
    """`open_run`, with the method's name among the settings."""
    model, guide, loaded, settings = open_run(run, device, root)
    name = checkpoint.read_json(run / "config.json")["method"]
    return model, guide, loaded, {**settings, "method": name}


def list_():
    """List the methods: model, guide, paper."""
    for name, found in methods.METHODS.items():
        print(f"{name:<17} {found.model.__name__:<16} {found.guide:<46} {found.paper}")
    print(f"\ndata: {', '.join(datasets.DATASETS)}, or a .npz file with x (and y)")
    return 0


def open_run(run, device=None, root=None):
    """`(model, guide, data, settings)` of a run folder, with its best weights."""
    run = Path(run)
    config = checkpoint.read_json(run / "config.json")
    if not {"method", "settings"} <= set(config):
        raise UserError(f"{run} was not written by pyro-vae fit: build its pair in Python")
    settings = {**methods.DEFAULTS, **config["settings"]}  # of an older version: fewer
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
    loaded = _load(settings, root)
    if settings["standardise"]:
        loaded = datasets.standardise(loaded)
    if settings["num_labels"] is not None:
        loaded = loaded.keep_labels(settings["num_labels"], settings["label_seed"])
    return _conditioned(loaded, settings)


def _load(settings, root):
    name = settings["data"]
    if name.endswith(".npz"):
        return _load_npz(Path(name), settings)
    likelihood, binarise = settings["likelihood"], settings["binarise"]
    if binarise is None:
        quadrants = settings["condition"] in ("auto", "quadrants") and name != "arcs"
        binary = likelihood == "bernoulli" or (likelihood is None and "mnist" in name)
        binarise = "dynamic" if binary else "none"
        if quadrants and likelihood in (None, "bernoulli"):
            binarise = "static"  # the task's pixels are binary, what is given as well
    return datasets.load(name, binarise=binarise, root=root)


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
        "precision",
        "seed",
    )
    options = {name: settings[name] for name in names}
    options["objective"] = methods.objective(settings)
    options["compile"] = _compile(settings)
    options["initialise"] = _initialisation(settings)
    return options


def _compile(settings):
    return {"true": True, "false": False}.get(settings["compile"], settings["compile"])


def _supervised(settings):
    return settings["objective"] == "semi-supervised"


def _initialisation(settings):
    name, known = settings["initialise"], methods.INITIALISATIONS
    if name == "none":
        return None
    if name not in known:
        raise unknown("initialisation", name, ("none", *known))
    own = {f.name for f in fields(known[name])} & {"compile"}
    same = {name: _compile(settings) for name in own}  # as the run, where it trains anything
    return known[name](**{**same, **settings["initialisation"]})


def _report(model, guide, loaded, settings, out, history, best_epoch, num_samples):
    split = "train" if reads_index(guide) or loaded.test is None else "test"
    seed = settings["seed"]
    result = summary.summarise(
        model, guide, loaded, split, num_samples, seed, _supervised(settings)
    )
    config = checkpoint.read_json(out / "config.json")
    checkpoint.write_json(out / f"results-{split}.json", {**result, "hardware": report.hardware()})
    method = methods.method(config["method"])
    figures = pictures(model, guide, loaded, result, history, best_epoch, seed)
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


COMMANDS = {"fit": fit, "evaluate": evaluate, "sample": sample, "compare": compare, "list": list_}


def main(argv=None):
    """Entry point; returns the exit status."""
    parser = _Parser(prog="pyro-vae", description=__doc__, allow_abbrev=False)
    commands = parser.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        described = function.__doc__.split("\n\n")[0]
        sub = _Parser(prog=f"pyro-vae {name}", description=described, allow_abbrev=False)
        several = {"runs"} if function is compare else set()  # any number, none too
        if several:
            sub.add_argument("runs", type=Path, nargs="*", help="run folders, of the same data")
        sub.add_function_arguments(function, as_positional=True, skip=several)
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
