"""Start a mixture prior at a Gaussian mixture of encodings, or at the consensus of several."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import Data
from ..errors import UserError, check_int_at_least, check_positive
from ..evaluate import consensus_clustering, encode
from ..evaluate.consensus import agreements_and_stability
from ..guides import Guide
from ..models import VAE, StandardNormalPrior
from ..models.components import set_components, set_mixture
from ..models.mixture_fits import fit_mixture, fit_mixture_from
from ..programs import trace_pair
from ..programs.contexts import seeded
from ..programs.interfaces import GuideInterface, conditional_of, interface_of
from ..programs.modules import device_of
from . import checkpoint, distributed
from .display import PartsBar
from .first_parts import folder_of_parts
from .initialize import Initialization, sharing_guide, train_first
from .pool import Interrupted, num_processes, train_parts
from .settings import SEED_BITS
from .weights import redraw_weights

MAX_POINTS = 20_000
MAX_ITER = 300  # of EM
STEP_SECONDS = 4e-3  # of a small step of a plain VAE; the mixture takes as long as many steps


@dataclass(frozen=True)
class MixtureInitialization(Initialization):
    r"""Start a mixture prior where a Gaussian mixture, fitted to a VAE's encodings, lies.

    A mixture prior trained from random weights often merges clusters early and never separates them
    again; VaDE's published results rest on such a start. The steps are seeded and use no label:

    1. The pair's own decoder and q(z | x) are trained for `epochs` as a plain VAE, p(z) = N(0, I).
    2. A Gaussian mixture with full covariances is fitted to `draws` draws of q(z | x) for each
       training data point (at most 20,000 points in all), `fits` times, the likeliest kept (of
       more than 5 fits, the 5 that are likeliest after 10 iterations are continued). Draws,
       not means (`draws=0`): what the prior must cover is the aggregate posterior.
    3. Its means and covariances become p(z | y)'s (where z has further parents, as the GMVAE's w,
       their influence starts small), its weights the learned p(y)'s, if it is learned.

    One VAE's mixture may merge two classes, and the likelihood does not tell: the mixtures of
    different VAEs cannot be compared by it. With `vaes` of 2 or more, the first two steps are repeated
    with other seeds. The clusterings are combined (`pv.evaluate.consensus_clustering`), and the VAE
    whose clusters agree most with the others' is kept, with the mixture that EM finds from the
    consensus. The VAEs are trained in processes, one for each idle core, with the same results as in
    sequence. Their mean agreement, the `stability`, is in `Run.initialization`. The first VAE starts
    from the pair's weights, the others from new ones of every part with a `reset_parameters()`, as
    torch's layers and this library's networks have; other parts keep theirs.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.MLP((8,))
        >>> model = pv.models.MixtureVAE((3,), 2, 2, likelihood="normal", network=network)
        >>> guide = pv.guides.Guide(model, network=network)
        >>> start = pv.train.MixtureInitialization(epochs=2, fits=1, vaes=2)
        >>> x = torch.randn(40, 3)
        >>> run = pv.fit(model, guide, x, epochs=1, initialize=start, progress=False)
        >>> len(run.initialization["agreements"])
        2

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
        vaes: number of plain VAEs, each with its mixture, whose clusterings are combined.
        compile: of the plain VAE's training, as in `fit`.

    References:
        Jiang et al. 2017, arXiv 1611.05148 (the start); Strehl and Ghosh 2002, JMLR 3 (combining
        clusterings).
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
    vaes: int = 1
    compile: bool | str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "fits", "validate_every", "vaes"):
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
    ) -> dict[str, Any] | None:
        """Initialize the pair in place.

        Returns:
            Of several VAEs: `seeds`, `agreements` (each one's mean adjusted Rand index with the
            others), `chosen` (an index) and `stability`, the mean agreement (None where all have one
            cluster). None of one VAE.
        """
        _check(model, guide, data)
        kept = folder_of_parts(self, model, guide, data, seed)
        seed = seed * 1009 % 2**SEED_BITS  # another stream than the run's
        seeds = [seed, *map(int, np.random.SeedSequence(seed).generate_state(self.vaes - 1))]
        visible = progress and distributed.rank() == 0
        with tempfile.TemporaryDirectory(prefix="pyro_vae") as temporary:
            folder = Path(temporary) if kept is None else kept
            args = self, model, guide, data, device, seeds, folder, visible
            task = _FirstVAEs(*args, keeps_runs=kept is not None)
            pending = [n for n in range(self.vaes) if not task.path(n).exists()]
            count = num_processes(len(pending), self._seconds(data), device)
            done = self.vaes - len(pending)
            with PartsBar(
                "VAEs trained first", "VAE", self.epochs, self.vaes, done, visible
            ) as bar:
                try:
                    train_parts(task, pending, count, bar)
                except Interrupted:
                    raise KeyboardInterrupt from None
            return _combine(self, model, task)

    def _seconds(self, data: Data) -> float:
        """About how long a plain VAE trains."""
        return STEP_SECONDS * self.epochs * -(-len(data.train) // self.batch_size)


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
    return vae, sharing_guide(vae, guide, "z")


class _FirstVAEs:
    """The plain VAEs with their mixtures, as the parts that a process trains.

    They have the modules of the pair, one after the other. The first starts from the pair's weights,
    the others from new ones: the clusters depend on them more than on the noise of the training. Each
    leaves its trained weights in a file.

    Args:
        options: of the initialization.
        model, guide: the pair.
        data: of the training.
        device: where the pair is.
        seeds: of the VAEs.
        folder: of the files.
        progress: whether to report epochs.
        keeps_runs: whether the files stay if the training is interrupted: a VAE that has not finished
            is then continued.
    """

    part = "VAE"
    advice = "run it again"

    def __init__(
        self,
        options: MixtureInitialization,
        model: Any,
        guide: Any,
        data: Data,
        device: torch.device,
        seeds: Sequence[int],
        folder: Path,
        progress: bool,
        keeps_runs: bool = False,
    ) -> None:
        self.options, self.data, self.device = options, data, device
        self.keeps_runs = keeps_runs
        self.seeds, self.folder, self.progress = seeds, folder, progress
        self.num_components = model.p_y().event_shape[0]
        self.vae, self.encoder = plain_vae(model, guide)
        self.initial = {n: v.clone() for n, v in self._weights().items()}

    def _weights(self) -> dict[str, torch.Tensor]:
        modules = {"decoder": self.vae.p_x, "encoder": self.encoder.factors["z"]}
        return {f"{name}.{n}": v for name, m in modules.items() for n, v in m.state_dict().items()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put weights into the modules, which the pair shares."""
        for name, value in self._weights().items():
            value.copy_(weights[name])

    def train(self, index: int, max_time: float | None = None) -> dict[str, Any]:
        """Train one VAE, and fit its mixture."""
        options, seed = self.options, self.seeds[index]
        self.load_weights(self.initial)
        if index > 0:
            with seeded(seed, self.device):
                redraw_weights(self.vae.p_x, self.encoder.factors["z"])
        out = self.folder / f"vae-{index}" if self.keeps_runs else None
        args = self.vae, self.encoder, self.data, self.device, seed, self.progress, out
        train_first(options, *args)
        codes = self._codes()
        mixture = fit_mixture(
            codes.flatten(0, 1), self.num_components, options.fits, options.reg_covar,
            seed % 2**32, MAX_ITER,
        )  # fmt: skip
        content = {
            "weights": self._weights(),
            "codes": codes,
            "components": [mixture.weights, mixture.means, mixture.covariances],
            "responsibilities": torch.stack([*map(mixture.responsibilities, codes)]).mean(0),
        }
        checkpoint.save_tensors(self.path(index), content)
        return {}

    def load(self, index: int) -> dict[str, Any]:
        """What `train` wrote: `weights`, `codes`, `components`, `responsibilities`."""
        return checkpoint.load_tensors(self.path(index), "a first VAE")

    def path(self, index: int) -> Path:
        """The file of a VAE that has finished."""
        return self.folder / f"{index}.pt"

    @torch.no_grad()
    def _codes(self) -> torch.Tensor:
        """`[draws, N, D]` draws of q(z | x) over the same training data, `MAX_POINTS` at most."""
        device, draws = device_of(self.vae), self.options.draws
        with seeded(self.seeds[0], device):
            keep = torch.randperm(len(self.data.train))[: MAX_POINTS // max(1, draws)]
            if not draws:
                x = self.data.observed_split("train", keep).x
                return encode(self.vae, self.encoder, x)["z"].cpu()[None]
            parts = (self.data.observed_split("train", rows).x for rows in keep.split(5000))
            return torch.cat(
                [
                    trace_pair(self.vae, self.encoder, {"x": part.to(device)}, draws)
                    .guide["z"]["value"].cpu()
                    for part in parts
                ],
                dim=1,
            )  # fmt: skip


def _combine(options: MixtureInitialization, model: Any, task: _FirstVAEs) -> dict[str, Any] | None:
    """Put one VAE and its mixture, or that of the consensus, into the pair; returns the record."""
    found = [task.load(n) for n in range(options.vaes)]
    if len(found) == 1:
        task.load_weights(found[0]["weights"])
        set_components(model, *found[0]["components"])
        return None
    members = [f["responsibilities"] for f in found]
    clusterings = {n: r.argmax(1) for n, r in enumerate(members)}
    agreements, stability = agreements_and_stability(clusterings)
    chosen = max(agreements, key=lambda n: agreements[n], default=0)
    codes = found[chosen]["codes"]
    several = [members[chosen], *(members[n] for n in agreements if n != chosen)]
    consensus = consensus_clustering(several, 0).repeat(len(codes), 1)
    mixture = fit_mixture_from(codes.flatten(0, 1), consensus, options.reg_covar, MAX_ITER)
    task.load_weights(found[chosen]["weights"])
    set_mixture(model, mixture)
    return {
        "seeds": list(task.seeds),
        "agreements": [agreements.get(n) for n in range(len(found))],
        "chosen": chosen,
        "stability": stability,
    }
