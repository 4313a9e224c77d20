"""All knowledge of Zoho: bodies, signatures, OAuth, quota, client."""
