"""The model card of a published suite, `README.md`: a module for each of its sections."""
