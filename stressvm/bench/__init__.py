"""Benchmarks: what the parts cost, beside something that makes the number mean something."""
