"""Everything after the acknowledgement, and what both sides share."""

VERSION = "0.1.0"
"""As in pyproject.toml, which is not there where only the package is."""
