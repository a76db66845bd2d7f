"""A synthetic moving scene with known truth."""
