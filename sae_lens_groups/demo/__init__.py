"""A small real language model and its text, for the demo, the tests and the tutorials."""
