-- Drift: why a sweep had to make a change that a webhook should have made.

-- name: evidence
-- What is known of deliveries for some items since the time when each became wrong. A page often has few of them; by way
-- of a SELECT the planner does not see how few: it would else find a plan for two cheaper than the one for any number,
-- and make it anew each time.
SELECT changed.item_id,
       coalesce(bool_or(events.state = 'dead'), false) AS has_dead_event,
       coalesce(bool_or(events.state IN ('recorded', 'queued', 'processing')), false) AS has_unfinished_event,
       coalesce(bool_or(events.state = 'processed'), false) AS has_processed_event,
       EXISTS (SELECT FROM product_changes WHERE product_changes.item_id = changed.item_id) AS has_history,
       EXISTS (SELECT
                 FROM rejections
                WHERE route = changed.kind
                  AND hour >= date_trunc('hour', since)
                  AND hour <= coalesce(until, now())) AS has_rejections
  FROM unnest((SELECT %(item_id)b::text[]), (SELECT %(kind)b::text[]), (SELECT %(since)b::timestamptz[]),
              (SELECT %(until)b::timestamptz[]))
       AS changed (item_id, kind, since, until)
  LEFT JOIN events ON events.item_id = changed.item_id
                  AND events.kind = changed.kind
                  AND events.run_id IS NULL
                  AND events.received_at >= changed.since
 GROUP BY changed.item_id, changed.kind, since, until;

-- name: excuse_late_deliveries
-- A delivery that came after the repair, and then brought nothing new, was late, not lost.
UPDATE product_changes
   SET cause = 'delivery_late'
 WHERE cause = 'no_delivery'
   AND changed_at > now() - interval '1 day'
   AND EXISTS (SELECT
                 FROM events
                WHERE events.item_id = product_changes.item_id
                  AND events.run_id IS NULL
                  AND events.received_at BETWEEN changed_at AND changed_at + interval '1 hour'
                  AND events.outcome IN ('unchanged', 'stale')
               -- "OFFSET 0" has the events of each item looked up, where a join would read the whole inbox.
               OFFSET 0);

-- name: deliveries_since_run_before
-- Whether anything was delivered since the run before this one began, or since the first of the changes that were not
-- delivered: what was missed long ago says nothing of now. Null: there was no run before.
SELECT CASE WHEN former.started_at IS NOT NULL
            THEN coalesce((SELECT received_at FROM events WHERE run_id IS NULL ORDER BY id DESC LIMIT 1)
                          >= least(former.started_at, undelivered.since), false)
       END AS any_came,
       undelivered.any_undelivered
  FROM (SELECT count(*) > 0 AS any_undelivered, min(wrong_since) AS since
          FROM product_changes
         WHERE run_id = %(run_id)s AND cause = 'no_delivery') AS undelivered
 CROSS JOIN (VALUES (1)) AS one
  LEFT JOIN LATERAL (SELECT started_at
                       FROM reconciliation_runs
                      WHERE id < %(run_id)s AND state = 'complete'
                      ORDER BY id DESC
                      LIMIT 1) AS former ON true;

-- name: drift_by_cause
SELECT cause, count(*) AS count, min(wrong_since) AS wrong_since
  FROM product_changes
 WHERE run_id = %(run_id)s
 GROUP BY cause
 ORDER BY count DESC, cause;

-- name: repairs
-- The changes that a run made, drift first.
SELECT change.id, change.item_id, product.name, change.changed_at, change.changes, change.cause, change.wrong_since,
       change.zoho_modified_at, change.changed_at - change.wrong_since AS age
  FROM product_changes AS change
  LEFT JOIN products AS product ON product.zoho_item_id = change.item_id
 WHERE change.run_id = %(run_id)s
   AND change.cause IS DISTINCT FROM 'first_load'
 ORDER BY change.cause IN ('during_run', 'delivery_late'), change.id
 LIMIT %(most)s;
