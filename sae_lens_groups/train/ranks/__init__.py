"""Several processes that train one suite: who trains which group, and what they hand one another.

`torch.distributed` is imported here alone. What is built on it cannot hang where every rank comes to
the same meetings in the same order, so there is none in a hook, a thread, an `except`, or behind a
clock; whatever happens on one rank alone (a signal, an error) waits for the next one.
"""
