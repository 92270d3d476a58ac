"""Modular models, and how they are made, evaluated and taken apart."""
