"""What examples, experiments and benchmarks share; the library does not import it."""
