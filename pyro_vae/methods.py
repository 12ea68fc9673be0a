"""The methods by name: which model, which guide, which paper, and the settings to start from.

A method is data: `build(config)` makes the pair from plain JSON values, so a run folder's
`config.json` is enough to build it again.
"""

import inspect
from dataclasses import dataclass, field, fields
from functools import partial

from .conditionals import (
    MLP,
    Conv,
    Flow,
    LowRankNormal,
    MixtureOfNormals,
    MultivariateNormal,
    Normal,
    likelihood,
)
from .conditionals.networks import is_image, network_between
from .errors import UserError, unknown
from .guides import Guide, PriorGuide, SemiAmortised
from .models import (
    CVAE,
    GMVAE,
    M1M2,
    M2,
    VAE,
    AuxiliaryDGM,
    FlowPrior,
    HierarchicalVAE,
    MixturePrior,
    MixtureVAE,
    NNBaseline,
    VampPrior,
)
from .objectives import ELBO, IWAE, RWS, STL, DReG, Hybrid, Renyi, SemiSupervised
from .train import (
    BaselineInitialisation,
    MixtureInitialisation,
    PseudoInputs,
    StackInitialisation,
)

OBJECTIVES = {
    "elbo": ELBO,
    "stl": STL,
    "iwae": IWAE,
    "dreg": DReG,
    "renyi": Renyi,
    "rws": RWS,
    "hybrid": Hybrid,
    "semi-supervised": SemiSupervised,
}
#: What a method's settings may say of its objective: arguments of those that take them.
OBJECTIVE_OPTIONS = (
    "num_particles",
    "alpha",
    "sleep",
    "warmup",
    "warmup_from",
    "free_bits",
    "leave_one_out",
    "analytic_kl",
)
INITIALISATIONS = {
    "baseline": BaselineInitialisation,
    "mixture": MixtureInitialisation,
    "pseudo-inputs": PseudoInputs,
    "stack": StackInitialisation,
}
COMPONENTS = {"normal": Normal(), "full": MultivariateNormal()}
#: Of the guide's z; `family_options` are their arguments.
FAMILIES = {
    "normal": Normal,
    "full": MultivariateNormal,
    "low-rank": LowRankNormal,
    "mixture": MixtureOfNormals,
    **{flow: partial(Flow, flow) for flow in ("iaf", "maf", "spline", "coupling")},
}
#: Guides by name, for comparisons: parents of every latent (None: the method's own), settings.
GUIDES = {
    "default": (None, {}),
    "constants": ([], {}),
    "per-datum": (["index"], {}),
    "semi-amortised": (None, {"svi_steps": 5}),
    "diagonal": (None, {"family": "normal", "family_options": {}}),
    **{f: (None, {"family": f, "family_options": {}}) for f in FAMILIES if f != "normal"},
}
PRIORS = ("standard", "mixture", "vamp", "flow")


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
    "num_labels": None,
    "label_seed": 0,
    "latent_dim": 10,
    "num_components": 10,
    "learn_weights": True,
    "w_dim": 10,
    "z2_dim": None,
    "likelihood": None,
    "levels": None,
    "standardise": False,
    "network": "mlp",
    "hidden": [128, 128],
    "channels": [32, 64],
    "activation": "relu",
    "auxiliary_dim": None,
    "skip": False,
    "component": "normal",
    "family": "normal",
    "family_options": {},
    "svi_steps": 0,
    "svi_lr": 0.05,
    "discrete": "enumerate",
    "centre": None,
    "prior": "standard",
    "prior_flow": "maf",
    "prior_transforms": 4,
    "initialise": "none",
    "initialisation": {},
    "epochs": 200,
    "objective": "elbo",
    "alpha": None,
    "sleep": None,
    "leave_one_out": None,
    "lr": 1e-3,
    "schedule": "cosine",
    "batch_size": 128,
    "weight_decay": 0.0,
    "clip_norm": None,
    "patience": None,
    "warmup": 0,
    "warmup_from": 0.0,
    "free_bits": {},
    "num_particles": None,
    "analytic_kl": False,
    "condition": None,
    "quadrants": None,
    "conditional_prior": True,
    "decoder_given": ["z", "c"],
    "baseline": None,
    "compile": "auto",
    "precision": None,
}
#: What digits train best with (`python -m benchmarks.priors`), where a method does not say.
DIGITS = {"latent_dim": 24, "hidden": [500], "lr": 2e-3, "weight_decay": 0.2}
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
    "weight_decay": 0.0,
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

