-- What the database is made of, and by which release.

-- name: digest
SELECT digest FROM schema_version;

-- name: fingerprint
-- One value for all columns, indexes, constraints, functions, triggers and views: it changes with any of them.
SELECT md5(coalesce(string_agg(line, chr(10) ORDER BY line), '')) AS fingerprint
  FROM (SELECT concat_ws(' ', 'column', table_name, column_name, data_type, is_nullable, column_default) AS line
          FROM information_schema.columns
         WHERE table_schema = current_schema()
         UNION ALL
        SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()
         UNION ALL
        SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
          FROM pg_constraint
         WHERE connamespace = current_schema()::regnamespace
         UNION ALL
        SELECT pg_get_functiondef(oid)
          FROM pg_proc
         WHERE pronamespace = current_schema()::regnamespace
           AND prokind = 'f'
         UNION ALL
        SELECT pg_get_triggerdef(pg_trigger.oid)
          FROM pg_trigger
          JOIN pg_class ON pg_class.oid = tgrelid
         WHERE relnamespace = current_schema()::regnamespace
           AND NOT tgisinternal
         UNION ALL
        SELECT concat_ws(' ', viewname, definition) FROM pg_views WHERE schemaname = current_schema()) AS parts;

-- name: is_applied
-- Whether a release was applied, and the database is still what it made of it.
SELECT digest = %(digest)s AND fingerprint = %(fingerprint)s AS is_applied FROM schema_version;

-- name: keep
INSERT INTO schema_version (digest, fingerprint) VALUES (%(digest)s, %(fingerprint)s)
    ON CONFLICT (is_only) DO UPDATE
   SET digest = excluded.digest, fingerprint = excluded.fingerprint, applied_at = now();
