-- The inbox: events from their receipt to their outcome.

-- name: record_events
-- Keep deliveries. A fingerprint that another event holds is skipped: that delivery is a duplicate, or is looked at
-- again by release_fingerprints. Several copies in one batch, or in two processes at once, leave one event.
-- All insert in the same order: two that wait for each other's rows would be a deadlock.
INSERT INTO events (kind, item_id, is_dated, state, error_class, error, body, content_type, query_string, fingerprint)
SELECT kind, item_id, is_dated, CASE WHEN error IS NULL THEN 'recorded' ELSE 'dead' END, error_class, error,
       body, content_type, query_string, fingerprint
  FROM unnest(%(kind)b::text[], %(item_id)b::text[], %(is_dated)b::boolean[], %(error_class)b::text[],
              %(error)b::text[], %(body)b::bytea[], %(content_type)b::text[], %(query_string)b::bytea[],
              %(fingerprint)b::bytea[])
       AS incoming (kind, item_id, is_dated, error_class, error, body, content_type, query_string, fingerprint)
 ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO NOTHING
RETURNING id, fingerprint, state;

-- name: revive_dead_events
-- The same body was delivered again after its event died: that event is tried again, as it is read now. It may have
-- died because an older version, or another content type, found no item in it.
WITH dead AS (
    SELECT events.id, incoming.item_id, incoming.content_type, incoming.query_string
      FROM events
      JOIN unnest(%(fingerprint)b::bytea[], %(item_id)b::text[], %(content_type)b::text[], %(query_string)b::bytea[])
           AS incoming (fingerprint, item_id, content_type, query_string) USING (fingerprint)
     WHERE state = 'dead'
     ORDER BY events.id
       FOR UPDATE OF events
)
UPDATE events
   SET state = 'recorded', failures = 0, error_class = NULL, error = NULL, claimable_at = now(), queued_at = NULL,
       needs_fetch = false, item_id = dead.item_id, content_type = dead.content_type, query_string = dead.query_string
  FROM dead
 WHERE events.id = dead.id
RETURNING events.id, fingerprint, state;

-- name: release_fingerprints
-- A finished event stops counting as the first copy: after a while, or at once where the body does not say when the item
-- was modified, as two changes then look the same. Such a one stops already when a worker has it: Zoho may have been
-- asked before the change that is reported now.
UPDATE events
   SET fingerprint = NULL
 WHERE id IN (SELECT id
                FROM events
               WHERE fingerprint = ANY(%(fingerprints)b)
                 AND (state = 'processed'
                      AND (kind = 'deleted' OR NOT is_dated
                           OR processed_at <= now() - %(duplicate_window)s::interval)
                      OR state = 'processing' AND kind = 'changed' AND NOT is_dated)
               ORDER BY id
                 FOR UPDATE);

-- name: find_fingerprints
SELECT id, fingerprint, state
  FROM events
 WHERE fingerprint = ANY(%(fingerprints)b);

-- name: mark_queued
-- Redis has the ids. An event that a worker took in the meantime, or is taking now, is left alone.
WITH untaken AS (
    SELECT id
      FROM events
     WHERE id = ANY(%(event_ids)b)
       AND state = 'recorded'
       AND claimable_at <= now()
     ORDER BY id
       FOR UPDATE SKIP LOCKED
)
UPDATE events
   SET state = 'queued', queued_at = now()
  FROM untaken
 WHERE events.id = untaken.id;

