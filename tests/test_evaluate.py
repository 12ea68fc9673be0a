"""Evaluation of a pair: numbers with a definition; errors that name the site and the shapes."""

import itertools
import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import sklearn.metrics
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import binary_patterns

import pyro_vae as pv
from pyro_vae.conditionals import MLP, NormalLikelihood
from pyro_vae.evaluate import clustering_metrics

D, K, LATENT, N = 6, 3, 2, 9
NET = MLP(hidden=(5,), activation="tanh")
SHU = {"y": ["x"], "z": ["x", "y"]}


def binary(n=N, shape=(D,)):
    return binary_patterns(n, *shape, dtype=torch.float32)


def mixture_pair(given=None, seed=0, **options):
    torch.manual_seed(seed)
    model = pv.models.MixtureVAE((D,), K, LATENT, network=NET, **options)
    return model, pv.guides.Guide(model, given, network=NET)


# ---------------------------------------------------------------------------- clustering

assignments = st.integers(1, 25).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
    )
)


def best_match(labels, clusters, top=5):
    """Accuracy by trying every one-to-one map of clusters to labels."""
    labels, clusters = np.asarray(labels), np.asarray(clusters)
    maps = itertools.permutations(range(top))
    return max(np.mean(np.asarray(m)[clusters] == labels) for m in maps)


@settings(max_examples=60, deadline=None)
@given(assignments)
def test_accuracy_is_the_best_of_all_one_to_one_matches(pair):
    assert clustering_metrics(*pair)["accuracy"] == pytest.approx(best_match(*pair))


@settings(max_examples=60, deadline=None)
@given(assignments)
def test_purity_is_the_share_of_each_clusters_majority(pair):
    labels, clusters = map(np.asarray, pair)
    right = sum(np.bincount(labels[clusters == c]).max() for c in set(clusters))
    actual = clustering_metrics(labels, clusters)
    assert actual["purity"] == pytest.approx(right / len(labels))
    assert actual["accuracy"] <= actual["purity"] + 1e-12 <= 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(assignments)
def test_nmi_and_ari_are_scikit_learns(pair):
    actual = clustering_metrics(*map(torch.tensor, pair))
    assert actual["nmi"] == pytest.approx(sklearn.metrics.normalized_mutual_info_score(*pair))
    assert actual["ari"] == pytest.approx(sklearn.metrics.adjusted_rand_score(*pair))


@settings(max_examples=60, deadline=None)
@given(assignments, st.permutations(range(4)), st.permutations(range(5)), st.randoms())
def test_names_of_clusters_and_order_of_data_do_not_matter(pair, label_names, names, random):
    labels, clusters = pair
    order = list(range(len(labels)))
    random.shuffle(order)
    other = clustering_metrics(
        [label_names[labels[i]] for i in order], [names[clusters[i]] for i in order]
    )
    assert other == pytest.approx(clustering_metrics(labels, clusters))


@settings(max_examples=40, deadline=None)
@given(assignments, st.lists(st.integers(0, 4), max_size=5))
def test_unlabeled_data_are_left_out(pair, unlabeled):
    labels, clusters = pair
    more = clustering_metrics(labels + [-1] * len(unlabeled), clusters + unlabeled)
    assert more == clustering_metrics(labels, clusters)


def test_clusters_beyond_the_number_of_classes_count_as_wrong_but_stay_pure():
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    actual = clustering_metrics(labels, [0, 0, 0, 1, 2, 2, 3, 3])
    assert actual["accuracy"] == pytest.approx(5 / 8)  # 3 of one, 2 of the other
    assert actual["purity"] == 1.0
    perfect = clustering_metrics(labels, [1, 1, 1, 1, 0, 0, 0, 0])
    assert perfect == pytest.approx({"accuracy": 1, "purity": 1, "nmi": 1, "ari": 1})


@pytest.mark.parametrize(
    "labels, clusters, message",
    [
        ([0, 1], [0, 1, 2], "2 labels for 3 cluster assignments"),
        ([-1, -1], [0, 1], "no data point is labeled"),
        ([0.0, 0.5], [0, 1], "labels must be whole numbers"),
        ([0.0, float("nan")], [0, 1], "labels must be whole numbers"),
        (["a", "b"], [0, 1], "labels are text"),
        ([[0, 1]], [[0, 1]], r"labels have shape \[1, 2\]; expected \[N\]"),
        ([0, 1], torch.eye(2), r"clusters have shape \[2, 2\]; expected \[N\]"),
    ],
)
def test_invalid_clusterings_raise(labels, clusters, message):
    with pytest.raises(pv.UserError, match=message):
        clustering_metrics(labels, clusters)


def test_more_clusters_than_data_have_no_baselines():
    with pytest.raises(pv.UserError, match="6 data points cannot make 7 clusters"):
        pv.evaluate.clustering_baselines(torch.eye(6), torch.eye(6), 7)


