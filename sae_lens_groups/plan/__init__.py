"""Which layers should share an SAE: measure distances, propose groups, show the plan."""
