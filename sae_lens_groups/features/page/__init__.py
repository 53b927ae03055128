"""The page of features: its template, and its data in pieces."""
