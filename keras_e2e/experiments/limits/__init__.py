"""Sweeps that compare ways of training on modular tasks: the command `keras-e2e limits`."""
