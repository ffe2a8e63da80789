"""A small kernel made of Trio tasks: threads, the baton, locks, sleep queues, condition variables, clock, cells.

The ground of the house: it knows no strategy, no check, no map and no report.
"""
