"""One progress bar for all restarts of a run."""

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm


class RestartBar:
    """A bar that counts the epochs of all restarts, those of their initialization included.

    Args:
        config: of the method.
        count: number of restarts.
        finished: how many have finished already.
        visible: whether to show the bar.
    """

    def __init__(self, config: Mapping[str, Any], count: int, finished: int, visible: bool) -> None:
        self.visible, self._count, self._finished = visible, count, finished
        self._epochs = config["epochs"] + config.get("initialize.epochs", 0)  # of one restart
        self._shown: Counter[int] = Counter()
        self._bar = tqdm(
            desc=self._description(), total=count * self._epochs, initial=finished * self._epochs, disable=not visible,
            unit="epoch", dynamic_ncols=True,
        )  # fmt: skip

    def __enter__(self) -> "RestartBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def show_epoch(self, index: int, row: Mapping[str, Any]) -> None:
        """Count an epoch of a restart, and show its numbers."""
        numbers = {"restart": index, "loss": f"{row['loss']:.2f}"}
        if "elbo" in row:
            numbers["valid ELBO"] = f"{row['elbo']:.2f}"
        numbers["data/s"] = f"{row['data_per_second']:,}"
        self._bar.set_postfix(numbers, refresh=False)
        if self._shown[index] < self._epochs:
            self._shown[index] += 1
            self._bar.update()

    def finish(self, index: int) -> None:
        """Count a restart as finished, with the epochs that it did not need."""
        self._finished += 1
        self._bar.set_description(self._description(), refresh=False)
        self._bar.update(self._epochs - self._shown[index])

    def _description(self) -> str:
        return f"{self._finished} of {self._count} restarts finished"
