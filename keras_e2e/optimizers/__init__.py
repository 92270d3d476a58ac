"""Optimizers for models of modules."""
