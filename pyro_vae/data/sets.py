"""The data sets by name."""

import math
import os
from pathlib import Path

import torch

from ..errors import UserError, unknown
from .core import Split, from_arrays, make


def _digits(root, binarise, split_seed, binarise_seed):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return from_arrays(
        x,
        torch.tensor(bunch.target),
        valid=180,
        test=360,
        name="digits",
        num_classes=10,
        likelihood="binomial",
        binarise=binarise,
        split_seed=split_seed,
        binarise_seed=binarise_seed,
    )


def _arcs(root, binarise, split_seed, binarise_seed):
    """10,000 points in five arcs, as in the GMVAE paper (arXiv 1611.02648); here a pinwheel's."""
    n, arms = 10_000, 5
    generator = torch.Generator().manual_seed(split_seed)
    arm = torch.arange(n) % arms
    radius = 1 + 0.3 * torch.randn(n, generator=generator)
    across = 0.05 * torch.randn(n, generator=generator)
    angle = 2 * math.pi * arm / arms + 0.25 * radius.exp()
    x = torch.stack(
        [radius * angle.cos() + across * angle.sin(), across * angle.cos() - radius * angle.sin()],
        1,
    )
    return from_arrays(
        x,
        arm,
        name="arcs",
        num_classes=arms,
        binarise=binarise,
        split_seed=split_seed,
        binarise_seed=binarise_seed,
    )


def _torchvision(kind):
    def load(root, binarise, split_seed, binarise_seed):
        import torchvision

        root = Path(root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
        try:
            raw = [
                getattr(torchvision.datasets, kind)(root, train, download=True) for train in (1, 0)
            ]
        except (OSError, RuntimeError) as e:
            reason = str(e).strip().splitlines()[0] if str(e) else type(e).__name__
            raise UserError(
                f"{kind} is not in {root} and could not be downloaded ({reason}); "
                "set PYRO_VAE_DATA or root= to a folder that has it"
            ) from e
        (x, y), (test_x, test_y) = ((d.data.unsqueeze(1).float() / 255, d.targets) for d in raw)
        return make(
            Split(x[:-10_000], y[:-10_000]),
            Split(x[-10_000:], y[-10_000:]),
            Split(test_x, test_y),
            name={"MNIST": "mnist", "FashionMNIST": "fashion-mnist", "KMNIST": "kmnist"}[kind],
            num_classes=10,
            binarise=binarise,
            binarise_seed=binarise_seed,
            split_seed=split_seed,
            likelihood="continuous-bernoulli",
        )

    return load


DATASETS = {
    "digits": _digits,
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
    "kmnist": _torchvision("KMNIST"),
    "arcs": _arcs,
}


def load(
    name,
    binarise=None,
    root=None,
    split_seed=0,
    binarise_seed=0,
    num_labels=None,
    label_seed=0,
):
    """A data set by name, as `Data`: `.train .valid .test`, `.x_shape`, `.num_classes`.

    * `digits`: scikit-learn's 1,797 images `(1, 8, 8)` of 17 grey levels, no download; 1,257 to
      train on, 180 for validation, 360 for test, by a permutation seeded with `split_seed`.
    * `mnist`, `fashion-mnist`, `kmnist`: by torchvision, `(1, 28, 28)`; the last 10,000 of the
      60,000 training images are for validation, in file order.
    * `arcs`: 10,000 points of five arcs in the plane; 8,000 / 1,000 / 1,000.

    Args:
        binarise: `"none"`, `"static"` or `"dynamic"` (see `Data`); for images `"dynamic"` unless
            said, for `arcs` `"none"`.
        root: torchvision's folder; else `$PYRO_VAE_DATA`, else `~/.cache/pyro_vae`.
        num_labels, label_seed: keep so many training labels alone; see `Data.keep_labels`.

    Raises:
        UserError: an unknown name, or a data set that cannot be had.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if binarise is None:
        binarise = "none" if name == "arcs" else "dynamic"
    data = DATASETS[name](root, binarise, split_seed, binarise_seed)
    return data if num_labels is None else data.keep_labels(num_labels, label_seed)
