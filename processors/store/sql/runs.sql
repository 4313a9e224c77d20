-- Reconciliation runs: opened, worked on page by page under a lease, finished.

-- name: open_run
-- Start a run, unless one of its kind is under way. It notes what is known at its beginning.
INSERT INTO reconciliation_runs (kind, trigger, known_since, known_until, known_to_id, modified_since, expected_items)
SELECT %(kind)s, %(trigger)s, last_full.started_at, last_full.listed_until, last_full.listed_to_id,
       CASE %(kind)s WHEN 'recent' THEN greatest(last_full.watermark, last_recent.watermark) - %(overlap)s::interval END,
       CASE %(kind)s WHEN 'full' THEN (SELECT count(*) FROM products WHERE deleted_at IS NULL) ELSE 0 END
  FROM (VALUES (1)) AS one
  LEFT JOIN LATERAL (SELECT *
                       FROM reconciliation_runs
                      WHERE kind = 'full' AND state = 'complete'
                      ORDER BY started_at DESC
                      LIMIT 1) AS last_full ON true
  LEFT JOIN LATERAL (SELECT *
                       FROM reconciliation_runs
                      WHERE kind = 'recent' AND state = 'complete'
                      ORDER BY started_at DESC
                      LIMIT 1) AS last_recent ON true
    ON CONFLICT (kind) WHERE state = 'running' DO NOTHING
RETURNING *;

-- name: find_running
SELECT * FROM reconciliation_runs WHERE kind = %(kind)s AND state = 'running';

-- name: find_run
SELECT * FROM reconciliation_runs WHERE id = %(run_id)s;

-- name: newest
-- The newest run of each kind.
SELECT run.*
  FROM (VALUES ('full'), ('recent')) AS kinds (kind)
 CROSS JOIN LATERAL (SELECT * FROM reconciliation_runs WHERE kind = kinds.kind ORDER BY id DESC LIMIT 1) AS run;

-- name: newest_held
SELECT * FROM reconciliation_runs WHERE kind = 'full' AND state = 'held' ORDER BY started_at DESC LIMIT 1;

-- name: newest_without_deliveries
-- The last run that found the webhooks dead.
SELECT * FROM reconciliation_runs WHERE webhooks = 'dead' ORDER BY id DESC LIMIT 1;

-- name: last_complete
-- The last complete run of each kind.
SELECT run.*
  FROM (VALUES ('full'), ('recent')) AS kinds (kind)
 CROSS JOIN LATERAL (SELECT *
                       FROM reconciliation_runs
                      WHERE kind = kinds.kind AND state = 'complete'
                      ORDER BY started_at DESC
                      LIMIT 1) AS run;

-- name: count_products
SELECT count(*) AS count FROM products WHERE deleted_at IS NULL;

-- name: prospects
-- Whether a run makes sense, and whether one is due. A clock asks every few seconds.
SELECT EXISTS (SELECT FROM reconciliation_runs WHERE kind = 'full' AND state = 'complete') AS was_full_once,
       -- Consent given in the browser leaves the organisation to be chosen; who connects by a setting sets it too.
       (SELECT refresh_token IS NOT NULL AND (organization_id IS NOT NULL OR connected_at IS NULL)
          FROM zoho_connection) AS is_connected,
       (SELECT state FROM reconciliation_runs WHERE kind = 'full' ORDER BY id DESC LIMIT 1) AS last_full_state,
       (SELECT error_class FROM reconciliation_runs WHERE kind = 'full' ORDER BY id DESC LIMIT 1)
           AS last_full_error_class,
       (SELECT now() - finished_at FROM reconciliation_runs WHERE kind = 'full' ORDER BY id DESC LIMIT 1)
           AS last_full_ended_ago,
       (SELECT count(*)
          FROM reconciliation_runs
         WHERE kind = 'full' AND state IN ('partial', 'failed')
           AND started_at > coalesce((SELECT max(started_at)
                                        FROM reconciliation_runs
                                       WHERE kind = 'full' AND state IN ('complete', 'held')), '-infinity'))
           AS fulls_cut_short;

-- name: hurry_run
-- An operator has mended what a run waits for.
UPDATE reconciliation_runs
   SET claimable_at = least(claimable_at, now()), published_at = NULL, error_class = NULL, error = NULL
 WHERE id = %(run_id)s AND state = 'running' AND error_class IN ('NotConnected', 'NotAuthorised', 'ZohoAway')
RETURNING *;

-- name: hurry_waiting_runs
-- Zoho answers again: what waited for that need not wait for the time that it was told.
UPDATE reconciliation_runs
   SET claimable_at = now(), published_at = NULL
 WHERE state = 'running' AND claimable_at > now() AND error_class = ANY(%(error_classes)s);

