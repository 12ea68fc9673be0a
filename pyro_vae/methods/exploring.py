"""`explore`: the interactive page of a run or of a comparison."""

from pathlib import Path

from ..comparison.posteriors import FILE
from ..comparison.table import COMPARISON
from ..errors import UserError
from .loading import load
from .run import Run


def explore(
    run: Run | Path | str,
    out: Path | str | None = None,
    split: str | None = None,
    device: str | None = None,
    root: Path | None = None,
) -> Path:
    """Write a page on which a run, or the posteriors of a comparison, can be explored offline.

    Args:
        run: a run, its folder, or the folder of a comparison (`pv.compare(..., out=)`).
        out: path of the page. Default: explore.html in the folder.
        split: train, valid or test: whose data points are shown. Default: test, if there is one.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets.

    Returns:
        The path of the page.

    Raises:
        UserError: no run folder; Plotly is not installed; a model without two continuous latent
            numbers; a split for a comparison, which has evaluated one already.

    Example:
        >>> import pyro_vae as pv
        >>> pv.explore("no-such-folder")
        Traceback (most recent call last):
        pyro_vae.errors.UserError: no-such-folder/config.json does not exist: is this a run folder?
    """
    if not isinstance(run, Run):
        folder = Path(run)
        if (folder / COMPARISON).exists() or (folder / FILE).exists():
            if split is not None:
                raise UserError(f"{folder} is a comparison, which evaluated one split: omit split")
            from ..exploration import explore_comparison  # draws, with matplotlib

            return explore_comparison(folder, out)
        run = load(folder, device=device, root=root)
    return run.explore(out, split)
