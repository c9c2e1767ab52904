"""Validation: batches through a model to counts, tables and plots; studies over image sizes."""
