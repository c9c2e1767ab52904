"""Conversion of a trained convolutional YOLOv5 into its Swin twin, from images without labels."""
