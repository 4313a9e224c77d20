"""The operator console, mounted at /console."""
