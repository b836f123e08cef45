"""Frames in over ZeroMQ, atoms out."""
