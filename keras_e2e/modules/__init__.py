"""The structure of a modular model: boundaries, modules, modes, gradient flow."""
