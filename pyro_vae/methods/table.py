"""The published methods: model, guide, paper, and the settings that differ from the defaults.

Settings are written as on the command line: `"model.latent_dim": 24`, `"network.hidden": [500]`,
`"objective": "IWAE"`, `"objective.num_particles": 8`, `"epochs": 100`. They hold for every kind of
data. `digits` and `images` (28 x 28: the MNIST family) say what differs there. This module does not import torch.
"""

from dataclasses import dataclass, field
from typing import Any

from ..errors import unknown_name_error


@dataclass(frozen=True)
class Preset:
    """A published method: a named model/guide pair and its settings.

    Args:
        model_name: the name of the model's class.
        guide: the guide in words.
        paper: where the method comes from.
        parents: `{latent: [parents]}` of the guide. Default: `model.default_guide`. `"prior"` stands
            for `PriorGuide`.
        settings: what differs from `DEFAULTS`, for every kind of data.
        digits: what differs for digits.
        images: what differs for 28 x 28 images.

    Example:
        >>> import pyro_vae as pv
        >>> preset = pv.methods.METHODS["gmvae"]
        >>> preset.model_name, preset.guide
        ('GMVAE', 'w <- x; z <- x; y summed exactly')
    """

    model_name: str
    guide: str
    paper: str
    parents: dict[str, list[str]] | str | None = None
    settings: dict[str, object] = field(default_factory=dict)
    digits: dict[str, object] = field(default_factory=dict)
    images: dict[str, object] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The model's class."""
        from .. import models

        return getattr(models, self.model_name)


#: What every method starts from, where it has the option.
DEFAULTS: dict[str, object] = {
    "model.latent_dim": 10,
    "model.num_components": 10,
    "model.w_dim": 10,
    "model.z2_dim": None,
    "model.auxiliary_dim": None,
    "network": "MLP",
    "network.hidden": [128, 128],
    "family": "Normal",
    "prior": None,
    "objective": "ELBO",
    "initialize": None,
    "refine.steps": 0,
    "epochs": 200,
    "lr": 1e-3,
    "schedule": "cosine",
    "batch_size": 128,
}
#: What digits train best with (`python -m benchmarks.quality.priors`); a method's settings go over it.
DIGITS: dict[str, object] = {
    "model.latent_dim": 24,
    "network.hidden": [500],
    "lr": 2e-3,
    "weight_decay": 0.2,
}
#: What the MNIST family needs; it goes over a method's settings.
IMAGES: dict[str, object] = {
    "model.latent_dim": 16,
    "network.hidden": [500, 500],
    "epochs": 40,
    "batch_size": 256,
    "lr": 2e-3,
}
#: What a table needs, whose noise is learned; a method's settings go over it. The data determine the
#: likelihood, and the epochs that are null (`epochs_for`).
TABLE: dict[str, object] = {"lr": 2e-3, "epochs": None}
#: Kinds of data. A table is anything that is neither digits nor of the MNIST family.
KINDS = ("digits", "images", "table")

#: For clustering. `python -m benchmarks.quality.clustering_settings` compares them by the validation bound;
#: width, learning rates and batch sizes come from trials that docs/results.md tells of.
CLUSTERING: dict[str, object] = {
    "model.latent_dim": 24,
    "network.hidden": [500],
    "initialize": "MixtureInitialization",
    "initialize.epochs": 300,
    "initialize.lr": 2e-3,
    "initialize.weight_decay": 0.2,
    "initialize.validate_every": 10,
    "initialize.fits": 30,
    "initialize.draws": 4,
    "initialize.reg_covar": 0.05,
    "initialize.vaes": 6,
    "epochs": 100,
    "validate_every": 5,
    "lr": 5e-4,
    "weight_decay": 0.0,
}
#: Larger learning rates; fewer epochs of the first VAEs, and larger batches afterwards: a run takes less
#: time (docs/results.md).
CLUSTERING_DIGITS: dict[str, object] = {
    "initialize.epochs": 150,
    "initialize.lr": 3e-3,
    "batch_size": 256,
    "lr": 1e-3,
}
CLUSTERING_IMAGES: dict[str, object] = {
    "validate_every": 1,
    "initialize.validate_every": 1,
    "center": False,  # mostly black; centered, one trial (one seed each, test bound) lost a nat
    "initialize.epochs": 10,
    "initialize.lr": 1e-3,
    "initialize.weight_decay": 0.0,
    "initialize.batch_size": 256,
    "initialize.fits": 2,
    "initialize.vaes": 1,
    "restarts": 3,  # one takes seven minutes of one CPU core on MNIST, and uses all cores
}
#: For few labels; digits' chosen by the error on the 180 validation images, in some fifteen trials,
#: seed 0 (`benchmarks/quality/semi_supervised.py` says how). MNIST's alpha is the paper's, and untried here.
SEMI_SUPERVISED: dict[str, object] = {
    "objective": "SemiSupervised",
    "objective.alpha": 10.0,
    "num_labels": 100,
    "model.latent_dim": 24,
    "network.hidden": [256],
    "epochs": 100,
    "lr": 3e-3,
    "weight_decay": 0.0,
}
SEMI_SUPERVISED_IMAGES: dict[str, object] = {"objective.alpha": 0.1, "model.latent_dim": 50}
#: For conditional models.
CONDITIONAL: dict[str, object] = {
    "model.latent_dim": 10,
    "network.hidden": [500],
    "objective.warmup": 20,
}
#: Chosen by the validation bound (`python -m benchmarks.quality.conditional --choose`), on 1,257 images
#: whose likelihood has no scale. Such a decay holds every parameter near 0: a learned scale could not
#: become less than a third of the data's.
CONDITIONAL_DIGITS: dict[str, object] = {"lr": 1e-3, "epochs": 100, "weight_decay": 1.0}

