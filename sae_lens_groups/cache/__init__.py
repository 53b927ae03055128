"""Cached activations: written in one pass of the language model, read by as many runs as one likes."""