def test_the_baselines_find_what_is_easy_to_find():
    torch.manual_seed(0)
    y = torch.arange(300) % 3
    x = 10 * torch.eye(3)[y] + torch.randn(300, 3)
    actual = pv.evaluate.clustering_baselines(x[:200], x[200:], 3)
    assert set(actual) == {"k-means", "Ward", "Gaussian mixture"}
    for clusters in actual.values():
        assert len(clusters) == 100
        assert clustering_metrics(y[200:], clusters)["accuracy"] > 0.99


# ------------------------------------------------------------------- codes, units, pictures


def test_encodings_are_the_guides_means():
    model, guide = mixture_pair()
    x = binary()
    with torch.no_grad():
        loc = guide.factors["z"](x=x).base_dist.loc
    torch.testing.assert_close(pv.evaluate.encode(model, guide, x), {"z": loc})


def test_encodings_beneath_a_named_y_are_means_over_y():
    model, guide = mixture_pair(SHU)
    x, eye = binary(), torch.eye(K)
    with torch.no_grad():
        probabilities = guide.factors["y"](x=x).probs  # [N, K]
        loc = guide.factors["z"](x=x, y=eye.unsqueeze(1)).base_dist.loc  # [K, N, D]
    truth = torch.einsum("nk,knd->nd", probabilities, loc)
    actual = pv.evaluate.encode(model, guide, x)
    assert set(actual) == {"z"}
    torch.testing.assert_close(actual["z"], truth)


def test_encodings_beneath_a_latent_are_at_its_mean():
    torch.manual_seed(0)
    model = pv.models.GMVAE((D,), K, LATENT, w_dim=2, network=NET)
    guide = pv.guides.Guide(model, {"w": ["x"], "z": ["w"]}, network=NET)
    x = binary()
    with torch.no_grad():
        w = guide.factors["w"](x=x).base_dist.loc
        z = guide.factors["z"](w=w).base_dist.loc
    torch.testing.assert_close(pv.evaluate.encode(model, guide, x), {"w": w, "z": z})


def test_constants_encode_every_datum_alike():
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, network=NET)
    guide = pv.guides.Guide(model, {"z": []})
    code = pv.evaluate.encode(model, guide, binary())["z"]
    assert code.shape == (N, LATENT) and (code == code[0]).all()
    assert not code.requires_grad  # though it is a parameter of the guide
    assert pv.evaluate.active_units(model, guide, binary()) == {"z": 0}


def test_reconstructions_are_the_likelihoods_mean_at_the_code():
    model, guide = mixture_pair()
    x = binary()
    with torch.no_grad():
        z = guide.factors["z"](x=x).base_dist.loc
        truth = model.p_x(z=z).base_dist.probs
    torch.testing.assert_close(pv.evaluate.reconstruct(model, guide, x), truth)


def test_reconstructions_average_over_a_named_y():
    model, guide = mixture_pair(SHU)
    x = binary()
    with torch.no_grad():
        probabilities = guide.factors["y"](x=x).probs
        z = guide.factors["z"](x=x, y=torch.eye(K).unsqueeze(1)).base_dist.loc
        truth = torch.einsum("nk,knd->nd", probabilities, model.p_x(z=z).base_dist.probs)
    torch.testing.assert_close(pv.evaluate.reconstruct(model, guide, x), truth)


class CommonRows(nn.Module):
    """A pair of functions whose guide has the distribution `q(h)` of a linear map h of x."""

    def __init__(self, q):
        super().__init__()
        self.q, self.features, self.decoder = q, nn.Linear(4, 6), nn.Linear(2, 4)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Cauchy(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("features", self.features)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(self.features(x)))


def flow_of_normal(h):
    base = dist.Normal(h[..., :2], h[..., 2:4].exp()).to_event(1)
    return dist.TransformedDistribution(base, [dist.transforms.TanhTransform()])


def flow_of_gamma(h):  # its noise depends on its concentration
    base = dist.Gamma(h[..., :2].exp(), h[..., 2:4].exp()).to_event(1)
    return dist.TransformedDistribution(base, [dist.transforms.TanhTransform()])


def flow_of_mixture(h):
    parts = dist.Normal(h.unflatten(-1, (2, 3)), 0.3)
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=parts.loc), parts)
    return dist.TransformedDistribution(mixture.to_event(1), [dist.transforms.TanhTransform()])


def relaxed(h):
    return dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=h[..., :2])


@pytest.mark.parametrize("q", [flow_of_normal, flow_of_gamma, flow_of_mixture, relaxed])
def test_codes_without_a_closed_form_depend_on_their_own_row_alone(q, monkeypatch):
    torch.manual_seed(0)
    pair = CommonRows(q)
    x = torch.randn(9, 4)
    code = pv.evaluate.encode(pair.model, pair.guide, x)["z"]
    assert code.std(0).min() > 0.01
    same = pv.evaluate.encode(pair.model, pair.guide, x[2].expand(9, 4))["z"]
    torch.testing.assert_close(same, code[2].expand(9, 2))
    order = torch.randperm(9)
    permuted = pv.evaluate.encode(pair.model, pair.guide, x[order])["z"]
    torch.testing.assert_close(permuted, code[order])
    monkeypatch.setattr("pyro_vae.evaluate.chunked.rows_per_chunk", lambda *args: 2)
    torch.testing.assert_close(pv.evaluate.encode(pair.model, pair.guide, x)["z"], code)
    draws = center_draws(q(pair.features(x)))
    assert (code - draws.mean(0)).abs().max() < 5 * draws.std(0).max() / math.sqrt(32)


