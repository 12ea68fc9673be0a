"""A training step as one compiled program: loss, gradients, clipping and AdamW's update."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch

from ...programs.compilation import compiled
from ...programs.contexts import seeded
from ...programs.recorder import record
from .recorded import Batch, RecordedStep, Recording, RevertWrites
from .training import Program, TrainingStep, WholeStep
from .verification import COMPILED_TOLERANCE, INDUCTOR_DIFFERS, StepResult, verify

#: The data types that AdamW's update is compiled for. In others, torch's own rounds less often.
DTYPES = (torch.float32, torch.float64)


class CompiledStep(WholeStep):
    """`step(batch)` trains one step and returns the mean loss per data point, a scalar tensor.

    Inductor's code computes loss, gradients, clipping and AdamW's update, and writes weights, moments
    and step counts in place. They stay where torch's `AdamW` has them: a step by the optimizer itself
    can follow at any time, and a checkpoint is the same. A step whose loss is not finite changes no
    weight.

    A step that cannot be compiled is replayed as recorded, with one warning.

    Args:
        step: a `RecordedStep` that is not compiled, on a CPU.
        optimizer: `AdamW(..., fused=True)` with one group of parameters of `DTYPES`.
        clip_norm: largest norm of the gradient. Default: no clipping.
        size: only batches of this many data points are compiled; others (a short last batch) are
            replayed as recorded. Default: all are compiled.
    """

    def __init__(
        self,
        step: RecordedStep,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__(step, optimizer, clip_norm)
        self.size = size

    def build(self, recording: Recording, batch: Batch) -> Program | None:
        if self.size not in (None, len(next(iter(batch.values())))):
            return None
        try:
            with self.step.timed("compiling the step"):
                program = CompiledProgram(self, recording, batch)
                with self.step.python.trial():
                    self._verify(program, batch)
        except Exception as e:  # there is no compiler, or it fails
            self.step.warn("the step is recorded, but not compiled", e)
            return None
        return program

    def _verify(self, program: "CompiledProgram", batch: Batch) -> None:
        """Compare with the plain step and torch's AdamW on fresh batches; raise if they differ."""
        plain = TrainingStep(self.step.plain, self.optimizer, self.clip_norm)

        def result_of(call: Program, fresh: Batch, seed: int) -> StepResult:
            recording, device = program.recording, self.step.device
            self.step.update_schedule_values()
            with self.restored(recording, device), program.large_steps():
                states = program.states()
                for state in states:
                    # from zero, the first moments are a tenth of the gradients; with second moments
                    # of one, the update of a weight is smooth in its gradient
                    state["exp_avg"].zero_()
                    state["exp_avg_sq"].fill_(1)
                weights = [p.detach().clone() for p in recording.leaves]
                with seeded(seed, device), pyro.validation_enabled(False):
                    loss = call(fresh)
                    noise = torch.rand(2, device=device)
                first = [s["exp_avg"].clone() for s in states]
                others = [s[name] for name in ("exp_avg_sq", "step") for s in states]
                written = [t.detach().clone() for t in (*recording.written, *others)]
                # a weight that is zero is as wrong as its step is: that is compared as a gradient is
                pairs = zip(recording.leaves, weights, strict=True)
                first += [p.detach() - before for p, before in pairs]
                return loss, noise, first, written

        verify(
            partial(result_of, plain),
            partial(result_of, program),
            self.step.objective,
            batch,
            COMPILED_TOLERANCE,
            INDUCTOR_DIFFERS,
        )


