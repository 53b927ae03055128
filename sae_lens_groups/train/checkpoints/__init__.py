"""Checkpoints of a run: when, where, and how a run goes on from one."""