def center_draws(fn):
    return fn.sample((4000,)).detach()


def test_a_code_is_the_median_where_there_is_no_mean():
    torch.manual_seed(0)
    q = {
        "cauchy": lambda h: dist.Cauchy(h[..., :2], 1.0).to_event(1),
        "student": lambda h: dist.StudentT(torch.tensor([1.0, 3.0]), h[..., :2]).to_event(1),
        "half": lambda h: dist.HalfCauchy(h[..., :2].exp()).to_event(1),
    }
    x = torch.randn(40, 4)
    for name, of in q.items():
        pair = CommonRows(of)
        code = pv.evaluate.encode(pair.model, pair.guide, x)["z"]
        loc = pair.features(x)[:, :2].detach()
        torch.testing.assert_close(code, loc.exp() if name == "half" else loc)
        assert pv.evaluate.active_units(pair.model, pair.guide, x) == {"z": 2}


def test_a_likelihood_without_a_mean_is_reconstructed_by_its_median():
    torch.manual_seed(0)
    pair = CommonRows(lambda h: dist.Normal(h[..., :2], 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Cauchy(pair.decoder(z), 1.0).to_event(1), obs=x)

    x = torch.randn(5, 4)
    expected = pair.decoder(pair.features(x)[:, :2]).detach()
    torch.testing.assert_close(pv.evaluate.reconstruct(model, pair.guide, x), expected)


def test_active_units_move_with_the_data():
    torch.manual_seed(0)
    model = pv.models.VAE((D,), 3, network=NET)
    guide = pv.guides.Guide(model, network=MLP(()))
    weight = guide.factors["z"].head.maps["x"].weight  # [loc, log scale], a row each
    with torch.no_grad():
        weight.zero_()
        weight[0, 0], weight[1, 1] = 1.0, 0.01  # variances 1/4 and 1/40,000
    assert pv.evaluate.active_units(model, guide, binary(200)) == {"z": 1}
    assert pv.evaluate.active_units(model, guide, binary(200), threshold=1e-5) == {"z": 2}


def test_occupancy_counts_the_most_probable_components():
    probabilities = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.7, 0.0], [0.6, 0.4, 0.0, 0.0]])
    torch.testing.assert_close(
        pv.evaluate.occupancy(probabilities), torch.tensor([2 / 3, 0, 1 / 3, 0])
    )


def test_responsibilities_need_a_discrete_latent():
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, network=NET)
    guide = pv.guides.Guide(model, network=NET)
    with pytest.raises(pv.UserError, match="no discrete latent.*has none"):
        pv.evaluate.responsibilities(model, guide, binary())
    with pytest.raises(pv.UserError, match=r"no discrete latent 'k'; the pair has \['y'\]"):
        pv.evaluate.responsibilities(*mixture_pair(), binary(), latent="k")


def test_codes_without_a_closed_form_are_close_to_the_exact_means():
    """Of 32 independent draws, the same for all rows, the error was a third of the code."""
    loc = torch.linspace(-1.0, 1.0, 5).double()

    def coded(transform):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                base = dist.Normal(x[:, 0], 0.7)
                pyro.sample("z", dist.TransformedDistribution(base, [transform]))

        return pv.evaluate.encode(model, guide, loc.unsqueeze(-1))["z"]

    affine = coded(dist.transforms.AffineTransform(3.0, 2.0))
    torch.testing.assert_close(affine, 3 + 2 * loc, rtol=0, atol=1e-6)
    exponential = coded(dist.transforms.ExpTransform())
    torch.testing.assert_close(exponential, (loc + 0.245).exp(), rtol=0.02, atol=0)


@pytest.mark.parametrize("particles", ["plate", "rows"])
def test_responsibilities_of_a_row_do_not_depend_on_the_rows_beside_it(particles, monkeypatch):
    model, guide = mixture_pair()  # y summed in the model, given draws of z
    x = binary(9)
    if particles == "rows":
        monkeypatch.setattr(
            "pyro_vae.programs.run.layout_of",
            lambda *args: pv.programs.layout_of(*args)._replace(particles="rows"),
        )
    together = pv.evaluate.responsibilities(model, guide, x)
    alone = torch.cat([pv.evaluate.responsibilities(model, guide, row[None]) for row in x])
    torch.testing.assert_close(together, alone)
    monkeypatch.setattr("pyro_vae.evaluate.chunked.rows_per_chunk", lambda *args: 4 * 16)
    torch.testing.assert_close(pv.evaluate.responsibilities(model, guide, x), together)
    other = pv.evaluate.responsibilities(model, guide, x, seed=1)
    assert (other - together).abs().max() > 1e-6
    draws = []
    for seed in (5, 5, 6):  # without a seed, torch's stream says which noise
        torch.manual_seed(seed)
        draws.append(pv.evaluate.responsibilities(model, guide, x, seed=None))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])


