"""What every room may use: Keras's private names, data, state, validation."""
