"""Checks of one run of a pair: matching sites, one data plate, a log-prob for each data point."""

from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .sites import Site, is_data, is_factor, is_in_several_plates, outside_plate_error


def check_observes(model: Mapping[str, Site]) -> None:
    """Raise unless a site of the model's trace observes data, or a factor scores them."""
    if not any(is_data(site) or is_factor(site) for site in model.values()):
        raise UserError(
            "the model observes no data: no site has obs= (a pair is passed as model, guide)"
        )


def check_factors(guide: Mapping[str, Site], model: Mapping[str, Site]) -> None:
    """Raise where a factor lies in the data plate and in another: it is no term for each row.

    Args:
        guide, model: `{name: site}`, the factors among them.

    Raises:
        UserError: one line with the factor.
    """
    for kind, sites in (("guide", guide), ("model", model)):
        for name, site in sites.items():
            if is_factor(site) and is_in_several_plates(site):
                raise UserError(
                    f"the factor {name!r} in the {kind} lies in the data plate and in another: sum it "
                    "over the other one, in the data plate alone (at dim -1)"
                )


def check_sites(guide: Mapping[str, Site], model: Mapping[str, Site], n: int) -> None:
    """Raise unless the sites of one run of a pair, on n rows, fit each other and one data plate.

    Args:
        guide, model: `{name: site}`, discrete latents sampled.

    Raises:
        UserError: one line with the site and the shapes.
    """
    guide = {name: site for name, site in guide.items() if not site["is_observed"]}
    _check_names(guide, model)
    _check_plates(guide, model, n)


def check_rows(sites: Mapping[str, Site], n: int) -> None:
    """Raise where a data plate takes some of the rows of a run itself: which ones, nobody knows.

    Args:
        sites: of one program, `{name: site}`.
        n: number of the rows that the program was given.
    """
    for site in sites.values():
        for frame in site.get("cond_indep_stack", ()):
            if frame.dim == -1 and _has_other_rows(frame, n):
                raise UserError(
                    f"the data plate {frame.name!r} takes {frame.size} of the {n} rows that it is "
                    "given: give it all of them (no subsample_size=, or subsample_size=len(x)); "
                    "pv.fit draws the batches"
                )


def check_log_probs(guide: Mapping[str, Site], model: Mapping[str, Site], n: int) -> None:
    """Raise unless every site of such a run has a log-prob for each row."""
    for kind, sites in (("guide", guide), ("model", model)):
        for name, site in sites.items():
            shape = tuple(site["log_prob"].shape)
            if shape != (n,):
                raise UserError(
                    f"log-probability of {name!r} in the {kind} has shape {list(shape)}, not [{n}]: "
                    f"value {list(site['value'].shape)}, distribution "
                    f"{list(site['fn'].batch_shape)} + {list(site['fn'].event_shape)}; "
                    "is .to_event(...) missing?"
                )


def _has_other_rows(frame: Any, n: int) -> bool:
    """Whether a data plate has not the n rows of a run; one without a size takes what comes."""
    return frame.size not in (-1, None, n)


def _check_names(guide: Mapping[str, Site], model: Mapping[str, Site]) -> None:
    for name, site in guide.items():
        if name not in model:
            if not site["infer"].get("is_auxiliary"):
                raise UserError(
                    f"the guide samples {name!r}, which the model never does ({', '.join(model)})"
                )
            continue
        if model[name]["is_observed"]:
            raise UserError(f"the guide samples {name!r}, which the model observes")
        a, b = tuple(model[name]["fn"].event_shape), tuple(site["fn"].event_shape)
        if a != b:
            raise UserError(
                f"{name!r} has event shape {list(a)} in the model, {list(b)} in the guide"
            )
    for name, site in model.items():
        if not site["is_observed"] and name not in guide and not site["fn"].has_enumerate_support:
            raise UserError(f"the guide never samples {name!r}, and it cannot be summed exactly")


def _check_plates(guide: Mapping[str, Site], model: Mapping[str, Site], n: int) -> None:
    sizes: dict[int, tuple[str, str]] = {}
    for kind, sites in (("model", model), ("guide", guide)):
        for name, site in sites.items():
            frames = [f for f in site["cond_indep_stack"] if f.vectorized]
            if not frames:
                raise outside_plate_error(name)
            if [f.dim for f in frames] != [-1]:
                dims = ", ".join(f"{f.name!r} at dim {f.dim}" for f in frames)
                raise UserError(
                    f"site {name!r} in the {kind} must lie in one data plate, at dim -1; its plates: "
                    f"{dims}"
                )
            size, full_size = frames[0].size, frames[0].full_size
            if _has_other_rows(frames[0], n):
                raise UserError(
                    f"the data plate at {name!r} in the {kind} has {size} rows, the batch {n}"
                )
            if size == n:
                sizes.setdefault(full_size or size, (name, kind))
    if len(sizes) > 1:
        places = "; ".join(
            f"{size} at {name!r} in the {kind}" for size, (name, kind) in sizes.items()
        )
        raise UserError(f"the data plates have different sizes: {places}")
