"""The progress bar of a run."""

from types import TracebackType
from typing import Any

from tqdm.auto import tqdm


class ProgressBar:
    """A bar that counts epochs and shows the latest epoch's numbers."""

    def __init__(self, epochs: int, done: int, visible: bool) -> None:
        self._bar = tqdm(
            total=epochs, initial=done, disable=not visible, unit="epoch", dynamic_ncols=True
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def show_status(self, text: str) -> None:
        """Show what is being done, e.g. that a step is compiled."""
        self._bar.set_description(text)

    def show_epoch(self, row: dict[str, Any]) -> None:
        """Show the numbers of an epoch that has ended: a row of the history."""
        numbers = {"loss": f"{row['loss']:.2f}"}
        if "elbo" in row:
            numbers["valid ELBO"] = f"{row['elbo']:.2f}"
        numbers["data/s"] = f"{row['data_per_second']:,}"
        self._bar.set_postfix(numbers, refresh=False)
        self._bar.update()
