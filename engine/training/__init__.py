"""A training run: its state and checkpoints, recovery, checks of its options, and the search for hyperparameters."""
