"""Optimizers for modular models."""