-- name: claim_events
-- Take the named events, and others that wait, for one lease; with each event come what is known of its item and the
-- version of that. Suspects, which failed before or whose worker vanished, are only taken when asked for.
WITH named AS (
    SELECT id
      FROM events
     WHERE id = ANY(%(event_ids)b)
       AND state IN ('recorded', 'queued', 'processing')
       AND claimable_at <= now()
       AND needs_fetch = %(needs_fetch)s
       AND (failures > 0 OR state = 'processing') = %(suspects)s
     ORDER BY id
     LIMIT %(most)s
       FOR UPDATE SKIP LOCKED
), waiting AS (
    SELECT id
      FROM events
     WHERE state IN ('recorded', 'queued')
       AND claimable_at <= now()
       AND needs_fetch = %(needs_fetch)s
       AND failures = 0
     ORDER BY claimable_at
     LIMIT %(others)s
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE events
       SET state = 'processing', attempts = attempts + 1, claimable_at = now() + %(lease)s::interval,
           -- Still 'processing': the worker that had it neither finished it nor said why not.
           failures = failures + (state = 'processing')::integer,
           claimed_by = %(worker)s
     WHERE id IN (SELECT id FROM named UNION SELECT id FROM waiting)
 RETURNING id, kind, item_id, received_at, attempts, failures, body, content_type, query_string
)
SELECT claimed.*, products.*,
       -- Counted where it matters: of an item without a row, and before a deletion.
       CASE WHEN revision IS NULL OR bool_or(kind = 'deleted') OVER (PARTITION BY item_id)
            THEN absences_of(item_id) ELSE 0 END AS absences
  FROM claimed
  LEFT JOIN products ON zoho_item_id = item_id
 ORDER BY claimed.id;

-- name: find_fetch_siblings
-- The unfinished events of this one's item that only a call to Zoho can settle: one call serves them all.
SELECT id
  FROM events
 WHERE item_id = (SELECT item_id FROM events WHERE id = %(event_id)s)
   AND state IN ('recorded', 'queued', 'processing')
   AND needs_fetch
 ORDER BY id;

-- name: read_current
-- What is known of some items, read again after somebody else wrote them.
SELECT wanted.item_id, products.*, absences_of(item_id) AS absences
  FROM unnest(%(item_ids)b::text[]) AS wanted (item_id)
  LEFT JOIN products ON zoho_item_id = item_id;

-- name: settle
-- Write decisions: each item's row, its changes and the verdict on each of its events, together or not at all.
-- An item is left out, to be decided anew, where one of its events is no longer ours (the lease lapsed and another
-- worker took it) or where its row is not the one that was decided upon. Returns the events that were settled.
WITH items AS (
    SELECT *
      FROM unnest(%(item_id)b::text[], %(revision)b::bigint[], %(absences)b::bigint[], %(writes)b::boolean[],
                  %(name)b::text[], %(sku)b::text[], %(description)b::text[], %(price)b::numeric[],
                  %(stock_quantity)b::integer[], %(stock_on_hand)b::numeric[], %(is_active)b::boolean[],
                  %(category_id)b::text[], %(category_name)b::text[], %(brand)b::text[], %(unit)b::text[],
                  %(zoho_last_modified_at)b::timestamptz[], %(deleted_at)b::timestamptz[],
                  %(raw)b::text[], %(older_keys)b::text[])
           AS item (item_id, revision, absences, writes, name, sku, description, price, stock_quantity, stock_on_hand,
                    is_active, category_id, category_name, brand, unit, zoho_last_modified_at, deleted_at,
                    raw, older_keys)
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
    INSERT INTO products (zoho_item_id, name, sku, description, price, stock_quantity, stock_on_hand, is_active,
                          category_id, category_name, brand, unit, zoho_last_modified_at, deleted_at, raw, older_keys,
                          revision)
    SELECT item_id, name, sku, description, price, stock_quantity, stock_on_hand, is_active,
           category_id, category_name, brand, unit, zoho_last_modified_at, deleted_at, raw::jsonb, older_keys::jsonb,
           revision + 1
      FROM ready
     WHERE writes
       AND (revision > 0 OR absences = absences_of(item_id))
     ORDER BY item_id
        ON CONFLICT (zoho_item_id) DO UPDATE
       SET name = excluded.name, sku = excluded.sku, description = excluded.description, price = excluded.price,
           stock_quantity = excluded.stock_quantity, stock_on_hand = excluded.stock_on_hand,
           is_active = excluded.is_active, category_id = excluded.category_id,
           category_name = excluded.category_name, brand = excluded.brand, unit = excluded.unit,
           zoho_last_modified_at = excluded.zoho_last_modified_at, deleted_at = excluded.deleted_at,
           raw = excluded.raw, older_keys = excluded.older_keys, revision = excluded.revision, updated_at = now()
     WHERE products.revision = excluded.revision - 1
 RETURNING zoho_item_id
), settled AS (
    SELECT zoho_item_id AS item_id
      FROM written
     UNION ALL
    SELECT item_id
      FROM ready
     WHERE NOT writes
       AND revision = coalesce((SELECT products.revision FROM products WHERE zoho_item_id = item_id), 0)
), changed AS (
    INSERT INTO product_changes (item_id, source, event_id, changes)
    SELECT change.item_id, change.source, change.event_id, change.changes::jsonb
      FROM unnest(%(change_item_id)b::text[], %(change_source)b::text[], %(change_event_id)b::bigint[],
                  %(change_changes)b::text[]) WITH ORDINALITY
           AS change (item_id, source, event_id, changes, position)
      JOIN settled USING (item_id)
     ORDER BY position
)
UPDATE events
   SET state = CASE WHEN held.outcome IS NULL THEN 'recorded' ELSE 'processed' END,
       outcome = held.outcome,
       processed_at = CASE WHEN held.outcome IS NULL THEN NULL ELSE clock_timestamp() END,
       needs_fetch = held.outcome IS NULL,
       claimable_at = now(),
       error_class = NULL,
       error = held.reason,
       warnings = coalesce(held.warnings::jsonb, '[]')
  FROM held
  JOIN settled USING (item_id)
 WHERE events.id = held.id
