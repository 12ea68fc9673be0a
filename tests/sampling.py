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


def in_turn(*axes, allowed=lambda *case: True):
    """Every combination, all but one for each value of the first axis marked slow.

    The values of the other axes are taken in turn, so that each of them occurs by default.
    """
    kept = set()
    for first in range(len(axes[0])):
        for step in range(len(axes[0])):
            indices = (first, *((first + step) % len(axis) for axis in axes[1:]))
            if allowed(*(axis[i] for axis, i in zip(axes, indices, strict=True))):
                kept.add(indices)
                break
    cases = []
    for indices in itertools.product(*(range(len(axis)) for axis in axes)):
        case = tuple(axis[i] for axis, i in zip(axes, indices, strict=True))
        if allowed(*case):
            cases.append(pytest.param(*case, marks=[] if indices in kept else [pytest.mark.slow]))
    return cases
