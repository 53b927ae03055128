"""Activations that are computed once and read by many runs."""
