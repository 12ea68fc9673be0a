"""Run a pair, or one program, as its layout says, and gather what was run as one `Traces`."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger

from .._pyro_internals import ENUMERATE_DIM, PARTICLES, prune_subsample_sites
from ..errors import UserError
from .calling import as_keyword_program
from .centers import CommonNoise
from .checks import check_rows
from .handlers import (
    Choose,
    Substitute,
    SubstituteMean,
    WithoutMarkov,
    enumerate_discrete,
    sample_discrete,
)
from .layout import DiscreteSite, Layout, layout_of
from .sites import Site, is_subsample, sites_in
from .traces import Traces


def trace_pair(
    model: Callable,
    guide: Callable,
    batch: Mapping[str, Any],
    num_particles: int | None = None,
    *,
    at_mean: bool = False,
    values: Mapping[str, torch.Tensor] | None = None,
    draw_discrete: bool = False,
    as_configured: bool = False,
    noise: CommonNoise | None = None,
) -> Traces:
    """Run the guide, then the model against it, without support checks.

    Every discrete latent is enumerated, however it was trained, in the way that the pair's layout
    names.

    Args:
        model, guide: the pair.
        batch: `{name: [B, ...]}`; a program takes what its signature names.
        num_particles: S draws of everything that is sampled; log-probs are `[enum..., S, B]`.
            Default: one draw, `[enum..., B]`.
        at_mean: continuous latents take their conditional means.
        values: the guide's latents, by name, take these values.
        draw_discrete: the guide's discrete latents are sampled, like its others.
        as_configured: only what training sums is enumerated: what the program itself enumerates, and
            what the guide leaves out.
        noise: of the guide's draws. Default: each row has its own.

    Returns:
        The run as `Traces`.

    Raises:
        UserError: the pair fails on the batch, or has no log-prob for each of its rows.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.MixtureVAE((5,), num_components=3, latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> traces = pv.programs.trace_pair(model, guide, {"x": torch.ones(8, 5)}, num_particles=4)
        >>> traces.elbo().shape, traces.probabilities("y").shape
        (torch.Size([4, 8]), torch.Size([4, 8, 3]))
    """
    layout = layout_of(model, guide, batch)
    handlers: list[Callable] = []  # the first one sets a latent: a given value comes before a mean
    if values is not None:
        latents = dict(values)
        handlers.append(lambda place: Substitute({n: place(v) for n, v in latents.items()}))
    if at_mean:
        handlers.append(lambda place: SubstituteMean())
    modes = _modes(layout, draw_discrete, as_configured)._replace(noise=noise)
    return _gather(layout, model, guide, batch, num_particles, handlers, modes)


def trace_program(
    program: Callable,
    layout: Layout,
    batch: Mapping[str, Any],
    num_particles: int,
    handler: Callable | None = None,
    draw_discrete: bool = False,
    is_guide: bool = False,
) -> Traces:
    """Run one program alone, S draws, as the model of a `Traces`; its log-probs are `[enum..., S, B]`.

    Args:
        layout: of the pair that the program belongs to.
        handler: `place -> handler`, which puts latents at values; `place` takes a value `[S, B, ...]`
            to where it stands in one run.
        draw_discrete: discrete latents are sampled.
        is_guide: whether the program is the pair's guide.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model, batch = pv.models.VAE((5,), latent_dim=2), {"x": torch.ones(8, 5)}
        >>> layout = pv.programs.layout_of(model, pv.guides.Guide(model), batch)
        >>> traces = pv.programs.trace_program(model, layout, batch, num_particles=4)
        >>> traces.model["z"]["value"].shape
        torch.Size([4, 8, 2])
    """
    config: Callable = sample_discrete
    if layout.discrete == "parallel" and not draw_discrete:
        config = enumerate_discrete
    sites = () if draw_discrete or layout.discrete == "parallel" else layout.discrete_sites
    choices = tuple(s for s in sites if (s.in_guide if is_guide else s.in_model))
    modes = _Modes(config, config, (), choices)
    handlers = [] if handler is None else [handler]
    return _gather(layout, program, None, batch, num_particles, handlers, modes)


class _Modes(NamedTuple):
    """How the latents of one gathering are drawn: the discrete ones, and the guide's."""

    in_guide: Callable  #: an `infer_config` function
    in_model: Callable
    guide_choices: tuple[
        DiscreteSite, ...
    ] = ()  #: the `DiscreteSite`s whose values are stacked, run by run
    model_choices: tuple[DiscreteSite, ...] = ()
    noise: CommonNoise | None = None  #: of the guide's draws


def _modes(layout: Layout, draw_discrete: bool, as_configured: bool) -> _Modes:
    if layout.discrete == "parallel":
        enumerated = _as_configured(layout) if as_configured else enumerate_discrete
        return _Modes(sample_discrete if draw_discrete else enumerated, enumerated)
    sites = [
        s for s in layout.discrete_sites if s.configured or not s.in_guide or not as_configured
    ]
    in_guide = [s for s in sites if s.in_guide]
    if draw_discrete or layout.discrete == "sampled":
        in_guide = []
    in_model = [s for s in sites if not s.in_guide]
    return _Modes(sample_discrete, sample_discrete, tuple(in_guide), tuple(in_model))


def _as_configured(layout: Layout) -> Callable[[Site], dict[str, str]]:
    """An `infer_config` function: what training sums is enumerated at once.

    That is what the program enumerates, one value at a time or at once, and what the guide leaves out.
    The program is asked at each run: a relaxed guide enumerates in eval mode alone.
    """
    left_out = {s.name for s in layout.discrete_sites if not s.in_guide}

    def config(site: Site) -> dict[str, str]:
        is_sequential = site["type"] == "sample" and site["infer"].get("enumerate") == "sequential"
        return {"enumerate": "parallel"} if is_sequential or site["name"] in left_out else {}

    return config


def _gather(
    layout: Layout,
    model: Callable,
    guide: Callable | None,
    batch: Mapping[str, Any],
    num_particles: int | None,
    handlers: Sequence[Callable],
    modes: _Modes,
) -> Traces:
    """Every run that S draws and the stacked values take, gathered."""
    event_dims = 1 if num_particles is None else 2
    runs: list[tuple[poutine.Trace, poutine.Trace]] = []
    for variant, plate, place in _variants(layout, batch, num_particles):
        of_variant = _runs(model, guide, variant, plate, place, handlers, modes)
        for trace in of_variant[0]:
            check_rows(sites_in(trace), len(variant["x"]))
        runs += of_variant
    choices = [*modes.guide_choices, *modes.model_choices]
    grid = _Grid(layout.particles, num_particles, choices)
    if len(runs) == 1 and (num_particles is None or layout.particles == "plate"):
        sites = [sites_in(trace) for trace in runs[0]]
    else:
        sites = [grid.sites([sites_in(run[i]) for run in runs]) for i in range(2)]
    return Traces(sites[0], sites[1], grid, event_dims, layout.absent)


def _variants(
    layout: Layout, batch: Mapping[str, Any], num_particles: int | None
) -> list[tuple[Mapping[str, Any], int | None, Callable]]:
    """`(batch, particles in a plate, place)` of each run that S draws take.

    `place` takes a value `[S, B, ...]` of a latent to where it stands in that run.
    """
    if num_particles is None:
        return [(batch, None, lambda value: value)]
    if layout.particles == "plate":
        return [(batch, num_particles, lambda value: value)]
    if layout.particles == "rows":
        size = len(batch["x"])
        wide = {
            name: value.repeat((num_particles,) + (1,) * (value.dim() - 1))
            if isinstance(value, torch.Tensor) and value.dim() and len(value) == size
            else value
            for name, value in batch.items()
        }
        return [(wide, None, _as_rows)]
    return [
        (batch, None, partial(_of_particle, particle=particle)) for particle in range(num_particles)
    ]


def _as_rows(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(0, 1)


def _of_particle(value: torch.Tensor, particle: int) -> torch.Tensor:
    return value[particle]


def _runs(
    model: Callable,
    guide: Callable | None,
    batch: Mapping[str, Any],
    plate: int | None,
    place: Callable,
    handlers: Sequence[Callable],
    modes: _Modes,
) -> list[tuple[poutine.Trace, poutine.Trace]]:
    """`(model trace, guide trace)` for every choice of stacked values, the guide's first.

    A latent that the guide samples before it chooses has the same value for every choice: it is
    drawn once.
    """
    outermost = -2 if plate is None else -3
    runs: list[tuple[poutine.Trace, poutine.Trace]] = []
    before: poutine.Trace | None = None
    last: dict[str, int] = {}
    for guide_choice in _choices(modes.guide_choices):
        guide_trace, enum = poutine.Trace(), EnumMessenger(outermost)
        if guide is not None:
            program = _prepared(guide, modes.in_guide, plate, enum, handlers, place)
            shared = {} if before is None else _drawn_before(before, last, guide_choice)
            program = Choose(guide_choice)(Substitute(shared)(program))
            guide_trace = _traced(program if modes.noise is None else modes.noise(program), batch)
            before, last = guide_trace, guide_choice
            enum = EnumMessenger()  # continues to the left of the guide's dimensions
        for model_choice in _choices(modes.model_choices):
            alone = handlers if guide is None else ()
            program = _prepared(model, modes.in_model, plate, enum, alone, place)
            program = poutine.replay(Choose(model_choice)(program), trace=guide_trace)
            runs.append((_traced(program, batch), guide_trace))
    return runs


def _prepared(
    program: Callable,
    config: Callable,
    plate: int | None,
    enum: EnumMessenger,
    handlers: Sequence[Callable],
    place: Callable,
) -> Callable:
    """The program of a whole batch, its discrete latents configured, its latents handled."""
    program = WithoutMarkov()(poutine.infer_config(as_keyword_program(program), config))
    if plate is not None:
        program = pyro.plate(PARTICLES, plate, dim=-2)(program)
    program = enum(program)
    for handler in handlers:
        program = handler(place)(program)
    return program


def _traced(program: Callable, batch: Mapping[str, Any]) -> poutine.Trace:
    with pyro.validation_enabled(False):
        trace = prune_subsample_sites(poutine.trace(program).get_trace(**batch))
        trace.compute_log_prob()
    return trace


def _choices(sites: Sequence[DiscreteSite]) -> list[dict[str, int]]:
    """Every combination of the sites' values, `{site: its number}`, the last varying fastest."""
    numbers = itertools.product(*(range(site.size) for site in sites))
    return [dict(zip((s.name for s in sites), n, strict=True)) for n in numbers]


def _drawn_before(
    trace: poutine.Trace, last: Mapping[str, int], choice: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """The values drawn before the first choice that differs from the last run's."""
    changed = next((name for name in choice if choice[name] != last[name]), None)
    values = {}
    for name, site in sites_in(trace).items():
        if name == changed:
            break
        if site["type"] == "sample" and not site["is_observed"] and not is_subsample(site):
            values[name] = site["value"]
    return values


class _Grid:
    """How the runs of one gathering are put together: particles times choices, in that order."""

    def __init__(
        self, particles: str, num_particles: int | None, choices: Sequence[DiscreteSite]
    ) -> None:
        self.rows = particles == "rows" and num_particles is not None
        self.looped = particles == "loop" and num_particles is not None
        self.num_particles = num_particles
        self.batch_dims = 2 if particles == "plate" and num_particles is not None else 1
        self.chosen = [site.name for site in choices]
        self.sizes = [site.size for site in choices]

    def sites(self, runs: Sequence[Mapping[str, Site]]) -> dict[str, Site]:
        """`{name: site}` of all runs as one; `runs` are the nodes of each."""
        names = [n for n, s in runs[0].items() if s["type"] == "sample"]
        if any([n for n, s in nodes.items() if s["type"] == "sample"] != names for nodes in runs):
            raise UserError("the program samples other sites for other values of a discrete latent")
        return {name: self._site([nodes[name] for nodes in runs]) for name in names}

    def _site(self, sites: Sequence[Site]) -> Site:
        first = sites[0]
        fn = first["fn"]
        new = {**first, "infer": dict(first["infer"])}
        for key in ("unscaled_log_prob", "log_prob", "mask", "scale"):
            if torch.is_tensor(first[key]) and first[key].dim():
                new[key] = self.stack([s[key] for s in sites], 0)
        if torch.is_tensor(first["value"]) and not first["is_observed"]:  # data are one for all
            new["value"] = self.stack([s["value"] for s in sites], len(fn.event_shape))
        new["runs"] = [s["fn"] for s in sites], self.stack
        new["values"] = [s["value"] for s in sites]
        enumerated = first["infer"].get(ENUMERATE_DIM)
        if first["name"] in self.chosen:
            event_dims = 1 if self.num_particles is None else 2
            place = self.chosen.index(first["name"]) - len(self.chosen)
            new["infer"][ENUMERATE_DIM] = place - event_dims
        elif enumerated is not None and (self.rows or self.looped):
            new["infer"][ENUMERATE_DIM] = enumerated - 1
        return new

    def stack(self, tensors: Sequence[torch.Tensor], event_dim: int) -> torch.Tensor:
        """Each run's `[..., B, *event]` as one `[choices..., (S,) B, *event]`."""
        if self.rows:
            tensors = [self._split(t, event_dim) for t in tensors]
        for _ in range(self.batch_dims):
            tensors = [t if t.dim() - event_dim >= self.batch_dims else t[None] for t in tensors]
        if len(tensors) == 1 and not self.looped:
            return tensors[0]
        stacked = torch.stack(torch.broadcast_tensors(*tensors))
        draws = self.num_particles or 1 if self.looped else 1
        stacked = stacked.reshape(draws, *self.sizes, *stacked.shape[1:])
        return stacked.movedim(0, -2 - event_dim) if self.looped else stacked.squeeze(0)

    def _split(self, tensor: torch.Tensor, event_dim: int) -> torch.Tensor:
        """`[..., S * B, *event]` as `[..., S, B, *event]`."""
        rows = tensor.dim() - event_dim
        if rows == 0:
            return tensor.reshape(1, 1, *tensor.shape)
        left, event = tensor.shape[: rows - 1], tensor.shape[rows:]
        size = tensor.shape[rows - 1]
        draws = 1 if size == 1 else self.num_particles or 1
        return tensor.reshape(*left, draws, size // draws, *event)

    @property
    def is_one_run(self) -> bool:
        """Whether all draws and values come from one run of the pair."""
        return not self.looped and not self.chosen

    def merged(self, tensor: torch.Tensor) -> torch.Tensor:
        """`[..., S, B]`, as the particles and data stand in one run: the inverse of `stack`."""
        if tensor.dim() < 2:  # one value for all particles
            return tensor
        if self.num_particles is None:
            return tensor.squeeze(-2)
        return tensor.flatten(-2, -1) if self.rows else tensor
