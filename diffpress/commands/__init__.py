"""Command lines: each module parses arguments, calls one function and prints the result."""
