"""Simulate, fit, evaluate, export."""