def test_work_in_chunks_changes_nothing_that_has_no_noise(monkeypatch):
    model, guide = mixture_pair(SHU)
    x = binary(23)

    def all_of_it():
        return {
            **pv.evaluate.encode(model, guide, x),
            "x": pv.evaluate.reconstruct(model, guide, x),
            "y": pv.evaluate.responsibilities(model, guide, x),
        }

    whole = all_of_it()
    monkeypatch.setattr(pv.evaluate.chunked, "MEMORY_BUDGET", 32 * 512 * 5)
    torch.testing.assert_close(all_of_it(), whole)


def test_evaluation_leaves_every_submodule_in_its_mode():
    model, guide = mixture_pair()
    model.train(), guide.eval(), guide.factors.train()
    modes = [m.training for p in (model, guide) for m in p.modules()]
    pv.evaluate.elbo(model, guide, binary())
    pv.evaluate.encode(model, guide, binary())
    pv.sample(model, 2)
    assert modes == [m.training for p in (model, guide) for m in p.modules()]


def test_inputs_that_cannot_be_a_batch_raise():
    model, guide = mixture_pair()
    with pytest.raises(pv.UserError, match="x must be an array of numbers, not str"):
        pv.evaluate.elbo(model, guide, "digits")
    with pytest.raises(pv.UserError, match="y has 3 rows, x has 9"):
        pv.evaluate.elbo(model, guide, binary(), y=torch.eye(K))
    with pytest.raises(pv.UserError, match="x is empty"):
        pv.evaluate.elbo(model, guide, binary()[:0])


def test_an_observed_y_is_part_of_what_is_scored():
    """log p(x, y): summed over y it is log p(x)."""
    model, guide = mixture_pair(SHU)
    with torch.no_grad():
        guide.factors["z"].head.bias[LATENT:] += 0.8  # wide: bounded weights
    x, s = binary(), 20_000
    each = [
        pv.evaluate.log_likelihood(model, guide, x, s, y=torch.eye(K)[k].expand(N, K))
        for k in range(K)
    ]
    whole = pv.evaluate.log_likelihood(model, guide, x, s)
    torch.testing.assert_close(torch.stack(each).logsumexp(0), whole, atol=0.05, rtol=0)


# -------------------------------------------------------------------------------- samples


def test_samples_of_a_component_come_from_that_component():
    model, _ = mixture_pair(likelihood=NormalLikelihood(scale=0.1))
    y = torch.tensor([0, 1, 2, 2])
    model.p_x = pv.conditionals.Conditional((D,), {"z": (LATENT,)}, NormalLikelihood(0.1), MLP(()))
    with torch.no_grad():
        table = model.p_z.head.maps["y"].weight
        table[:LATENT] = 50 * torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
        means = model.p_x(z=table[:LATENT].T).base_dist.loc  # [K, D]
    x = pv.sample(model, 4, y=y, mean=True, seed=0)
    distance = (x.unsqueeze(1) - means).norm(dim=-1)
    assert torch.equal(distance.argmin(1), y)
    one_hot = pv.sample(model, 4, y=torch.eye(K)[y], mean=True, seed=0)
    assert torch.equal(one_hot, x)
    assert pv.sample(model, 5, y=1).shape == (5, D)
    noisy = pv.sample(model, 4, y=y, seed=0)
    assert 0 < (noisy - x).abs().mean() < 0.5


def test_samples_repeat_with_their_seed_and_otherwise_take_torchs_stream():
    model, _ = mixture_pair()
    assert torch.equal(pv.sample(model, 8, seed=3), pv.sample(model, 8, seed=3))
    assert not torch.equal(pv.sample(model, 8), pv.sample(model, 8))
    assert set(pv.sample(model, 8).unique().tolist()) <= {0.0, 1.0}


def test_component_frequencies_follow_their_learned_weights():
    model, _ = mixture_pair()
    with torch.no_grad():
        model.p_y.logits.copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    y = pv.sample(model, 20_000, site="y", seed=0)
    error = (torch.tensor([0.21, 0.16, 0.09]) / 20_000).sqrt()
    assert ((y.mean(0) - torch.tensor([0.7, 0.2, 0.1])).abs() < 5 * error).all()


@pytest.mark.parametrize(
    "y, message",
    [
        (3, r"components 0\.\.2; y is 3"),
        (torch.tensor([0, 1, -1, 0]), r"components 0\.\.2; y is \[0, 1, -1, 0\]"),
        (torch.tensor([0, 1]), r"y must be an int, \[4\] ints or one-hot \[4, 3\]"),
        (torch.rand(4), "y must be an int"),
        (torch.eye(4), "y must be an int"),
    ],
)
def test_components_that_do_not_exist_raise(y, message):
    with pytest.raises(pv.UserError, match=message):
        pv.sample(mixture_pair()[0], 4, y=y)


