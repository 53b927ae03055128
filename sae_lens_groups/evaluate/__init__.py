"""A suite in, a row of scores per layer and a page out."""
