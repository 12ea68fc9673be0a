"""Learning from data of which some are labeled: Kingma et al.'s objective, for any pair with a y."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as td
from pyro.poutine.messenger import Messenger

from .._pyro_internals import scale_and_mask
from .._torch_internals import categorical_of
from ..distributions import GumbelSoftmax
from ..distributions.one_hot import linear_log_prob
from ..errors import UserError, check_positive
from ..programs import layout_of
from ..programs.calling import as_batch, as_wrapper
from ..programs.sites import Site
from .elbo import ELBO

LOG_ZERO = 1e4  # nats: exp(-1e4) is exactly 0, and differences of it are not NaN, as those of inf


class SemiSupervised(ELBO):
    r"""The negative semi-supervised objective (Kingma et al. 2014, arXiv 1406.5298).

    .. math::
        J = \sum_{\text{labeled}} L(x, y) + \sum_{\text{others}} U(x)
            + \alpha \frac{N}{N_l} \sum_{\text{labeled}} -\log q(y \mid x)

        -L(x, y) = E_{q(z|x,y)}[\log p(x, y, z) - \log q(z \mid x, y)], \quad
        -U(x) = \sum_y q(y \mid x)\,(-L(x, y)) + H(q(y \mid x))

    A sum over the minibatch, in nats. `alpha` is the paper's 0.1 of :math:`\alpha = 0.1 N`: the
    nats per data point that one nat of mean classification loss counts as; each of the N_l labeled of
    N data thus weighs :math:`\alpha N / N_l` in it.

    The pair is called without labels, once, for labeled and unlabeled rows together: in a row
    with a label, q(y | x) is replaced by the certainty of that label, which turns U(x) into L(x, y).
    So shapes are fixed, nothing waits for a GPU, and it works for a y that the guide enumerates,
    samples (score function) or relaxes, in a user's pair too. :math:`-\log q(y|x)` is taken from
    what was replaced. Where y has the parent a, sampled before it (the auxiliary model), the term is
    its mean over a, which bounds :math:`-\log q(y|x)` from above. A scale or a mask of the guide's y
    is the term's as well.

    Where the model sums y (VaDE, GMVAE), a labeled row has log p(x, y) in the place of log p(x):
    the indicator of the label is added to log p(y). There is no q(y | x) then, and no classification
    term: `alpha` has no effect. Components become classes, so do not start from a fitted mixture,
    whose components are in no order.

    Labels `y [N]` are integers, -1 for an unlabeled data point. `fit` passes and counts them; a
    direct call passes `y=` in addition to the inputs of the pair. Without any label the objective is
    the ELBO. Validation and evaluation do not use labels: they report U(x).

    Args:
        alpha: weight of the classification term, :math:`\alpha`: nats per data point that one nat of
            its mean loss counts as.
        labelled_fraction: N_l / N, in [0, 1]. Default: counted by `fit` (a stream of batches cannot be counted).
        latent: the name of y.
        options: those of `ELBO`: beta, warmup, free_bits, num_particles; they apply to L and U alike.

    Raises:
        UserError: on the first step, a pair without such a latent, or one whose distribution cannot be made
            certain (neither categorical nor this library's relaxation).

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.M2((6,), 3, 2, network=pv.conditionals.MLP((8,)))
        >>> data = torch.ones(4, 6), torch.tensor([0, 2, -1, -1])  # two data points have no label
        >>> objective = pv.objectives.SemiSupervised(alpha=0.1)
        >>> run = pv.fit(model, pv.guides.Guide(model), data, 1, objective=objective, progress=False)
    """

    needs = ("y",)  # of a batch, in addition to the inputs of the pair

    def __init__(
        self,
        alpha: float = 0.1,
        labelled_fraction: float | None = None,
        latent: str = "y",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_positive(or_zero=True, alpha=alpha)
        if labelled_fraction is not None and not 0 <= labelled_fraction <= 1:
            raise UserError(
                f"labelled_fraction, of the data that are labeled, lies in [0, 1]: {labelled_fraction}"
            )
        self.alpha, self.labelled_fraction, self.latent = alpha, labelled_fraction, latent
        self._counts = labelled_fraction is None
        self.top = -1  # the highest label, as far as known

    def count_labels(self, labels: torch.Tensor | None) -> None:
        """Take the labeled fraction from the training labels `[N]`, unless it was set.

        Raises:
            UserError: `labels` is None.
        """
        if labels is None:
            raise UserError("the semi-supervised objective needs labels y (-1: not labeled)")
        if self._counts:
            self.labelled_fraction = float((labels >= 0).double().mean())
        self.top = int(labels.max())

    def differentiable_loss(
        self,
        model: Callable,
        guide: Callable,
        *args: torch.Tensor,
        y: torch.Tensor | None = None,
        **kwargs: torch.Tensor,
    ) -> torch.Tensor:
        """Sum over the minibatch, in nats; `y [B]` are its labels."""
        clamp, (model, guide) = self._clamped(model, guide, y)
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        return loss + self._classification(clamp)

    def _suits_pyro(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> bool:
        # Pyro multiplies factors that are each shifted by their own maximum: a labeled component that
        # the draw of z is far from underflows, and the loss is infinite.
        sites = layout_of(model, guide, as_batch(model, args, kwargs)).discrete_sites
        if any(site.name == self.latent and not site.in_guide for site in sites):
            return False
        return super()._suits_pyro(model, guide, args, kwargs)

    def loss(
        self,
        model: Callable,
        guide: Callable,
        *args: torch.Tensor,
        y: torch.Tensor | None = None,
        **kwargs: torch.Tensor,
    ) -> float:
        with torch.enable_grad():  # Pyro's differentiable loss refuses to be computed without
            return self.differentiable_loss(model, guide, *args, y=y, **kwargs).item()

    def _clamped(
        self, model: Callable, guide: Callable, y: torch.Tensor | None
    ) -> tuple["ClampGuideLabels", tuple[Callable, Callable]]:
        if y is None or y.is_floating_point() or y.dim() != 1:
            raise UserError(
                "the semi-supervised objective needs y=, [N] whole-number labels, or -1"
            )
        clamp = ClampGuideLabels(self.latent, y, self.top)
        programs = (
            as_wrapper(ClampModelLabels(clamp)(model), model),
            as_wrapper(clamp(guide), guide),
        )
        return clamp, programs

    def _classification(self, clamp: "ClampGuideLabels") -> torch.Tensor | float:
        if clamp.log_q is None:
            if not clamp.in_model:
                raise UserError(f"neither guide nor model has a discrete latent {clamp.latent!r}")
            return 0.0
        log_q, rows = clamp.log_q, len(clamp.labels)
        if clamp.differs_with_a_value:
            raise UserError(
                f"the distribution of {clamp.latent!r} differs between runs of the guide, one for each "
                "value of a latent with sequential enumeration: this is not supported"
            )
        if log_q.dim() == 1 and log_q.shape[0] > rows > 0:  # the draws are rows, one after another
            log_q = log_q.reshape(-1, rows)
        if log_q.dim() > 1 and self.num_particles > 1:
            log_q = log_q.mean(0)
        if log_q.dim() > 1:
            raise UserError(f"{clamp.latent!r} has an enumerated parent: this is not supported")
        if not self.alpha or self.labelled_fraction == 0:
            return 0.0
        if self.labelled_fraction is None:
            raise UserError(
                "the classification term needs labelled_fraction=, labeled data by all data"
            )
        return self.alpha / self.labelled_fraction * -log_q.sum()

    def describe(self) -> dict[str, object]:
        own = {
            "alpha": self.alpha,
            "labelled_fraction": self.labelled_fraction,
            "latent": self.latent,
        }
        return {**super().describe(), "name": "semi-supervised", **own}


class ClampGuideLabels(Messenger):
    """At one site of a guide: certainty of the label, in the rows that have one.

    `log_q [..., B]` is then what the distribution gave to the labels before, 0 in the other rows; with the
    site's scale and mask.
    """

    def __init__(self, latent: str, labels: torch.Tensor, top: int) -> None:
        super().__init__()
        self.latent, self.labels, self.top = latent, labels, top
        self.log_q: torch.Tensor | None = None
        self.logits: torch.Tensor | None = None  # of the run before
        self.in_model = False
        self.takes_values_in_turn = False  # another latent does, in a run each
        self.differs_with_a_value = False

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] != self.latent:
            self.takes_values_in_turn |= msg["infer"].get("enumerate") == "sequential"
            return
        fn = msg["fn"]
        self.check(msg)
        one_hot, labeled = self.rows(fn)
        logits = fn.logits  # normalized
        if self.takes_values_in_turn and self.logits is not None:
            self.differs_with_a_value |= not torch.equal(self.logits, logits)
        self.logits = logits.detach()
        self.log_q = linear_log_prob(one_hot, logits)
        logits = torch.where(labeled, (one_hot - 1) * LOG_ZERO, logits)
        if isinstance(fn, GumbelSoftmax):
            msg["fn"] = GumbelSoftmax(fn.temperature, logits=logits, validate_args=False)
        else:
            msg["fn"] = type(fn)(logits=logits)

    def _pyro_post_sample(self, msg: Site) -> None:
        if msg["name"] == self.latent:
            self.log_q = scale_and_mask(self.log_q, msg["scale"], msg["mask"])

    def check(self, msg: Site) -> None:
        fn, allowed = msg["fn"], (td.OneHotCategorical, td.Categorical, GumbelSoftmax)
        if msg["is_observed"]:
            raise UserError(
                f"{self.latent!r} is observed: to this objective labels are given apart, as -1 or a "
                "class, and the pair does not observe them"
            )
        if not isinstance(fn, allowed):
            raise UserError(
                f"{self.latent!r} is {type(fn).__name__}: labels need a Categorical or "
                "OneHotCategorical distribution"
            )
        if self.top >= fn.logits.shape[-1]:
            raise UserError(
                f"labels go up to {self.top}, but {self.latent!r} has {fn.logits.shape[-1]} classes"
            )

    def rows(self, fn: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The labels one-hot `[B, K]` (zeros where there is none), and which have one `[B, 1]`."""
        labels, batch_shape = self.labels, fn.batch_shape
        if batch_shape and batch_shape[-1] > len(labels) > 0:  # the draws are rows
            labels = labels.repeat(batch_shape[-1] // len(labels))
        labels = labels.unsqueeze(-1)
        classes = torch.arange(fn.logits.shape[-1], device=labels.device)
        return (labels == classes).to(fn.logits.dtype), labels >= 0


class ClampModelLabels(Messenger):
    """At the same site of a model that sums it: the label's indicator joins log p(y)."""

    def __init__(self, clamp: ClampGuideLabels) -> None:
        super().__init__()
        self.clamp = clamp

    def _pyro_sample(self, msg: Site) -> None:
        clamp = self.clamp
        if msg["name"] != clamp.latent or clamp.log_q is not None:  # the guide's, replayed here
            return
        clamp.check(msg)
        clamp.in_model = True
        one_hot, labeled = clamp.rows(msg["fn"])
        if isinstance(msg["mask"], torch.Tensor):  # a masked row has no term, so no label either
            labeled = labeled & msg["mask"].unsqueeze(-1)
        logits = msg["fn"].logits
        logits = torch.where(labeled, logits + (one_hot - 1) * LOG_ZERO, logits)
        distribution = type(msg["fn"])(logits=logits)
        # what is summed is p(x, y), not p(x | y): the distribution keeps log p(y), as torch would not
        within: Any = categorical_of(distribution) or distribution
        within.logits = logits
        msg["fn"] = distribution
