"""Priors: diffusion models behind one interface."""

from .interface import Prior

__all__ = ["Prior"]