#: For few labels; digits' chosen by the error on the 180 validation images, in some fifteen trials,
#: seed 0 (`benchmarks/semi_supervised.py` says how). MNIST's alpha is the paper's, and untried here.
SEMI = {
    "objective": "semi-supervised",
    "alpha": 10.0,
    "num_labels": 100,
    "latent_dim": 24,
    "hidden": [256],
    "epochs": 100,
    "lr": 3e-3,
    "weight_decay": 0.0,
}
SEMI_LARGE = {"alpha": 0.1, "latent_dim": 50}
M1_SETTINGS = {
    "num_labels": 100,
    "latent_dim": 24,
    "hidden": [256],
    "epochs": 200,
    "lr": 2e-3,
    "weight_decay": 0.0,
}
SOHN = "Sohn, Lee and Yan 2015, NeurIPS"
#: For conditional models; chosen by the validation bound (`python -m benchmarks.conditional --choose`).
CONDITIONAL = {
    "condition": "auto",
    "latent_dim": 10,
    "hidden": [500],
    "lr": 1e-3,
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
    "iaf-vae": Method(
        VAE,
        "z <- x, family an inverse autoregressive flow",
        "Kingma et al. 2016, arXiv 1606.04934",
        settings={"family": "iaf"},
    ),
    "mixture-posterior": Method(
        VAE,
        "z <- x, family a mixture of normals",
        "Morningstar et al. 2020, arXiv 2003.01687",
        settings={"family": "mixture"},
    ),
    "semi-amortised": Method(
        VAE,
        "z <- x, then gradient steps per datum",
        "Kim et al. 2018, arXiv 1802.02550",
        settings={"svi_steps": 5},
    ),
    "mixture-vae": Method(MixtureVAE, "z <- x; y summed exactly", "as vade, from random weights"),
    "vade": Method(
        MixtureVAE,
        "z <- x; y summed exactly",
        "Jiang et al. 2017, arXiv 1611.05148",
        settings={**CLUSTERING, "component": "normal"},
        large=CLUSTERING_LARGE,
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
    "m1": Method(
        VAE,
        "z <- x, then a classifier of z",
        "Kingma et al. 2014, arXiv 1406.5298",
        settings=M1_SETTINGS,
        large={"latent_dim": 50},
    ),
    "m2": Method(
        M2,
        "y <- x; z <- x, y",
        "Kingma et al. 2014, arXiv 1406.5298",
        # z dear at first: else it takes the class along, and the decoder never comes to use y
        settings={**SEMI, "warmup": {"z": 50}, "warmup_from": 5.0},
        large=SEMI_LARGE,
    ),
    "m1-m2": Method(
        M1M2,
        "z1 <- x; y <- z1; z2 <- z1, y",
        "Kingma et al. 2014, arXiv 1406.5298",
        settings={
            **SEMI,
            "initialise": "stack",
            "initialisation": {"epochs": 200, "lr": 2e-3},
        },
        large={
            **SEMI_LARGE,
            "initialisation": {"epochs": 40, "lr": 2e-3, "batch_size": 256},
        },
    ),
    "auxiliary-dgm": Method(
        AuxiliaryDGM,
        "a <- x; y <- a, x; z <- a, x, y",
        "Maaloe et al. 2016, arXiv 1602.05473",
        settings=SEMI,
        large=SEMI_LARGE,
    ),
    "skip-dgm": Method(
        AuxiliaryDGM,
        "a <- x; y <- a, x; z <- a, x, y",
        "Maaloe et al. 2016, arXiv 1602.05473",
        settings={**SEMI, "skip": True},
        large=SEMI_LARGE,
    ),
    "m2-clustering": Method(
        M2,
        "y <- x; z <- x, y",
        "M2 without labels: a failure, see Rui Shu 2016, ruishu.io",
        settings={
            "likelihood": "bernoulli",
            "latent_dim": 64,
            "hidden": [256],
            "epochs": 100,
            "lr": 3e-3,
            "warmup": 20,
        },
        large={"latent_dim": 64},
    ),
    "hierarchical-vae": Method(
        HierarchicalVAE,
        "z1 <- x; z2 <- z1",
        "Burda et al. 2016, arXiv 1509.00519",
        settings={"z2_dim": 5},
        large={"z2_dim": 8},
    ),
    "mixture-prior": Method(
        VAE,
        "z <- x",
        "mixture-vae, y summed in the prior's density",
        settings={"prior": "mixture", "num_components": 50, "component": "full"},
    ),
    "vampprior": Method(
        VAE,
        "z <- x, by the prior's encoder",
        "Tomczak and Welling 2018, arXiv 1705.07120",
        settings={"prior": "vamp", "num_components": 50, "initialise": "pseudo-inputs"},
        large={"num_components": 500},
    ),
    "flow-prior": Method(
        VAE,
        "z <- x",
        "Chen et al. 2017, arXiv 1611.02731; flow: 1705.07057",
        settings={"prior": "flow"},
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
    chosen = {**DEFAULTS, **(DIGITS if data == "digits" else {}), **method(name).settings}
    if "mnist" in data:
        chosen |= LARGE | method(name).large
    if data.endswith(".npz"):
        chosen["num_labels"] = None  # a file says by -1 what is not labelled
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    if given.get("objective", chosen["objective"]) != chosen["objective"]:
        known = objective_options(given["objective"])
        lost = {o: DEFAULTS[o] for o in OBJECTIVE_OPTIONS if o not in known}
        chosen |= lost  # the method's own, for the objective that it does not have now
    start = {**chosen["initialisation"], **given.get("initialisation", {})}
    chosen |= {**given, "initialisation": start}
    _all_known("setting", chosen, DEFAULTS)
    starts = [INITIALISATIONS.get(chosen["initialise"], MixtureInitialisation)]
    if chosen["initialise"] == "none":  # the method's own may be another's
        starts = INITIALISATIONS.values()
    known = [f.name for kind in starts for f in fields(kind)]
    _all_known("setting of initialisation", start, known)
    return chosen


def _all_known(kind, names, known):
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def objective(config):
    """The objective that a method's settings name, with those of its options that they say.

    Raises:
        UserError: an unknown name, an option that the objective does not have.
    """
    name = config["objective"]
    known = objective_options(name)
    chosen = {o: config[o] for o in OBJECTIVE_OPTIONS if config[o] != DEFAULTS[o]}
    for option in chosen:
        if option not in known:
            raise UserError(f"the objective {name} has no {option}; it has {', '.join(known)}")
    return OBJECTIVES[name](**chosen)


def objective_options(name):
    """Which of `OBJECTIVE_OPTIONS` an objective takes."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    takes = inspect.signature(OBJECTIVES[name]).parameters
    if "options" in takes:  # the ELBO's, passed on
        takes = {**takes, **inspect.signature(ELBO).parameters}
    return [option for option in OBJECTIVE_OPTIONS if option in takes]


def build(name, config, x_shape, num_data=None, c_shape=None, num_classes=None):
    """The pair `(model, guide)` of a method, from JSON settings.

    Args:
        name: a key of `METHODS`.
        config: settings; see `settings`.
        x_shape: event shape of the data.
        num_data: training data, for guides with a row per datum.
        c_shape: event shape of the covariates, for conditional models.
        num_classes: for models of labels; `num_components` where the data do not say.
    """
    found = method(name)
    network = _network(config, x_shape)
    options = {
        **config,
        "likelihood": likelihood(config["likelihood"], config["levels"]),
        "network": network,
        "component": _component(config["component"]),
        "c_shape": c_shape,
        "num_classes": config["num_components"] if num_classes is None else num_classes,
        "latent_dims": (config["latent_dim"], config["z2_dim"]),
        "c_is_class": config.get("condition") == "labels",
    }
    takes = inspect.signature(found.model).parameters
    options["prior"] = _prior(name, config, x_shape, c_shape, num_classes, network)
    model = found.model(tuple(x_shape), **{k: v for k, v in options.items() if k in takes})
    return model, build_guide(name, config, model, x_shape, num_data)


def build_guide(name, config, model, x_shape, num_data=None, given=None):
    """The guide of a method for its `model`; of another factorisation where one is given."""
    found = method(name)
    if given is None:
        given = model.default_guide if found.given is None else found.given
    if given == "prior":
        if config["family"] != "normal":
            raise UserError(f"{name}'s guide is the prior: it has no family of its own")
        if config["svi_steps"]:
            raise UserError(f"{name}'s guide is the prior: it has nothing for svi_steps to move")
        return PriorGuide(model)
    family = {n: _family(config) for n in given if n.startswith("z")}
    if not family and config["family"] != "normal":
        raise UserError(f"{name} has no guide of z whose family could be {config['family']}")
    guide = Guide(
        model,
        given=given,
        family=family,
        network=_network(config, x_shape),
        discrete=config["discrete"],
        standardise=_standardised(config, x_shape, given),
        num_data=num_data,
    )
    if config["svi_steps"]:
        if not given:
            raise UserError(f"{name} has no latent for svi_steps to move")
        guide = SemiAmortised(model, guide, config["svi_steps"], config["svi_lr"])
    return guide


@dataclass(frozen=True)
class MakeModel:
    """A method's model, made anew by each call; for `compare`, whose processes it can go to."""

    name: str
    config: dict
    shapes: tuple

    def __call__(self):
        return build(self.name, self.config, *self.shapes)[0]


@dataclass(frozen=True)
class MakeGuide:
    """A guide for a method's model, by one of the names in `GUIDES`."""

    name: str
    config: dict
    shapes: tuple
    guide: str

    def __post_init__(self):
        if self.guide not in GUIDES:
            raise unknown("guide", self.guide, GUIDES)

    def __call__(self, model, num_data):
        parents, changes = GUIDES[self.guide]
        given = None
        if parents is not None:
            known = method(self.name).given
            if known == "prior":
                raise UserError(f"{self.name}'s guide is the prior: it cannot be {self.guide}")
            given = {n: parents for n in (model.default_guide if known is None else known)}
        config = {**self.config, **changes}
        return build_guide(self.name, config, model, self.shapes[0], num_data, given)


def _prior(name, config, x_shape, c_shape, num_classes, network):
    """The module for a model's `prior=`, from the setting `prior`; None for the model's own."""
    kind, found = config["prior"], method(name)
    if kind not in PRIORS:
        raise unknown("prior", kind, PRIORS)
    if kind == "standard":
        return None
    if "prior" not in inspect.signature(found.model).parameters:
        raise UserError(f"{name}'s prior is its model's own: {kind!r} cannot take its place")
    latent = getattr(found.model, "prior_latent", "z")
    sizes = {"z": "latent_dim", "z1": "latent_dim", "z2": "z2_dim", "w": "w_dim"}
    shapes = {n: (config[s],) for n, s in sizes.items()}
    size = config[sizes[latent]]
    if kind == "mixture":
        return MixturePrior(size, config["num_components"], _component(config["component"]))
    if kind == "flow":
        return FlowPrior(size, config["prior_flow"], config["prior_transforms"])
    shapes |= {"x": tuple(x_shape), "c": c_shape, "y": (num_classes,)}
    given = found.given if isinstance(found.given, dict) else found.model.default_guide
    parents = [p for p in given.get(latent, ()) if p != "index"] or ["x"]
    family = _family(config) if latent in ("z", "z2") else Normal()
    return VampPrior(
        {p: shapes[p] for p in parents},
        size,
        config["num_components"],
        network_between(network, *(shapes[p] for p in parents)),
        family,
    )


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


def _component(name):
    if name not in COMPONENTS:
        raise unknown("family of components", name, COMPONENTS)
    return COMPONENTS[name]


def _family(config):
    name, options = config["family"], config["family_options"]
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    kind = FAMILIES[name]
    known = [f.name for f in fields(getattr(kind, "func", kind)) if f.name != "flow"]
    _all_known(f"option of the family {name}", options, known)
    return kind(**options)


def _network(config, x_shape):
    hidden = tuple(config["hidden"])
    if config["network"] == "mlp":
        return MLP(hidden, config["activation"])
    if config["network"] == "conv":
        if not is_image(x_shape):
            raise UserError(
                "a convolutional network needs data of shape (C, L), (C, H, W) or (C, D, H, W); "
                f"x is {list(x_shape)}"
            )
        return Conv(tuple(config["channels"]), hidden[-1:], config["activation"])
    raise unknown("network", config["network"], ("mlp", "conv"))