KINGMA_2014 = "Kingma et al. 2014, arXiv 1406.5298"
MAALOE_2016 = "Maaloe et al. 2016, arXiv 1602.05473"
SOHN_2015 = "Sohn, Lee and Yan 2015, NeurIPS"

METHODS = {
    "vae": Preset("VAE", "z <- x", "Kingma and Welling 2013, arXiv 1312.6114"),
    "vae-constants": Preset(
        "VAE",
        "z <- nothing: mu and sigma learned constants",
        "the ablation of amortization",
        {"z": []},
    ),
    "vae-per-datum": Preset(
        "VAE",
        "z <- index: mu and sigma per data point",
        "Hoffman et al. 2013, arXiv 1206.7051",
        {"z": ["index"]},
    ),
    "iaf-vae": Preset(
        "VAE",
        "z <- x, family an inverse autoregressive flow",
        "Kingma et al. 2016, arXiv 1606.04934",
        settings={"family": "Flow", "family.flow": "iaf"},
    ),
    "mixture-posterior": Preset(
        "VAE",
        "z <- x, family a mixture of normals",
        "Morningstar et al. 2020, arXiv 2003.01687",
        settings={"family": "MixtureOfNormals"},
    ),
    "semi-amortized": Preset(
        "VAE",
        "z <- x, then gradient steps per data point",
        "Kim et al. 2018, arXiv 1802.02550",
        settings={"refine.steps": 5},
    ),
    "mixture-vae": Preset("MixtureVAE", "z <- x; y summed exactly", "as vade, from random weights"),
    "vade": Preset(
        "MixtureVAE",
        "z <- x; y summed exactly",
        "Jiang et al. 2017, arXiv 1611.05148",
        settings=CLUSTERING,
        digits=CLUSTERING_DIGITS,
        images=CLUSTERING_IMAGES,
    ),
    "shu-gmvae": Preset(
        "MixtureVAE",
        "y <- x; z <- x, y",
        "Rui Shu 2016, ruishu.io",
        {"y": ["x"], "z": ["x", "y"]},
        settings={"model.learn_weights": False},
    ),
    "gmvae": Preset(
        "GMVAE",
        "w <- x; z <- x; y summed exactly",
        "Dilokthanakul et al. 2016, arXiv 1611.02648",
        settings={**CLUSTERING, "model.w_dim": 2, "model.component": "MultivariateNormal"},
        digits=CLUSTERING_DIGITS,
        images={**CLUSTERING_IMAGES, "model.w_dim": 10},
    ),
    "gmvae-v1": Preset(
        "GMVAE",
        "w <- x; z <- x; y <- x",
        "Dilokthanakul et al. 2016, first version",
        {"w": ["x"], "z": ["x"], "y": ["x"]},
    ),
    "m1": Preset(
        "VAE",
        "z <- x, then a classifier of z",
        KINGMA_2014,
        settings={
            "num_labels": 100,
            "model.latent_dim": 24,
            "network.hidden": [256],
            "epochs": 200,
            "lr": 2e-3,
            "weight_decay": 0.0,
        },
        images={"model.latent_dim": 50},
    ),
    "m2": Preset(
        "M2",
        "y <- x; z <- x, y",
        KINGMA_2014,
        # z costs more at first: else it takes the class along, and the decoder never uses y
        settings={
            **SEMI_SUPERVISED,
            "objective.warmup": {"z": 50},
            "objective.warmup_start": 5.0,
        },
        images=SEMI_SUPERVISED_IMAGES,
    ),
    "m1-m2": Preset(
        "M1M2",
        "z1 <- x; y <- z1; z2 <- z1, y",
        KINGMA_2014,
        settings={
            **SEMI_SUPERVISED,
            "initialize": "StackInitialization",
            "initialize.epochs": 200,
            "initialize.lr": 2e-3,
        },
        images={
            **SEMI_SUPERVISED_IMAGES,
            "initialize.epochs": 40,
            "initialize.batch_size": 256,
        },
    ),
    "auxiliary-dgm": Preset(
        "AuxiliaryDGM",
        "a <- x; y <- a, x; z <- a, x, y",
        MAALOE_2016,
        settings=SEMI_SUPERVISED,
        images=SEMI_SUPERVISED_IMAGES,
    ),
    "skip-dgm": Preset(
        "AuxiliaryDGM",
        "a <- x; y <- a, x; z <- a, x, y",
        MAALOE_2016,
        settings={**SEMI_SUPERVISED, "model.skip": True},
        images=SEMI_SUPERVISED_IMAGES,
    ),
    "m2-clustering": Preset(
        "M2",
        "y <- x; z <- x, y",
        "M2 without labels: a failure, see Rui Shu 2016, ruishu.io",
        settings={
            "model.latent_dim": 64,
            "network.hidden": [256],
            "epochs": 100,
            "lr": 3e-3,
            "objective.warmup": 20,
        },
        digits={"model.likelihood": "bernoulli"},
        images={"model.likelihood": "bernoulli", "model.latent_dim": 64},
    ),
    "hierarchical-vae": Preset(
        "HierarchicalVAE",
        "z1 <- x; z2 <- z1",
        "Burda et al. 2016, arXiv 1509.00519",
        settings={"model.z2_dim": 5},
        images={"model.z2_dim": 8},
    ),
    "mixture-prior": Preset(
        "VAE",
        "z <- x",
        "mixture-vae, y summed in the prior's density",
        settings={
            "prior": "MixturePrior",
            "prior.num_components": 50,
            "prior.family": "MultivariateNormal",
        },
    ),
    "vampprior": Preset(
        "VAE",
        "z <- x, by the prior's encoder",
        "Tomczak and Welling 2018, arXiv 1705.07120",
        settings={
            "prior": "VampPrior",
            "prior.num_components": 50,
            "initialize": "PseudoInputInitialization",
        },
        images={"prior.num_components": 500},
    ),
    "flow-prior": Preset(
        "VAE",
        "z <- x",
        "Chen et al. 2017, arXiv 1611.02731; flow: 1705.07057",
        settings={"prior": "FlowPrior"},
    ),
    "cvae": Preset("CVAE", "z <- x, c", SOHN_2015, settings=CONDITIONAL, digits=CONDITIONAL_DIGITS),
    "relaxed-cvae": Preset(
        "CVAE",
        "z <- x, c; the prior p(z) without c",
        SOHN_2015,
        settings={**CONDITIONAL, "model.conditional_prior": False},
        digits=CONDITIONAL_DIGITS,
    ),
    "gsnn": Preset(
        "CVAE", "the prior itself: z <- c", SOHN_2015, "prior", CONDITIONAL, CONDITIONAL_DIGITS
    ),
    "hybrid-cvae": Preset(
        "CVAE",
        "z <- x, c, and the prior itself",
        SOHN_2015,
        settings={**CONDITIONAL, "objective": "Hybrid", "objective.alpha": 0.5},
        digits=CONDITIONAL_DIGITS,
    ),
    "cvae-baseline": Preset(
        "CVAE",
        "z <- x, c; a baseline's prediction in the prior",
        SOHN_2015,
        settings={
            **CONDITIONAL,
            "model.baseline": "frozen",
            "initialize": "BaselineInitialization",
        },
        digits=CONDITIONAL_DIGITS,
    ),
    "nn-baseline": Preset(
        "NNBaseline",
        "nothing: no latent",
        SOHN_2015,
        settings={k: v for k, v in CONDITIONAL.items() if k != "model.latent_dim"},
        digits=CONDITIONAL_DIGITS,
    ),
}


def preset(name: str) -> Preset:
    """A method's preset by name.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.methods.preset("gmvae").guide
        'w <- x; z <- x; y summed exactly'

    Raises:
        UserError: an unknown name; the nearest one is named.
    """
    if name not in METHODS:
        raise unknown_name_error("method", name, METHODS)
    return METHODS[name]
