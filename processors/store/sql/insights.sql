-- What operators and monitors see.

-- name: products
SELECT count(*) FILTER (WHERE deleted_at IS NULL AND is_active) AS active,
       count(*) FILTER (WHERE deleted_at IS NULL AND NOT is_active) AS inactive,
       count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted
  FROM products;

-- name: open_events
-- What is not finished, and what died: few, where all is well.
SELECT state, NULL::text AS outcome, count(*) AS count
  FROM events
 WHERE state IN ('recorded', 'queued', 'processing', 'dead')
 GROUP BY state
 ORDER BY state;

-- name: all_events
-- Every event there is, which takes its time.
SELECT state, outcome, count(*) AS count
  FROM events
 GROUP BY state, outcome
 ORDER BY state, outcome;

-- name: discarded
SELECT count(*) AS count FROM events WHERE state = 'dead' AND discarded_at IS NOT NULL;

-- name: dead_by_cause
-- Dead events by the root of their cause: the same error but for numbers and what is quoted in it.
SELECT error_class, cause, count(*) AS count, min(received_at) AS first_received_at,
       max(received_at) AS last_received_at, max(id) AS example_id, max(error_at) AS error_at
  FROM (SELECT *, root_cause(error) AS cause FROM events WHERE state = 'dead' AND discarded_at IS NULL) AS dead
 GROUP BY error_class, cause
 ORDER BY count DESC, example_id DESC;

-- name: find_event
SELECT id, received_at, kind, item_id, state, outcome, attempts, failures, error_class, error, error_at, warnings, body,
       content_type, claimable_at, claimed_by, claimed_at, processed_at, run_id, replay_id, discarded_at, discarded_by,
       discard_reason
  FROM events
 WHERE id = %(event_id)s;

-- name: attempts_of
SELECT attempt, worker, started_at, ended_at, outcome, error_class, error, error_at, is_wait, times
  FROM event_attempts
 WHERE event_id = %(event_id)s
 ORDER BY attempt;

-- name: oldest_unfinished
SELECT min(received_at) AS received_at, now() - min(received_at) AS age
  FROM events
 WHERE state IN ('recorded', 'queued', 'processing');

-- name: waiting
-- Events that could not be worked on for a minute, for a reason that is not theirs and does not pass by itself.
SELECT error_class, count(*) AS count, now() - min(received_at) AS age, max(error) AS error
  FROM events
 WHERE state IN ('recorded', 'queued', 'processing')
   AND needs_fetch
   AND received_at < now() - interval '1 minute'
   AND error_class IN ('NotAuthorised', 'NotConnected', 'TokenThrottled', 'ZohoAway')
 GROUP BY error_class
 ORDER BY count DESC;

-- name: held_long
-- What a worker has had for longer than any of its work takes: it keeps the lease and does nothing, or stands still.
SELECT claimed_by AS worker, count(*) AS count, now() - min(claimed_at) AS age
  FROM events
 WHERE state = 'processing'
   AND claimed_at < now() - interval '1 minute'
 GROUP BY claimed_by
 ORDER BY min(claimed_at);

-- name: untaken
-- What has been due for a minute in which nothing at all was finished. A backlog is no fault while it becomes less.
SELECT count(*) AS count, now() - min(claimable_at) AS age
  FROM events
 WHERE state IN ('recorded', 'queued', 'processing')
   AND claimable_at < now() - interval '1 minute'
   AND NOT EXISTS (SELECT FROM events AS finished
                    WHERE finished.state = 'processed' AND finished.processed_at > now() - interval '1 minute')
HAVING count(*) > 0;

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

-- name: rejections_lately
-- Of the last 24 hours, or a little more: they are counted by the hour.
SELECT route, reason, sum(count)::bigint AS count
  FROM rejections
 WHERE hour > now() - interval '25 hours'
 GROUP BY route, reason
 ORDER BY count DESC, route, reason;

-- name: delivered_lately
-- Of the same time: what was let in. Whoever sends events without Zoho, a sweep or a replay, is not counted.
SELECT kind AS route, count(*) AS count, count(*) FILTER (WHERE received_at > date_trunc('hour', now())) AS this_hour
  FROM events
 WHERE received_at > date_trunc('hour', now()) - interval '24 hours'
   AND run_id IS NULL
 GROUP BY kind;

-- name: connection
SELECT refresh_token IS NOT NULL AS has_refresh_token,
       organization_id IS NOT NULL OR connected_at IS NULL AS has_organization, access_token_expires_at, refreshed_at,
       last_error, obstacle, obstacle_reason, refused_seed_reason
  FROM zoho_connection;

-- name: freshness
SELECT lane, last_success_at, changes, p50, p95, p99 FROM freshness ORDER BY lane = 'full', lane = 'recent';

-- name: now
SELECT now() AS now;

-- name: last_delivery
-- Ids are given in the order of receipt.
SELECT (SELECT received_at FROM events WHERE run_id IS NULL ORDER BY id DESC LIMIT 1) AS received_at;

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
