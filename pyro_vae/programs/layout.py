"""How S draws of a pair are laid out, and how its discrete latents are enumerated: tested, not assumed.

A Pyro program is written for one draw of a batch. A program that broadcasts may run once under a
plate of particles to the left of the data; one that counts its dimensions from the left
(`softmax(h, dim=1)`, `torch.cat([z, c], 1)`, BatchNorm) may not, and would be silently wrong. So each
pair is tried once, on a few rows, against the runs that are right by definition: one draw at a time,
one value at a time.
"""

import math
import random
import re
import types
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.enum_messenger import EnumMessenger
from torch.nn.parameter import is_lazy

from .._pyro_internals import (
    ENUMERATE_DIM,
    PARTICLES,
    isolated_pyro_runtime,
    prototype_of,
    prune_subsample_sites,
)
from .._torch_internals import keep_freed_memory, touch_constant_table
from ..errors import UserError, reason_of
from .calling import as_keyword_program
from .checks import check_factors, check_log_probs, check_observes, check_sites
from .contexts import eval_mode, fork_rng, set_seed
from .handlers import Choose, Substitute, WithoutMarkov, enumerate_discrete, is_discrete_latent
from .interfaces import WrapperInterface, interface_of
from .modules import device_of, find_modules
from .sites import Site, is_factor, is_latent, is_random, row_mask, sites_in
from .values import check_values

WIDE, FEW = 7, 3  # rows that a program is tried on
MAX_CHOICES = 1024  # combinations of discrete values that are run one by one
MAX_ELEMENTS = 100_000  # of a joint log-prob enumerated in parallel, for each row
TRIES = 20  # draws of a value that differs from another
CHECKED = 2  # combinations at which an enumeration is compared with separate runs


Run = tuple[dict[str, Site], dict[str, Site]]  # the sites of the guide, and of the model
LogProbs = Iterator[tuple[str, torch.Tensor, torch.Tensor]]  # of a site, in two ways
Comparison = Callable[[], LogProbs]


class DiscreteSite(NamedTuple):
    """A discrete latent of a pair."""

    name: str
    size: int  #: how many values it has
    in_guide: bool
    in_model: bool
    configured: str | None  #: how the program itself enumerates it: `"parallel"`, `"sequential"`


class Layout(NamedTuple):
    """How a pair is run."""

    particles: str  #: S draws: a `"plate"` at dim -2, `"rows"` of the data plate, or a `"loop"`
    discrete: str  #: discrete latents: in `"parallel"`, `"stacked"` value by value, or `"sampled"`
    discrete_sites: tuple[
        DiscreteSite, ...
    ]  #: `DiscreteSite`s in sampling order, the guide's first
    divisible: bool  #: whether some rows of a batch may be run without the others
    fixed: bool  #: whether it has its own number of rows: it fails on fewer
    observes: tuple[str, ...]  #: sites that the guide observes: no draws, and so no part of q
    scales_rows: bool  #: whether a site's log-prob has a scale for each row
    absent: frozenset[str]  #: latents that the model masks, and that have no effect where it does
    masks_differ: bool  #: whether the guide does not mask one of these as the model does
    plates: frozenset[str]  #: the names of the plates of the rows, of model and guide
    problem: str | None  #: why its discrete latents are not enumerated in parallel


