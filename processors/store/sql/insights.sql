-- What operators and monitors see.

-- name: products
SELECT count(*) FILTER (WHERE deleted_at IS NULL AND is_active) AS active,
       count(*) FILTER (WHERE deleted_at IS NULL AND NOT is_active) AS inactive,
       count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted
  FROM products;

-- name: events
SELECT state, outcome, count(*) AS count
  FROM events
 GROUP BY state, outcome
 ORDER BY state, outcome;

-- name: oldest_unfinished
SELECT min(received_at) AS received_at, now() - min(received_at) AS age
  FROM events
 WHERE state IN ('recorded', 'queued', 'processing');

-- name: lag
-- From receipt to applied, in seconds, over what was finished lately.
SELECT count(*) AS count,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
           ORDER BY extract(epoch FROM processed_at - received_at)) AS quantiles
  FROM events
 WHERE state = 'processed'
   AND processed_at > now() - %(window)s::interval;

-- name: rejections
SELECT route, reason, sum(count)::bigint AS count
  FROM rejections
 GROUP BY route, reason
 ORDER BY route, reason;

-- name: connection
SELECT refresh_token IS NOT NULL AS has_refresh_token, access_token_expires_at, refreshed_at, last_error
  FROM zoho_connection;

-- name: freshness
SELECT lane, last_success_at, changes, p50, p95, p99 FROM freshness ORDER BY lane = 'full', lane = 'recent';

-- name: now
SELECT now() AS now;

-- name: last_delivery
-- Ids are given in the order of receipt.
SELECT (SELECT received_at FROM events WHERE run_id IS NULL ORDER BY id DESC LIMIT 1) AS received_at;

-- name: changes_of
SELECT id, changed_at, source, event_id, run_id, cause, zoho_modified_at, changes
  FROM product_changes
 WHERE item_id = %(item_id)s
 ORDER BY id DESC
 LIMIT %(most)s;

-- name: schema_is_there
SELECT to_regclass('events') IS NOT NULL AND to_regclass('products') IS NOT NULL AS is_there;

-- name: changes_after
-- Applied changes in the order they were applied, with the product's name and the event that caused each.
SELECT change.id, change.item_id, change.changed_at, change.source, change.changes, product.name, event.outcome,
       event.processed_at - event.received_at AS lag
  FROM product_changes AS change
  LEFT JOIN products AS product ON product.zoho_item_id = change.item_id
  LEFT JOIN events AS event ON event.id = change.event_id
 WHERE change.id > %(id)s
 ORDER BY change.id
 LIMIT %(most)s;
