"""Depth from neighbouring frames and poses, without weights."""
