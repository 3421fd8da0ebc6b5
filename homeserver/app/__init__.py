"""Composition: the only code that sees everything."""
