"""Semi-amortized inference: gradient steps per data point from where the encoder points."""

import torch

from .._pyro_internals import isolated_pyro_runtime
from ..errors import UserError, check_int_at_least, check_positive
from ..programs import trace_pair
from ..programs.calling import parameters_of
from .base import BaseGuide
from .guide import Guide


class SemiAmortized(BaseGuide):
    r"""A guide's answer, improved by k gradient steps per data point (Kim et al. 2018, arXiv 1802.02550).

    .. math:: \lambda_0 = \mathrm{encoder}(x), \quad
              \lambda_{i+1} = \lambda_i + \eta\, \nabla_\lambda\, \mathrm{ELBO}(x; \theta, \lambda_i)

    :math:`\lambda [B, \mathrm{size}]` are the numbers that the guide's network gives each factor of the
    family. Of a factor with latent parents, whose numbers differ from draw to draw, the steps move
    a shift per data point that is added to them. The ELBO is one of `num_samples` draws, discrete latents
    summed, :math:`\beta = 1`.

    In training the steps are part of the program: their gradients, second derivatives included,
    reach encoder and model. Evaluation takes the same steps. It needs x, and where the objective
    gives it labels, those. A step of training costs about k + 1 plain ones, and two for each
    backward.

    It holds the model without registering it, as `PriorGuide` does: copy a pair in one go.

    Args:
        model: the model that the guide was made for.
        guide: a `Guide`, of any factorization and families.
        steps: k.
        lr: :math:`\eta`, nats per data point to numbers; steps diverge above 2 / (largest curvature).
        num_samples: draws for each step's ELBO.
        clip_norm: largest norm of one data point's gradient; None does not clip.

    Raises:
        UserError: a guide that is not a `Guide`, numbers out of range.
    """

    def __init__(
        self,
        model,
        guide: Guide,
        steps: int = 5,
        lr: float = 0.05,
        num_samples: int = 1,
        clip_norm: float | None = 5.0,
    ):
        super().__init__()
        if not isinstance(guide, Guide):
            kind = type(guide).__name__
            raise UserError(f"SemiAmortized improves a Guide of this library, not {kind}")
        check_int_at_least(1, steps=steps, num_samples=num_samples)
        check_positive(lr=lr)
        if clip_norm is not None:
            check_positive(clip_norm=clip_norm)
        self.guide = guide
        self.borrowed = (model,)  # in a tuple, so that torch does not make it a submodule
        self.stands_for = guide, ""
        self.given, self.input_scaling = guide.given, guide.input_scaling
        self.steps, self.lr, self.num_samples = steps, lr, num_samples
        self.clip_norm = clip_norm

    @property
    def factors(self):
        """The guide's conditionals."""
        return self.guide.factors

    @property
    def program_arguments(self):
        """What the guide takes, as `pair.parameters_of` has it."""
        return {k: v for k, v in parameters_of(self.guide).items() if k != "shifts"}

    def forward(self, x=None, y=None, c=None, index=None, size=None, **others):
        batch = {"x": x, "y": y, "c": c, "index": index, "size": size, **others}
        batch = {k: v for k, v in batch.items() if v is not None}
        if x is None:
            raise UserError("a semi-amortized guide takes its steps on data: pass x=")
        return self.guide(**batch, parameter_offsets=self.parameter_offsets(**batch))

    def settled(self, batch):
        """The guide where its steps on one batch end: a program whose distribution stays the same."""
        with torch.no_grad():
            return self.guide.shifted(batch, self.parameter_offsets(**batch))

    def parameter_offsets(self, **batch):
        """What the steps add to each factor's numbers, `{latent: [B, size]}`."""
        (model,) = self.borrowed
        keep = torch.is_grad_enabled()  # back-propagate through the steps
        x = batch["x"]
        latents = [n for n in self.guide.factors if batch.get(n) is None]
        parameter_offsets = {}
        for latent in latents:
            q = self.guide.factors[latent]
            parameter_offsets[latent] = next(q.parameters()).new_zeros(len(x), q.size)

        def elbo(parameter_offsets):
            return trace_pair(
                model, self.guide.shifted(batch, parameter_offsets), batch, self.num_samples
            ).elbo()

        with isolated_pyro_runtime(), torch.enable_grad():
            for _ in range(self.steps):
                parameter_offsets = {
                    k: v if v.requires_grad else v.requires_grad_()
                    for k, v in parameter_offsets.items()
                }
                bound = elbo(parameter_offsets)
                total = bound.expand(self.num_samples, len(x)).mean(0).sum()
                gradients = torch.autograd.grad(
                    total, list(parameter_offsets.values()), create_graph=keep
                )
                parameter_offsets = {
                    name: shift + self.lr * gradient
                    for (name, shift), gradient in zip(
                        parameter_offsets.items(), self._clipped(gradients), strict=True
                    )
                }
                if not keep:
                    parameter_offsets = {k: v.detach() for k, v in parameter_offsets.items()}
        return parameter_offsets

    def _clipped(self, gradients):
        """Each data point's gradient, of all latents together, no longer than `clip_norm`."""
        if self.clip_norm is None:
            return gradients
        square = sum((g**2).sum(-1, keepdim=True) for g in gradients)
        tiny = torch.finfo(square.dtype).tiny
        factor = (self.clip_norm / square.clamp(min=tiny).sqrt()).clamp(max=1.0)
        return [g * factor for g in gradients]

    def extra_repr(self):
        return f"{self.steps} steps of {self.lr}"
