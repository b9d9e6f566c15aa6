"""What is learned: diffusion mathematics, networks, LightningModules, their training, and priors.

>>> from diffpress.lightning_modules import load_model
>>> prior = load_model("checkpoints/diffc-pixel")          # doctest: +SKIP
"""

from .identity import ModelError
from .loading import LOADING, find_model, load_model

__all__ = ["LOADING", "ModelError", "find_model", "load_model"]
