"""The network: blocks, model tables in YAML, and the checkpoints that store a trained one."""
