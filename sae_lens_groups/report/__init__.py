"""Tells what an evaluation found: as a table in the terminal, and as a page."""
