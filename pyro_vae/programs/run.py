"""Run a pair, or one program, as its layout says, and gather what was run as one `Traces`."""

import itertools
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger

from .._pyro_internals import ENUMERATE_DIM, PARTICLES, prune_subsample_sites
from ..errors import UserError
from .calling import as_keyword_program
from .handlers import (
    Choose,
    Substitute,
    SubstituteMean,
    WithoutMarkov,
    enumerate_discrete,
    sample_discrete,
)
from .layout import layout_of
from .sites import is_subsample
from .traces import Traces


def trace_pair(
    model,
    guide,
    batch,
    num_particles=None,
    *,
    at_mean=False,
    values=None,
    draw_discrete=False,
    as_configured=False,
):
    """Run the guide, then the model against it; returns `Traces`, without support checks.

    Every discrete latent is summed, however it was trained, in the way that the pair's layout found
    to be right.

    Args:
        batch: `{name: [B, ...]}`; a program gets what its signature names.
        num_particles: S draws of everything that is sampled; log-probs are `[enum..., S, B]`.
            Default: one draw, `[enum..., B]`.
        at_mean: continuous latents take their conditional means.
        values: the guide's latents, by name, take these values.
        draw_discrete: the guide's discrete latents are sampled, like its others.
        as_configured: only what the program itself enumerates is enumerated, as in training.
    """
    layout = layout_of(model, guide, batch)
    handlers = [lambda place: SubstituteMean()] if at_mean else []
    if values is not None:
        handlers.append(lambda place: Substitute({n: place(v) for n, v in values.items()}))
    modes = _modes(layout, draw_discrete, as_configured)
    return _gather(layout, model, guide, batch, num_particles, handlers, modes)


def trace_program(
    program, layout, batch, num_particles, handler=None, draw_discrete=False, is_guide=False
):
    """Run one program alone, S draws, as the model of a `Traces`; its log-probs are `[enum..., S, B]`.

    Args:
        layout: of the pair that the program belongs to.
        handler: `place -> handler`, which puts latents at values; `place` takes a value `[S, B, ...]`
            to where it stands in one run.
        draw_discrete: discrete latents are sampled.
        is_guide: whether the program is the pair's guide.
    """
    config = sample_discrete
    if layout.discrete == "parallel" and not draw_discrete:
        config = enumerate_discrete
    sites = () if draw_discrete or layout.discrete == "parallel" else layout.discrete_sites
    choices = tuple(s for s in sites if (s.in_guide if is_guide else s.in_model))
    modes = _Modes(config, config, (), choices)
    handlers = [] if handler is None else [handler]
    return _gather(layout, program, None, batch, num_particles, handlers, modes)


class _Modes(NamedTuple):
    """What is done with the discrete latents of one gathering."""

    in_guide: Callable  #: an `infer_config` function
    in_model: Callable
    guide_choices: tuple = ()  #: the `DiscreteSite`s whose values are stacked, run by run
    model_choices: tuple = ()


def _modes(layout, draw_discrete, as_configured):
    if layout.discrete == "parallel":
        enumerated = _in_parallel if as_configured else enumerate_discrete
        return _Modes(sample_discrete if draw_discrete else enumerated, enumerated)
    sites = [s for s in layout.discrete_sites if s.configured or not as_configured]
    in_guide = [s for s in sites if s.in_guide]
    if draw_discrete or layout.discrete == "sampled":
        in_guide = []
    in_model = [s for s in sites if not s.in_guide]
    return _Modes(sample_discrete, sample_discrete, tuple(in_guide), tuple(in_model))


def _in_parallel(site):
    """An `infer_config` function: what is enumerated one value at a time, is enumerated at once."""
    sequential = site["type"] == "sample" and site["infer"].get("enumerate") == "sequential"
    return {"enumerate": "parallel"} if sequential else {}


def _gather(layout, model, guide, batch, num_particles, handlers, modes):
    """Every run that S draws and the stacked values take, gathered."""
    event_dims = 1 if num_particles is None else 2
    runs = []
    for variant, plate, place in _variants(layout, batch, num_particles):
        runs += _runs(model, guide, variant, plate, place, handlers, modes)
    choices = [*modes.guide_choices, *modes.model_choices]
    grid = _Grid(layout.particles, num_particles, choices)
    if len(runs) == 1 and (num_particles is None or layout.particles == "plate"):
        sites = [t.nodes for t in runs[0]]
    else:
        sites = [grid.sites([t[i].nodes for t in runs]) for i in range(2)]
    model_trace, guide_trace = (SimpleNamespace(nodes=nodes) for nodes in sites)
    traces = Traces(model_trace, guide_trace, event_dims=event_dims)
    traces.grid = grid
    return traces


def _variants(layout, batch, num_particles):
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


def _as_rows(value):
    return value.flatten(0, 1)


def _of_particle(value, particle):
    return value[particle]


