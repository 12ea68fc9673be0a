"""Semi-amortized inference: gradient steps per data point from the encoder's output."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn

from .._pyro_internals import isolated_pyro_runtime
from ..errors import UserError, check_int_at_least, check_positive
from ..programs import trace_pair
from ..programs.calling import parameters_of
from ..programs.centers import CommonNoise
from .base import BaseGuide
from .guide import Guide


class SemiAmortized(BaseGuide):
    r"""A guide, refined by k gradient steps per data point.

    .. math:: \lambda_0 = \mathrm{encoder}(x), \quad \lambda_{i+1} = \lambda_i
              + \eta\, \nabla_\lambda\, \mathrm{ELBO}(x; \theta, \lambda_i)

    :math:`\lambda` `[B, size]` are the outputs of the guide's networks, the parameters of each
    factor's family. For a factor with latent parents, whose parameters differ from draw to draw,
    the steps move an offset per data point that is added to them. Each step uses the ELBO of
    `num_samples` draws at :math:`\beta = 1`, with discrete latents enumerated.

    In training the steps are part of the program: their gradients, second derivatives included,
    reach the encoder and the model. Evaluation, in eval mode, takes the same steps with draws whose
    noise is fixed and common to all data points: equal data points have equal posteriors, in every
    batch. The steps need x, and the labels if the objective passes labels. A training step costs
    about k + 1 plain ones, and two for each backward pass.

    The guide refers to the model without registering it as a submodule, as `PriorGuide` does: copy
    a pair in one call.

    Args:
        model: the model that the guide was built for.
        guide: a `Guide` of any factorization and families.
        steps: gradient steps per data point, k.
        lr: size :math:`\eta` of a gradient step. Steps diverge above 2 / (largest curvature).
        num_samples: draws for the ELBO of each step.
        clip_norm: largest norm of one data point's gradient; None does not clip.

    Raises:
        UserError: the guide is not a `Guide`, or a number is out of range.

    References:
        Kim et al. 2018, arXiv 1802.02550.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.SemiAmortized(model, pv.guides.Guide(model), steps=2)
        >>> guide.parameter_offsets(x=torch.zeros(3, 6))["z"].shape  # loc and log_scale of z
        torch.Size([3, 4])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Guide,
        steps: int = 5,
        lr: float = 0.05,
        num_samples: int = 1,
        clip_norm: float | None = 5.0,
    ) -> None:
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
        self.given, self.input_scaling = guide.given, guide.input_scaling
        self.steps, self.lr, self.num_samples = steps, lr, num_samples
        self.clip_norm = clip_norm

    @property
    def stands_for(self) -> tuple[Guide, str]:
        """The key of the pair's layout, which is that of the guide; see `programs.layout`."""
        return self.guide, ""

    @property
    def factors(self) -> nn.ModuleDict:
        """The guide's conditionals."""
        return self.guide.factors

    @property
    def program_arguments(self) -> dict[str, inspect.Parameter]:
        """What the guide takes; see `programs.calling.parameters_of`."""
        return {k: v for k, v in parameters_of(self.guide).items() if k != "parameter_offsets"}

    def forward(
        self,
        x: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
        size: int | None = None,
        **others: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Samples the latents after the gradient steps; see `Guide.forward` for the arguments."""
        batch = {"x": x, "y": y, "c": c, "index": index, "size": size, **others}
        batch = {k: v for k, v in batch.items() if v is not None}
        if x is None:
            raise UserError("a semi-amortized guide takes its steps on data: pass x=")
        return self.guide(**batch, parameter_offsets=self.parameter_offsets(**batch))

    def refined(self, batch: Mapping[str, Any]) -> Callable[..., Any]:
        """The guide after the steps on one batch, as a program whose distribution is fixed."""
        with torch.no_grad():
            return self.guide.with_parameter_offsets(batch, self.parameter_offsets(**batch))

    def parameter_offsets(self, **batch: Any) -> dict[str, torch.Tensor]:
        """What the steps add to the outputs of each factor's network, `{latent: [B, size]}`."""
        (model,) = self.borrowed
        noise = None if self.training else CommonNoise(len(batch["x"]))
        differentiable = torch.is_grad_enabled()  # back-propagate through the steps
        x = batch["x"]
        offsets = {}
        for latent, q in self.guide.conditionals.items():
            if batch.get(latent) is None:
                offsets[latent] = next(q.parameters()).new_zeros(len(x), q.size)

        with isolated_pyro_runtime(), torch.enable_grad():
            for _ in range(self.steps):
                offsets = {
                    latent: offset if offset.requires_grad else offset.requires_grad_()
                    for latent, offset in offsets.items()
                }
                program = self.guide.with_parameter_offsets(batch, offsets)
                bound = trace_pair(model, program, batch, self.num_samples, noise=noise).elbo()
                total = bound.expand(self.num_samples, len(x)).mean(0).sum()
                gradients = torch.autograd.grad(
                    total, list(offsets.values()), create_graph=differentiable
                )
                offsets = {
                    latent: offset + self.lr * gradient
                    for (latent, offset), gradient in zip(
                        offsets.items(), self._clipped(gradients), strict=True
                    )
                }
                if not differentiable:
                    offsets = {latent: offset.detach() for latent, offset in offsets.items()}
        return offsets

    def _clipped(self, gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Gradients whose norm, per data point and over all latents, is at most `clip_norm`."""
        if self.clip_norm is None:
            return gradients
        square = torch.stack([(g**2).sum(-1, keepdim=True) for g in gradients]).sum(0)
        tiny = torch.finfo(square.dtype).tiny
        factor = (self.clip_norm / square.clamp(min=tiny).sqrt()).clamp(max=1.0)
        return [g * factor for g in gradients]

    def extra_repr(self) -> str:
        return f"{self.steps} steps of {self.lr}"
