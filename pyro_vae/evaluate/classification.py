"""Classes: the model's own, features for other classifiers, and those that it must beat."""

import torch

from ..errors import UserError
from ..programs.sites import choose_latent
from .latents import encode, responsibilities

MAX_SPREAD = 10_000


def classify(model, guide, x, **others):
    """`[N]` most probable classes y, int64; see `responsibilities`."""
    return responsibilities(model, guide, x, **others).argmax(-1)


def active_unit_features(model, guide, x, reference=None, threshold=0.01, latent=None, **others):
    """`[N, D]` posterior means, of the active units alone: M1's features.

    A unit that the model does not use is noise to a classifier. Active is what `active_units` counts:
    a variance of the posterior mean above `threshold` over the data.

    Args:
        reference: the data that say which units are active. Default: x itself. Training and
            test features match only with the same reference.
        latent: its name. Default: z, or the first continuous one.
    """
    codes = encode(model, guide, x, **others)
    name = choose_latent(codes, latent)
    over = codes[name] if reference is None else encode(model, guide, reference)[name]
    return codes[name].flatten(1)[:, over.flatten(1).var(0) > threshold]


def classifier_baselines(x, y, *others, spreading=False):
    """Classical classifiers fitted on the labelled rows: `{name: [classes of each of others]}`.

    Logistic regression, a support vector machine (Gaussian kernel) and, with `spreading`,
    scikit-learn's LabelSpreading on the 7 nearest neighbors, which sees the unlabelled rows of x
    too (the first 10,000). All at scikit-learn's defaults; logistic regression has 5,000 iterations.

    Args:
        x: `[N, ...]` training data.
        y: `[N]` their labels, -1: not labelled.
        others: `[M, ...]` data to classify.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import LabelSpreading
    from sklearn.svm import SVC

    flat = [v.flatten(1).double().cpu().numpy() for v in (x, *others)]
    labels = y.cpu().numpy()
    labelled = labels >= 0
    if len(set(labels[labelled])) < 2:
        raise UserError("a classifier needs labels of two classes at least")
    found = {
        "logistic regression": LogisticRegression(max_iter=5000),
        "SVM": SVC(),
    }
    fitted = {k: m.fit(flat[0][labelled], labels[labelled]) for k, m in found.items()}
    if spreading:
        keep = labelled | ((~labelled).cumsum() <= MAX_SPREAD)
        model = LabelSpreading(kernel="knn", max_iter=100)
        fitted["LabelSpreading"] = model.fit(flat[0][keep], labels[keep])
    return {k: [torch.as_tensor(m.predict(v)) for v in flat[1:]] for k, m in fitted.items()}
