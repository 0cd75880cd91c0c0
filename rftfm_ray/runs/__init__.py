"""Readers of finished and running runs."""
