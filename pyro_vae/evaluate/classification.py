"""Classification: by the model, by classifiers of its features, and by classical baselines."""

from collections.abc import Mapping

import numpy as np
import torch

from ..data.arrays import as_floats, as_labels, rows_for_baselines
from ..errors import UserError
from ..programs.sites import choose_latent
from .inputs import Array, PyroProgram
from .latents import ACTIVE_THRESHOLD, encode, responsibilities, variance_over_data

MAX_UNLABELED = 10_000  # data points that LabelSpreading sees


def classify(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    latent: str | None = None,
    num_samples: int = 16,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    """The most probable class, or component, of each data point.

    Args:
        model: the generative program, with a discrete latent y.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        latent: the name of the latent. Default: the first discrete one.
        num_samples: draws of the continuous latents per data point, if the model enumerates y.
        seed: of the draws. None uses torch's random stream.
        others: further inputs by name (`c=`, `index=`), each with N rows.

    Returns:
        `[N]`, int64.

    Raises:
        UserError: the pair has no discrete latent.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.M2((6,), num_classes=3, latent_dim=2)
        >>> pv.evaluate.classify(model, pv.guides.Guide(model), torch.ones(4, 6)).shape
        torch.Size([4])
    """
    return responsibilities(model, guide, x, latent, num_samples, seed, **others).argmax(-1)


def active_unit_features(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    reference: Array | Mapping[str, Array] | None = None,
    threshold: float = ACTIVE_THRESHOLD,
    latent: str | None = None,
    **others: Array | None,
) -> torch.Tensor:
    r"""Posterior means of the active units only: the features of M1.

    A unit that the model does not use is noise to a classifier. As in `active_units`, a unit u is
    active if :math:`\mathrm{Var}_x(E_q[u \mid x])` is above the threshold.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        reference: the data that decide which units are active, `[M, ...]`; for a pair with further
            inputs, a mapping `{"x": [M, ...], "c": [M, ...]}` of all of them. Training and test
            features match only if the reference is the same. Default: x and its inputs.
        threshold: of the variance.
        latent: the name of the latent. Default: z, or the first continuous one.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `[N, D]`, the D active units.

    Raises:
        UserError: the pair has no continuous latent; a reference without the further inputs.

    References:
        Kingma et al. 2014, Semi-supervised learning with deep generative models, arXiv 1406.5298.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> train, test = torch.rand(20, 6).round(), torch.rand(4, 6).round()
        >>> features = pv.evaluate.active_unit_features(
        ...     model, pv.guides.Guide(model), test, reference=train, threshold=0.0)
        >>> features.shape
        torch.Size([4, 2])
    """
    codes = encode(model, guide, x, **others)
    name = choose_latent(codes, latent)
    reference_codes = codes[name]
    if reference is not None:
        inputs = _reference_inputs(reference, [n for n, v in others.items() if v is not None])
        reference_codes = encode(model, guide, **inputs)[name]
    return codes[name].flatten(1)[:, variance_over_data(reference_codes) > threshold]


def _reference_inputs(
    reference: Array | Mapping[str, Array], others: list[str]
) -> dict[str, Array]:
    """The inputs of the reference data, by the same names as those of x."""
    inputs = dict(reference) if isinstance(reference, Mapping) else {"x": reference}
    missing = [name for name in ("x", *others) if name not in inputs]
    if missing:
        raise UserError(
            f"the reference data have no {missing[0]!r}, which x has: pass reference= as a mapping, "
            f"{{{', '.join(f'{name!r}: ...' for name in ('x', *others))}}}"
        )
    return inputs


def classifier_baselines(
    x: Array,
    y: Array,
    *others: Array,
    spreading: bool = False,
    standardize: bool = False,
) -> dict[str, list[torch.Tensor]]:
    """Classical classifiers, fitted on the labeled rows.

    They are logistic regression, a support vector machine with a Gaussian kernel and, with
    `spreading`, scikit-learn's LabelSpreading on the 7 nearest neighbors. All have scikit-learn's
    default settings, except that logistic regression may take 5,000 iterations. Missing values (NaN)
    are replaced by the mean of their column in x.

    Args:
        x: `[N, ...]`, training data.
        y: `[N]`, their labels; -1: not labeled.
        others: `[M, ...]` each, data to classify.
        spreading: whether to fit LabelSpreading, which also sees the unlabeled rows of x (the
            first 10,000). Rows that no label reaches through neighbors get the lowest class.
        standardize: center and scale every column by x, as columns of different kinds need. The
            report does so with a table that has several kinds.

    Returns:
        `{name: [classes of each of others]}`, int64 `[M]`.

    Raises:
        UserError: fewer than two classes have labels.

    Example:
        >>> import torch, pyro_vae as pv
        >>> x = torch.tensor([[0.0], [0.1], [0.9], [1.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> pv.evaluate.classifier_baselines(x, y, torch.tensor([[0.2], [0.8]]))["SVM"]
        [tensor([0, 1])]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import LabelSpreading
    from sklearn.svm import SVC

    x, *parts = as_floats(x), *(as_floats(other, "others") for other in others)
    train, *rest = rows_for_baselines(x, x, *parts, standardize=standardize)
    labels = as_labels(y).cpu().numpy()
    labeled = labels >= 0
    if len(set(labels[labeled])) < 2:
        raise UserError("a classifier needs labels of two classes at least")
    classifiers = {"logistic regression": LogisticRegression(max_iter=5000), "SVM": SVC()}
    fitted = {k: c.fit(train[labeled], labels[labeled]) for k, c in classifiers.items()}
    with np.errstate(invalid="ignore"):  # LabelSpreading: 0 / 0 in rows that no label reaches
        if spreading:
            keep = labeled | ((~labeled).cumsum() <= MAX_UNLABELED)
            neighbors = min(7, int(keep.sum()))
            spread = LabelSpreading(kernel="knn", n_neighbors=neighbors, max_iter=100)
            fitted["LabelSpreading"] = spread.fit(train[keep], labels[keep])
        return {k: [torch.as_tensor(c.predict(v)) for v in rest] for k, c in fitted.items()}
