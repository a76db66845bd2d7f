"""Preparation: from a video to the files of a scene."""
