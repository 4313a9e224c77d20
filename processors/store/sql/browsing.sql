-- Lists and pages: found, counted, and read one by one. A null asks for nothing. Statements with a filter are planned
-- anew each time (processors/workflows/browsing.py), so that what is not asked for costs nothing.

-- name: products_by_id
-- Onwards from an item, by its id. A part of a name has no index, nor has a category, a stock or the time of a write,
-- which each write would have to keep: where little matches, the whole table is read.
SELECT zoho_item_id, {content}, zoho_last_modified_at, deleted_at, altered_at, created_at, updated_at
  FROM products
 WHERE product_is_meant(products, %(text)s, %(pattern)s, %(state)s, %(is_out_of_stock)s, %(changed_since)s,
                        %(category_id)s)
   AND (%(after)s::text IS NULL OR zoho_item_id > %(after)s)
 ORDER BY zoho_item_id
OFFSET %(skip)s
 LIMIT %(most)s;

-- name: products_by_id_backwards
-- The same, the other way round.
SELECT zoho_item_id, {content}, zoho_last_modified_at, deleted_at, altered_at, created_at, updated_at
  FROM products
 WHERE product_is_meant(products, %(text)s, %(pattern)s, %(state)s, %(is_out_of_stock)s, %(changed_since)s,
                        %(category_id)s)
 ORDER BY zoho_item_id DESC
OFFSET %(skip)s
 LIMIT %(most)s;

-- name: products_sorted
-- By another column: all that are meant are read for it. What has no value comes last.
SELECT zoho_item_id, {content}, zoho_last_modified_at, deleted_at, altered_at, created_at, updated_at
  FROM products,
       LATERAL (SELECT CASE %(sort)s WHEN 'name' THEN lower(name) WHEN 'sku' THEN lower(sku) END AS as_text,
                       CASE %(sort)s WHEN 'price' THEN price WHEN 'stock' THEN stock_on_hand
                            WHEN 'modified' THEN extract(epoch FROM zoho_last_modified_at)
                            WHEN 'updated' THEN extract(epoch FROM updated_at) END AS as_number) AS key
 WHERE product_is_meant(products, %(text)s, %(pattern)s, %(state)s, %(is_out_of_stock)s, %(changed_since)s,
                        %(category_id)s)
 ORDER BY key.as_text IS NULL AND key.as_number IS NULL,
          CASE WHEN NOT %(descending)s THEN key.as_text END, CASE WHEN %(descending)s THEN key.as_text END DESC,
          CASE WHEN NOT %(descending)s THEN key.as_number END, CASE WHEN %(descending)s THEN key.as_number END DESC,
          zoho_item_id
OFFSET %(skip)s
 LIMIT %(most)s;

-- name: count_products_meant
-- By state, from its index; by anything else, from the whole table.
SELECT count(*) AS count
  FROM (SELECT
          FROM products
         WHERE product_is_meant(products, %(text)s, %(pattern)s, %(state)s, %(is_out_of_stock)s, %(changed_since)s,
                                %(category_id)s)
         LIMIT %(at_most)s) AS meant;

-- name: product
-- One product, with all that Zoho said of it.
SELECT zoho_item_id, {content}, zoho_last_modified_at, deleted_at, altered_at, created_at, updated_at, raw, revision
  FROM products
 WHERE zoho_item_id = %(item_id)s;

-- name: categories
-- Of live products, all of which are read for it.
SELECT category_id AS id, max(category_name) AS name, count(*) AS products
  FROM products
 WHERE category_id IS NOT NULL
   AND deleted_at IS NULL
 GROUP BY category_id
 ORDER BY lower(max(category_name)), category_id
 LIMIT %(most)s;

-- name: find_events
-- The newest first. Ids follow receipt, but for the moments that a transaction takes: so the list of an old time begins
-- at the first event that was received some minutes after it, and only where a quiet time followed at the newest of all.
-- Only what failed has an error: texts, classes and causes are looked for among those.
SELECT id, received_at, kind, item_id, state, outcome, attempts, error_class, error, processed_at, run_id, replay_id,
       discarded_at
  FROM events
 WHERE (%(event_ids)b::bigint[] IS NULL OR id = ANY(%(event_ids)b))
   AND (%(state)s::text IS NULL OR state = %(state)s)
   AND (%(is_discarded)s::boolean IS NULL OR (discarded_at IS NOT NULL) = %(is_discarded)s)
   AND event_is_meant(events, NULL, false, %(outcome)s, %(kind)s, %(item_id)s, %(run_id)s, %(error)s, %(error_class)s,
                      %(cause)s, %(since)s, %(until)s)
   AND (%(before)s::bigint IS NULL OR id < %(before)s)
   AND (%(until)s::timestamptz IS NULL
        OR id < coalesce((SELECT id
                            FROM events
                           WHERE received_at >= %(until)s + interval '10 minutes'
                             AND received_at < %(until)s + interval '6 hours'
                           ORDER BY received_at
                           LIMIT 1), 9223372036854775807))
 ORDER BY id DESC
