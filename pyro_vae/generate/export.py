"""Encoders and decoders as programs of torch alone, by `torch.export`."""

from pathlib import Path
from typing import Any, cast

import pyro
import torch
import torch.nn as nn

from ..conditionals import Conditional
from ..errors import UserError, file_to_write
from ..evaluate import sample_posterior
from ..evaluate.inputs import PyroProgram, pair_inputs
from ..guides import Guide
from ..programs.contexts import eval_mode, fork_rng
from ..programs.inspection import Example, example_with_data, is_per_datum
from ..programs.interfaces import conditional_of
from ..programs.sites import mean_of


class Encoder(nn.Module):
    """The posterior means of a guide, and the probabilities of its discrete latents.

    Args:
        guide: the guide.
        inputs: names of the arguments of `forward`, in their order.
    """

    def __init__(self, guide: Guide, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.factors, self.given, self.inputs = guide.factors, guide.given, inputs
        self.fills_missing = guide.fills_missing
        self.discrete = [n for n in guide.discrete_latents if n in guide.given]
        self.scaling = {
            name: (torch.as_tensor(mean), torch.as_tensor(scale))
            for name, (mean, scale) in guide.input_scaling.items()
        }

    def conditionals(self) -> dict[str, Conditional]:
        """`{latent: q(latent | parents)}`."""
        return cast(dict[str, Conditional], dict(self.factors.items()))

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`{latent: [B, *shape]}`: means; of a discrete latent, probabilities.

        Args:
            values: `[B, *shape]`, in the order of `inputs`.
        """
        known = dict(zip(self.inputs, values, strict=True))
        scaled = {n: (v - self.scaling[n][0]) / self.scaling[n][1] for n, v in known.items()
                  if n in self.scaling}  # fmt: skip
        known |= scaled
        if self.fills_missing and "x" in known:  # as the guide does
            known["x"] = torch.where(known["x"].isnan(), 0.0, known["x"])
        result: dict[str, torch.Tensor] = {}
        weights = None  # of the values of a discrete latent, [K, B, 1]
        for latent, q in self.conditionals().items():
            if latent in known:
                continue  # observed
            fn = q(**{parent: known[parent] for parent in self.given[latent]})
            if latent in self.discrete:
                result[latent] = fn.probs
                count = fn.probs.shape[-1]
                known[latent] = torch.eye(count, device=fn.probs.device).unsqueeze(1)  # [K, 1, K]
                weights = fn.probs.movedim(-1, 0).unsqueeze(-1)
                continue
            mean = known[latent] = mean_of(latent, fn)
            if weights is not None and mean.dim() > len(q.shape) + 1:  # one mean per value
                flat = mean.flatten(2)
                mean = (weights * flat).sum(0).reshape(mean.shape[1:])
            result[latent] = mean
        return result


class Decoder(nn.Module):
    """The mean of p(x | parents).

    Args:
        conditional: p(x | parents).
    """

    def __init__(self, conditional: Conditional) -> None:
        super().__init__()
        self.conditional, self.inputs = conditional, conditional.given

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """`[B, *x_shape]`.

        Args:
            values: `[B, *shape]`, in the order of `inputs`.
        """
        return mean_of("x", self.conditional(**dict(zip(self.inputs, values, strict=True))))


def export_encoder(
    model: PyroProgram, guide: PyroProgram, example: Example, path: Path | str
) -> Path:
    """Write the encoder as a program that needs torch alone, for batches of any size.

    `torch.export.load(path).module()` is a function of the guide's inputs, in the order in which
    `example` has them. It returns what `pv.evaluate.encode` does, and the probabilities of discrete
    latents that the guide names. Where q(y | ...) has a continuous latent among its parents, they are
    those at its mean: `Run.encode` averages them over draws.

    Args:
        model: the generative program.
        guide: a `Guide`.
        example: x `[N, ...]`, or `{"x": x, ...}`, inputs of the pair for a few data points.
        path: the file, `NAME.pt2`.

    Returns:
        The path.

    Raises:
        UserError: another kind of guide, a family without a mean, an example without x, or a file that
            is no `.pt2` or cannot be written.

    Example:
        >>> import os, tempfile, torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide, x = pv.guides.Guide(model), torch.eye(6)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pv.generate.export_encoder(model, guide, {"x": x}, folder + "/encoder.pt2")
        ...     program = torch.export.load(path).module()
        >>> means = pv.evaluate.encode(model, guide, x)["z"]
        >>> torch.allclose(program(x)["z"], means, atol=1e-6)
        True
    """
    if not isinstance(guide, Guide):
        raise UserError(
            f"export_encoder takes a pv.guides.Guide, whose encoder is a network, not "
            f"{type(guide).__name__}"
        )
    if is_per_datum(guide):
        raise UserError("a guide with a row per training data point has no encoder to export")
    if sum(n in guide.given for n in guide.discrete_latents) > 1:
        raise UserError("the guide has several discrete latents: export_encoder takes one")
    batch = _batch(model, guide, example)
    inputs = tuple(n for n in batch if any(n in parents for parents in guide.given.values()))
    if not inputs:
        raise UserError("no latent of the guide depends on x: there is no encoder to export")
    encoder = Encoder(guide, inputs)
    return _export(encoder, [batch[name] for name in inputs], path)


def export_decoder(
    model: PyroProgram, guide: PyroProgram, example: Example, path: Path | str
) -> Path:
    """Write the decoder as a program that needs torch alone, for batches of any size.

    `torch.export.load(path).module()` is a function of the parents of x, in the order
    `model.p_x.given`. It returns the mean of the likelihood, `[B, *x_shape]`.

    Args:
        model: a model whose `p_x` is a `Conditional`.
        guide: the guide of the model.
        example: x `[N, ...]`, or `{"x": x, ...}`, inputs of the pair for a few data points.
        path: the file, `NAME.pt2`.

    Returns:
        The path.

    Raises:
        UserError: another kind of model, a likelihood without a mean, an example without x, or a file
            that is no `.pt2` or cannot be written.

    Example:
        >>> import os, tempfile, torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide, x = pv.guides.Guide(model), torch.eye(6)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pv.generate.export_decoder(model, guide, {"x": x}, folder + "/decoder.pt2")
        ...     program = torch.export.load(path).module()
        >>> program(torch.zeros(9, 2)).shape
        torch.Size([9, 6])
    """
    p_x = conditional_of(model, "x")
    if not isinstance(p_x, Conditional):
        raise UserError("export_decoder takes a model whose p_x is a pv.conditionals.Conditional")
    batch = _batch(model, guide, example)
    others: dict[str, Any] = {name: value for name, value in batch.items() if name != "x"}
    values = {**sample_posterior(model, guide, batch["x"], mean=True, **others), **others}
    return _export(Decoder(p_x), [values[name] for name in p_x.given], path)


def _batch(model: PyroProgram, guide: PyroProgram, example: Example) -> dict[str, torch.Tensor]:
    """The inputs of a pair, of at least two data points: one would be taken as a constant."""
    batch = example_with_data(model, {} if example is None else example) or {}
    batch = pair_inputs(model, batch.pop("x"), batch, guide)
    return {n: torch.cat([v, v]) if len(v) == 1 else v for n, v in batch.items()}


def _export(module: nn.Module, inputs: list[torch.Tensor], path: Path | str) -> Path:
    path, size = Path(path), torch.export.Dim("batch")
    if path.suffix != ".pt2":
        raise UserError(f"path must be a file NAME.pt2, not {str(path)!r}")
    file_to_write(path)
    with torch.no_grad(), eval_mode(module), fork_rng(), pyro.validation_enabled(False):
        program = torch.export.export(
            module, tuple(inputs), dynamic_shapes=(tuple({0: size} for _ in inputs),), strict=False
        )
    try:
        with open(path, "wb") as file:
            torch.export.save(program, file)
    except OSError as e:
        raise UserError(f"cannot write to {str(path)[:60]!r}: {e.strerror}") from e
    return path