_layouts: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def layout_of(model: Callable, guide: Callable, batch: Mapping[str, Any]) -> Layout:
    """The `Layout` of a pair, found on the first call and remembered.

    A pair is tried on rows of each new shape, and one with its own number of rows on each new number
    of them, so that it fails with one line.

    Args:
        batch: `{name: [B, ...]}`, what the pair is called with.

    Raises:
        UserError: the pair fails on the batch, or has no log-prob for each of its rows.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.programs.layout_of(model, pv.guides.Guide(model), {"x": torch.ones(4, 6)}).particles
        'plate'
    """
    (model, m, m_tag), (guide, g, g_tag) = _unwrapped(model), _unwrapped(guide)
    key = m_tag, g_tag, frozenset((name, value.shape[1:]) for name, value in batch.items())
    try:
        known = _layouts.setdefault(m, weakref.WeakKeyDictionary()).setdefault(g, {})
    except TypeError:  # an object that cannot be referred to weakly
        known = {}
    layout, of_size = known.get(key), (*key, len(batch["x"]))
    if layout is None or (layout.fixed and of_size not in known):
        touch_constant_table()  # training and evaluation both come here before anything else
        keep_freed_memory()
        device = device_of(model, guide, default=batch["x"].device)
        with (
            isolated_pyro_runtime(),
            torch.no_grad(),
            eval_mode(model, guide),
            fork_rng(device),
            pyro.validation_enabled(False),
            _without_zeros(model, guide),
        ):
            trial = _Trial(model, guide, batch, device)
            layout = layout or trial.layout()
            if layout.fixed:
                trial.on_all_rows()
        known[key] = known[of_size] = layout
    return layout


@contextmanager
def _without_zeros(model: Callable, guide: Callable) -> Iterator[None]:
    """Within, weight matrices of zeros have other numbers: a layer of zeros hides what is before it.

    A program that counts dimensions would look like one that does not, until it is trained.
    """
    zeros = [
        p
        for module in find_modules(model, guide)
        for p in module.parameters()
        if not is_lazy(p) and p.dim() > 1 and not p.any()
    ]
    try:
        for p in zeros:
            p.normal_(std=0.1)
        yield
    finally:
        for p in zeros:
            p.zero_()


def forget_layout(model: Callable) -> None:
    """Have the layout of a model's pairs found anew: the program may have been changed.

    Example:
        >>> import pyro_vae as pv
        >>> pv.programs.forget_layout(pv.models.VAE((6,), latent_dim=2))
    """
    _layouts.pop(_unwrapped(model)[1], None)


def few_rows(
    model: Callable, guide: Callable, batch: Mapping[str, Any], size: int
) -> dict[str, Any]:
    """The first rows of a batch; all of them, where the pair cannot be run on some.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> batch = {"x": torch.ones(9, 6)}
        >>> pv.programs.few_rows(model, pv.guides.Guide(model), batch, 2)["x"].shape
        torch.Size([2, 6])
    """
    return _rows(batch, size if layout_of(model, guide, batch).divisible else None)


def _unwrapped(program: Any) -> tuple[Any, Any, str]:
    """`(program to try, object that it is known by, what names it there)`."""
    known: Any = program
    name = ""
    while True:
        stands_for = interface_of(known, WrapperInterface).stands_for
        if stands_for is not None:
            known, tag = stands_for
            name += tag
            program = program if name else known
        elif isinstance(known, types.MethodType):
            return program, known.__self__, name + known.__func__.__name__
        else:
            return program, known, name


