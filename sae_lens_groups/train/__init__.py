"""Rows in, a suite out: one shared pass of the language model trains an SAE per group."""
