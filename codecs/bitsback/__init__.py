"""Bits-back coding: any pixel-space prior as a lossless codec."""
