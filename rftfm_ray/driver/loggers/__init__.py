"""Loggers of others that a run writes to: TensorBoard, Weights & Biases."""
