"""What each site of a program depends on: the arrows of its graph, read off one run."""

from typing import Any, NamedTuple

import torch
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance

from .inspection import Example, example_of, run_on_example
from .interfaces import GuideInterface, interface_of
from .sites import is_random, sites_in


class Dependencies(NamedTuple):
    """The sites of a program, in the order in which it samples them."""

    parents: dict[str, tuple[str, ...]]  #: `{site: what its distribution is a function of}`
    observed: tuple[str, ...]  #: sites that hold data


def dependencies_of(program: Any, example: Example | None = None) -> Dependencies:
    """The sites of a program and their parents: earlier sites, and arrays that it is given.

    They are those of one run, by Pyro's tracking of where tensors come from. A `Guide` says itself.

    Args:
        program: a model or a guide.
        example: `{name: [N, ...]}`, what the program is run on. Default: `size=2`, for a model that
            takes it.

    Raises:
        UserError: no example where one is needed, or one that the program fails on.

    Example:
        >>> import pyro_vae as pv
        >>> from pyro_vae.programs.dependencies import dependencies_of
        >>> dependencies_of(pv.models.MixtureVAE((5,), num_components=3, latent_dim=2)).parents
        {'y': (), 'z': ('y',), 'x': ('z',)}
    """
    given = interface_of(program, GuideInterface).given
    if given:
        return Dependencies({name: tuple(parents) for name, parents in given.items()}, ())
    tracked = {  # each array leaves a trace in what is made of it
        name: track_provenance(value, frozenset({name})) if torch.is_tensor(value) else value
        for name, value in example_of(program, example).items()
    }
    with TrackProvenance():
        trace, inputs = run_on_example(program, tracked)
    sites = {name: site for name, site in sites_in(trace).items() if is_random(site)}
    names = dict.fromkeys([*inputs, *sites])
    parents = {}
    with torch.no_grad():
        for name, site in sites.items():
            log_prob = site["fn"].log_prob(detach_provenance(site["value"]))
            found = get_provenance(log_prob)
            parents[name] = tuple(n for n in names if n in found and n != name)
    observed = tuple(name for name, site in sites.items() if site["is_observed"])
    return Dependencies(parents, observed)
