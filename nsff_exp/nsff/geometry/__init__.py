"""Cameras: poses, rays, normalised device coordinates, camera paths."""