OFFSET %(skip)s
 LIMIT %(most)s;

-- name: count_events_meant
-- No further than asked, and from where the list begins: rows lie in the order of their receipt, so that what is looked
-- for from the wrong end comes last.
SELECT count(*) AS count
  FROM (SELECT
          FROM events
         WHERE (%(event_ids)b::bigint[] IS NULL OR id = ANY(%(event_ids)b))
           AND (%(state)s::text IS NULL OR state = %(state)s)
           AND (%(is_discarded)s::boolean IS NULL OR (discarded_at IS NOT NULL) = %(is_discarded)s)
           AND event_is_meant(events, NULL, false, %(outcome)s, %(kind)s, %(item_id)s, %(run_id)s, %(error)s,
                              %(error_class)s, %(cause)s, %(since)s, %(until)s)
           AND (%(until)s::timestamptz IS NULL
                OR id < coalesce((SELECT id
                                    FROM events
                                   WHERE received_at >= %(until)s + interval '10 minutes'
                                     AND received_at < %(until)s + interval '6 hours'
                                   ORDER BY received_at
                                   LIMIT 1), 9223372036854775807))
         ORDER BY id DESC
         LIMIT %(at_most)s) AS meant;

-- name: find_changes
-- The newest first.
SELECT id, item_id, changed_at, source, event_id, run_id, cause, zoho_modified_at, changes
  FROM product_changes
 WHERE (%(item_id)s::text IS NULL OR item_id = %(item_id)s)
   AND (%(before)s::bigint IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(most)s;

-- name: find_runs
-- The newest first.
SELECT *
  FROM reconciliation_runs
 WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
   AND (%(state)s::text IS NULL OR state = %(state)s)
   AND (%(before)s::bigint IS NULL OR id < %(before)s)
 ORDER BY id DESC
OFFSET %(skip)s
 LIMIT %(most)s;

-- name: count_runs_meant
-- No further than asked.
SELECT count(*) AS count
  FROM (SELECT
          FROM reconciliation_runs
         WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
           AND (%(state)s::text IS NULL OR state = %(state)s)
         LIMIT %(at_most)s) AS meant;

-- name: events_of
-- All that is known of an item's events, the newest first.
SELECT id, received_at, kind, state, outcome, error, processed_at, run_id, discarded_at, discarded_by, discard_reason,
       needs_fetch, claimed_at, body, content_type, query_string
  FROM events
 WHERE item_id = %(item_id)s
 ORDER BY id DESC
 LIMIT %(most)s;

-- name: attempts_at
-- The attempts that did not finish these events, or finished them before a replay.
SELECT event_id, attempt, ended_at, outcome, error_class, error, is_wait, times
  FROM event_attempts
 WHERE event_id = ANY(%(event_ids)s::bigint[])
 ORDER BY event_id DESC, attempt DESC;

-- name: deliveries_by_hour
-- What came of the deliveries of the last 24 hours, by the hour of their receipt. What was received since has been
-- processed since, so each part has an index of its own. What a run found was not delivered.
SELECT hour, what, sum(count)::bigint AS count
  FROM (SELECT date_trunc('hour', received_at) AS hour, outcome AS what, count(*) AS count
          FROM events
         WHERE state = 'processed'
           AND processed_at >= date_trunc('hour', now()) - interval '23 hours'
           AND run_id IS NULL
           AND received_at >= date_trunc('hour', now()) - interval '23 hours'
         GROUP BY 1, 2
         UNION ALL
        SELECT date_trunc('hour', received_at), 'unfinished', count(*)
          FROM events
         WHERE state IN ('recorded', 'queued', 'processing')
           AND run_id IS NULL
           AND received_at >= date_trunc('hour', now()) - interval '23 hours'
         GROUP BY 1
         UNION ALL
        SELECT date_trunc('hour', received_at), 'dead', count(*)
          FROM events
         WHERE state = 'dead'
           AND run_id IS NULL
           AND received_at >= date_trunc('hour', now()) - interval '23 hours'
         GROUP BY 1) AS parts
 GROUP BY hour, what
 ORDER BY hour, what;

-- name: drift_counts
-- How much each of these runs had to repair.
SELECT run_id, count(*) AS drift
  FROM product_changes
 WHERE run_id = ANY(%(run_ids)s::bigint[])
   AND cause <> ALL (%(not_drift)s::text[])
 GROUP BY run_id;

-- name: drift_by_run
-- What the latest runs had to repair, the oldest of them first.
SELECT run.id AS run_id, run.kind, run.started_at, run.created, run.updated, run.deleted,
       (SELECT count(*)
          FROM product_changes AS change
         WHERE change.run_id = run.id
           AND change.cause <> ALL (%(not_drift)s::text[])) AS drift
  FROM (SELECT *
          FROM reconciliation_runs
         WHERE state <> 'running'
         ORDER BY id DESC
         LIMIT %(most)s) AS run
 ORDER BY run.id;