def test_zero_samples_raise():
    pair, x = mixture_pair(), binary()
    for function in (pv.evaluate.elbo, pv.evaluate.log_likelihood, pv.evaluate.responsibilities):
        with pytest.raises(pv.UserError, match="num_samples must be an integer >= 1, got 0"):
            function(*pair, x, num_samples=0)
    with pytest.raises(pv.UserError, match="the number of samples must be an integer >= 1"):
        pv.sample(pair[0], 0)


def test_models_without_y_or_size_say_so():
    vae = pv.models.VAE((D,), LATENT, network=NET)
    with pytest.raises(pv.UserError, match="VAE has no y to condition on"):
        pv.sample(vae, 4, y=1)
    with pytest.raises(pv.UserError, match="no size= argument"):
        pv.sample(lambda x: x, 4)


# ---------------------------------------------------------------------------- check_pair


def model_of(fn_z=None, fn_x=None, latents=("z",)):
    def model(x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x), LATENT)
            for name in latents:
                z = pyro.sample(
                    name, fn_z() if fn_z else dist.Normal(torch.zeros(LATENT), 1.0).to_event(1)
                )
            loc = z.sum(-1, keepdim=True).expand(z.shape[:-1] + x.shape[1:])
            pyro.sample("x", fn_x(loc) if fn_x else dist.Normal(loc, 1.0).to_event(1), obs=x)

    return model


def guide_of(fn=None, name="z"):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(name, fn(x) if fn else dist.Normal(x[:, :LATENT], 1.0).to_event(1))

    return guide


def no_plate(x):
    pyro.sample("z", dist.Normal(x[:, :LATENT], 1.0).to_event(2))


def no_plate_model(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(z.sum(-1, True).expand(x.shape), 1.0).to_event(2), obs=x)


def plate_at_minus_two(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        x = x.unsqueeze(1)
        pyro.sample("x", dist.Normal(z.sum(-1, True).expand(x.shape), 1.0).to_event(1), obs=x)


def guide_at_minus_two(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(x[:, None, :LATENT], 1.0).to_event(1))


def plate_of_a_hundred(x):
    with pyro.plate("data", 100):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        loc = z.sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(loc, 1.0).expand([100, D]).to_event(1), obs=x)


def undone(x):
    return dist.Normal(x[:, :LATENT], 1.0)


WRONG = {
    "no to_event in the guide": (
        model_of(), guide_of(undone), r"guide fails on x \[9, 6\]: .* at site z dim -1, 9 vs 2"),
    "no to_event in the model's x": (
        model_of(fn_x=lambda loc: dist.Normal(loc, 1.0)), guide_of(),
        r"model fails on x \[9, 6\]: .* at site x dim -1, 9 vs 6"),
    "a latent left out": (
        model_of(latents=("u", "z")), guide_of(), "the guide never samples 'u'"),
    "an unknown site": (
        model_of(), guide_of(name="zz"), "the guide samples 'zz', which the model never does"),
    "an observed site": (
        model_of(latents=()), guide_of(name="x", fn=lambda x: dist.Normal(x, 1.0).to_event(1)),
        "the guide samples 'x', which the model observes"),
    "another event shape": (
        model_of(), guide_of(lambda x: dist.Normal(x, 1.0).to_event(1)),
        r"'z' has event shape \[2\] in the model, \[6\] in the guide"),
    "no plate": (no_plate_model, no_plate, "site 'z' lies outside the data plate"),
    "a plate at dim -2": (
        plate_at_minus_two, guide_at_minus_two, r"'z' .*one data plate, at dim -1; .*-2"),
    "NaN from the guide": (
        model_of(), guide_of(lambda x: dist.Normal(x[:, :LATENT] / 0 * 0, 1.0).to_event(1)),
        "'z' in the guide is not finite"),
    "a program that fails": (
        model_of(), guide_of(lambda x: dist.Normal(x[:, :LATENT] @ torch.eye(5), 1.0)),
        r"the guide fails on x \[9, 6\]: RuntimeError: "),
}  # fmt: skip


SCORES = [pv.check_pair, pv.evaluate.elbo, pv.evaluate.log_likelihood]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_pair_is_told_in_one_line(what, score):
    """By `check_pair`, and by what would give a number that is no bound."""
    model, guide, message = WRONG[what]
    if what == "NaN from the guide" and score is not pv.check_pair:
        assert score(model, guide, torch.randn(N, D)).isnan().all()  # no number
        return
    with pytest.raises(pv.UserError, match=message) as error:
        score(model, guide, torch.randn(N, D))
    assert "\n" not in str(error.value)


