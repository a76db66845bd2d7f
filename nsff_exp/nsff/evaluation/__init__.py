"""Evaluation on held-out views, health of a trained scene without them, and cost of training and rendering."""
