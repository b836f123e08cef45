"""Frames to atoms."""
