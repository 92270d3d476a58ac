"""What people look at: the TensorBoard tab and the report."""
