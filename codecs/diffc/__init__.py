"""DiffC: any pretrained diffusion model as a codec (Theis et al. 2022; Vonderfecht and Liu 2025)."""

from .codec import DiffC

__all__ = ["DiffC"]
