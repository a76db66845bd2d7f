"""A scene read from its folder: cameras, frames and priors, and the pixels that a step draws."""