class _Trial:
    """The runs by which a pair's layout is found; each compares log-probs at the same values."""

    def __init__(
        self, model: Callable, guide: Callable, batch: Mapping[str, Any], device: torch.device
    ) -> None:
        self.model, self.guide, self.batch, self.device = model, guide, batch, device
        tensors = [v for v in batch.values() if torch.is_tensor(v)]
        dtypes = [v.dtype for v in tensors if v.is_floating_point()]
        eps = max([torch.finfo(dtype).eps for dtype in dtypes], default=0.0)
        self.tolerance = max(1e-4, 50 * eps)

    def layout(self) -> Layout:
        wide, trace = self._first()
        few = _rows(wide, FEW)
        part = self._try(few)
        fixed = part is None
        values: list[dict[str, torch.Tensor]] = []
        truth: list[Run] = []
        if part is not None:  # drawn before any seed is set: two draws of one seed would be equal
            n, m = len(wide["x"]), len(few["x"])
            beside = {name: v[:m] for name, v in _expanded(_values(trace), trace, n).items()}
            values = [beside, _values(part)]
            truth = self._try_at(few, values)
        divisible = bool(truth) and self._is_divisible(wide, trace, truth[0])
        if 2 < len(wide["x"]) <= FEW:  # these few rows were all
            divisible = divisible and self._try(_rows(wide, 2)) is not None
        if not divisible:
            few = wide
            values = [_values(self._run(wide)) for _ in range(2)]
            truth = [self._run(wide, v, seed=0) for v in values]
        ways = ["plate"] if _is_subsampled(trace) else ["plate", "rows"]  # copies change its scale
        copies = (w for w in ways if self._agree(partial(self._copies, w, few, values, truth)))
        particles = next(copies, "loop")
        sites = _discrete_sites(trace)
        discrete, problem = self._enumeration(few, sites)
        observes = tuple(name for name, site in trace[0].items() if site["is_observed"])
        scales_rows = any(
            torch.is_tensor(site["scale"]) and site["scale"].dim() > 0
            for sites_of_one in trace
            for site in sites_of_one.values()
        )
        absent = self._absent(trace)
        plates = frozenset(
            frame.name
            for sites_of_one in trace
            for site in sites_of_one.values()
            for frame in site["cond_indep_stack"]
            if frame.vectorized and frame.dim == -1
        )
        return Layout(
            particles, discrete, sites, divisible, fixed, observes, scales_rows,
            absent, _masks_differ(trace, absent), plates, problem,
        )  # fmt: skip

    def _absent(self, trace: Run) -> frozenset[str]:
        """The latents that the model masks, and whose values have no effect where it does.

        Such a latent does not exist there: a step beyond the end of a sequence. One whose values another
        site depends on has a flat prior there. A batch without masked rows cannot tell; then they are
        taken not to exist.
        """
        names = [n for n, s in trace[1].items() if is_latent(s) and row_mask(s) is not True]
        if not names:
            return frozenset()
        whole = self._rows(None)
        values = _values(self._run(whole))
        first = self._run(whole, values, seed=0, factors=True)

        def has_no_effect(name: str) -> bool:
            moved = {**values, name: _moved_where_masked(first[1][name])}
            other = self._run(whole, moved, seed=0, factors=True)
            pairs = ((site["log_prob"], other[1][n]["log_prob"]) for n, site in first[1].items())
            return all(torch.allclose(a, b, rtol=1e-6, atol=0, equal_nan=True) for a, b in pairs)

        return frozenset(name for name in names if has_no_effect(name))

    def _first(self) -> tuple[dict[str, Any], Run]:
        """`(a few rows, a run of them)`; all rows, where the program cannot be run on fewer.

        A parameter that is made on a program's first call may get a row for each of that call's
        data. So where it does, the first call that counts is with all of them.
        """
        wide, store = self._rows(WIDE), pyro.get_param_store()
        autos = [m for m in find_modules(self.guide, self.model) if isinstance(m, AutoGuide)]
        if all(prototype_of(auto) is not None for auto in autos):
            before = set(store.keys())
            trace = self._try(wide)
            new = [n for n in set(store.keys()) - before if WIDE in store[n].shape]
            if trace is not None and not new:
                return wide, trace
            for name in new:
                del store[name]
        whole, trace = self.on_all_rows()
        part = self._try(wide)
        return (whole, trace) if part is None else (wide, part)

    def on_all_rows(self) -> tuple[dict[str, Any], Run]:
        """`(all rows, a run of them)`; raises where the pair fails on them."""
        whole = self._rows(None)
        try:
            return whole, self._run(whole, checked=True)
        except UserError:
            raise
        except Exception as error:  # any kind, from a user's program
            raise UserError(failure(self.running, error, whole)) from error

    def _rows(self, size: int | None) -> dict[str, Any]:
        batch = _rows(self.batch, size)
        return {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in batch.items()}

    def _try(self, batch: dict[str, Any]) -> Run | None:
        """A run of the batch; None where the pair fails on it."""
        try:
            return self._run(batch, checked=True)
        except Exception:  # any kind, from a user's program; the run of all rows will tell
            return None

    def _run(
        self,
        batch: Mapping[str, Any],
        values: Mapping[str, torch.Tensor] | None = None,
        choice: Mapping[str, int] | None = None,
        plate: int | None = None,
        enumerated: bool = False,
        seed: int | None = None,
        checked: bool = False,
        factors: bool = False,
    ) -> Run:
        """`(guide's sites, model's sites)` of one run; latents at `values`, the discrete at `choice`.

        With a seed, what a program draws outside of its sites is the same in each run. With `factors`,
        they are among the sites.
        """
        if seed is not None:
            set_seed(seed)
        outermost = -2 if plate is None else -3
        traces: list[poutine.Trace] = []
        for kind, program in (("guide", self.guide), ("model", self.model)):
            self.running = kind
            program = WithoutMarkov()(as_keyword_program(program))
            if plate is not None:
                program = pyro.plate(PARTICLES, plate, dim=-2)(program)
            if enumerated:
                enum = EnumMessenger() if traces else EnumMessenger(outermost)
                program = enum(poutine.infer_config(program, enumerate_discrete))
            program = Choose(choice or {})(Substitute(values or {})(program))
            if traces:
                program = poutine.replay(program, trace=traces[0])
            traces.append(prune_subsample_sites(poutine.trace(program).get_trace(**batch)))
        guide, model = (
            {n: s for n, s in sites_in(trace).items() if is_random(s) or (factors and is_factor(s))}
            for trace in traces
        )
        if checked:
            check_observes(sites_in(traces[1]))
            check_factors(sites_in(traces[0]), sites_in(traces[1]))
            check_sites(guide, model, len(batch["x"]))
        for self.running, trace in zip(("guide", "model"), traces, strict=True):
            trace.compute_log_prob()
        if checked:
            check_log_probs(guide, model, len(batch["x"]))
            check_values(guide, model, batch)
        return guide, model

    def _agree(self, compare: Comparison) -> bool:
        return self._problem(compare) is None

    def _problem(self, compare: Comparison) -> str | None:
        """Why log-probs are not equal, site by site, or the runs that they come from fail; or None."""
        try:
            for name, a, b in compare():
                if a.shape != b.shape or not torch.allclose(
                    a, b, self.tolerance, self.tolerance, equal_nan=True
                ):
                    return f"the log-prob of {name!r} comes out differently"
        except Exception as error:  # any kind, from a program that does not broadcast
            return f"the {self.running} fails: {reason_of(error)}"
        return None

    def _try_at(self, few: dict[str, Any], values: list[dict[str, torch.Tensor]]) -> list[Run]:
        """A run at each of the values; none where the pair fails at one."""
        try:
            return [self._run(few, v, seed=0) for v in values]
        except Exception:  # any kind, from a program that does not take the values
            return []

    def _is_divisible(self, wide: dict[str, Any], trace: Run, alone: Run) -> bool:
        """Whether a few rows have the same log-probs beside others as alone.

        A program that draws numbers outside of its sites is compared where they are the same.
        """

        def compare(seeded: bool) -> LogProbs:
            beside = self._run(wide, _values(trace), seed=0) if seeded else trace
            for one, other in zip(beside, alone, strict=True):
                for name, site in one.items():
                    expected = other[name]["log_prob"]
                    yield name, site["log_prob"][: len(expected)], expected

        return any(self._agree(partial(compare, seeded)) for seeded in (False, True))

    def _copies(
        self,
        way: str,
        few: dict[str, Any],
        draws: list[dict[str, torch.Tensor]],
        truth: list[Run],
    ) -> LogProbs:
        """Log-probs of two draws in one run, and in a run each."""
        n = len(few["x"])
        each = [_expanded(values, run, n) for values, run in zip(draws, truth, strict=True)]
        if way == "plate":
            values = {k: torch.stack([v[k] for v in each]) for k in each[0]}
            together = self._run(few, values, plate=2, seed=0)
        else:
            values = {k: torch.cat([v[k] for v in each]) for k in each[0]}
            twice = {k: torch.cat([v, v]) if _has_rows(v, n) else v for k, v in few.items()}
            together = self._run(twice, values, seed=0)
        for i, sites in enumerate(together):
            for name, site in sites.items():
                expected = torch.stack([t[i][name]["log_prob"] for t in truth])
                log_prob = site["log_prob"]
                yield (
                    name,
                    log_prob.reshape(2, n) if way == "rows" else log_prob.expand(2, n),
                    expected,
                )

    def _enumeration(
        self, few: dict[str, Any], sites: tuple[DiscreteSite, ...]
    ) -> tuple[str, str | None]:
        """How the discrete latents are enumerated; and why not in parallel."""
        combinations = math.prod(site.size for site in sites)
        problem: str | None = None
        if sites:
            problem = f"{combinations:,} combinations of values are too many"
        if sites and combinations <= MAX_ELEMENTS:
            problem = self._problem(partial(self._values_apart, few, sites))
        if problem is None:
            return "parallel", None
        if combinations <= MAX_CHOICES:
            return "stacked", problem
        names = ", ".join(repr(site.name) for site in sites)
        if math.prod(site.size for site in sites if not site.in_guide) > MAX_CHOICES:
            raise UserError(
                f"{names}: {combinations:,} combinations of values cannot be summed ({problem}): "
                "sample them in the guide"
            )
        warnings.warn(
            f"{names}: {combinations:,} combinations of values are not summed but sampled, and "
            "weighted by importance",
            stacklevel=2,
        )
        return "sampled", problem

    def _values_apart(self, few: dict[str, Any], sites: tuple[DiscreteSite, ...]) -> LogProbs:
        """Log-probs at some values: all enumerated in one run, and each in a separate run."""
        n = len(few["x"])
        together = self._run(few, enumerated=True, seed=0)
        dims = {
            name: site["infer"][ENUMERATE_DIM]
            for name, site in {**together[1], **together[0]}.items()
            if site["infer"].get(ENUMERATE_DIM) is not None
        }
        numbers = random.Random(0)
        first = {site.name: numbers.randrange(site.size) for site in sites}
        for i in range(CHECKED):
            choice = {site.name: (first[site.name] + i) % site.size for site in sites}
            at = {dims[name]: number for name, number in choice.items()}
            values = {
                name: _at(site["value"], at, len(site["fn"].event_shape))
                for sites_of_one in together
                for name, site in sites_of_one.items()
                if not site["is_observed"] and name not in choice
            }
            separate = self._run(few, values, choice, seed=0)
            for one, other in zip(together, separate, strict=True):
                for name, site in one.items():
                    yield name, _at(site["log_prob"], at, 0).expand(n), other[name]["log_prob"]


