"""Campaigns: many executions of many scenarios within a budget, with one journal."""
