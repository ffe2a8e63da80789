"""Policies of sleeping and waking compared: kernel threads on a simulated machine with CPUs, costs and a clock."""
