"""One progress bar for all restarts of a run."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..train.display import EpochBar


class RestartBar(EpochBar):
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
        super().__init__(
            self._description(), count * self._epochs, finished * self._epochs, visible
        )

    def show_epoch(self, index: int, row: Mapping[str, Any]) -> None:
        """Count an epoch of a restart, and show its numbers."""
        self._show_numbers(row, restart=index)
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
