"""UQDM: a progressive codec by universal quantization (Yang et al. 2025)."""