def _rows(batch: Mapping[str, Any], size: int | None) -> dict[str, Any]:
    """The first rows of a batch; None: all."""
    n = len(batch["x"])
    return {k: v[:size] if _has_rows(v, n) else v for k, v in batch.items()}


def _has_rows(value: object, n: int) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == n


def _values(run: Run) -> dict[str, torch.Tensor]:
    """`{latent: value}`, the guide's and those that the model alone samples."""
    return {
        name: site["value"]
        for sites in reversed(run)
        for name, site in sites.items()
        if not site["is_observed"]
    }


def _expanded(values: Mapping[str, torch.Tensor], run: Run, n: int) -> dict[str, torch.Tensor]:
    """The values `[B, *event]`, also where a program left the data dimension out."""
    fns = {name: site["fn"] for sites in run for name, site in sites.items()}
    return {
        name: value.expand(n, *value.shape[value.dim() - len(fns[name].event_shape) :])
        for name, value in values.items()
    }


def _at(value: torch.Tensor, at: Mapping[int, int], event_dim: int) -> torch.Tensor:
    """Of an enumerated value, `[B, *event]` at one number for each enumerated dimension."""
    for dim, number in at.items():
        if value.dim() - event_dim >= -dim:
            place = value.dim() + dim - event_dim
            value = value.narrow(place, number if value.shape[place] > 1 else 0, 1)
    keep = min(value.dim(), 1 + event_dim)
    return value.reshape(value.shape[value.dim() - keep :])