-- name: claim_run
-- Take a run for one lease; a claim is counted, and the count fences whoever had it before.
UPDATE reconciliation_runs
   SET attempts = attempts + 1, claimable_at = now() + %(lease)s::interval, claimed_by = %(worker)s
 WHERE id = (SELECT id
               FROM reconciliation_runs
              WHERE id = %(run_id)s AND state = 'running' AND claimable_at <= now()
                FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: renew_lease
UPDATE reconciliation_runs
   SET claimable_at = now() + %(lease)s::interval
 WHERE id = %(run_id)s AND attempts = %(attempt)s AND state = 'running'
RETURNING id;

-- name: release_run
-- Let go of a run: it may be taken up again after `wait`.
UPDATE reconciliation_runs
   SET claimable_at = now() + %(wait)s::interval,
       published_at = NULL,
       failures = failures + %(counts)s::integer,
       error_class = %(error_class)s,
       error = %(error)s,
       api_calls = (SELECT count(*) FROM api_calls WHERE api_calls.run_id = reconciliation_runs.id)
 WHERE id = %(run_id)s AND attempts = %(attempt)s AND state = 'running'
RETURNING id;

-- name: advance
-- Note what was done, together with its effects, in one transaction, and what the page showed, if it was one. No row: the
-- lease was lost, and nothing is to be committed.
WITH advanced AS (
    UPDATE reconciliation_runs
       SET claimable_at = now() + %(lease)s::interval,
           pages = pages + (%(item_ids)b::text[] IS NOT NULL)::integer,
           read_to = coalesce(%(read_to)s, read_to),
           newest_modified_at = greatest(newest_modified_at, %(newest_modified_at)s),
           seen = seen + %(seen)s,
           created = created + %(created)s,
           updated = updated + %(updated)s,
           unchanged = unchanged + %(unchanged)s,
           failed = failed + %(failed)s,
           deleted = deleted + %(deleted)s,
           missed = missed + %(missed)s,
           failures = 0, error_class = NULL, error = NULL,
           api_calls = (SELECT count(*) FROM api_calls WHERE api_calls.run_id = reconciliation_runs.id)
     WHERE id = %(run_id)s AND attempts = %(attempt)s AND state = 'running'
 RETURNING id, pages
), kept AS (
    INSERT INTO run_pages (run_id, number, item_ids, last_created_at)
    SELECT id, pages, %(item_ids)b, %(last_created_at)s
      FROM advanced
     WHERE %(item_ids)b::text[] IS NOT NULL
)
SELECT id FROM advanced;

-- name: last_page
-- The last one that showed anything.
SELECT item_ids, last_created_at
  FROM run_pages
 WHERE run_id = %(run_id)s AND cardinality(item_ids) > 0
 ORDER BY number DESC
 LIMIT 1;

-- name: add_checks
INSERT INTO run_checks (run_id, item_id, reason, is_suspect)
SELECT %(run_id)s, item_id, reason, false
  FROM unnest(%(item_id)b::text[], %(reason)b::text[]) AS doubt (item_id, reason)
    ON CONFLICT DO NOTHING;

-- name: keep_unusable
-- Items of Zoho's list that cannot be applied: dead events, for a person to look at and to replay. The same content is
-- kept once, however many runs meet it.
INSERT INTO events (kind, item_id, state, error_class, error, body, run_id, fingerprint)
SELECT 'changed', item_id, 'dead', error_class, error, body, %(run_id)s, fingerprint
  FROM unnest(%(item_id)b::text[], %(error_class)b::text[], %(error)b::text[], %(body)b::bytea[],
              %(fingerprint)b::bytea[])
       AS unusable (item_id, error_class, error, body, fingerprint)
 -- Two runs that keep the same ones would else wait for each other.
 ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO NOTHING;

-- name: end_listing
-- All pages were read. Of a full run: products that no page showed, though they were there when it began, are suspects.
WITH ended AS (
    UPDATE reconciliation_runs
       SET phase = 'checking'
     WHERE id = %(run_id)s AND attempts = %(attempt)s AND state = 'running' AND phase = 'listing'
 RETURNING id, kind, started_at
), listed AS MATERIALIZED (
    SELECT DISTINCT unnest(item_ids) AS item_id FROM run_pages WHERE run_id = %(run_id)s
), suspected AS (
    INSERT INTO run_checks (run_id, item_id, reason, is_suspect)
    SELECT ended.id, zoho_item_id, 'no page showed it', true
      FROM ended
      JOIN products ON deleted_at IS NULL AND created_at < started_at
     WHERE kind = 'full'
       AND NOT EXISTS (SELECT FROM listed WHERE item_id = zoho_item_id)
        ON CONFLICT DO NOTHING
 RETURNING item_id
), forgotten AS (
    DELETE FROM run_pages WHERE run_id IN (SELECT id FROM ended)
)
SELECT id,
       (SELECT count(*) FROM listed) AS seen,
       last_page.last_created_at AS listed_until,
       last_page.item_ids[cardinality(last_page.item_ids)] AS listed_to_id,
       (SELECT count(*) FROM suspected) AS suspects,
       (SELECT count(*) FROM products WHERE deleted_at IS NULL AND created_at < started_at) AS suspected_of
  FROM ended
  LEFT JOIN LATERAL (SELECT *
                       FROM run_pages
                      WHERE run_id = ended.id AND cardinality(item_ids) > 0
                      ORDER BY number DESC
                      LIMIT 1) AS last_page ON true;

-- name: note_listing
UPDATE reconciliation_runs
   SET seen = %(seen)s, suspects = %(suspects)s, suspected_of = %(suspected_of)s, listed_until = %(listed_until)s,
       listed_to_id = %(listed_to_id)s
 WHERE id = %(run_id)s
RETURNING *;

-- name: oddity_before
-- Whether the full run before this one found Zoho's list at odds with itself or with what exists, and how many items it
-- found in Zoho, or had to suppose there, though no page showed them.
SELECT error_class IS NOT DISTINCT FROM 'ListUntrustworthy' OR missed > 0 AS is_odd,
       CASE WHEN error_class = 'ListUntrustworthy' THEN suspects ELSE missed END AS missed
  FROM reconciliation_runs
 WHERE kind = 'full' AND id < %(run_id)s
 ORDER BY id DESC
 LIMIT 1;

-- name: next_checks
SELECT item_id, reason, is_suspect
  FROM run_checks
 WHERE run_id = %(run_id)s AND is_suspect = %(is_suspect)s AND item_id <> ALL(%(besides)s::text[])
 ORDER BY item_id
 LIMIT %(most)s;

-- name: sample_suspects
-- Spread over all of them.
SELECT item_id, reason, is_suspect
  FROM run_checks
 WHERE run_id = %(run_id)s AND is_suspect
 ORDER BY md5(item_id)
 LIMIT %(most)s;

-- name: clear_checks
DELETE FROM run_checks WHERE run_id = %(run_id)s AND item_id = ANY(%(item_ids)b);

-- name: finish_run
-- End a run; complete, it moves the watermark on, and what was held before is no longer asked of anybody.
WITH finished AS (
    UPDATE reconciliation_runs
       SET state = %(state)s,
           finished_at = now(),
           error_class = %(error_class)s,
           error = %(error)s,
           watermark = %(watermark)s,
           webhooks = %(webhooks)s,
           certified_at = %(certified_at)s,
           certified_items = %(certified_items)s,
           certified_hash = %(certified_hash)s,
           certified_snapshot = %(certified_snapshot)s,
           certified_fields = %(certified_fields)s,
           api_calls = (SELECT count(*) FROM api_calls WHERE api_calls.run_id = reconciliation_runs.id)
     WHERE id = %(run_id)s AND attempts = %(attempt)s AND state = 'running'
 RETURNING *
), superseded AS (
    UPDATE reconciliation_runs AS former
       SET state = 'partial', error_class = NULL, error = 'superseded by run ' || finished.id
      FROM finished
     WHERE former.state = 'held' AND finished.kind = 'full' AND finished.state IN ('complete', 'held')
       AND former.id < finished.id
 RETURNING former.id
), forgotten AS (
    DELETE FROM run_pages WHERE run_id IN (SELECT id FROM finished)
), cleared AS (
    DELETE FROM run_checks
     WHERE run_id IN (SELECT id FROM finished WHERE state <> 'held' UNION SELECT id FROM superseded)
)
SELECT * FROM finished;

-- name: confirm_deletes
-- An operator lets a held run go on. No row: it is not held.
UPDATE reconciliation_runs
   SET state = 'running', finished_at = NULL, error_class = NULL, error = NULL, claimable_at = now(),
       published_at = NULL, failures = 0, deletes_confirmed_by = %(operator)s
 WHERE id = %(run_id)s AND state = 'held'
RETURNING *;

-- name: discard_deletes
-- An operator takes a held run's suspects for products that exist. No row: it is not held.
WITH discarded AS (
    UPDATE reconciliation_runs
       SET state = 'partial', finished_at = now(), error_class = NULL,
           error = 'its deletions were discarded by ' || %(operator)s
     WHERE id = %(run_id)s AND state = 'held'
 RETURNING *
), cleared AS (
    DELETE FROM run_checks WHERE run_id IN (SELECT id FROM discarded)
)
SELECT * FROM discarded;

-- name: take_due_runs
-- The relay: runs that nobody works on. Marking them keeps two relays from handing over the same one.
UPDATE reconciliation_runs
   SET published_at = now()
 WHERE id IN (SELECT id
                FROM reconciliation_runs
               WHERE state = 'running'
                 AND claimable_at <= now() - %(grace)s::interval
                 AND (published_at IS NULL OR published_at <= now() - %(patience)s::interval
                      OR published_at < claimable_at)
                 FOR UPDATE SKIP LOCKED)
RETURNING id;

-- name: give_back_runs
UPDATE reconciliation_runs SET published_at = NULL WHERE id = ANY(%(run_ids)b) AND state = 'running';
