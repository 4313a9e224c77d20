-- What people were told, or are to be told.

-- name: see
-- Note what is wrong now. A cause that was cleared opens anew.
INSERT INTO alerts (cause, what, what_to_do, page)
SELECT cause, what, what_to_do, page
  FROM unnest(%(cause)b::text[], %(what)b::text[], %(what_to_do)b::text[], %(page)b::text[])
       AS seen (cause, what, what_to_do, page)
 ORDER BY cause
    ON CONFLICT (cause) DO UPDATE
   SET what = excluded.what, what_to_do = excluded.what_to_do, page = excluded.page, gone_since = NULL,
       opened_at = CASE WHEN alerts.cleared_at IS NULL THEN alerts.opened_at ELSE now() END,
       cleared_at = NULL,
       -- What could not be said of the last time is of no interest any more.
       failures = CASE WHEN alerts.cleared_at IS NULL THEN alerts.failures ELSE 0 END,
       try_at = CASE WHEN alerts.cleared_at IS NULL THEN alerts.try_at ELSE now() END;

-- name: miss
-- Note what is not wrong any more.
UPDATE alerts
   SET gone_since = now()
 WHERE gone_since IS NULL
   AND cleared_at IS NULL
   AND cause <> ALL(%(cause)b);

-- name: clear_quietly
-- What nobody was told of is over without a word.
UPDATE alerts
   SET cleared_at = now(), failures = 0, error = NULL
 WHERE cleared_at IS NULL
   AND NOT is_told
   AND gone_since <= now() - %(stays_away)s::interval;

-- name: claim_due
-- One message that is due: that something is wrong, at most once in so long for each cause; or that it is over. Whoever
-- takes it has so long to send it; if he is killed meanwhile, somebody else does.
UPDATE alerts
   SET try_at = now() + %(lease)s::interval
 WHERE cause = (SELECT cause
                  FROM alerts
                 WHERE try_at <= now()
                   AND cleared_at IS NULL
                   AND (gone_since IS NULL
                        AND opened_at <= now() - %(stands)s::interval
                        AND (sent_at IS NULL OR sent_at <= now() - %(again)s::interval)
                        OR is_told AND gone_since <= now() - %(stays_away)s::interval)
                 ORDER BY opened_at, cause
                 LIMIT 1
                   FOR UPDATE SKIP LOCKED)
RETURNING cause, what, what_to_do, page, opened_at, failures, gone_since IS NOT NULL AS is_over;

-- name: note_sent
UPDATE alerts
   SET is_told = NOT %(is_over)s,
       sent_at = CASE WHEN %(is_over)s THEN sent_at ELSE now() END,
       cleared_at = CASE WHEN %(is_over)s THEN now() END,
       failures = 0, error = NULL, try_at = now()
 WHERE cause = %(cause)s;

-- name: note_failure
UPDATE alerts
   SET failures = failures + 1, error = %(error)s, try_at = now() + %(wait)s::interval
 WHERE cause = %(cause)s;

-- name: listed
-- All alerts: open ones first, then what was cleared last.
SELECT cause, what, what_to_do, page, opened_at, gone_since, cleared_at, sent_at, failures, error
  FROM alerts
 ORDER BY cleared_at DESC NULLS FIRST, opened_at DESC, cause;

-- name: undelivered_since
-- Since when a message could not be delivered; null: all went out, or nobody tries any more.
SELECT min(opened_at) AS since, max(error) AS error
  FROM alerts
 WHERE failures >= %(least)s
   AND cleared_at IS NULL
   AND try_at > now() - interval '2 hours';
