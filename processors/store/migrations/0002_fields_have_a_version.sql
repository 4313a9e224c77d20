-- Columns for groups and available stock, and the version of the field table that rows and certificates were made by.
ALTER TABLE products
    ADD COLUMN group_id text,
    ADD COLUMN group_name text,
    ADD COLUMN available_stock numeric,
    ADD COLUMN actual_available_stock numeric,
    ADD COLUMN fields_version text,
    ADD COLUMN fields_revision bigint;

CREATE OR REPLACE TRIGGER products_altered BEFORE UPDATE ON products
    FOR EACH ROW
    WHEN (NEW.revision = OLD.revision
          AND NEW.altered_at IS NOT DISTINCT FROM OLD.altered_at
          AND (NEW.name, NEW.sku, NEW.description, NEW.price, NEW.stock_quantity, NEW.stock_on_hand, NEW.is_active,
               NEW.category_id, NEW.category_name, NEW.brand, NEW.unit, NEW.group_id, NEW.group_name,
               NEW.available_stock, NEW.actual_available_stock, NEW.zoho_last_modified_at, NEW.deleted_at,
               NEW.raw, NEW.older_keys)
              IS DISTINCT FROM
              (OLD.name, OLD.sku, OLD.description, OLD.price, OLD.stock_quantity, OLD.stock_on_hand, OLD.is_active,
               OLD.category_id, OLD.category_name, OLD.brand, OLD.unit, OLD.group_id, OLD.group_name,
               OLD.available_stock, OLD.actual_available_stock, OLD.zoho_last_modified_at, OLD.deleted_at,
               OLD.raw, OLD.older_keys))
    EXECUTE FUNCTION note_alteration();

-- A part of what a certificate adds up (processors/store/sql/certificates.sql): texts with their length, numbers without
-- trailing zeros, "-" for null.
CREATE FUNCTION digest_part(value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(length(value) || ':' || value, '-')
$$;
CREATE FUNCTION digest_part(value numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(trim_scale(value)::text, '-')
$$;
CREATE FUNCTION digest_part(value integer) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(value::text, '-')
$$;
CREATE FUNCTION digest_part(value boolean) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(value::text, '-')
$$;

CREATE TABLE projection_passes (
    version text PRIMARY KEY,
    position text NOT NULL DEFAULT '',  -- the id of the last row that was looked at
    passes integer NOT NULL DEFAULT 0,  -- that ended
    ended_at timestamptz                -- of the last one; null: one is under way
);

ALTER TABLE reconciliation_runs ADD COLUMN certified_fields text;

-- The rows that are there satisfy the former CHECK, and so this one; the next file says so to Postgres.
ALTER TABLE product_changes
    DROP CONSTRAINT product_changes_source,
    ADD CONSTRAINT product_changes_source
        CHECK (source IN ('webhook', 'full', 'recent', 'replay', 'fetch', 'release')) NOT VALID;
