"""The verbs of the command line, one module each; `stressvm.cli` parses and dispatches."""
