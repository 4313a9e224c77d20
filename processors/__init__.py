"""Everything after the acknowledgement, and what both sides share."""
