"""Measurements, run by hand. docs/performance.md has what they printed."""
