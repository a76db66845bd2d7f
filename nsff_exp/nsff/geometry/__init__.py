"""Camera poses, rays, normalised device coordinates (NDC) and camera paths."""
