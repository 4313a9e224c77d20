-- Replays and discards: what a person does about events, one or all that match.

-- name: match
-- The events that a filter chooses; a null chooses everything. Only finished ones: what is under way needs no replay.
SELECT id
  FROM events
 WHERE (%(event_ids)b::bigint[] IS NULL OR id = ANY(%(event_ids)b))
   AND (%(state)s::text IS NULL OR state = %(state)s)
   AND (%(is_discarded)s::boolean IS NULL OR (discarded_at IS NOT NULL) = %(is_discarded)s)
   AND event_is_meant(events, NULL, false, %(outcome)s, %(kind)s, %(item_id)s, %(run_id)s, %(error)s, %(error_class)s,
                      %(cause)s, %(since)s, %(until)s)
   AND state IN ('dead', 'processed')
   AND (state <> 'dead' OR discarded_at IS NULL OR %(event_ids)b::bigint[] IS NOT NULL)
 ORDER BY id;

-- name: open_replay
INSERT INTO replays (requested_by, reason, filter, per_second, total)
VALUES (%(requested_by)s, %(reason)s, %(filter)s, %(per_second)s, cardinality(%(event_ids)b::bigint[]))
RETURNING *;

-- name: add_events
INSERT INTO replay_events (replay_id, event_id)
SELECT %(replay_id)s, event_id FROM unnest(%(event_ids)b::bigint[]) AS matched (event_id);

-- name: find_replay
SELECT * FROM replays WHERE id = %(replay_id)s;

-- name: latest_replays
SELECT *
  FROM replays
 WHERE %(before)s::bigint IS NULL OR id < %(before)s
 ORDER BY id DESC
 LIMIT %(most)s;

-- name: next_events
-- What of a replay is to be sent now.
SELECT replay_events.replay_id, events.id, events.item_id, events.body, events.content_type, events.query_string
  FROM replay_events
  JOIN events ON events.id = event_id
 WHERE replay_events.replay_id = %(replay_id)s
   AND sent_at IS NULL
 ORDER BY event_id
 LIMIT %(most)s
   FOR UPDATE OF replay_events SKIP LOCKED;

-- name: running_replays
SELECT * FROM replays WHERE state = 'running' ORDER BY id;

-- name: send_events
-- Send events again: from the beginning, with all their tries. How they ended before stays in their attempts.
WITH sent AS (
    SELECT events.id, events.state, events.attempts, events.outcome, events.claimed_by, events.claimed_at,
           events.processed_at, again.item_id
      FROM events
      JOIN unnest(%(event_ids)b::bigint[], %(item_ids)b::text[]) AS again (id, item_id) ON again.id = events.id
     WHERE state IN ('dead', 'processed')
     ORDER BY events.id
       FOR UPDATE OF events
), remembered AS (
    INSERT INTO event_attempts (event_id, attempt, worker, started_at, ended_at, outcome)
    SELECT id, attempts, claimed_by, claimed_at, processed_at, outcome
      FROM sent
     WHERE state = 'processed'
        ON CONFLICT DO NOTHING
), requeued AS (
    UPDATE events
       SET state = 'recorded', outcome = NULL, processed_at = NULL, failures = 0, error_class = NULL, error = NULL,
           error_at = NULL, needs_fetch = false, claimable_at = now(), queued_at = now(), item_id = sent.item_id,
           replay_id = %(replay_id)s, discarded_at = NULL, discarded_by = NULL, discard_reason = NULL
      FROM sent
     WHERE events.id = sent.id
 RETURNING events.id
), noted AS (
    UPDATE replay_events
       SET sent_at = now(), note = CASE WHEN event_id IN (SELECT id FROM sent) THEN NULL ELSE 'it was under way' END
     WHERE replay_id = %(replay_id)s AND event_id = ANY(%(event_ids)b)
)
SELECT id FROM requeued ORDER BY id;

-- name: skip_events
-- What cannot be sent again, with the reason.
UPDATE replay_events
   SET sent_at = now(), note = skipped.note
  FROM unnest(%(event_ids)b::bigint[], %(notes)b::text[]) AS skipped (event_id, note)
 WHERE replay_id = %(replay_id)s AND replay_events.event_id = skipped.event_id;

-- name: end_sent_replays
-- A replay is complete when all is sent, whatever comes of it.
UPDATE replays
   SET state = 'complete', finished_at = now()
 WHERE state = 'running'
   AND NOT EXISTS (SELECT FROM replay_events WHERE replay_id = replays.id AND sent_at IS NULL)
RETURNING id;

-- name: cancel_replay
UPDATE replays
   SET state = 'cancelled', finished_at = now()
 WHERE id = %(replay_id)s AND state = 'running'
RETURNING *;

-- name: progress
-- What came of a replay so far. An event that another replay has sent since is counted there.
SELECT count(*) FILTER (WHERE sent_at IS NULL) AS unsent,
       count(*) FILTER (WHERE note IS NOT NULL) AS skipped,
       count(*) FILTER (WHERE sent AND state IN ('recorded', 'queued', 'processing')) AS unfinished,
       count(*) FILTER (WHERE sent AND state = 'dead') AS dead
  FROM (SELECT sent_at, note, state, sent_at IS NOT NULL AND note IS NULL AND events.replay_id = %(replay_id)s AS sent
          FROM replay_events
          JOIN events ON events.id = event_id
         WHERE replay_events.replay_id = %(replay_id)s) AS replayed;

-- name: outcomes
SELECT outcome, count(*) AS count
  FROM events
 WHERE replay_id = %(replay_id)s AND state = 'processed'
 GROUP BY outcome
 ORDER BY count DESC;

-- name: unfinished
-- What a replay sent and nobody has finished yet.
SELECT id, needs_fetch
  FROM events
 WHERE replay_id = %(replay_id)s AND state IN ('recorded', 'queued', 'processing')
 ORDER BY id
 LIMIT %(most)s;

-- name: replayed_events
-- Each event of a replay with what came of it.
SELECT event_id, item_id, CASE WHEN events.replay_id = %(replay_id)s THEN state END AS state,
       CASE WHEN events.replay_id = %(replay_id)s THEN outcome END AS outcome,
       coalesce(note, CASE WHEN events.replay_id = %(replay_id)s THEN error END) AS note
  FROM replay_events
  JOIN events ON events.id = event_id
 WHERE replay_events.replay_id = %(replay_id)s
 ORDER BY event_id
 LIMIT %(most)s;

-- name: read_events
-- Events with their bodies, for a preview.
SELECT id, kind, item_id, received_at, attempts, failures, replay_id, body, content_type, query_string, state
  FROM events
 WHERE id = ANY(%(event_ids)b)
 ORDER BY id;

-- name: discard
-- Take dead events for settled.
UPDATE events
   SET discarded_at = now(), discarded_by = %(operator)s, discard_reason = %(reason)s
 WHERE id = ANY(%(event_ids)b)
   AND state = 'dead'
   AND discarded_at IS NULL
RETURNING id;