RETURNING events.id;

-- name: fail_event
-- An attempt failed: try again later, or give up where retry_in is null. Nothing happens when the lease was lost.
UPDATE events
   SET state = CASE WHEN %(retry_in)s::interval IS NULL THEN 'dead' ELSE 'recorded' END,
       failures = failures + %(counts)s::integer,
       error_class = %(error_class)s,
       error = %(error)s,
       claimable_at = now() + coalesce(%(retry_in)s::interval, '0')
 WHERE id = %(event_id)s
   AND attempts = %(attempt)s
   AND state = 'processing'
RETURNING state;

-- name: put_off
-- Events that need Zoho, while Zoho must not be asked: none of them is claimed only to find that out.
UPDATE events
   SET state = 'recorded',
       -- Jitter: what waits together need not come back together.
       claimable_at = now() + %(wait)s::interval * (1 + 0.2 * random()),
       error_class = %(error_class)s,
       error = %(error)s
 WHERE id = ANY(%(event_ids)b)
   AND state IN ('recorded', 'queued')
   AND needs_fetch
   AND claimable_at <= now();

-- name: take_due
-- The relay: events that were recorded but not queued, whose message was lost, whose lease lapsed, or whose next try
-- has come. Marking them keeps two relays from handing over the same event, and one from doing so too often.
WITH due AS (
    SELECT id
      FROM events
     WHERE state IN ('recorded', 'queued', 'processing')
       AND needs_fetch = %(needs_fetch)s
       AND claimable_at <= now() - %(grace)s::interval
       AND (queued_at IS NULL OR queued_at <= now() - %(patience)s::interval OR queued_at < claimable_at)
     ORDER BY claimable_at
     LIMIT %(most)s
       FOR UPDATE SKIP LOCKED
)
UPDATE events
   SET state = CASE state WHEN 'recorded' THEN 'queued' ELSE state END, queued_at = now()
  FROM due
 WHERE events.id = due.id
RETURNING events.id;

-- name: give_back
-- Redis did not take them after all.
UPDATE events
   SET state = CASE state WHEN 'queued' THEN 'recorded' ELSE state END, queued_at = NULL
 WHERE id = ANY(%(event_ids)b)
   AND state IN ('queued', 'processing');
