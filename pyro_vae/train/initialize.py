"""Initializations: by data, by parts that are trained first; `mixture_initialization` has another."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine

from ..data import Data
from ..errors import UserError
from ..guides import Guide
from ..models import CVAE, Model, StandardNormalPrior, VampPrior, prior_of
from ..programs.calling import as_keyword_program
from ..programs.contexts import eval_mode, seeded
from ..programs.interfaces import GuideInterface, conditional_of, interface_of
from ..programs.modules import device_of
from . import distributed
from .display import bars_labeled
from .first_parts import folder_of_parts
from .interrupt import stop_request

if TYPE_CHECKING:
    from .fit import Run

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

        Returns:
            A dict is what the run records as `Run.initialization`; JSON must be able to represent it.
        """
        raise NotImplementedError


def sharing_guide(vae: Model, guide: Any, latent: str) -> Guide:
    """The guide of a VAE with the factor of another guide, on whose device the VAE is put."""
    vae.to(device_of(guide))  # its prior is new; the shared decoder may be on a GPU
    encoder = Guide(vae, input_scaling=guide.input_scaling)
    encoder.factors[latent] = guide.factors[latent]
    return encoder


def train_first(
    options: Initialization,
    model: Any,
    guide: Any,
    data: Any,
    device: torch.device,
    seed: int,
    progress: bool = False,
    out: Path | None = None,
) -> "Run":
    """Train a part before the pair, with the options of an initialization that `fit` has too.

    Args:
        options: of the initialization.
        model, guide: the part, trained in place.
        data, device, seed: of the training.
        progress: whether to show a progress bar.
        out: where it is kept while it trains, and continued if it was interrupted: see
            `folder_of_parts`.

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
        run = fit(
            model, guide, data, **settings, device=device, seed=seed, progress=progress, out=out,
            resume=out is not None,
        )  # fmt: skip
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
        encoder = sharing_guide(vae, guide, "z1")
        out = folder_of_parts(self, model, guide, data, seed)
        run = train_first(self, vae, encoder, data, device, seed, progress, out)
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
        out = folder_of_parts(self, model, guide, data, seed)
        frozen = [p for p in baseline.parameters() if not p.requires_grad]
        baseline.requires_grad_(True)
        train_first(self, baseline, Guide(baseline), data, device, seed, out=out)
        for parameter in frozen:
            parameter.requires_grad_(False)
