"""The mathematics of diffusion: Gaussian algebra, noise schedules, pixel likelihoods, universal quantization."""
