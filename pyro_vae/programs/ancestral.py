"""Ancestral sampling of any model: rows of its latents and of its data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine

from ..errors import UserError, first_line_of
from .calling import as_keyword_program, parameters_of
from .centers import mean_or_median
from .contexts import fork_rng
from .handlers import SubstituteMean
from .hiding import HideData
from .inspection import Example, covariates_of, example_with_data
from .modules import device_of
from .sites import (
    Site,
    check_data_plate,
    choose_site,
    is_latent,
    is_random,
    is_subsample,
    outside_plate_error,
    sites_in,
)

PROBES = (2, 3)  # numbers of rows that a program is tried on, to see whether its plate follows them

Run = dict[str, Site]  # the sample sites of one run of a model, by name


class AncestralSampler:
    """Draws any number of rows of a model, whatever the arguments of the model.

    A model that takes `size=` is called with it. Any other program is run on an example, whose
    data are hidden from it. If the program's data plate has as many rows as its data, sample i uses
    row i mod N of the example. Otherwise the program is run on the whole example, as often as needed.

    Call it under `torch.no_grad`, in eval mode and without Pyro's validation.

    Args:
        model: a Pyro program.
        example: `{"x": x, ...}`, a batch of N rows that the model can be run on. For a model that
            takes `size=` it only identifies the site that observes x.
        arguments: `{name: value}`, further arguments of the model: tensors with rows, or other
            values, which are passed unchanged. What the model observes of them stays observed.

    Attributes:
        sites: `{name: site}` of a run on a few rows.
        hidden: the observed sites, `{site: the argument of the example that it observes, or None}`.
            Of a model that takes `size=`, those that observe data of the example.
        kept: the sites that observe `arguments`, and stay observed.
        plate_rows: the size of the data plate, if it does not depend on the size of x.

    Raises:
        UserError: no example where one is needed, one that the model fails on, or a site outside
            the data plate.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        example: Example | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.takes = model, parameters_of(model)
        self.by_size = "size" in self.takes
        if example is None and not self.by_size:
            raise UserError(
                "this model has no size= argument, so it cannot sample by itself: "
                "pass example={'x': x}"
            )
        self.example = example_with_data(model, example) or {}
        self.device = device_of(model, default=self.example["x"].device if self.example else "cpu")
        self.plate_rows: int | None = None
        self.hidden: dict[str, str | None] = {}
        self.kept: set[str] = set()
        with fork_rng(self.device):
            self.sites = self._probed(_to(arguments or {}, self.device))

    @property
    def latents(self) -> dict[str, tuple[tuple[int, ...], bool]]:
        """`{latent: (event shape, is discrete)}` in the model's order."""
        return {
            n: (tuple(s["fn"].event_shape), bool(s["fn"].has_enumerate_support))
            for n, s in self.sites.items()
            if is_latent(s) and n not in self.hidden and not (n == "x" and not self.hidden)
        }

    def data_site(self, site: str | None = None) -> str:
        """The name of the site of the data; see `choose_site`."""
        if site is not None and site in self.kept:
            return site
        if self.hidden:
            return choose_site(self.hidden, site)
        site = "x" if site is None else site
        if site not in self.sites:
            known = ", ".join(map(repr, self.sites))
            raise UserError(f"no site {site!r}: pass site=, the site of the data, one of {known}")
        return site

    def runs(
        self,
        size: int,
        arguments: Mapping[str, Any] | None = None,
        latents: Mapping[str, Any] | None = None,
        at_mean: bool = False,
    ) -> list[Run]:
        """Runs whose rows, concatenated, are `size` rows or more.

        Args:
            size: the number of samples.
            arguments: as in the constructor, tensors of `size` rows.
            latents: `{latent: [size, *shape]}`, values in place of draws.
            at_mean: set the other continuous latents to their conditional means.

        Raises:
            UserError: arguments or latents for a model whose number of rows is fixed.
        """
        arguments, latents = _to(arguments or {}, self.device), _to(latents or {}, self.device)
        if self.by_size:
            return [self._run({"size": size}, arguments, latents, at_mean)]
        every = torch.arange(size, device=self.device)
        if self.plate_rows is None:
            return [
                self._run(
                    cycle(self.example, rows), cycle(arguments, rows), cycle(latents, rows), at_mean
                )
                for rows in every.split(self._rows_per_run(size))
            ]
        with_rows = [n for n, v in {**arguments, **latents}.items() if _has_rows(v)]
        if with_rows and self.plate_rows != len(self.example["x"]):
            raise UserError(
                f"the model always draws {self.plate_rows} rows: "
                f"{with_rows[0]} cannot be given row by row"
            )
        runs = []
        for rows in every.split(self.plate_rows):
            rows = rows[torch.arange(self.plate_rows, device=self.device) % len(rows)]
            runs.append(
                self._run(self.example, cycle(arguments, rows), cycle(latents, rows), at_mean)
            )
        return runs

    def _rows_per_run(self, size: int) -> int:
        """Rows of one run, of `size` in all: at most the full size of a subsampled plate."""
        frames = [f for s in self.sites.values() if is_random(s) for f in s["cond_indep_stack"]]
        full_sizes = [f.full_size for f in frames if f.full_size not in (None, -1, f.size)]
        return min([size, *full_sizes])

    def values(self, runs: Sequence[Run], name: str, size: int, mean: bool = False) -> torch.Tensor:
        """`[size, *shape]`: the values of a site, in the shape of the argument that it observes.

        Args:
            runs: what `runs` returned.
            name: of the site.
            size: the number of samples.
            mean: the mean of its distribution instead of its value.

        Raises:
            UserError: the site is outside the data plate, or its distribution has no mean.
        """
        rows = self.plate_rows or self._rows_per_run(size)
        parts = [mean_or_median(name, r[name]["fn"]) if mean else r[name]["value"] for r in runs]
        if parts[0].shape[:1] != (rows,):
            raise outside_plate_error(name)
        values = torch.cat(parts)[:size]
        source = self.hidden.get(name)
        return values if source is None else values.reshape(size, *self.example[source].shape[1:])

    def _probed(self, arguments: Mapping[str, Any]) -> Run:
        """A run on a few rows; sets `plate_rows` and `hidden`."""
        if self.by_size:
            return self._probed_by_size(arguments)
        probes = [self._try(rows, arguments) for rows in PROBES]
        runs = [run for run in probes if run is not None]
        if len(runs) == len(PROBES):
            follows = {
                n: all(_count(run.get(n)) == r for run, r in zip(runs, PROBES, strict=True))
                for n, s in runs[0].items()
                if is_random(s)
            }
            if all(follows.values()):
                return runs[0]
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

    def _probed_by_size(self, arguments: Mapping[str, Any]) -> Run:
        """A run of a model that takes `size=`; sets `hidden` if there is an example."""
        size = PROBES[0]
        missing = {k: s for k, s in covariates_of(self.model).items() if k not in arguments}
        zeros = {k: torch.zeros(size, *s, device=self.device) for k, s in missing.items()}
        given = zeros | cycle(arguments, torch.arange(size))
        if self.example:
            self._run_on_example(torch.arange(min(size, len(self.example["x"]))), given)
        with _failing_in_one_line(f"size={size}"):
            sites = self._run({"size": size}, given)
        for name, site in sites.items():
            if is_latent(site) and site["value"].shape[:1] != (size,):
                raise outside_plate_error(name)
        return sites

    def _try(self, num_rows: int, arguments: Mapping[str, Any]) -> Run | None:
        """A run on the first rows of the example; None if the program fails on them."""
        rows = torch.arange(num_rows)
        try:
            sites = self._run(cycle(self.example, rows), cycle(arguments, rows))
        except UserError:
            raise
        except Exception:  # a plate of fixed size and another number of rows: any error can follow
            return None
        check_data_plate(sites)
        return sites

    def _run_on_example(self, rows: torch.Tensor, arguments: Mapping[str, Any]) -> Run:
        """A run on rows of the example, which must work."""
        shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in self.example.items())
        with _failing_in_one_line(shapes):
            sites = self._run(cycle(self.example, rows), cycle(arguments, rows))
        if not self.hidden:
            raise UserError("the model observes no data of the example: no site has obs=")
        return sites

    def _run(
        self,
        batch: Mapping[str, Any],
        arguments: Mapping[str, Any],
        latents: Mapping[str, Any] | None = None,
        at_mean: bool = False,
    ) -> Run:
        """One run of the model, with the data of the batch hidden."""
        hide = HideData({k: v for k, v in batch.items() if k not in arguments}, arguments)
        program = poutine.condition(hide(as_keyword_program(self.model)), data=dict(latents or {}))
        program = SubstituteMean()(program) if at_mean else program
        trace = poutine.trace(program).get_trace(**{**batch, **arguments})
        hide.check()
        if "size" not in batch:  # what is observed without data is no data
            self.hidden = hide.sources or self.hidden
        self.kept = hide.kept or self.kept
        samples = {n: s for n, s in sites_in(trace).items() if s["type"] == "sample"}
        return {n: s for n, s in samples.items() if not is_subsample(s)}


@contextmanager
def _failing_in_one_line(inputs: str) -> Iterator[None]:
    """A user's program can fail in any way: what it raises becomes one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"the model fails on {inputs}: {first_line_of(e)}") from e


def _has_rows(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _to(values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in values.items()}


def cycle(values: Mapping[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """These rows of each tensor, modulo its length; other values are unchanged."""
    return {k: v[rows.to(v.device) % len(v)] if _has_rows(v) else v for k, v in values.items()}


def _count(site: Site | None) -> int | None:
    """The number of values that a site draws along dim -1; None for a site without dimensions."""
    if site is None or not site["fn"].batch_shape:
        return None
    return site["fn"].batch_shape[-1]


def _plates(site: Site) -> list[str]:
    return [f.name for f in site["cond_indep_stack"] if f.vectorized]
