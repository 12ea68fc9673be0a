"""Which options have an effect only beside others. One that would have none is refused."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import DATASETS
from ..errors import UserError
from .groups import accepted, choice_groups
from .preparing import binarization
from .table import preset


@dataclass(frozen=True)
class Need:
    """What options need in order to have an effect.

    Args:
        options: their full names.
        is_met: whether a configuration has what they need.
        words: what is missing otherwise, after "has no effect".
        of_method: whether the method alone decides, so that its `--help` can leave the options out.
    """

    options: tuple[str, ...]
    is_met: Callable[[Mapping[str, Any]], bool]
    words: str
    of_method: bool = False


def _parents(config: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """`{latent: parents}` of the method's guide; none if it is the prior."""
    entry = preset(config["method"])
    if entry.parents is None:
        return entry.model.default_guide
    return {} if isinstance(entry.parents, str) else entry.parents


def _has_discrete_latent(config: Mapping[str, Any]) -> bool:
    return "y" in _parents(config)


def _has_shared_trunk(config: Mapping[str, Any]) -> bool:
    parents = [tuple(p) for p in _parents(config).values()]
    return len(set(parents)) < len(parents)


def _sees_data(config: Mapping[str, Any]) -> bool:
    return any({"x", "c"} & set(p) for p in _parents(config).values())


def _is_of_torchvision(data: str | None) -> bool:
    return data in DATASETS and DATASETS[data].kind == "images"


NEEDS = (
    Need(
        ("guide.discrete", "guide.temperature", "objective.leave_one_out_baseline"),
        _has_discrete_latent,
        "without a discrete latent in the guide, and this guide has none",
        of_method=True,
    ),
    Need(
        ("guide.share_trunk",),
        _has_shared_trunk,
        "without two latents of the guide that have the same parents",
        of_method=True,
    ),
    Need(("center",), _sees_data, "without a network of the guide that sees x", of_method=True),
    Need(
        ("guide.temperature",),
        lambda config: config["guide.discrete"] == "relaxed",
        "without guide.discrete=relaxed",
    ),
    Need(
        ("objective.leave_one_out_baseline",),
        lambda config: config["guide.discrete"] == "score_function",
        "without guide.discrete=score_function",
    ),
    Need(
        ("refine.lr", "refine.num_samples", "refine.clip_norm"),
        lambda config: config["refine.steps"] > 0,
        "without refine.steps",
    ),
    Need(
        ("split_seed",),
        lambda config: not _is_of_torchvision(config["data"]),
        "on a data set whose splits are fixed",
    ),
    Need(("label_seed",), lambda config: config["num_labels"] is not None, "without num_labels"),
    Need(
        ("binarize_seed",),
        lambda config: binarization(config) not in (None, "none"),
        "on data that are not binarized: binarize=static or dynamic",
    ),
)


def check_effects(
    config: Mapping[str, Any], options: Iterable[str], variants: Iterable[Mapping[str, Any]] = ({},)
) -> None:
    """Raise if an option that the caller changed from its default has no effect.

    Args:
        config: a complete configuration.
        options: full names of the options that the caller set.
        variants: changes of the configuration; one in which the option has an effect is enough.
    """
    options = set(options)
    known = accepted(config["method"], {g: config[g] for g in choice_groups(config["method"])})
    for need in NEEDS:
        for option in need.options:
            if option not in options or config[option] == known[option]:
                continue
            if not any(need.is_met({**config, **change}) for change in variants):
                raise UserError(f"{option}={config[option]} has no effect {need.words}")


def without_effect(name: str) -> set[str]:
    """The options of a method that have no effect whatever the others are."""
    config = {"method": name}
    return {o for need in NEEDS if need.of_method and not need.is_met(config) for o in need.options}


def check_root(root: Path | str | None, data: str | None) -> None:
    """Raise if the folder of the torchvision data sets is set for other data."""
    if root is not None and not _is_of_torchvision(data):
        names = ", ".join(filter(_is_of_torchvision, DATASETS))
        raise UserError(f"root has no effect on the data {data}: it is for {names}")


def check_workers(workers: int | None, config: Mapping[str, Any]) -> None:
    """Raise if several processes are to train one run."""
    parts = max(config["restarts"], config.get("initialize.vaes", 1))
    if workers not in (None, 1) and parts == 1:
        raise UserError(
            f"workers={workers} has no effect without restarts, or several VAEs of a "
            "MixtureInitialization (vaes): one run is one process"
        )
