"""Trained SAEs as they lie on disk and on the Hub."""
