"""GPU acceptance in one command, `python -m benchmarks.gpu`; one file for each group of parts."""
