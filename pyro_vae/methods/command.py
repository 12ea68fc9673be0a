"""The call that reproduces a run: its method and the options that differ from the preset."""

import shlex

from ..data import DATASETS, Data, Labels, Quadrants, data_set
from ..data.sets import default_condition
from ..programs.program import plain_value
from .files import plain
from .groups import choice_groups, is_conditional
from .options import configure
from .parser import split_words
from .preparing import (
    default_binarization,
    has_numeric_covariates,
    is_standardized_by_default,
)
from .sizes import epochs_for, latent_dim_for

NUM_SAMPLES = 500  # importance samples of a report, unless the caller sets another number


def reproduction(config: dict, data: Data, num_samples: int = NUM_SAMPLES) -> str:
    """The command, or for data from arrays the Python call, that trains and evaluates a run again.

    Args:
        config: a complete configuration.
        data: what it was trained on.
        num_samples: importance samples of the log-likelihood in its report.

    Example:
        >>> import pyro_vae as pv
        >>> from pyro_vae.methods.command import reproduction
        >>> method = pv.method("vae", "digits", latent_dim=2, epochs=5)
        >>> reproduction(method.config, method.data)
        'pyro-vae fit vae --model.latent-dim 2 --epochs 5'
        >>> reproduction(method.config, method.data, num_samples=5000)
        'pyro-vae fit vae --model.latent-dim 2 --epochs 5 --num-samples 5000'
    """
    changed = changes(config, data)
    is_default = num_samples == NUM_SAMPLES
    if config["data"] is None:
        settings = ", ".join(f"{k!r}: {v!r}" for k, v in changed.items())
        options = f", **{{{settings}}}" if settings else ""
        evaluation = "" if is_default else f".evaluate(num_samples={num_samples})"
        return f"pv.method({config['method']!r}, data{options}).fit(){evaluation}"
    words = ["pyro-vae", "fit", config["method"]]
    if config["data"] != "digits":
        words += ["--data", config["data"]]
    for key, value in changed.items():
        words += ["--" + key.replace("_", "-"), *split_words(key, value)]
    words += [] if is_default else ["--num-samples", str(num_samples)]
    return shlex.join(words)


def changes(config: dict, data: Data) -> dict:
    """`{option: value}` of what differs from the preset of the configuration's method and data."""
    name = config["method"]
    source = data if config["data"] is None else config["data"]
    base = configure(name, source)
    classes = {g: config[g] for g in choice_groups(name) if config[g] != base[g]}
    base = {**configure(name, source, classes), "method": name, "data": config["data"]}
    base |= {k: v for k, v in _filled(config, data).items() if base.get(k, v) is None}
    values = {k: plain(v) for k, v in config.items() if k not in classes}
    return classes | {k: v for k, v in values.items() if v != plain(base.get(k))}


def _filled(config: dict, data: Data) -> dict:
    """What a method fills in, from the data, for options that are None."""
    likelihood = plain_value(data.likelihood)
    filled = {"model.likelihood": likelihood, "model.num_classes": data.num_classes or 10}
    filled["model.latent_dim"] = latent_dim_for(config["method"], data.x_shape)
    filled["epochs"] = epochs_for(data.num_train, config["batch_size"])
    conditional = is_conditional(config["method"])
    if conditional:
        is_ours = isinstance(data.dense_condition, (Labels, Quadrants))  # others come with the data
        own = data.with_condition(None) if is_ours else data
        filled["condition"], quadrants = default_condition(own)
        filled["quadrants"] = quadrants if config["condition"] == "quadrants" else None
        filled["standardize_c"] = data.c_scaling is not None or has_numeric_covariates(data)
    named = config["data"]
    filled["standardize"] = is_standardized_by_default(data, named, config["model.likelihood"])
    filled["binarize"] = data.binarize if named is None else "none"
    if named in DATASETS:
        is_default = config["model.likelihood"] == data.likelihood
        own_likelihood = None if is_default else config["model.likelihood"]
        of_images = conditional and config["condition"] == "quadrants"
        filled["binarize"] = default_binarization(DATASETS[named], own_likelihood, of_images)
    else:
        is_declared = named is not None and not data_set(named).missing
        filled["missing"] = False if is_declared else data.missing
    return filled
