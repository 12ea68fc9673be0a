"""Which device a run is on."""

import torch

from ..errors import UserError
from . import distributed


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """A `torch.device`: the one named, else a GPU if there is one, else the CPU.

    Under `torchrun`, each process of a machine has a separate GPU.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.train.choose_device("cpu")
        device(type='cpu')

    Raises:
        UserError: no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"unknown device {name!r}; e.g. cpu, cuda, cuda:1") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("no GPU here that torch can use; device='cpu' trains on the processor")
        if device.index is None:
            index = distributed.local_rank()
            index = torch.cuda.current_device() if index is None else index
            if index >= torch.cuda.device_count():
                raise UserError(f"{index + 1} or more processes, {torch.cuda.device_count()} GPUs")
            device = torch.device("cuda", index)
    elif device.type != "cpu" and not _computes(device):
        raise UserError(f"torch cannot compute on {str(device)!r} here; device='cpu' always works")
    return device


def _computes(device: torch.device) -> bool:
    try:
        return float(torch.ones((), device=device)) == 1.0
    except (AssertionError, ImportError, NotImplementedError, RuntimeError):
        return False
