"""The covariates of conditional models: functions of `(x, y)` that return `(x, c)`, applied to a batch.

`join(x, c)` is the inverse, for pictures.
"""

from dataclasses import dataclass

import torch

from ..errors import UserError, check_int_at_least


class Condition:
    """Base of the conditions. `Data` takes one, or any function like `__call__`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> class LastColumn(pv.data.Condition):
        ...     def __call__(self, x, y):
        ...         return x[:, :-1], x[:, -1:]
        >>> data = pv.data.from_arrays(torch.rand(10, 4)).with_condition(LastColumn())
        >>> part = data.observed_split("train")
        >>> part.x.shape[1:], part.c.shape[1:]
        (torch.Size([3]), torch.Size([1]))
    """

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(x, c)`: what is modeled, and the covariates, from data `x [N, ...]` and labels `y [N]`."""
        raise NotImplementedError

    def check(self, y: torch.Tensor | None) -> None:
        """Raise a `UserError` if the labels of a split do not suit. Default: all do."""

    def join(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """The data as they are shown, from x and c. Default: x."""
        return x


@dataclass(frozen=True)
class Labels(Condition):
    """Class-conditional: c is the label, one-hot `[N, num_classes]`; x stays as it is.

    Example:
        >>> import torch, pyro_vae as pv
        >>> x, c = pv.data.Labels(3)(torch.zeros(2, 4), torch.tensor([0, 2]))
        >>> c
        tensor([[1., 0., 0.],
                [0., 0., 1.]])
    """

    num_classes: int

    def __post_init__(self) -> None:
        check_int_at_least(1, num_classes=self.num_classes)

    def check(self, y: torch.Tensor | None) -> None:
        """Raise unless every label is one of the classes: another would be a row of zeros."""
        if y is None:
            raise self._no_labels()
        if not len(y):
            return
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= self.num_classes:
            hint = "; every data point needs a label" if low == -1 else ""
            raise UserError(
                f"Labels({self.num_classes}) conditions on labels 0..{self.num_classes - 1}; "
                f"found {low}..{high}{hint}"
            )

    @staticmethod
    def _no_labels() -> UserError:
        return UserError("Labels conditions on labels, and these data have none")

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if y is None:
            raise self._no_labels()
        if not y.is_cuda:  # on a GPU the check would synchronize; `Data` has checked
            self.check(y)
        classes = torch.arange(self.num_classes, device=x.device)
        return x, (y.unsqueeze(-1) == classes).to(x.dtype)


@dataclass(frozen=True)
class Quadrants(Condition):
    """Complete an image: c is one, two or three of its quadrants, x the pixels of the others.

    `observed=1`: the lower left quadrant; 2: the left half; 3: all but the upper right. x and c are
    vectors `[N, pixels]`, in row order. The task is Sohn, Lee and Yan's (2015, section 5.1).

    Example:
        >>> import torch, pyro_vae as pv
        >>> x, c = pv.data.Quadrants(1, (1, 4, 4))(torch.zeros(2, 1, 4, 4), None)
        >>> x.shape, c.shape
        (torch.Size([2, 12]), torch.Size([2, 4]))

    Args:
        observed: 1, 2 or 3.
        shape: of the images, `(C, H, W)`.
    """

    observed: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.observed not in (1, 2, 3):
            raise UserError(f"quadrants observed: 1, 2 or 3, not {self.observed}")
        if len(self.shape) != 3:
            raise UserError(f"quadrants are parts of images (C, H, W); x is {list(self.shape)}")

    def mask(self, device: torch.device | None = None) -> torch.Tensor:
        """`[C, H, W]` bool: the pixels that are observed."""
        _, h, w = self.shape
        mask = torch.zeros(self.shape, dtype=torch.bool, device=device)
        mask[:, h // 2 :, : w // 2] = True
        if self.observed >= 2:
            mask[:, : h // 2, : w // 2] = True
        if self.observed == 3:
            mask[:, h // 2 :, w // 2 :] = True
        return mask

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = self.mask(x.device)
        return x[:, ~mask], x[:, mask]

    def join(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Images `[N, C, H, W]` of `x` and `c`."""
        mask = self.mask(x.device)
        image = x.new_empty((len(x), *self.shape))
        image[:, ~mask], image[:, mask] = x, c.to(x)
        return image
