"""What a layer's activations pass before the SAE, and how that becomes part of the SAE."""
