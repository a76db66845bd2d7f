"""Volume rendering of the two fields: training rays, whole frames, and frames at times between two frames."""
