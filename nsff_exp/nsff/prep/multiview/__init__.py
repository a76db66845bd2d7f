"""Depth from neighbouring frames and known poses, without weights."""