def test_a_model_that_observes_nothing_has_no_bound():
    """Such as a guide that is passed as the model: its terms would sum to some number."""

    def draws(x=None, size=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    model = pv.models.VAE((D,), 2, network=pv.conditionals.MLP((4,)))
    guide = pv.guides.Guide(model, network=pv.conditionals.MLP((4,)))
    for pair in ((draws, draws), (guide, guide), (lambda x: None, lambda x: None)):
        for score in SCORES:
            with pytest.raises(pv.UserError, match="observes no data: no site has obs= .a pair is"):
                score(*pair, binary())
    with pytest.raises(pv.UserError, match="observes no data"):
        pv.fit(guide, guide, binary(), 1, progress=False)
    for score in SCORES:
        with pytest.raises(pv.UserError, match="the model must be a Pyro program, a module or a"):
            score(pv.models.VAE, guide, binary())
        with pytest.raises(pv.UserError, match="the guide must be a Pyro program, a module or a"):
            score(model, pv.guides.Guide, binary())


def test_a_quoted_array_leaves_an_error_on_one_line():
    with pytest.raises(pv.UserError, match="x_shape must be .* got tensor") as error:
        pv.models.VAE(torch.zeros(9, 9))
    assert "\n" not in str(error.value)


class OddError(Exception):
    """An exception of a user's program."""


@pytest.mark.parametrize("kind", [OddError, KeyError, StopIteration, AssertionError, OSError])
def test_any_error_of_a_program_becomes_one_line(kind):
    def fails(x=None, size=None):
        raise kind("first line\nsecond line")

    x = torch.randn(N, D)
    for call in (
        *(lambda score=score: score(fails, guide_of(), x) for score in SCORES),
        *(lambda score=score: score(model_of(), fails, x) for score in SCORES),
        lambda: pv.sample(fails, 3),
        lambda: pv.fit(fails, guide_of(), x, 1, progress=False),
    ):
        with pytest.raises(pv.UserError, match=f"fails on .*: {kind.__name__}: ") as error:
            call()
        assert "\n" not in str(error.value)


def test_one_data_point_does_not_vary(recwarn):
    model = pv.models.VAE((D,), 2, network=pv.conditionals.MLP((4,)))
    guide = pv.guides.Guide(model, network=pv.conditionals.MLP((4,)))
    x = binary()[:1]
    assert pv.evaluate.active_units(model, guide, x) == {"z": 0}
    assert torch.equal(pv.evaluate.unit_activity(model, guide, x)["z"], torch.zeros(2))
    assert pv.evaluate.active_unit_features(model, guide, x).shape == (1, 0)
    assert not recwarn.list


def test_check_pair_wants_the_plate_to_hold_the_batch():
    with pytest.raises(pv.UserError, match="100"):
        pv.check_pair(plate_of_a_hundred, guide_of(), torch.randn(N, D))


def test_check_pair_sees_a_missing_to_event_where_pyro_cannot():
    """With as many data as dimensions, the plate takes the event dimension for its own."""
    x = torch.randn(LATENT, D)
    with pytest.raises(pv.UserError, match=r"'z' has event shape \[2\] in the model, \[\] in the"):
        pv.check_pair(model_of(), guide_of(undone), x)
    on_neither_side = model_of(fn_z=lambda: dist.Normal(torch.zeros(LATENT, LATENT), 1.0))
    with pytest.raises(pv.UserError, match=r"'z' .*\[2, 2\].* is \.to_event\(\.\.\.\) missing"):
        pv.check_pair(on_neither_side, guide_of(undone), x)


def test_check_pair_accepts_what_is_right_and_leaves_no_trace():
    state = torch.get_rng_state()
    pv.check_pair(model_of(), guide_of(), torch.randn(N, D, generator=torch.Generator()))
    pv.check_pair(*mixture_pair(SHU), binary())
    assert len(pyro.get_param_store()) == 0
    torch.manual_seed(0)
    state = torch.get_rng_state()
    pv.check_pair(model_of(), guide_of(), torch.zeros(N, D))
    assert torch.equal(state, torch.get_rng_state())


def test_check_pair_refuses_nan_in_the_data():
    x = binary()
    x[4, 2] = float("nan")
    with pytest.raises(pv.UserError, match=r"x has 1 NaN or infinite values, .* row 4"):
        pv.check_pair(*mixture_pair(), x)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("bernoulli", 0.3, r"x has values outside the support of its Bernoulli .* e\.g\. 0\.3; binarize="),
        ("binomial", 0.3, r"outside the support of its BinomialProportion .* e\.g\. 0\.3$"),
        ("continuous-bernoulli", 1.5, r"outside the support of its ContinuousBernoulli .* 1\.5$"),
    ],
)  # fmt: skip
def test_check_pair_refuses_values_that_the_likelihood_cannot_have(name, value, message):
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, name, NET)
    guide = pv.guides.Guide(model, network=NET)
    x = binary()
    pv.check_pair(model, guide, x)
    x[3, 1] = value
    with pytest.raises(pv.UserError, match=message) as error:
        pv.check_pair(model, guide, x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 7, 7), (8, 8), (64,), (2, 8, 8), (1, 8, 16), (1, 4, 16)])
@pytest.mark.parametrize(
    "network", [MLP((5,)), pv.conditionals.Conv((2,), (5,))], ids=["mlp", "conv"]
)
def test_check_pair_tells_the_shape_of_images_of_another_size(network, shape):
    model = pv.models.VAE((1, 8, 8), LATENT, network=network)
    guide = pv.guides.Guide(model, network=network)
    pv.check_pair(model, guide, binary(shape=(1, 8, 8)))
    with pytest.raises(pv.UserError) as error:
        pv.check_pair(model, guide, binary(shape=shape))
    actual = str(error.value)
    assert f"'x' has shape {[N, *shape]}" in actual and "built for [..., 1, 8, 8]" in actual


