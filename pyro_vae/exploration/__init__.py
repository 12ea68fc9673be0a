"""Pages on which a latent space, or the posteriors of a comparison, can be explored offline."""

from .comparison import explore_comparison
from .pair import explore_pair

__all__ = ["explore_comparison", "explore_pair"]
