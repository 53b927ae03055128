"""The page of an evaluation, and the same in the terminal."""
