"""Load a scene from its folder (cameras, frames, priors) and sample the pixels of a training step."""
