"""Disparity of frames."""
