-- Decisions on items become rows: from whichever side they come, events or sweeps, through these statements.

-- name: read_current
-- What is known of some items, read again after somebody else wrote them.
SELECT wanted.item_id, products.*, absences_of(item_id) AS absences
  FROM unnest(%(item_ids)b::text[]) AS wanted (item_id)
  LEFT JOIN products ON zoho_item_id = item_id;

-- name: settle
-- Write decisions: each item's row, its changes and the verdict on each of its events, together or not at all.
-- With a row that is to say what Zoho's list says comes the digest of that. It is kept beside the version that was written,
-- if that is what was meant to be written: a trigger of somebody else's may have made it another.
-- An item is left out, to be decided anew, where one of its events is no longer ours (the lease lapsed and another
-- worker took it) or where its row is not the one that was decided upon. Returns the items that were settled.
-- Creating a row and noting that an item without one is gone wait for each other by a lock. What its former holders
-- committed is not in this statement's snapshot: functions that are VOLATILE look again, once the lock is there.
WITH absence_lock AS MATERIALIZED (
    SELECT CASE %(lock)s WHEN 'exclusive' THEN pg_advisory_xact_lock(%(lock_key)s)::text
                         WHEN 'shared' THEN pg_advisory_xact_lock_shared(%(lock_key)s)::text END IS NOT NULL AS is_held
), items AS (
    SELECT *
      FROM unnest(%(item_id)b::text[], %(revision)b::bigint[], %(absences)b::bigint[], %(writes)b::boolean[],
                  {content: %(@)b::#[]},
                  %(zoho_last_modified_at)b::timestamptz[], %(deleted_at)b::timestamptz[],
                  %(altered_at)b::timestamptz[], %(is_listed)b::boolean[], %(raw)b::text[], %(older_keys)b::text[], %(digest)b::bytea[])
           AS item (item_id, revision, absences, writes, {content}, zoho_last_modified_at, deleted_at, altered_at, is_listed,
                    raw, older_keys, digest)
), verdicts AS (
    SELECT *
      FROM unnest(%(event_id)b::bigint[], %(attempt)b::integer[], %(event_item_id)b::text[], %(outcome)b::text[],
                  %(reason)b::text[], %(warnings)b::text[])
           AS verdict (event_id, attempt, item_id, outcome, reason, warnings)
), held AS (
    SELECT events.id, verdicts.item_id, verdicts.outcome, verdicts.reason, verdicts.warnings
      FROM verdicts
      -- "IS TRUE" keeps the planner from reading all events in this state instead of looking these few up by id.
      JOIN events ON events.id = event_id AND events.attempts = attempt AND (events.state = 'processing') IS TRUE
     ORDER BY events.id
       FOR UPDATE OF events
), lost AS (
    SELECT item_id FROM verdicts WHERE event_id NOT IN (SELECT id FROM held)
), ready AS (
    SELECT items.*
      FROM items
     WHERE item_id NOT IN (SELECT item_id FROM lost)
), written AS (
    INSERT INTO products (zoho_item_id, {content}, zoho_last_modified_at, deleted_at, altered_at, is_listed, raw,
                          older_keys, revision, fields_version, fields_revision)
    SELECT item_id, {content}, zoho_last_modified_at, deleted_at, altered_at, is_listed, raw::jsonb, older_keys::jsonb,
           revision + 1, %(fields_version)s, revision + 1
      FROM ready
     WHERE writes
       AND CASE WHEN revision > 0 THEN true
                WHEN (SELECT is_held FROM absence_lock) THEN absences = absences_now(item_id) END
     ORDER BY item_id
        ON CONFLICT (zoho_item_id) DO UPDATE
       SET {content: @ = excluded.@},
           zoho_last_modified_at = excluded.zoho_last_modified_at, deleted_at = excluded.deleted_at,
           altered_at = excluded.altered_at, is_listed = excluded.is_listed, raw = excluded.raw, older_keys = excluded.older_keys,
           revision = excluded.revision, fields_version = excluded.fields_version,
           fields_revision = excluded.fields_revision, updated_at = now()
     WHERE products.revision = excluded.revision - 1
 RETURNING zoho_item_id, {content}, zoho_last_modified_at, deleted_at, altered_at, revision, xmin AS row_version
), known AS (
    INSERT INTO listed_digests (item_id, digest, revision, row_version)
    SELECT item_id, digest, written.revision, row_version
      FROM written
      JOIN ready ON item_id = zoho_item_id
     WHERE digest IS NOT NULL
       AND ({content: written.@}, written.zoho_last_modified_at, written.deleted_at, written.altered_at)
           IS NOT DISTINCT FROM
           ({content: ready.@}, ready.zoho_last_modified_at, ready.deleted_at, ready.altered_at)
     ORDER BY item_id
        ON CONFLICT (item_id) DO UPDATE
       SET digest = excluded.digest, revision = excluded.revision, row_version = excluded.row_version
), settled AS (
    SELECT zoho_item_id AS item_id
      FROM written
     UNION ALL
    SELECT item_id
      FROM ready
     WHERE NOT writes
       AND CASE WHEN revision > 0
                THEN revision = (SELECT products.revision FROM products WHERE zoho_item_id = item_id)
                WHEN (SELECT is_held FROM absence_lock) THEN NOT has_row_now(item_id) END
), changed AS (
    INSERT INTO product_changes (item_id, source, event_id, run_id, changes, zoho_modified_at, cause, wrong_since)
    SELECT change.item_id, source, event_id, run_id, changes::jsonb, zoho_modified_at, cause, wrong_since
      FROM unnest(%(change_item_id)b::text[], %(change_source)b::text[], %(change_event_id)b::bigint[],
                  %(change_run_id)b::bigint[], %(change_changes)b::text[], %(change_modified_at)b::timestamptz[],
                  %(change_cause)b::text[], %(change_wrong_since)b::timestamptz[]) WITH ORDINALITY
           AS change (item_id, source, event_id, run_id, changes, zoho_modified_at, cause, wrong_since, position)
      JOIN settled ON settled.item_id = change.item_id
     ORDER BY position
), finished AS (
    UPDATE events
       SET state = CASE WHEN held.outcome IS NULL THEN 'recorded' ELSE 'processed' END,
           outcome = held.outcome,
           processed_at = CASE WHEN held.outcome IS NULL THEN NULL ELSE clock_timestamp() END,
           -- Of what is finished it tells that Zoho was asked.
           needs_fetch = held.outcome IS NULL OR events.needs_fetch,
           claimable_at = now(),
           error_class = NULL,
           error = held.reason,
           error_at = NULL,
           warnings = coalesce(held.warnings::jsonb, '[]')
      FROM held
      JOIN settled USING (item_id)
     WHERE events.id = held.id
)
SELECT item_id FROM settled;
