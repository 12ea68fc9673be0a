"""What a person sees when something is wrong: one line that says what, and what to do."""

import difflib


class UserError(ValueError):
    """A mistake that the caller can mend; the command line prints it as one line."""

    def __str__(self):
        # Pyro adds a table of shapes to an error raised inside a program.
        return super().__str__().split("\nTrace Shapes:")[0].strip()


def unknown(kind, name, known):
    """The error for a misspelt name, with the nearest known one."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
    return UserError(f"unknown {kind} {name!r}; {hint}")
