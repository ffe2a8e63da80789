"""What watches executions and can call a bug. Generic: it knows threads, locks and sleeps, and no map."""
