"""Lossless coding of an image's pixels, each given those decoded before it and, where there is one, an estimate.

lanes.py       vector operations on sixteen rows         prediction.py  linear predictions by least squares
mixture.py     the distribution around them, by a network  plane.py     the models, and the order that both sides follow
segment.py     bytes                                     training.py    the networks' LightningModule (mixture.npz)
docs/method/lossless.md says what was measured.  numba is imported when the first image is coded.
"""
