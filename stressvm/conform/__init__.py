"""Answering recorded vectors: what a real kernel's code was asked, what it said, and what the model says."""
