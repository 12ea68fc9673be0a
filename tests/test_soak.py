"""Long runs: 2,000 epochs of every method, with finite numbers and without growing memory.

The data are 64 digits per split, one batch, and the networks have 16 hidden units: what is tested is
many steps, epochs and validations of a recorded run, not the method at its full size. Start-ups by a
mixture, restarts and checkpoints on disk are not part of it. A method takes about half a minute.
"""

import gc
import math
import os
import resource
import warnings

import pytest
import torch
from presets import configured

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.programs.inspection import is_per_datum

EPOCHS, SETTLED = 2000, 200  # epochs after which memory is not to grow
GROWTH = 8 * 2**20  # bytes; the history alone has a few hundred per epoch
SMALL = {
    "hidden": [16], "latent_dim": 3, "num_components": 4, "batch_size": 64, "initialize": None,
    "baseline": "joint", "compile": "recorded",
}  # fmt: skip


def resident_bytes():
    """The memory of this process."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def tiny_digits(method):
    """The method's data, 64 rows per split."""
    data = method.data
    return data.map_splits(lambda split: split[:64])


class Memory(pv.train.Callback):
    """Reads the memory and the number of tensors at a few epochs."""

    def __init__(self):
        self.bytes, self.tensors = {}, {}

    def on_epoch(self, run, metrics):
        if metrics["epoch"] % 600 == SETTLED:
            gc.collect()
            self.bytes[metrics["epoch"]] = resident_bytes()
            self.tensors[metrics["epoch"]] = sum(
                isinstance(o, torch.Tensor) for o in gc.get_objects()
            )


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest.mark.parametrize("name", methods.METHODS)
def test_2000_epochs_stay_finite_and_in_memory(name, record_property):
    small = {**SMALL, **({"baseline": None} if name == "relaxed-cvae" else {})}  # p(z) = p(z | c)
    config = {k: v for k, v in configured(name, **small).items() if k not in ("method", "data")}
    if "num_labels" in config and config["num_labels"]:
        config["num_labels"] = 20
    method, memory = pv.method(name, **config), Memory()
    model, guide = method.build()
    data = tiny_digits(method)
    if is_per_datum(guide):
        _, _, c_shape, num_classes = method.shapes
        model, guide = methods.build(method.config, data.x_shape, 64, c_shape, num_classes)
    options = {**method.fit_options(), "epochs": EPOCHS, "patience": None, "validate_every": 20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pv.fit(
            model, guide, data, **options, device="cpu", progress=False, callbacks=[memory]
        )
    for row in run.history:
        assert all(math.isfinite(value) for value in row.values())
    assert len(run.history) == EPOCHS
    assert all(p.isfinite().all() for m in (model, guide) for p in m.parameters())
    growth = memory.bytes[EPOCHS] - memory.bytes[SETTLED]
    record_property("growth", growth)
    print(f"{name}: loss {run.history[-1]['loss']:.2f}, memory grew by {growth / 2**20:.1f} MiB")
    assert growth < GROWTH
    assert memory.tensors[EPOCHS] <= memory.tensors[SETTLED] + 5
