"""Initializations: by a mixture fitted to encodings, by data, by parts that are trained first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine

from ..data import Data
from ..errors import UserError, check_int_at_least, check_positive
from ..evaluate import encode
from ..guides import Guide
from ..models import CVAE, VAE, Model, StandardNormalPrior, VampPrior, prior_of
from ..models.priors import fit_components
from ..programs import trace_pair
from ..programs.calling import as_keyword_program
from ..programs.contexts import eval_mode, seeded
from ..programs.interfaces import GuideInterface, conditional_of, interface_of
from ..programs.modules import device_of
from . import distributed
from .display import bars_labeled
from .interrupt import stop_request
from .settings import SEED_BITS

if TYPE_CHECKING:
    from .fit import Run

MAX_POINTS = 20_000
#: The options of `fit` that an initialization has when it trains a part of the pair first.
TRAINING_OPTIONS = ("epochs", "lr", "batch_size", "schedule", "weight_decay", "compile")


class Initialization:
    """Base class of initializations of a pair; called before the first epoch.

    Attributes:
        validate_every: epochs between validations of a part that is trained first. Default: 1.

    Example:
        >>> import torch, pyro_vae as pv
        >>> class ZeroBias(pv.train.Initialization):
        ...     def __call__(self, model, guide, data, device, seed=0, progress=True):
        ...         torch.nn.init.zeros_(model.p_x.head.bias)
        >>> model = pv.models.VAE((3,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide, x = pv.guides.Guide(model), torch.ones(4, 3)
        >>> run = pv.fit(model, guide, x, 1, initialize=ZeroBias(), progress=False)
    """

    validate_every: int = 1

    def __call__(
        self,
        model: Any,
        guide: Any,
        data: Any,
        device: torch.device,
        seed: int = 0,
        progress: bool = True,
    ) -> object:
        """Initialize the pair in place.

        Args:
            model, guide: the pair, on `device`.
            data: what it is trained on.
            device: where the pair is.
            seed: of what is drawn.
            progress: whether to show a progress bar.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class MixtureInitialization(Initialization):
    r"""Start a mixture prior where a Gaussian mixture, fitted to a VAE's encodings, lies.

    A mixture prior trained from random weights often merges clusters early and never separates them
    again; VaDE's published results rest on such a start. The steps are seeded and use no label:

    1. The pair's own decoder and q(z | x) are trained for `epochs` as a plain VAE, p(z) = N(0, I).
    2. scikit-learn's full-covariance `GaussianMixture` is fitted to `draws` draws of q(z | x) for
       each training data point (at most 20,000 points in all), `fits` times, the likeliest kept (of
       more than 5 fits, the 5 that are likeliest after 10 iterations are continued). Draws,
       not means (`draws=0`): what the prior must cover is the aggregate posterior.
    3. Its means and covariances become p(z | y)'s (where z has further parents, as the GMVAE's w,
       their influence starts small), its weights the learned p(y)'s, if it is learned.

    Runs from different seeds still differ: `restarts` of a method trains several and keeps one.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.MLP((8,))
        >>> model = pv.models.MixtureVAE((3,), 2, 2, likelihood="normal", network=network)
        >>> guide = pv.guides.Guide(model, network=network)
        >>> start = pv.train.MixtureInitialization(epochs=2, fits=1)
        >>> run = pv.fit(model, guide, torch.randn(40, 3), epochs=1, initialize=start, progress=False)

    Args:
        epochs: passes over the data in the plain VAE's training.
        lr: learning rate of the plain VAE's training.
        batch_size: data per step of the plain VAE's training.
        schedule: of that learning rate: constant, linear or cosine.
        fits: number of mixtures that are fitted, the likeliest of which is kept.
        draws: of q(z | x) for each data point, to which a mixture is fitted; 0: the means.
        reg_covar: added to the fitted covariances' diagonal.
        weight_decay: decoupled, of the plain VAE's training (AdamW).
        validate_every: epochs between validations of the plain VAE, whose best weights are kept.
        compile: of the plain VAE's training, as in `fit`.
    """

    epochs: int = 100
    lr: float = 1e-3
    batch_size: int = 128
    schedule: str = "cosine"
    fits: int = 5
    draws: int = 4
    reg_covar: float = 0.05
    weight_decay: float = 0.0
    validate_every: int = 1
    compile: bool | str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "fits", "validate_every"):
            check_int_at_least(1, **{name: getattr(self, name)})
        check_int_at_least(0, draws=self.draws)
        check_positive(lr=self.lr)
        check_positive(or_zero=True, reg_covar=self.reg_covar, weight_decay=self.weight_decay)

    def __call__(
        self,
        model: Any,
        guide: Any,
        data: Any,
        device: torch.device,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        """Initialize the pair in place."""
        _check(model, guide, data)
        seed = seed * 1009 % 2**SEED_BITS  # another stream than the run's
        vae, encoder = plain_vae(model, guide)
        _train_first(self, vae, encoder, data, device, seed, progress)
        codes = self._codes(vae, encoder, data, seed)
        fit_components(model, codes, self.fits, self.reg_covar, seed % 2**32, max_iter=300)

    @torch.no_grad()
    def _codes(self, vae: Any, encoder: Any, data: Any, seed: int) -> np.ndarray:
        """`[draws * N, D]` draws of q(z | x) over the training data, thinned to `MAX_POINTS`."""
        device = device_of(vae)
        with seeded(seed, device):
            keep = torch.randperm(len(data.train))[: MAX_POINTS // max(1, self.draws)]
            if not self.draws:
                x = data.observed_split("train", keep).x
                return encode(vae, encoder, x)["z"].cpu().numpy()
            parts = (data.observed_split("train", rows).x for rows in keep.split(5000))
            draws = [
                trace_pair(vae, encoder, {"x": part.to(device)}, self.draws).guide["z"]["value"]
                for part in parts
            ]
        return torch.cat([d.flatten(0, 1) for d in draws]).cpu().numpy()


def _check(model: Any, guide: Any, data: Any) -> None:
    if any(conditional_of(model, name) is None for name in ("y", "z", "x")):
        raise UserError(f"{type(model).__name__} has no mixture prior p(z | y) to initialize")
    if interface_of(guide, GuideInterface).given.get("z") != ("x",):
        raise UserError("a mixture start needs a guide with z <- x")
    if not isinstance(data, Data):
        raise UserError("a mixture start needs data with a train split, not a stream of batches")


def plain_vae(model: Any, guide: Any) -> tuple[VAE, Guide]:
    """The plain VAE that shares a mixture model's decoder and its guide's q(z | x)."""
    latent = model.p_z.shape[0]
    vae = VAE(model.p_x.shape, latent, model.p_x.family, prior=StandardNormalPrior(latent))
    vae.p_x = model.p_x
    return vae, _sharing_guide(vae, guide, "z")


def _sharing_guide(vae: Model, guide: Any, latent: str) -> Guide:
    """The guide of a VAE with the factor of another guide, on whose device the VAE is put."""
    vae.to(device_of(guide))  # its prior is new; the shared decoder may be on a GPU
    encoder = Guide(vae, input_scaling=guide.input_scaling)
    encoder.factors[latent] = guide.factors[latent]
    return encoder


def _train_first(
    options: Initialization,
    model: Any,
    guide: Any,
    data: Any,
    device: torch.device,
    seed: int,
    progress: bool = False,
) -> "Run":
    """Train a part before the pair, with the options of an initialization that `fit` has too.

    Raises:
        KeyboardInterrupt: the training was interrupted; the run of the whole pair ends as well.
    """
    from .fit import fit

    settings = {name: getattr(options, name) for name in TRAINING_OPTIONS}
    settings["validate_every"] = options.validate_every
    # it is set also if the interruption comes after the last step
    with (
        bars_labeled("initialization"),
        stop_request(alone=distributed.size() == 1) as stop,
    ):
        run = fit(model, guide, data, **settings, device=device, seed=seed, progress=progress)
    if run.interrupted or stop.is_set():
        stop.end_process()
        raise KeyboardInterrupt
    return run


@dataclass(frozen=True)
class PseudoInputInitialization(Initialization):
    """Start a `VampPrior`'s pseudo-inputs at training data, drawn by the seed without replacement.

    They are scaled by the guide's `input_scaling`, as the encoder's network sees them. A parent that
    is a latent itself (z1, of a hierarchical VAE) starts at the guide's draws of it for those data.

    Example:
        >>> import torch, pyro_vae as pv
        >>> prior = pv.models.VampPrior((3,), size=2, num_components=5, network=pv.conditionals.MLP((8,)))
        >>> model = pv.models.VAE((3,), 2, network=pv.conditionals.MLP((8,)), prior=prior)
        >>> guide, start = pv.guides.Guide(model), pv.train.PseudoInputInitialization()
        >>> run = pv.fit(model, guide, torch.ones(20, 3), 1, initialize=start, progress=False)
    """

    def __call__(
        self,
        model: Any,
        guide: Any,
        data: Any,
        device: torch.device,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        """Initialize the model's prior in place."""
        latent, prior = prior_of(model)
        if not isinstance(prior, VampPrior):
            raise UserError(f"the prior of {latent!r} is no VampPrior: it has no pseudo-inputs")
        if not isinstance(data, Data):
            raise UserError("pseudo-inputs start at data with a train split, not at a stream")
        logits: Any = prior.logits
        count = len(logits)
        size = len(data.train)
        if size < count:
            raise UserError(f"{count} pseudo-inputs need as many training data, not {size}")
        with torch.no_grad(), eval_mode(model, guide), seeded(seed, device):
            rows = data.observed_split("train", torch.randperm(size)[:count])
            batch = {n: v.to(device) for n in ("x", "c") if (v := getattr(rows, n)) is not None}
            trace = poutine.trace(as_keyword_program(guide)).get_trace(**batch)
            scaling = interface_of(guide, GuideInterface).input_scaling
            for name, inputs in prior.pseudo_inputs.items():
                if name not in batch and name not in trace.nodes:
                    raise UserError(
                        f"neither the data nor the guide have the pseudo-input {name!r}"
                    )
                value = batch[name] if name in batch else trace.nodes[name]["value"]
                mean, scale = scaling.get(name, (0.0, 1.0))
                inputs.copy_(
                    ((value - mean) / scale).nan_to_num()
                )  # as a guide fills missing values


@dataclass(frozen=True)
class StackInitialization(Initialization):
    r"""The first stage of M1+M2: p(x | z1) and q(z1 | x) are trained as a plain VAE, then held.

    Kingma et al. 2014 (arXiv 1406.5298): M2 is trained on the features of M1. Here that is an
    ordinary `fit` of the whole stack in which these two are frozen (`requires_grad` is off, also
    in a resumed or loaded run), and z1 is drawn anew at every step.

    The authors' code leaves out units that M1 does not use. Here they stay: for such a unit
    q(z1 | x) is p(z1), so p(z1 | y, z2) = N(0, 1) costs no nats, and to q(y | z1) it is noise that
    is new at every step, which cannot be memorized. (On digits all 24 units are in use.)

    Args:
        epochs: passes over the data in the plain VAE's training.
        lr: learning rate of the plain VAE's training.
        batch_size: data per step of the plain VAE's training.
        schedule: of that learning rate: constant, linear or cosine.
        weight_decay: decoupled, of the plain VAE's training (AdamW).
        freeze: whether the first stage is held; False trains everything in the second stage.
        compile: of the plain VAE's training, as in `fit`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.MLP((8,))
        >>> model = pv.models.M1M2((3,), 2, network=network)
        >>> guide = pv.guides.Guide(model, network=network)
        >>> start = pv.train.StackInitialization(epochs=1)
        >>> run = pv.fit(model, guide, torch.ones(20, 3), 1, initialize=start, progress=False)
    """

    epochs: int = 100
    lr: float = 1e-3
    batch_size: int = 128
    schedule: str = "cosine"
    weight_decay: float = 0.0
    freeze: bool = True
    compile: bool | str = "auto"

    def __call__(
        self,
        model: Any,
        guide: Any,
        data: Any,
        device: torch.device,
        seed: int = 0,
        progress: bool = True,
    ) -> "Run":
        """Train the pair's lower part in place; returns that `Run`."""
        z1_parents = interface_of(guide, GuideInterface).given.get("z1")
        if conditional_of(model, "z1") is None or z1_parents != ("x",):
            raise UserError("a start of the stack needs M1M2, and a guide with z1 <- x")
        vae = _M1(model)
        encoder = _sharing_guide(vae, guide, "z1")
        run = _train_first(self, vae, encoder, data, device, seed, progress)
        for part in (model.p_x, guide.factors["z1"]):
            part.requires_grad_(not self.freeze)
        return run


class _M1(Model):
    """The plain VAE that shares a stack's decoder: p(z1) = N(0, I), p(x | z1)."""

    default_guide = {"z1": ["x"]}

    def __init__(self, stack: Any) -> None:
        super().__init__()
        self.p_z1 = StandardNormalPrior(stack.p_z1.shape[0])
        self.p_x = stack.p_x

    def forward(self, x: torch.Tensor | None = None, size: int | None = None) -> torch.Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z1 = pyro.sample("z1", self.p_z1())
            return pyro.sample("x", self.p_x(z1=z1), obs=x)


@dataclass(frozen=True)
class BaselineInitialization(Initialization):
    """Train a `CVAE`'s baseline, p(x | c) without latents, before the CVAE itself.

    Of its epochs the one with the best validation bound is kept.

    Args:
        epochs: passes over the data in the baseline's training.
        lr: learning rate of the baseline's training.
        batch_size: data per step of the baseline's training.
        schedule: of that learning rate: constant, linear or cosine.
        weight_decay: decoupled, of the baseline's training (AdamW).
        compile: of the baseline's training, as in `fit`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.MLP((8,))
        >>> model = pv.models.CVAE((6,), (3,), 2, network=network, baseline="frozen")
        >>> data = pv.data.from_arrays(torch.ones(20, 6), c=torch.ones(20, 3))
        >>> guide, start = pv.guides.Guide(model), pv.train.BaselineInitialization(epochs=1)
        >>> run = pv.fit(model, guide, data, 1, initialize=start, progress=False)
    """

    epochs: int = 50
    lr: float = 1e-3
    batch_size: int = 128
    schedule: str = "cosine"
    weight_decay: float = 0.0
    compile: bool | str = "auto"

    def __call__(
        self,
        model: Any,
        guide: Any,
        data: Any,
        device: torch.device,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        """Train `model.baseline` in place; a frozen one is frozen again afterwards."""
        baseline = model.baseline if isinstance(model, CVAE) else None
        if baseline is None:
            raise UserError(f"this {type(model).__name__} has no baseline to train first")
        frozen = [p for p in baseline.parameters() if not p.requires_grad]
        baseline.requires_grad_(True)
        _train_first(self, baseline, Guide(baseline), data, device, seed)
        for parameter in frozen:
            parameter.requires_grad_(False)
