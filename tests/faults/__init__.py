"""Runs that are killed again and again, and have to end as if they had not been."""
