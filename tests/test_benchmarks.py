"""What the benchmarks compare is the same thing."""

import pytest

from benchmarks import speed


@pytest.mark.parametrize("name", speed.WORKLOADS)
def test_the_hand_written_step_has_the_pairs_loss_and_gradients(name):
    make, by_hand = speed.WORKLOADS[name]
    speed.check(name, make, by_hand)
    with pytest.raises(RuntimeError, match="by hand"):
        speed.check(name, make, lambda *a: by_hand(*a) + 1e-3)
    with pytest.raises(RuntimeError, match="by hand"):  # the value alone is not enough
        speed.check(name, make, lambda *a: by_hand(*a) * 1.001 - 0.001 * by_hand(*a).detach())
