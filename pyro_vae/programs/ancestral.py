"""Ancestral sampling of any model: rows of its latents and of its data."""

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

from ..errors import UserError
from .calling import as_keyword_program, parameters_of
from .contexts import fork_rng
from .handlers import SubstituteMean
from .inspection import covariates_of
from .modules import device_of
from .sites import (
    check_data_plate,
    choose_site,
    holds,
    is_data,
    is_latent,
    is_random,
    is_subsample,
    mean_of,
    outside_plate_error,
)

PROBES = (2, 3)  # numbers of rows that a program is tried on, to see whether its plate follows them


class AncestralSampler:
    """Draws as many rows of a model as are asked for, whatever the model takes.

    A model that takes `size=` is called with it. Any other program is run on an example, whose
    data are hidden from it: row i on row i mod N of the example, if the program's data plate has
    as many rows as its data; else on the whole example, as often as needed.

    Call it under `torch.no_grad`, in eval mode and without Pyro's validation.

    Args:
        model: a Pyro program.
        example: `{"x": x, ...}`, a batch of N rows that the model can be run on. For a model that
            takes `size=` it only says which site observes x.
        arguments: arguments that the model is to be given, by name: tensors with rows, or
            anything else as it is. What the model observes of them stays observed.

    Raises:
        UserError: no example where one is needed, one that the model fails on, or a site outside
            the data plate.
    """

    def __init__(self, model, example=None, arguments=None):
        self.model, self.takes = model, parameters_of(model)
        self.by_size = "size" in self.takes
        if example is None and not self.by_size:
            raise UserError(
                "this model has no size= argument, so it cannot sample by itself: "
                "pass example={'x': x}"
            )
        example = {} if example is None else _named(example, self.takes)
        self.device = device_of(model, default=example["x"].device if example else "cpu")
        self.example = _to(example, self.device)
        self.plate_rows = None  # the data plate's own number of rows, where it does not follow x
        self.hidden = {}  # observed sites, and the argument of the example that each observes
        self.kept = set()  # sites that observe what is given on purpose
        with fork_rng(self.device):
            self.sites = self._probed(_to(arguments or {}, self.device))

    @property
    def latents(self):
        """`{latent: (event shape, is discrete)}` in the model's order."""
        return {
            n: (tuple(s["fn"].event_shape), bool(s["fn"].has_enumerate_support))
            for n, s in self.sites.items()
            if is_latent(s) and n not in self.hidden and not (n == "x" and not self.hidden)
        }

    def data_site(self, site=None):
        """The name of the site of the data; see `choose_site`."""
        if site in self.kept:
            return site
        if self.hidden:
            return choose_site(self.hidden, site)
        site = "x" if site is None else site
        if site not in self.sites:
            known = ", ".join(map(repr, self.sites))
            raise UserError(f"no site {site!r}: pass site=, the site of the data, one of {known}")
        return site

    def runs(self, size, arguments=None, latents=None, at_mean=False):
        """`[{name: site}]`: runs whose rows, one after the other, are `size` rows or more.

        Args:
            arguments: as in the constructor, tensors of `size` rows.
            latents: `{latent: [size, *shape]}` values to put in their places.
            at_mean: put the other continuous latents at their conditional means.
        """
        arguments, latents = _to(arguments or {}, self.device), _to(latents or {}, self.device)
        if self.by_size:
            return [self._run({"size": size}, arguments, latents, at_mean)]
        every = torch.arange(size, device=self.device)
        if self.plate_rows is None:
            parts = every.split(self._most(size))
            return [
                self._run(*(cycle(v, p) for v in (self.example, arguments, latents)), at_mean)
                for p in parts
            ]
        given = [n for n, v in {**arguments, **latents}.items() if _has_rows(v)]
        if given and self.plate_rows != len(self.example["x"]):
            raise UserError(
                f"the model draws {self.plate_rows} rows of its own choice: "
                f"{given[0]} cannot be given row by row"
            )
        runs = []
        for part in every.split(self.plate_rows):
            part = part[torch.arange(self.plate_rows, device=self.device) % len(part)]
            given = cycle(arguments, part), cycle(latents, part)
            runs.append(self._run(self.example, *given, at_mean))
        return runs

    def _most(self, size):
        """Rows of one run, of `size` in all: a subsampled plate has no more than it is a part of."""
        frames = [f for s in self.sites.values() if is_random(s) for f in s["cond_indep_stack"]]
        wholes = [f.full_size for f in frames if f.full_size not in (None, -1, f.size)]
        return min([size, *wholes])

    def values(self, runs, name, size, mean=False):
        """`[size, *shape]` of a site, shaped as the argument that it observes.

        Args:
            runs: what `runs` returned.
            mean: the mean of its distribution instead of its value.
        """
        rows = self.plate_rows or self._most(size)
        parts = [mean_of(name, r[name]["fn"]) if mean else r[name]["value"] for r in runs]
        if parts[0].shape[:1] != (rows,):
            raise outside_plate_error(name)
        values = torch.cat(parts)[:size]
        source = self.hidden.get(name)
        return values if source is None else values.reshape(size, *self.example[source].shape[1:])

    def _probed(self, arguments):
        """`{name: site}` of a run; finds `plate_rows` and `hidden`."""
        if self.by_size:
            return self._probed_by_size(arguments)
        tried = [self._try(rows, arguments) for rows in PROBES]
        if None not in tried:
            follows = {
                n: all(_count(t.get(n)) == r for t, r in zip(tried, PROBES, strict=True))
                for n, s in tried[0].items()
                if is_random(s)
            }
            if all(follows.values()):
                return tried[0]
            if any(follows.values()):
                raise outside_plate_error(next(n for n, f in follows.items() if not f))
        sites = self._run_on_example(torch.arange(len(self.example["x"])), arguments)
        check_data_plate(sites)
        data = sites[next(reversed(self.hidden))]
        for name, site in sites.items():
            if is_random(site) and (_count(site), _plates(site)) != (_count(data), _plates(data)):
                raise outside_plate_error(name)
        self.plate_rows = _count(data)
        return sites

    def _probed_by_size(self, arguments):
        size = PROBES[0]
        missing = {k: s for k, s in covariates_of(self.model).items() if k not in arguments}
        zeros = {k: torch.zeros(size, *s, device=self.device) for k, s in missing.items()}
        given = zeros | cycle(arguments, torch.arange(size))
        if self.example:
            self._run_on_example(torch.arange(min(size, len(self.example["x"]))), given)
        sites = self._run({"size": size}, given)
        for name, site in sites.items():
            if is_latent(site) and site["value"].shape[:1] != (size,):
                raise outside_plate_error(name)
        return sites

    def _try(self, rows, arguments):
        """A run on some rows of the example; None where the program fails on them."""
        rows = torch.arange(rows)
        try:
            sites = self._run(cycle(self.example, rows), cycle(arguments, rows))
        except UserError:
            raise
        except Exception:  # a plate of its own size meets rows of another number, in any way
            return None
        check_data_plate(sites)
        return sites

    def _run_on_example(self, rows, arguments):
        try:
            sites = self._run(cycle(self.example, rows), cycle(arguments, rows))
        except UserError:
            raise
        except Exception as e:
            line = (str(e).strip().splitlines() or [""])[0]
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in self.example.items())
            raise UserError(f"the model fails on {shapes}: {type(e).__name__}: {line}") from e
        if not self.hidden:
            raise UserError("the model observes no data of the example: no site has obs=")
        return sites

    def _run(self, batch, arguments, latents=None, at_mean=False):
        """`{name: site}` of one run."""
        hide = _HideData({k: v for k, v in batch.items() if k not in arguments}, arguments)
        program = poutine.condition(hide(as_keyword_program(self.model)), data=latents or {})
        program = SubstituteMean()(program) if at_mean else program
        trace = poutine.trace(program).get_trace(**{**batch, **arguments})
        hide.check()
        if hide.sources:
            self.hidden, self.kept = hide.sources, hide.kept
        samples = {n: s for n, s in trace.nodes.items() if s["type"] == "sample"}
        return {n: s for n, s in samples.items() if not is_subsample(s)}


