"""Lossless coding of an image's pixels, each given those decoded before it and, where there is one, an estimate.

prediction.py  linear predictions by least squares      mixture.py  the distribution around them, by a small network
plane.py       the order that both sides follow         segment.py  bytes
fit.py         how mixture.npz, the network, was made
docs/method/lossless.md says what was measured.  numba is imported when the first image is coded.
"""
