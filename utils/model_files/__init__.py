"""Readers of untrusted model files: looked at before any library opens them."""
