"""Renderers of executions and campaigns. They know records and findings, and nothing of how those came about."""
