"""What the scripts share: files, labels, augmentation, loss, metrics, training aids. Nothing here imports `models`."""