def _runs(model, guide, batch, plate, place, handlers, modes):
    """`(model trace, guide trace)` for every choice of stacked values, the guide's first.

    A latent that the guide samples before it chooses has the same value for every choice: it is
    drawn once.
    """
    outermost = -2 if plate is None else -3
    found, before, last = [], None, None
    for guide_choice in _choices(modes.guide_choices):
        guide_trace, enum = poutine.Trace(), EnumMessenger(outermost)
        if guide is not None:
            program = _prepared(guide, modes.in_guide, plate, enum, handlers, place)
            shared = {} if before is None else _drawn_before(before, last, guide_choice)
            guide_trace = _traced(Choose(guide_choice)(Substitute(shared)(program)), batch)
            before, last = guide_trace, guide_choice
            enum = EnumMessenger()  # continues to the left of the guide's dimensions
        for model_choice in _choices(modes.model_choices):
            alone = handlers if guide is None else ()
            program = _prepared(model, modes.in_model, plate, enum, alone, place)
            program = poutine.replay(Choose(model_choice)(program), trace=guide_trace)
            found.append((_traced(program, batch), guide_trace))
    return found


def _prepared(program, config, plate, enum, handlers, place):
    """The program of a whole batch, its discrete latents configured, its latents handled."""
    program = WithoutMarkov()(poutine.infer_config(as_keyword_program(program), config))
    if plate is not None:
        program = pyro.plate(PARTICLES, plate, dim=-2)(program)
    program = enum(program)
    for handler in handlers:
        program = handler(place)(program)
    return program


def _traced(program, batch):
    with pyro.validation_enabled(False):
        trace = prune_subsample_sites(poutine.trace(program).get_trace(**batch))
        trace.compute_log_prob()
    return trace


def _choices(sites):
    """Every combination of the sites' values, `{site: its number}`, the last varying fastest."""
    numbers = itertools.product(*(range(site.size) for site in sites))
    return [dict(zip((s.name for s in sites), n, strict=True)) for n in numbers]


def _drawn_before(trace, last, choice):
    """The values drawn before the first choice that differs from the last run's."""
    changed = next((name for name in choice if choice[name] != last[name]), None)
    values = {}
    for name, site in trace.nodes.items():
        if name == changed:
            break
        if site["type"] == "sample" and not site["is_observed"] and not is_subsample(site):
            values[name] = site["value"]
    return values


class _Grid:
    """How the runs of one gathering are put together: particles times choices, in that order."""

    def __init__(self, particles, num_particles, choices):
        self.rows = particles == "rows" and num_particles is not None
        self.looped = particles == "loop" and num_particles is not None
        self.num_particles = num_particles
        self.batch_dims = 2 if particles == "plate" and num_particles is not None else 1
        self.chosen = [site.name for site in choices]
        self.sizes = [site.size for site in choices]

    def sites(self, runs):
        """`{name: site}` of all runs as one; `runs` are the nodes of each."""
        names = [n for n, s in runs[0].items() if s["type"] == "sample"]
        if any([n for n, s in nodes.items() if s["type"] == "sample"] != names for nodes in runs):
            raise UserError("the program samples other sites for other values of a discrete latent")
        return {name: self._site([nodes[name] for nodes in runs]) for name in names}

    def _site(self, sites):
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

    def stack(self, tensors, event_dim):
        """Each run's `[..., B, *event]` as one `[choices..., (S,) B, *event]`."""
        if self.rows:
            tensors = [self._split(t, event_dim) for t in tensors]
        for _ in range(self.batch_dims):
            tensors = [t if t.dim() - event_dim >= self.batch_dims else t[None] for t in tensors]
        if len(tensors) == 1 and not self.looped:
            return tensors[0]
        stacked = torch.stack(torch.broadcast_tensors(*tensors))
        draws = self.num_particles if self.looped else 1
        stacked = stacked.reshape(draws, *self.sizes, *stacked.shape[1:])
        return stacked.movedim(0, -2 - event_dim) if self.looped else stacked.squeeze(0)

    def _split(self, tensor, event_dim):
        """`[..., S * B, *event]` as `[..., S, B, *event]`."""
        rows = tensor.dim() - event_dim
        if rows == 0:
            return tensor.reshape(1, 1, *tensor.shape)
        left, event = tensor.shape[: rows - 1], tensor.shape[rows:]
        size = tensor.shape[rows - 1]
        draws = 1 if size == 1 else self.num_particles
        return tensor.reshape(*left, draws, size // draws, *event)

    @property
    def is_one_run(self):
        """Whether all draws and values come from one run of the pair."""
        return not self.looped and not self.chosen

    def merged(self, tensor):
        """`[..., S, B]`, as the particles and data stand in one run: the inverse of `stack`."""
        if self.num_particles is None:
            return tensor.squeeze(-2)
        return tensor.flatten(-2, -1) if self.rows else tensor