class CompiledProgram:
    """Inductor's code for a recording and AdamW's update, with the tensors that it reads and writes.

    Args:
        training: the step that it belongs to.
        recording: of loss and gradients.
        batch: a batch like those that it will train on.
    """

    def __init__(self, training: CompiledStep, recording: Recording, batch: Batch) -> None:
        self.recording, self.optimizer = recording, training.optimizer
        self.schedule_values = training.step.schedule_values
        (self.group,) = training.optimizer.param_groups
        beta1, beta2 = self.group["betas"]
        # float64: they take part in arithmetic exactly as Python floats do
        self.factors = torch.zeros(len(recording.leaves), 3, dtype=torch.float64)
        # a parameter that is read is an input already, and no memory may be two inputs
        place = {id(t): i for i, t in enumerate(recording.reads)}
        leaf_places = [place[id(p)] for p in recording.leaves]
        inputs = self._inputs(batch, self.states())
        num_recorded = len(inputs) - 1 - 3 * len(leaf_places)

        def step(*tensors: torch.Tensor) -> torch.Tensor:
            loss, *gradients = recording.graph(*tensors[:num_recorded])
            factors, *states = tensors[num_recorded:]
            if training.clip_norm is not None:
                gradients = clip(gradients, training.clip_norm)
            finite = loss.isfinite()
            counts, firsts, seconds = (states[i::3] for i in range(3))
            for i, (place, gradient) in enumerate(zip(leaf_places, gradients, strict=True)):
                p, m, v, count = tensors[place], firsts[i], seconds[i], counts[i]
                decay, size, eps = factors[i].unbind()
                updated = adamw(p, m, v, gradient, decay, size, eps, beta1, beta2)
                for old, new in zip((p, m, v, count), (*updated, count + 1), strict=True):
                    old.copy_(torch.where(finite, new, old))
            return loss

        with torch.no_grad(), RevertWrites(self.factors.device):
            graph, self.reads = record(step, inputs)
        with torch.no_grad():
            self.program = compiled(graph, [*self.reads, *inputs])

    @torch.no_grad()
    def __call__(self, batch: Batch) -> torch.Tensor:
        states = self.states()
        counts = [state["step"].item() for state in states]
        factors = {count: adamw_factors(count + 1, self.group) for count in set(counts)}
        self.factors.copy_(torch.tensor([factors[count] for count in counts], dtype=torch.float64))
        return self.program(*self.reads, *self._inputs(batch, states))

    def states(self) -> list[dict[str, torch.Tensor]]:
        """AdamW's state of each parameter, created as torch does it if there is none yet."""
        states: list[dict[str, torch.Tensor]] = []
        for p in self.recording.leaves:
            state = self.optimizer.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            states.append(state)
        return states

    @contextmanager
    def large_steps(self) -> Iterator[None]:
        """Within, the learning rate is one: steps are as large as gradients, and not lost in rounding."""
        lr = self.group["lr"]
        self.group["lr"] = 1.0
        try:
            yield
        finally:
            self.group["lr"] = lr

    def _inputs(self, batch: Batch, states: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        tensors = [s[name] for s in states for name in ("step", "exp_avg", "exp_avg_sq")]
        values = self.schedule_values.values()
        return [*self.recording.reads, *batch.values(), *values, self.factors, *tensors]


def adamw(
    weight: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    gradient: torch.Tensor,
    decay: torch.Tensor | float,
    size: torch.Tensor | float,
    eps: torch.Tensor | float,
    beta1: float,
    beta2: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""AdamW's update of a weight and its two moments.

    .. math::
        m' = \beta_1 m + (1 - \beta_1) g, \quad v' = \beta_2 v + (1 - \beta_2) g^2, \quad
        p' = (1 - \eta\lambda)\, p
            - \eta \frac{m' / (1 - \beta_1^t)}{\sqrt{v' / (1 - \beta_2^t)} + \epsilon}

    Args:
        weight, first, second, gradient: :math:`p, m, v, g`.
        decay, size, eps: what `adamw_factors` returns.
        beta1, beta2: :math:`\beta_1, \beta_2`.

    Returns:
        :math:`(p', m', v')`

    References:
        Loshchilov and Hutter (2019), arXiv 1711.05101.
    """
    first = first + (1 - beta1) * (gradient - first)
    second = beta2 * second + (1 - beta2) * gradient * gradient
    return decay * weight - size * (first / (second.sqrt() + eps)), first, second


def adamw_factors(count: float, group: dict[str, Any]) -> tuple[float, float, float]:
    r"""The numbers of step :math:`t` that are the same for all entries of a weight.

    Numerator and denominator are multiplied by :math:`\sqrt{1 - \beta_2^t}`, so that an entry takes one
    division in place of three.

    Args:
        count: :math:`t`, from 1.
        group: AdamW's settings.

    Returns:
        :math:`1 - \eta\lambda`, :math:`\eta\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)` and
        :math:`\epsilon\sqrt{1 - \beta_2^t}`.
    """
    (beta1, beta2), lr = group["betas"], group["lr"]
    root = math.sqrt(1 - beta2**count)
    return 1 - lr * group["weight_decay"], lr * root / (1 - beta1**count), group["eps"] * root


def clip(gradients: Sequence[torch.Tensor], clip_norm: float) -> list[torch.Tensor]:
    """The gradients, scaled so that their norm is at most `clip_norm`; as `clip_grad_norm_` does it."""
    norms = [torch.linalg.vector_norm(g) for g in gradients]
    factor = (clip_norm / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
    return [g * factor for g in gradients]
