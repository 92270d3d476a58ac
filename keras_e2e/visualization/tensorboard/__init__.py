"""What TensorBoard shows of the modules."""
