"""The precision of matrix products in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..conditionals import network_autocast


@contextmanager
def matmul_precision(name: str | None) -> Iterator[None]:
    """Within, matrix products have this precision: None, `"tf32"` or `"bf16"`; see `fit`."""
    before = torch.get_float32_matmul_precision()
    try:
        if name == "tf32":
            torch.set_float32_matmul_precision("high")
        with network_autocast(torch.bfloat16 if name == "bf16" else None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
