-- The inbox: events from their receipt to their outcome.
--
-- Where events are named, by their ids or their item, "IS TRUE" keeps the planner from going through all that are in a
-- state instead: statistics of a quiet time say that nothing is, and a backlog comes within seconds.

-- name: record_events
-- Keep deliveries. A fingerprint that another event holds is skipped: that delivery is a duplicate, or is looked at
-- again by release_fingerprints. Several copies in one batch, or in two processes at once, leave one event.
-- All insert in the same order: two that wait for each other's rows would be a deadlock.
INSERT INTO events (kind, item_id, is_dated, state, error_class, error, body, content_type, query_string, fingerprint)
SELECT kind, item_id, is_dated, CASE WHEN error IS NULL THEN 'recorded' ELSE 'dead' END,
       CASE WHEN error IS NOT NULL THEN 'BodyUnreadable' END, error, body, content_type, query_string, fingerprint
  FROM unnest(%(kind)b::text[], %(item_id)b::text[], %(is_dated)b::boolean[], %(error)b::text[], %(body)b::bytea[],
              %(content_type)b::text[], %(query_string)b::bytea[], %(fingerprint)b::bytea[])
       AS incoming (kind, item_id, is_dated, error, body, content_type, query_string, fingerprint)
 ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO NOTHING
RETURNING id, fingerprint, state;

-- name: revive_dead_events
-- The same body was delivered again after its event died: that event is tried again, as it is read now. It may have
-- died because an older version found no item in it, or because what is signed was written in another way: it is kept as
-- it is written now.
WITH dead AS (
    SELECT events.id, incoming.item_id, incoming.is_dated, incoming.body, incoming.content_type, incoming.query_string
      FROM events
      JOIN unnest(%(fingerprint)b::bytea[], %(item_id)b::text[], %(is_dated)b::boolean[], %(body)b::bytea[],
                  %(content_type)b::text[], %(query_string)b::bytea[])
           AS incoming (fingerprint, item_id, is_dated, body, content_type, query_string) USING (fingerprint)
     WHERE state = 'dead'
     ORDER BY events.id
       FOR UPDATE OF events
)
UPDATE events
   SET state = 'recorded', failures = 0, error_class = NULL, error = NULL, error_at = NULL, claimable_at = now(),
       queued_at = NULL, replay_id = NULL, discarded_at = NULL, discarded_by = NULL, discard_reason = NULL,
       needs_fetch = false, item_id = dead.item_id, is_dated = dead.is_dated, body = dead.body,
       content_type = dead.content_type, query_string = dead.query_string
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
       AND (state = 'recorded') IS TRUE
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
    SELECT id, state, attempts, claimed_by, claimed_at
      FROM events
     WHERE id = ANY(%(event_ids)b)
       AND (state IN ('recorded', 'queued', 'processing')) IS TRUE
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
), vanished AS (
    -- Still 'processing': the worker that had it neither finished it nor said why not.
    INSERT INTO event_attempts (event_id, attempt, worker, started_at, error_class, error)
    SELECT id, attempts, claimed_by, claimed_at, 'WorkerVanished', 'its worker ended, or froze, without a word'
      FROM named
     WHERE state = 'processing'
        ON CONFLICT DO NOTHING
), claimed AS (
    UPDATE events
       SET state = 'processing', attempts = attempts + 1, claimable_at = now() + %(lease)s::interval,
           failures = failures + (state = 'processing')::integer,
           claimed_by = %(worker)s,
           claimed_at = clock_timestamp()
     WHERE id IN (SELECT id FROM named UNION SELECT id FROM waiting)
 RETURNING id, kind, item_id, received_at, attempts, failures, replay_id, body, content_type, query_string
)
SELECT claimed.*, products.*,
       -- Counted where it matters: of an item without a row, and before a deletion.
       CASE WHEN revision IS NULL OR bool_or(kind = 'deleted') OVER (PARTITION BY item_id)
            THEN absences_of(item_id) ELSE 0 END AS absences
  FROM claimed
  LEFT JOIN products ON zoho_item_id = item_id
 ORDER BY claimed.id;

