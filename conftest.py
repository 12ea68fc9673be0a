"""Fixtures of all tests. torch is imported within them: the process that only shares out needs none."""

import gc

import pytest


def pytest_xdist_make_scheduler(config, log):
    """A file stays in one process, for its fixtures; notebooks are shared out one by one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "test_notebooks" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tests are small; and rounding then does not depend on the machine."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)
    gc.set_threshold(10_000, 20, 50)  # a tenth of the tests' time was spent looking for garbage
    gc.freeze()  # what is imported is not looked through again and again


@pytest.fixture(autouse=True)
def processor(request, monkeypatch):
    """Where there is a GPU, only the tests that are marked `gpu` see it: others compare on the CPU."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # in the processes that a test starts


@pytest.fixture(autouse=True)
def clean_slate():
    """Every test starts from the same seed and Pyro's defaults, and leaves them so."""
    import pyro
    import torch

    from pyro_vae.programs.contexts import set_seed

    pyro.clear_param_store()
    set_seed(0)
    yield
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def drawn():
    """Reports have their figures, in a test that asks for them."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Reports have empty figures: to draw them takes most of the time of a short run."""
    if "drawn" not in request.fixturenames and not isinstance(request.node, pytest.DoctestItem):
        monkeypatch.setattr("pyro_vae.report.svg.inline_svg", lambda *a: "<svg></svg>")