class _HideData(Messenger):
    """Hides what a program observes, except the arguments that it is given on purpose."""

    def __init__(self, example, given):
        super().__init__()
        self.example, self.given = _tensors(example), _tensors(given)
        self.sources, self.unexplained = {}, []
        self.kept, self.used = set(), set()  # sites, and the arguments that they observe

    def _pyro_sample(self, msg):
        if not is_data(msg):
            return
        seen = _observed_arguments(msg, {**self.example, **self.given})
        example, given = ([n for n in seen if n in part] for part in (self.example, self.given))
        if example and given:
            raise UserError(
                f"{msg['name']!r} observes the same values as {example[0]} and {given[0]}: "
                "pass an example with other data"
            )
        if given:
            self.kept.add(msg["name"])
            self.used.update(given)
            return
        self.sources[msg["name"]] = example[0] if example else None
        if not example and not _sharing(msg, self.example):
            self.unexplained.append(msg["name"])
        msg["is_observed"], msg["value"], msg["done"] = False, None, False
        msg["infer"] = {**msg["infer"], "was_observed": True}

    def check(self):
        """Raise where a site may observe a function of what is given, and would be redrawn."""
        if self.unexplained and set(self.given) - self.used and len(self.sources) > 1:
            name = self.unexplained[0]
            raise UserError(
                f"{name!r} observes no argument itself, perhaps a function of one: "
                f"pass its value by its name, {name}="
            )


def _observed_arguments(msg, arguments):
    """Names of the arguments that a site observes: of the same memory, else of the same numbers."""
    whole = {n: v for n, v in arguments.items() if v.numel() == msg["value"].numel()}
    return _sharing(msg, whole) or [n for n, v in whole.items() if holds(msg["value"], v)]


def _sharing(msg, arguments):
    """Names of the arguments that a site's value is a view of."""
    memory = msg["value"].untyped_storage().data_ptr()
    return [n for n, v in arguments.items() if v.untyped_storage().data_ptr() == memory]


def _named(example, takes):
    """The example, its data called x whatever the program calls them."""
    first = next(iter(takes), None)
    if "x" not in example and first in example:
        example = {"x": example[first], **{k: v for k, v in example.items() if k != first}}
    if "x" not in example:
        raise UserError("example= needs the data, {'x': x}")
    return example


def _has_rows(value):
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _tensors(values):
    return {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}


def _to(values, device):
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in values.items()}


def cycle(values, rows):
    """Rows of what has rows, beginning again after the last; anything else as it is."""
    return {k: v[rows.to(v.device) % len(v)] if _has_rows(v) else v for k, v in values.items()}


def _count(site):
    """The number of values that a site draws along dim -1; None for one that has no dims."""
    if site is None or not site["fn"].batch_shape:
        return None
    return site["fn"].batch_shape[-1]


def _plates(site):
    return [f.name for f in site["cond_indep_stack"] if f.vectorized]
