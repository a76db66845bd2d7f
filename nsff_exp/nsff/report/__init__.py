"""HTML pages about an evaluation, the health of a scene, and an experiment as a whole."""
