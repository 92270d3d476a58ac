"""Ensembles as modular models."""
