"""Strategies, the execution loop, schedules, replay and shrinking. Asks check/ for verdicts; knows no VM."""
