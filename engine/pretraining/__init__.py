"""Masked image modelling: a backbone learns from images without labels (SimMIM, arXiv:2111.09886)."""
