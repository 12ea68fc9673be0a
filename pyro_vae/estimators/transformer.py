"""A VAE as a transformer: embeddings of rows, and rows from embeddings."""

from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array, check_is_fitted

from ..conditionals import MLP
from ..errors import UserError
from ..generate import sample
from ..models import VAE
from .embedding import EmbeddingVAE
from .training import Training


class VAETransformer(EmbeddingVAE):
    r"""Embed the rows of a table by a variational autoencoder.

        z     ~ Normal(0, I)
        x | z ~ likelihood(f(z))

    `transform` returns the mean of the guide q(z | x). Columns with a normal likelihood are
    standardized inside; `inverse_transform`, `sample` and the log-densities are in the units of X.
    Float32 input is computed in float32, any other in float64. Sparse input becomes dense a batch
    at a time.

    After `fit` it has these attributes:

    * `model_`, `guide_`: the trained pair, in the units of the model.
    * `n_iter_`: epochs of training.
    * `loss_curve_`: the loss of each epoch, nats per data point in the units of the model.
    * `n_features_in_`, `feature_names_in_`: columns of X.

    Args:
        latent_dim: size of z, the number of output columns.
        hidden_layer_sizes: widths of the hidden layers of encoder and decoder.
        likelihood: a name or a family, as in `pv.models.VAE`. "auto": bernoulli for values 0 and
            1, binomial for integers with an upper bound that many columns reach, negative-binomial
            for counts, else normal.
        max_iter: epochs. "auto": about 2,000 steps, in 20 to 500 epochs.
        batch_size: rows per step. "auto": a tenth of the rows, 16 to 128.
        learning_rate: of Adam.
        validation_fraction: the fraction of rows whose ELBO chooses the best epoch, if it is at
            least 5 rows (at most 2,000 rows are held out). 0 keeps the last epoch.
        random_state: None, an int or a `RandomState`.
        device: such as "cuda". Default: a GPU if there is one.
        verbose: whether to show a progress bar.

    References:
        Kingma and Welling 2013, arXiv 1312.6114.

    Example:
        >>> import torch, pyro_vae as pv
        >>> X = torch.randn(60, 4).numpy() * [1, 10, 100, 1000]
        >>> vae = pv.estimators.VAETransformer(latent_dim=2, max_iter=3, random_state=0)
        >>> Z = vae.fit_transform(X)
        >>> Z.shape, vae.inverse_transform(Z).shape, vae.score_samples(X).shape
        ((60, 2), (60, 4), (60,))
    """

    def _build_model(self, num_columns: int) -> nn.Module:
        return VAE(
            (num_columns,),
            self.latent_dim,
            self._units.likelihood,
            MLP(tuple(self.hidden_layer_sizes)),
        )

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Train the VAE.

        Args:
            X: `[N, D]`, an array, a data frame or a sparse matrix.
            y: ignored.
            sample_weight: `[N]`; a row's part of the objective is multiplied by its weight.
        """
        rows = self._check(X, reset=True, ensure_min_samples=2)
        weight, seed = self._check_weight(sample_weight, rows), self._seed()
        training = self._hold_out(Training(rows, weight=weight), seed)
        self._start(training, seed)
        return self._record(self._train(training, seed))

    def partial_fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """One more epoch, on these rows, with a constant learning rate.

        The first call chooses likelihood and units by its rows. The optimizer's state is kept from
        call to call.

        Args:
            X, y, sample_weight: as in `fit`.
        """
        first = not hasattr(self, "model_")
        rows = self._check(X, reset=first, ensure_min_samples=2)
        weight, seed = self._check_weight(sample_weight, rows), self._seed()
        training = Training(rows, weight=weight)
        if first:
            self._start(training, seed)
        return self._train_one_epoch(training, seed)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """`[N, D]`: the mean of p(x | z), in the units of the training data.

        Args:
            X: `[N, latent_dim]`, values of z.
        """
        check_is_fitted(self)
        Z = check_array(X, dtype=[np.float64, np.float32])
        if Z.shape[1] != self.latent_dim:
            raise UserError(f"z has {Z.shape[1]} columns; expected {self.latent_dim}")
        parameter = next(self.model_.parameters())
        z = torch.from_numpy(np.ascontiguousarray(Z)).to(parameter)
        return self._to_table(sample(self.model_, len(z), z=z, mean=True, seed=0))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """`[n_samples, D]`: draws of p(x), in the units of the training data.

        Args:
            n_samples: how many.
            random_state: of the draws. Default: that of the estimator.
        """
        check_is_fitted(self)
        return self._sample(random_state, n_samples)
