"""The JSON API for programs, mounted at /api."""
