-- The rows of a database that has some are those of the organisation that it was connected with.
ALTER TABLE zoho_connection
    ADD COLUMN mirrored_organization_id text,
    ADD COLUMN obstacle text,
    ADD COLUMN obstacle_reason text;

UPDATE zoho_connection SET mirrored_organization_id = organization_id WHERE (SELECT min(zoho_item_id) FROM products) IS NOT NULL;