-- name: renew_leases
UPDATE events
   SET claimable_at = now() + %(lease)s::interval
  FROM unnest(%(event_id)b::bigint[], %(attempt)b::integer[]) AS held (event_id, attempt)
 WHERE events.id = held.event_id
   AND events.attempts = held.attempt
   AND (state = 'processing') IS TRUE;

-- name: hand_back
-- Claimed events that nothing could be done for, through no fault of theirs: to be taken again in a moment.
UPDATE events
   SET state = 'recorded', claimable_at = now() + %(wait)s::interval, queued_at = NULL
  FROM unnest(%(event_id)b::bigint[], %(attempt)b::integer[]) AS held (event_id, attempt)
 WHERE events.id = held.event_id
   AND events.attempts = held.attempt
   AND (state = 'processing') IS TRUE;

-- name: find_fetch_siblings
-- The unfinished events of this one's item that only a call to Zoho can settle: one call serves them all.
SELECT id
  FROM events
 WHERE item_id = (SELECT item_id FROM events WHERE id = %(event_id)s)
   AND (state IN ('recorded', 'queued', 'processing')) IS TRUE
   AND needs_fetch
 ORDER BY id;

-- name: fail_event
-- An attempt failed: try again later, or give up where retry_in is null. Nothing happens when the lease was lost.
WITH failed AS (
    UPDATE events
       SET state = CASE WHEN %(retry_in)s::interval IS NULL THEN 'dead' ELSE 'recorded' END,
           failures = failures + %(counts)s::integer,
           error_class = %(error_class)s,
           error = %(error)s,
           error_at = %(error_at)s,
           claimable_at = now() + coalesce(%(retry_in)s::interval, '0')
     WHERE id = %(event_id)s
       AND attempts = %(attempt)s
       AND (state = 'processing') IS TRUE
 RETURNING id, attempts, claimed_by, claimed_at, state
), noted AS (
    INSERT INTO event_attempts (event_id, attempt, worker, started_at, error_class, error, error_at, is_wait)
    SELECT id, attempts, claimed_by, claimed_at, %(error_class)s, %(error)s, %(error_at)s, %(counts)s::integer = 0
      FROM failed
        ON CONFLICT (event_id, error_class) WHERE is_wait DO UPDATE
       SET attempt = excluded.attempt, worker = excluded.worker, ended_at = excluded.ended_at, error = excluded.error,
           times = event_attempts.times + 1
)
SELECT state FROM failed;

-- name: put_off
-- Events that need Zoho, while Zoho must not be asked: none of them is claimed only to find that out.
UPDATE events
   SET state = 'recorded',
       -- Jitter: what waits together need not come back together.
       claimable_at = now() + %(wait)s::interval * (1 + 0.2 * random()),
       error_class = %(error_class)s,
       error = %(error)s
 WHERE id = ANY(%(event_ids)b)
   AND (state IN ('recorded', 'queued')) IS TRUE
   AND needs_fetch
   AND claimable_at <= now();

-- name: hurry_fetches
-- Zoho answers again: what waited for that need not wait for the time that it was told.
UPDATE events
   SET claimable_at = now()
 WHERE state = 'recorded'
   AND needs_fetch
   AND claimable_at > now()
   AND error_class = ANY(%(error_classes)s);

-- name: take_due
-- The relay: events that were recorded but not queued, whose message was lost, whose lease lapsed, or whose next try
-- has come. A lapsed lease needs no grace: no message is on its way for it. Marking them keeps two relays from handing over the same event, and one from doing so too often.
WITH due AS (
    SELECT id
      FROM events
     WHERE state IN ('recorded', 'queued', 'processing')
       AND needs_fetch = %(needs_fetch)s
       AND claimable_at <= now() - %(grace)s::interval * (state <> 'processing')::integer
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
   AND (state IN ('queued', 'processing')) IS TRUE;
