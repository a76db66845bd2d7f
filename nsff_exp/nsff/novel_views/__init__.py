"""Novel views of a trained scene, rendered to videos."""
