"""The HTTP edge: thin, quick to acknowledge, owns no table."""
