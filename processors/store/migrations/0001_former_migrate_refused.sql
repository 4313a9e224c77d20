-- Release 0.1.0 knows no ledger. Its `migrate`, run on a database of a newer release, would put its own functions back:
-- the last thing that it does is to write into schema_version, and that undoes it all. Its processes go on working.
CREATE FUNCTION refuse_former_migrate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a newer release of zoho-mirror has migrated this database'
        USING HINT = 'Run migrate of the newer release. Processes of this release work without it.';
END $$;

CREATE TRIGGER schema_version_is_left BEFORE INSERT OR UPDATE ON schema_version
    EXECUTE FUNCTION refuse_former_migrate();
