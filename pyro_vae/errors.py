"""What a person sees when something is wrong: one line that says what, and what to do."""

import difflib
import math
from numbers import Integral, Real


class UserError(ValueError):
    """A mistake that the caller can mend; the command line prints it as one line."""

    def __str__(self):
        # Pyro adds a table of shapes to an error raised inside a program.
        return super().__str__().split("\nTrace Shapes:")[0].strip()


def unknown(kind, name, known):
    """The error for a misspelt name, with the nearest known one."""
    known = [str(k) for k in known]
    lower = {k.lower(): k for k in known}
    begun = [k for k in known if k.lower().startswith(str(name).lower())]
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.4)
    near = begun or [lower[k] for k in near]
    hint = f"did you mean {near[0]!r}?" if near else "known: " + (", ".join(known) or "none")
    return UserError(f"unknown {kind} {name!r}; {hint}")


def whole(least, **values):
    """Raise unless every value, or each in a tuple of them, is a whole number from `least` on."""
    for name, value in values.items():
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if not (isinstance(number, Integral) and number >= least):
                raise UserError(f"{name} takes whole numbers from {least}, not {value!r}")


def positive(or_zero=False, **values):
    """Raise unless every value is a positive number (or zero, where that is allowed)."""
    for name, value in values.items():
        valid = isinstance(value, Real) and math.isfinite(value)
        if not (valid and (value > 0 or (or_zero and value == 0))):
            rule = "not be negative" if or_zero else "be positive"
            raise UserError(f"{name} must {rule}: {value!r}")
