"""The training step of modular models."""
