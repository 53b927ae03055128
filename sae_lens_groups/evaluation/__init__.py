"""What `evaluate_suite` measures, one idea per module."""
