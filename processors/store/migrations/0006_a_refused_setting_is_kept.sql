-- A ZOHO_REFRESH_TOKEN that cannot do the work of the present connection is not taken over, and not tried again.
ALTER TABLE zoho_connection
    ADD COLUMN refused_seed_digest bytea,
    ADD COLUMN refused_seed_reason text;
