"""Camera poses, rays, spaces of the fields and camera paths."""
