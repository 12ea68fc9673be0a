"""A covering sample of a product of cases runs by default; the whole product is `slow`."""

import itertools

import pytest


def covering(*axes, every=4, first=0, allowed=lambda *case: True):
    """Every combination of the axes' values, all but one in `every` marked slow.

    The cases that are kept lie on diagonals, so that each value of an axis meets others of each
    other axis. Tests over the same axis take different `first`, so that every value is in the
    default run of some of them.
    """
    cases = []
    for indices in itertools.product(*(range(len(axis)) for axis in axes)):
        case = tuple(axis[i] for axis, i in zip(axes, indices, strict=True))
        if allowed(*case):
            marks = [] if (sum(indices) - first) % every == 0 else [pytest.mark.slow]
            cases.append(pytest.param(*case, marks=marks))
    return cases


def in_turn(first_axis, *axes, stride=7, allowed=lambda *case: True):
    """Every combination, all but one for each value of the first axis marked slow.

    The combinations of the other axes are taken in turn, `stride` apart, so that each of their
    values occurs by default.
    """
    cases = []
    for position, value in enumerate(first_axis):
        rest = [c for c in itertools.product(*axes) if allowed(value, *c)]
        for i, case in enumerate(rest):
            marks = [] if i == stride * position % len(rest) else [pytest.mark.slow]
            cases.append(pytest.param(value, *case, marks=marks))
    return cases