def failure(kind: str, error: Exception, batch: Mapping[str, Any]) -> str:
    """What is said of a user's program that raised an error."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    found = re.search(r"inside plate\('(\w+)'\) at site (\w+) dim -1, (\d+) vs (\d+)", line)
    rows = str(len(batch["x"]))
    if found and found[4] == rows:
        line = (
            f"the plate {found[1]!r} has {found[3]} rows, the batch and site {found[2]!r} {rows}: "
            f'pyro.plate("{found[1]}", len(x)) has those of the batch'
        )
    elif "plate" in line and "hape" in line:
        line += " (is .to_event(...) missing?)"
    beyond = re.search(r"index (\d+) is out of bounds for dimension 0 with size (\d+)", line)
    if beyond and "index" in batch:
        line += f" (num_data={beyond[2]} is too few, if that is what has the rows)"
    if "Long" in line and "indices" in line:  # an embedding's
        line += " (x and c are floats here, also of whole numbers: the program takes x.long())"
    if "uninitialized parameter" in line:
        line = "a lazy module (nn.LazyLinear) has no shape yet: call it once, before Pyro has it"
    shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in batch.items() if torch.is_tensor(v))
    return f"the {kind} fails on {shapes}: {type(error).__name__}: {line}"


def _moved_where_masked(site: Site) -> torch.Tensor:
    """The values of a latent, other ones where it is masked."""
    value, fn = site["value"], site["fn"]
    mask = torch.as_tensor(row_mask(site), device=value.device).expand(fn.batch_shape)
    kept = mask.reshape(mask.shape + (1,) * len(fn.event_shape)).expand(value.shape)
    new = value
    for _ in range(TRIES):  # a draw of few values may be the same
        try:
            draw = fn.sample().expand(value.shape).to(value)
        except NotImplementedError:  # an improper prior
            draw = value + 1
        new = torch.where((new == value) & ~kept, draw, new)
    return new


def _masks_differ(trace: Run, names: Collection[str]) -> bool:
    """Whether draws of these latents in the guide are not masked as the model masks them."""
    guide, model = trace
    draws = {name: site for name, site in guide.items() if is_latent(site)}
    if names and set(draws) - set(model):
        return True  # an auxiliary draw may be part of a masked latent
    masks = [(row_mask(model[name]), row_mask(draws[name])) for name in names if name in draws]
    return any(
        not torch.equal(*torch.broadcast_tensors(*map(torch.as_tensor, pair))) for pair in masks
    )


def _is_subsampled(run: Run) -> bool:
    """Whether a plate says that its rows are some of more."""
    return any(
        frame.full_size not in (None, frame.size)
        for sites in run
        for site in sites.values()
        for frame in site["cond_indep_stack"]
    )


def _discrete_sites(run: Run) -> tuple[DiscreteSite, ...]:
    """The `DiscreteSite`s of a pair, from one run of it."""
    guide, model = run
    return tuple(
        DiscreteSite(
            name,
            len(site["fn"].enumerate_support(expand=False)),
            name in guide,
            name in model,
            site["infer"].get("enumerate"),
        )
        for name, site in {**guide, **{n: s for n, s in model.items() if n not in guide}}.items()
        if is_discrete_latent(site)
    )
