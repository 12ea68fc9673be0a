"""What the library asks of models, guides and objectives: the defaults, and what a user declares."""

import ast
import re
from pathlib import Path

import pyro.distributions as dist
import pyro.infer
import pytest
import torch

import pyro_vae as pv
from pyro_vae.distributions.proper import is_proper
from pyro_vae.programs.interfaces import (
    GuideInterface,
    ModelInterface,
    conditional_of,
    interface_of,
)
from pyro_vae.programs.sites import base_distribution

X = torch.arange(40.0).reshape(8, 5)


def names_of(interface):
    return [name for name in vars(interface) if not name.startswith("_")]


@pytest.mark.parametrize(
    "interface, documented",
    [(ModelInterface, pv.models.Model), (GuideInterface, pv.guides.BaseGuide)],
)
def test_every_name_of_an_interface_is_documented(interface, documented):
    listed = re.findall(r"^ {8}(\w+): ", documented.__doc__, re.M)
    methods = [name for name in names_of(interface) if callable(getattr(interface, name))]
    assert listed + methods == names_of(interface)


def test_a_function_has_the_defaults():
    answers = interface_of(lambda x: None, ModelInterface)
    assert answers.observes == ("x",)
    assert answers.covariates == {} and answers.class_covariates == ()
    assert answers.prior_latent == "z" and answers.style_latent is None
    assert answers.default_guide is None
    answers.check_trainable()
    answers = interface_of(lambda x: None, GuideInterface)
    assert answers.given == {} and answers.input_scaling == {} and answers.borrowed == ()


def test_what_a_users_module_declares_replaces_a_default():
    class Declared(torch.nn.Module):
        observes, prior_latent = ("x", "c"), "w"

        def check_trainable(self):
            raise pv.UserError("not yet")

    answers = interface_of(Declared(), ModelInterface)
    assert answers.observes == ("x", "c") and answers.prior_latent == "w"
    assert answers.covariates == {}
    with pytest.raises(pv.UserError, match="not yet"):
        answers.check_trainable()


def test_the_librarys_programs_answer_themselves():
    model = pv.models.CVAE((5,), (2,))
    assert interface_of(model, ModelInterface) is model
    guide = pv.guides.Guide(model)
    assert interface_of(guide, GuideInterface) is guide
    assert conditional_of(model, "x") is model.p_x and conditional_of(model, "y") is None


def test_a_semi_amortized_guide_has_its_guides_input_scaling():
    prior = pv.models.VampPrior((5,), 2, num_components=8)
    model = pv.models.VAE((5,), 2, likelihood="normal", prior=prior)
    guide = pv.guides.Guide(model, input_scaling={"x": (2.0, 4.0)})
    refined = pv.guides.SemiAmortized(model, guide, steps=1)
    start = pv.train.PseudoInputInitialization()
    start(model, refined, pv.data.from_arrays(X, valid=0, test=0), "cpu")
    pseudo_inputs = prior.pseudo_inputs["x"].detach()
    assert torch.equal(pseudo_inputs[pseudo_inputs[:, 0].argsort()], (X - 2.0) / 4.0)


def test_fit_sets_the_epoch_of_a_users_objective():
    epochs = []

    class Scheduled(pyro.infer.Trace_ELBO):
        def differentiable_loss(self, model, guide, *args, **kwargs):
            epochs.append(getattr(self, "epoch", None))
            return super().differentiable_loss(model, guide, *args, **kwargs)

    model = pv.models.VAE((5,), 2, likelihood="normal")
    pv.train.fit(
        model,
        pv.guides.Guide(model),
        X / 40,
        3,
        objective=Scheduled(),
        compile=False,
        progress=False,
    )
    assert [epoch for epoch in (0, 1, 2) if epoch in epochs] == [0, 1, 2]


@pytest.mark.parametrize("objective", [pyro.infer.Trace_ELBO, object()])
def test_an_objective_without_a_loss_is_refused(objective):
    with pytest.raises(pv.UserError, match="objective must be one of pv.objectives"):
        pv.objectives.as_objective(objective)


def test_a_family_without_a_mixture_start_says_so():
    with pytest.raises(pv.UserError, match="Flow cannot start at a given mean and covariance"):
        pv.conditionals.Flow().raw_parameters(torch.zeros(2), torch.eye(2))


#: Files that look for attributes, and of what: objects that do not come from this library.
LOOKS_AT = {
    "_pyro_internals.py": "private names of Pyro",
    "_torch_internals.py": "private names of torch",
    "comparison/api.py": "the name of a user's function",
    "data": "a user's arrays, frames and loaders",
    "diagnostics/supports.py": "the bounds of a constraint of torch or Pyro",
    "estimators": "a user's arrays and frames, and scikit-learn's fitted attributes",
    "evaluate/streaming.py": "a user's batches",
    "evaluate/support.py": "a user's distribution",
    "generate/samples.py": "a user's values and densities",
    "guides/per_datum_auto.py": "the name of a user's class",
    "guides/per_datum_optimum.py": "the parameters that a distribution of torch or Pyro has",
    "objectives/objective.py": "a user's objective",
    "programs/interfaces.py": "a user's program",
    "programs/modules.py": "the owner of a user's method",
    "programs/identity.py": "a user's objects and functions",
    "programs/python_state.py": "a user's objects and functions",
    "programs/sites.py": "a distribution of torch or Pyro within another",
    "train/folder.py": "an exception",
    "train/inputs.py": "a user's loader",
    "train/lock.py": "the operating system",
    "train/settings.py": "the name of a user's function",
    "train/weights.py": "the layers of torch and of a user's network",
}


def test_attributes_are_looked_for_in_foreign_objects_alone():
    """The library's own classes declare their attributes, with defaults."""
    package, unlisted = Path(pv.__file__).parent, []
    for file in package.rglob("*.py"):
        name = file.relative_to(package).as_posix()
        if name in LOOKS_AT or name.partition("/")[0] in LOOKS_AT:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = node.func.id
                if called == "hasattr" or (called == "getattr" and len(node.args) == 3):
                    unlisted.append(f"{name}:{node.lineno}")
    assert not unlisted


def test_a_distribution_says_whether_it_is_a_score():
    gray = pv.distributions.GrayBernoulli(torch.tensor([0.5, 0.5]))
    normal = dist.Normal(torch.zeros(2), 1.0)
    for fn, expected in ((gray, False), (normal, True)):
        assert is_proper(fn) == is_proper(pv.distributions.IgnoreMissing(fn)) == expected
        blocks = [fn.to_event(1), normal.to_event(1)]
        assert is_proper(pv.distributions.Columns(blocks)) == expected


def test_the_base_of_a_distribution_is_within_every_wrapper():
    normal = dist.Normal(torch.zeros(3), 1.0)
    wrapped = normal.to_event(1).mask(torch.tensor(True))
    logs = dist.TransformedDistribution(normal, dist.transforms.ExpTransform()).to_event(1)
    assert base_distribution(wrapped) is base_distribution(wrapped, transforms=False) is normal
    assert base_distribution(logs) is normal
    assert isinstance(base_distribution(logs, transforms=False), dist.TransformedDistribution)
