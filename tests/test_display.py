"""The progress of a run, on a terminal and in a log file."""

import io
import sys

import pytest
import torch

import pyro_vae as pv


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "replaced"), [(Terminal, True), (io.StringIO, False)])
def test_a_log_file_gets_the_first_and_the_last_line_of_a_short_run(stream, replaced, monkeypatch):
    output = stream()
    monkeypatch.setattr("sys.stderr", output)
    monkeypatch.setitem(sys.modules, "ipykernel", None)  # a program may import it: no notebook yet
    monkeypatch.setattr("pyro_vae.train.display._LogBar.seconds", 600.0)  # on a slow machine, too
    data = pv.data.from_arrays((torch.rand(20, 4) > 0.5).float())
    pv.method("vae", data, latent_dim=2, hidden=[4], epochs=30).fit(progress=True)
    lines = output.getvalue().splitlines()
    assert "30/30" in output.getvalue()
    assert "\r" in output.getvalue() if replaced else len(lines) <= 3 and "0/30" in lines[0]
