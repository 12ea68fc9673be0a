"""A guide is a factorisation: for each latent, in order, its parents and a family."""

import pyro
import torch.nn as nn

from ..conditionals import (
    Conditional,
    Network,
    Normal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
)
from ..errors import UserError, unknown
from ..pair import accepting, sites_of
from ..program import Program

DISCRETE = ("enumerate", "score", "relaxed")


class Guide(Program):
    r"""The guide :math:`q(\text{latents} \mid x) = \prod_i q(l_i \mid \text{parents}_i)`.

    `Guide(model)` is the factorisation of the model's paper. Another one is declared:

        Guide(model, given={"z": []})                         # mu, sigma learned constants
        Guide(model, given={"z": ["index"]}, num_data=1000)   # per datum, not amortised
        Guide(model, given={"y": ["x"], "z": ["x", "y"]})     # y <- x; z <- x, y
        Guide(model, family={"z": MultivariateNormal()})      # full covariance
        Guide(model, family={"z": MixtureOfNormals(5)})       # a mixture; Flow("iaf"), ...

    A discrete latent that is left out is enumerated in the model. One that is named is treated as
    `discrete` says: `"enumerate"` sums it in the guide, `"score"` samples it (score-function
    gradient; `ELBO(leave_one_out=True)` gives it a baseline), `"relaxed"` samples a Gumbel-softmax.
    In eval mode it is always enumerated, so that what is reported does not depend on the estimator
    that trained it.

    A latent whose prior owns an encoder of the same parents and family (`VampPrior`) has that
    encoder as its factor.

    Args:
        model: a model whose `forward(size=n)` samples, from which latents, shapes and kinds are
            read; or any Pyro program, with `example={"x": x}` to run it on.
        given: `{latent: [parents]}` in sampling order; parents are data (`x`), earlier latents, or
            `index`. It replaces `model.default_guide` whole.
        family: `{latent: family}`; `Normal()` for continuous latents where not said.
        network: `MLP(...)` or `Conv(...)` for the encoders.
        discrete: `"enumerate"`, `"score"` or `"relaxed"`.
        temperature: of the relaxation.
        num_data: rows of the tables that the parent `index` makes.
        share: latents with the same parents share a trunk (the paper's encoder with two heads).
        standardise: `{parent: (mean, scale)}`: the networks see `(parent - mean) / scale`. Pixels
            in [0, 1] train better centred, as `{"x": (0.5, 0.5)}`.

    Raises:
        UserError: an unknown latent or parent, a parent sampled later than its child, a continuous
            latent left out, `index` without `num_data`.
    """

    def __init__(
        self,
        model,
        given: dict | None = None,
        family: dict | None = None,
        network: Network | None = None,
        discrete: str = "enumerate",
        temperature: float = 0.5,
        num_data: int | None = None,
        share: bool = True,
        standardise: dict | None = None,
        example: dict | None = None,
    ):
        super().__init__()
        if discrete not in DISCRETE:
            raise unknown("treatment of discrete latents", discrete, DISCRETE)
        if given is None:
            given = getattr(model, "default_guide", None)
            if given is None:
                raise UserError("this model has no default guide: pass given={latent: [parents]}")
        self.discrete = discrete
        data, latents = sites_of(model, example)
        data = {"index": (), **data}
        shapes = {**data, **{name: shape for name, (shape, _) in latents.items()}}
        self.discrete_latents = tuple(n for n, (_, is_discrete) in latents.items() if is_discrete)
        family = dict(family or {})
        _check(given, family, data, latents, num_data)
        self.given = {latent: tuple(parents) for latent, parents in given.items()}
        self.standardise = dict(standardise or {})
        for parent in self.standardise:
            if parent not in shapes or parent == "index":
                raise unknown("parent in standardise", parent, sorted(set(shapes) - {"index"}))

        self.factors = nn.ModuleDict()
        for latent, parents in self.given.items():
            inputs = {p: (num_data,) if p == "index" else shapes[p] for p in parents}
            fam = family.get(latent)
            if fam is None:
                fam = OneHotCategorical() if latent in self.discrete_latents else Normal()
            twin = next(
                (q for n, q in self.factors.items() if self.given[n] == tuple(parents)), None
            )
            trunk = twin.trunk if share and twin is not None else None
            prior = getattr(model, f"p_{latent}", None)
            owned = prior.encoder_for(inputs, fam) if hasattr(prior, "encoder_for") else None
            if owned is None:
                owned = Conditional(shapes[latent], inputs, fam, network, trunk=trunk)
            self.factors[latent] = owned
        self.relaxation = RelaxedOneHotCategorical(temperature)

    def forward(self, x=None, y=None, c=None, index=None, size=None, shifts=None):
        """Samples the latents; `shifts` are numbers to add to the factors' own, `{latent: [B, size]}`."""
        values = {"x": x, "y": y, "c": c, "index": index}
        features = {}
        if size is None:
            size = next(len(v) for v in (x, c, index, y) if v is not None)
        with pyro.plate("data", size):
            for latent, q in self.factors.items():
                if values.get(latent) is not None:
                    continue  # observed
                parents = {p: values[p] for p in q.given}
                if any(v is None for v in parents.values()):
                    missing = ", ".join(p for p, v in parents.items() if v is None)
                    raise UserError(f"the guide's {latent!r} needs {missing}: pass {missing}=")
                key = latent if q.trunk is None else q.trunk
                if key not in features:
                    features[key] = q.features(**self._seen(parents))
                fn = q(features=features[key], shift=(shifts or {}).get(latent))
                infer = {}
                if latent in self.discrete_latents:
                    if self.discrete == "enumerate" or not self.training:
                        infer = {"enumerate": "parallel"}
                    elif self.discrete == "relaxed":
                        fn = self.relaxation(q.shape, logits=fn.logits)
                elif self.training and getattr(fn, "stratified", False):
                    fn = fn.stratum(self._component(latent, fn))
                values[latent] = pyro.sample(latent, fn, infer=infer)
        return {latent: values[latent] for latent in self.factors}

    def shifted(self, batch, shifts):
        """The guide at one batch, its factors' numbers moved by `shifts`, as a program for `run`."""

        def program(x, **_):
            return accepting(self)(**batch, shifts=shifts)

        return program

    def _component(self, latent, mixture):
        """The mixture's component, summed in the guide: no latent of the model, so auxiliary."""
        infer = {"enumerate": "parallel", "is_auxiliary": True, "part_of": latent}
        return pyro.sample(f"{latent}_component", mixture.components(), infer=infer)

    def _seen(self, parents):
        """The parents as the networks see them."""
        for name, (mean, scale) in self.standardise.items():
            if name in parents:
                parents[name] = (parents[name] - mean) / scale
        return parents

    def extra_repr(self):
        return "; ".join(f"{a} <- {', '.join(b) or 'nothing'}" for a, b in self.given.items())


def _check(given, family, data, latents, num_data):
    seen = set(data)
    for latent, parents in given.items():
        if latent not in latents:
            raise unknown("latent", latent, latents)
        for parent in parents:
            if parent not in seen:
                if parent in latents and parent in given:
                    raise UserError(
                        f"{latent!r} has the parent {parent!r}, which is sampled after it: "
                        "declare the latents in sampling order"
                    )
                if parent in latents:
                    raise UserError(
                        f"{latent!r} has the parent {parent!r}, which the guide leaves out"
                    )
                raise unknown("parent", parent, [*data, *latents])
            if parent == "index" and num_data is None:
                raise UserError(
                    "the parent 'index' is a table with a row per datum: pass num_data="
                )
        seen.add(latent)
    for latent, (_, is_discrete) in latents.items():
        if latent not in given and not is_discrete:
            raise UserError(
                f"the guide leaves out {latent!r}, which is continuous: name its parents"
            )
    for latent in family:
        if latent not in given:
            raise unknown("latent in family", latent, given)
