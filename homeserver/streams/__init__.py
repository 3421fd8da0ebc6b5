"""Ordered logs and waking up."""
