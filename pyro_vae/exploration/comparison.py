"""The page of a comparison: the true posterior of a data point, and each guide's approximation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import plots
from ..comparison.posteriors import load_posteriors
from ..data.display import ShownColumns
from ..generate.decoder_arrays import DecoderArrays
from .densities import mass_levels
from .page import plotly_script, write_page
from .payload import JsonValue, as_bytes, described_columns, pack, packed_decoder

MASSES = (0.99, 0.9, 0.5)  # that the contours contain


def explore_comparison(folder: Path | str, path: Path | str | None = None) -> Path:
    """Write a page with the true posteriors of a comparison and its guides; it works offline.

    For a data point of choice the page shows the true posterior on its grid, the contours of one
    guide at a time, and the two inference gaps of every guide. A click decodes a place.

    Args:
        folder: of `pv.compare(..., out=)` or `pyro-vae compare --model`, for a model with two latent
            numbers.
        path: of the page. Default: explore.html in the folder.

    Returns:
        The path.

    Raises:
        UserError: Plotly is not installed, or the folder has no posterior grids.

    Example:
        >>> import pyro_vae as pv
        >>> pv.exploration.explore_comparison("no-such-folder")
        Traceback (most recent call last):
        pyro_vae.errors.UserError: ...
    """
    plotly_script()
    folder = Path(folder)
    path = folder / "explore.html" if path is None else Path(path)
    content = load_posteriors(folder)
    x = content["x"]
    is_image, white = plots.is_image(tuple(x.shape[1:])), plots.white_of(x)
    shape = list(x.shape[1:]) if x.dim() == 4 else [1, *x.shape[1:]]
    flat = x.flatten(1)
    payload: dict[str, JsonValue] = {
        "x": pack(as_bytes(flat, white) if is_image else flat),
        "shape": shape if is_image else None,
        "white": white,
        "labels": None if content["labels"] is None else content["labels"].tolist(),
        "names": {"labels": content["label_names"]},
        "columns": None if is_image else described_columns(ShownColumns(**content["columns"])),
        "guides": [
            {"name": name, **_guide(state, content["scaling"])}
            for name, state in content["guides"].items()
        ],
    }
    title = f"Posteriors of {content['model']} on {content['data']}"
    subtitle = (
        f"{len(x)} data points of the {content['split']} split; objective {content['objective']}, "
        f"seed {content['seed']}."
    )
    write_page(path, title, subtitle, "comparison", payload, _note(content))
    return path


def _guide(state: Mapping[str, Any], scaling: tuple | None) -> dict[str, JsonValue]:
    """One guide's grids, gaps and decoder as JSON values."""
    decoder = None
    if state["decoder"] is not None:
        decoder = packed_decoder(DecoderArrays(**state["decoder"]))
        if scaling is not None:
            shift, scale = (s.flatten().tolist() for s in scaling)
            decoder |= {"scale": scale, "shift": shift}
    gaps: dict[str, JsonValue] = {
        name: state[name].tolist() for name in ("approximation", "amortization") if name in state
    }
    densities = {
        name: {"density": pack(state[field]), "levels": _levels(state[field])}
        for name, field in (("posterior", "posterior"), ("guide", "guide"))
    }
    return {
        "axes": pack(state["axes"]),
        "log_likelihood": state["log_likelihood"].tolist(),
        "decoder": decoder,
        **densities,
        **gaps,
    }


def _levels(densities: torch.Tensor) -> list[JsonValue]:
    """For each data point, the heights of the contours."""
    return [mass_levels(density.double(), MASSES) for density in densities]


def _note(content: Mapping[str, Any]) -> str:
    models = (
        "The guides share one model, so the true posterior is the same for all of them."
        if content["share_model"]
        else "Each guide trained a separate model, so the true posterior changes with the guide."
    )
    return (
        f"{models} Shaded: the true posterior p(z | x), computed on a grid. Lines: the guide's "
        "density; they enclose 50 %, 90 % and 99 % of its mass. log p(x) is by quadrature. "
        "Approximation gap: what the best distribution of the guide's family loses. Amortization "
        "gap: what the guide's network loses in addition. Both are in nats, of this data point, "
        "and have Monte Carlo errors. Click to decode a place."
    )