def test_our_own_errors_stay_one_line_inside_of_a_pyro_program():
    """Pyro adds a table of trace shapes to whatever is raised beneath a trace."""
    model = pv.models.VAE((1, 8, 8), LATENT, network=NET)
    guide = pv.guides.Guide(model, network=NET)
    x = binary(shape=(1, 7, 7))
    for evaluate in (
        pv.check_pair,
        pv.evaluate.elbo,
        pv.evaluate.log_likelihood,
        pv.evaluate.encode,
    ):
        with pytest.raises(pv.UserError) as error:
            evaluate(model, guide, x)
        assert "\n" not in str(error.value)


def test_gray_values_in_a_bernoulli_are_scored_only_if_asked_and_are_no_likelihood():
    gray = torch.rand(N, D, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, "gray-bernoulli", NET)
    guide = pv.guides.Guide(model, network=NET)
    pv.check_pair(model, guide, gray)
    assert not pv.evaluate.has_proper_likelihood(model, guide, gray)
    assert torch.isfinite(pv.evaluate.elbo(model, guide, gray)).all()
    with pytest.raises(pv.UserError, match="gray values in a Bernoulli have a score"):
        pv.evaluate.log_likelihood(model, guide, gray, num_samples=2)
    assert pv.evaluate.has_proper_likelihood(*mixture_pair(), binary())


# ----------------------------------------------------------------------------- memory


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, SHU], ids=["model-side", "guide-side"])
def test_five_thousand_samples_of_a_hundred_images_fit_in_two_gigabytes(given):
    """Where y is named, that is 5,000 x 100 x 10 decodes of 784 pixels: 15 GB at once."""
    script = f"""
        import json, resource, torch
        import pyro_vae as pv
        torch.manual_seed(0)
        net = pv.conditionals.MLP((64,))
        model = pv.models.MixtureVAE((1, 28, 28), 10, 16, network=net)
        guide = pv.guides.Guide(model, {given!r}, network=net)
        x = torch.bernoulli(torch.full((100, 1, 28, 28), 0.5))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=5000)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert bound.shape == (100,) and torch.isfinite(bound).all()
        print(json.dumps([before / 2**20, after / 2**20]))
    """
    actual = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    before, after = json.loads(actual.stdout)
    assert after < 2.0, f"{after:.2f} GiB, {before:.2f} of it before"


def test_baselines_of_counts_do_not_cluster_by_library_size():
    """Two kinds of rows whose totals vary tenfold: raw k-means splits them by their totals."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(200) % 2
    rate = torch.tensor([[4.0, 4, 1, 1], [1, 1, 4, 4]])[kind]
    totals = 10 ** (1 + torch.rand(200, 1, generator=generator))
    x = torch.poisson(rate * totals, generator=generator)
    actual = pv.evaluate.clustering_baselines(x[:100], x[100:], 2)
    scores = {n: pv.evaluate.clustering_metrics(kind[100:], c) for n, c in actual.items()}
    assert all(s["accuracy"] > 0.95 for s in scores.values()), scores


def mixed_table():
    """300 rows of three classes: two normal columns tell them apart, and counts of large variance do not."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    table = {
        "a": rng.normal(size=300) + 4 * (y == 1),
        "b": rng.normal(size=300) + 4 * (y == 2),
        "visits": rng.poisson(30, 300),
        "label": np.array(["u", "v", "w"])[y],
    }
    return pv.data.from_frame(table, labels="label")


def test_baselines_see_all_columns_of_a_mixed_table_on_one_scale():
    data = mixed_table()
    model = pv.models.GMVAE((3,), 3, 1, likelihood=data.likelihood)
    guide = pv.guides.Guide(model)
    run = pv.fit(model, guide, pv.data.standardize(data), epochs=1, progress=False)
    scores = run.evaluate("test", num_samples=5)["clustering"]
    baselines = {name: s["accuracy"] for name, s in scores.items() if name != "this model"}
    assert len(baselines) == 3 and min(baselines.values()) > 0.85, baselines


def test_standardized_baselines_are_those_of_standardized_columns():
    x = mixed_table().train.x
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    for name, clusters in pv.evaluate.clustering_baselines(x, x, 3, standardize=True).items():
        assert (
            clustering_metrics(pv.evaluate.clustering_baselines(z, z, 3)[name], clusters)["ari"]
            == 1
        )
    y = mixed_table().train.y
    actual = pv.evaluate.classifier_baselines(x, y, x, standardize=True)["SVM"][0]
    assert torch.equal(actual, pv.evaluate.classifier_baselines(z, y, z)["SVM"][0])


