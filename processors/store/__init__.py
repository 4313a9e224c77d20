"""Postgres: every table, its types and its statements. Nothing here knows Zoho."""
