"""Datasets: their YAML, images, labels in each format, caches, lists, sampling and converters."""
