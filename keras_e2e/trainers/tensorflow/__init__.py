"""The training step on TensorFlow."""