def test_counts_with_a_missing_value_are_clustered_as_counts():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(180) % 3
    profiles = torch.rand(3, 20, generator=generator) ** 3
    depth = torch.empty(180, 1).uniform_(4, 8, generator=generator).exp()
    x = torch.poisson(profiles[y] / profiles.sum(1)[y, None] * depth, generator=generator)
    x[0, 0] = torch.nan
    clusters = pv.evaluate.clustering_baselines(x[:120], x[120:], 3)
    for name, found in clusters.items():
        assert sklearn.metrics.adjusted_rand_score(y[120:], found) > 0.95, (
            name
        )  # 0.0 of the counts themselves


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_decoder_mixture_of_integers_has_its_fractions(dtype):
    model = pv.models.VAE((3,), latent_dim=2)
    x, z = torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.randn(10, 2)
    expected = pv.evaluate.decoder_mixture(model, x.float(), z)
    torch.testing.assert_close(pv.evaluate.decoder_mixture(model, x.to(dtype), z), expected)


def rate_and_share(x):
    with pyro.plate("data", len(x)):
        r = pyro.sample("r", dist.Gamma(2.0, 1.5))
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("x", dist.Poisson(r * p), obs=x)


def test_codes_of_constrained_latents_are_means_of_log_normal_and_logit_normal():
    x = torch.tensor([0.0, 2.0, 5.0])
    guide = pyro.infer.autoguide.AutoNormal(rate_and_share, init_scale=0.7)
    guide(x)
    with torch.no_grad():
        guide.locs.r_unconstrained.copy_(torch.tensor([-0.5, 0.0, 1.5]))
        guide.locs.p_unconstrained.copy_(torch.tensor([-2.0, 0.0, 1.0]))
    codes = pv.evaluate.encode(rate_and_share, guide, x)
    log_normal = (torch.tensor([-0.5, 0.0, 1.5]) + 0.7**2 / 2).exp()
    torch.testing.assert_close(codes["r"], log_normal, rtol=0.005, atol=0)  # the median: 22 % less
    u = torch.linspace(-8, 8, 4001).double()
    weights = dist.Normal(0.0, 1.0).log_prob(u).exp() * (u[1] - u[0])
    logit_normal = torch.stack(
        [(weights * (m + 0.7 * u).sigmoid()).sum() for m in (-2.0, 0.0, 1.0)]
    )
    torch.testing.assert_close(codes["p"], logit_normal.float(), rtol=0.003, atol=0)
    again = pv.evaluate.encode(rate_and_share, guide, x)
    torch.testing.assert_close(again["r"], codes["r"], rtol=0, atol=0)
    mean = pv.evaluate.reconstruct(rate_and_share, guide, x)
    torch.testing.assert_close(mean, codes["r"] * codes["p"])
    drawn = pv.evaluate.sample_posterior(rate_and_share, guide, x, mean=True)
    torch.testing.assert_close(drawn["r"], codes["r"])


def test_codes_of_a_joint_guide_of_constrained_latents_are_means_of_its_draws():
    x = torch.tensor([0.0, 2.0, 5.0])
    kind = pyro.infer.autoguide.AutoMultivariateNormal
    guide = pv.guides.PerDatumAutoGuide(kind, rate_and_share, example=x, num_data=3, init_scale=0.8)
    given = {"index": torch.arange(3)}
    codes = pv.evaluate.encode(rate_and_share, guide, x, **given)
    draws = [
        pv.evaluate.sample_posterior(rate_and_share, guide, x, seed=seed, **given)
        for seed in range(200)
    ]
    for name in ("r", "p"):
        values = torch.stack([draw[name] for draw in draws])
        error = values.std(0) / 200**0.5
        assert bool(((codes[name] - values.mean(0)).abs() < 4 * error).all())


def test_functions_of_arrays_take_numpy_and_lists():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) + 1
    p, y = rng.dirichlet(np.ones(3), 30), np.arange(30) % 2
    calls = (
        (pv.evaluate.frechet_distance, a, b),
        (pv.evaluate.mmd_two_sample_test, a, b),
        (pv.evaluate.entropy, p),
        (pv.evaluate.mutual_information, p),
        (pv.evaluate.occupancy, p),
        (pv.evaluate.dead_components, p),
        (pv.evaluate.merged_components, p),
        (pv.evaluate.clustering_baselines, a, b, 2),
        (pv.evaluate.classifier_baselines, a, y, b),
        (pv.evaluate.decoder_mixture, pv.models.VAE((3,), 3, "normal").double(), a, b),
    )
    for function, *arrays in calls:
        expected = function(*(torch.as_tensor(v) if np.ndim(v) else v for v in arrays))
        for convert in (lambda v: v, lambda v: v.tolist() if isinstance(v, np.ndarray) else v):
            actual = function(*map(convert, arrays))
            assert str(actual) == str(expected), function.__name__
    one_hot = np.eye(3)[p.argmax(1)]
    consensus = pv.evaluate.consensus_clustering([p, one_hot])
    assert torch.equal(consensus.argmax(1), torch.as_tensor(p.argmax(1)))


def test_baselines_of_classes_take_fewer_rows_than_neighbors():
    x, y = torch.tensor([[0.0], [0.1], [0.9], [1.0]]), torch.tensor([0, -1, 1, -1])
    classes = pv.evaluate.classifier_baselines(x, y, x, spreading=True)["LabelSpreading"][0]
    assert classes.shape == (4,)
