"""Files with weights: our checkpoints, those of YOLOv5, ImageNet weights, and transfer between models."""
