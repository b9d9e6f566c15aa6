"""Priors: diffusion models behind one interface."""
