"""Volume rendering of the two fields: training rays, frames, times between frames."""
