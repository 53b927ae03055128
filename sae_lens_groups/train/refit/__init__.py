"""Gives each layer of a trained group a decoder of its own."""
