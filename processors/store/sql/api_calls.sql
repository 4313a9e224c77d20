-- The quota's memory and the breaker, shared by all processes.

-- name: lock_gate
-- Taken before close_gate, in the same transaction: the statement after it knows all former closings.
SELECT FROM api_gate FOR UPDATE;

-- name: admit
-- Start a call, or say how long to wait and for what (schema.sql).
SELECT *
  FROM admit_call(%(purpose)s, %(run_id)s, %(per_minute)s, %(per_day)s, %(concurrent)s, %(longest)s, %(connection)s,
                  %(is_persons)s);

-- name: finish
WITH finished AS (
    UPDATE api_calls
       SET is_running = false, ends_at = clock_timestamp(), status = %(status)s, code = %(code)s,
           verdict = %(verdict)s, about = %(about)s
     WHERE id = %(id)s
)
-- The good answer to a call from before the breaker opened says nothing of what comes after.
UPDATE api_gate
   SET strikes = 0, reason = NULL, cause = NULL, closed_since = NULL, connection = NULL, organization_id = NULL,
       organizations = NULL,
       -- A call may have gone ahead for a person, or by another connection.
       closed_until = least(closed_until, clock_timestamp())
  FROM api_calls
 WHERE coalesce(cause, 'quota') = ANY(%(opens)s) AND strikes > 0 AND api_calls.id = %(id)s AND started_at >= closed_at
   AND (started_at >= closed_until OR cause <> 'quota');

-- name: close_gate
-- Open the breaker; lock_gate goes before, in the same transaction. `wait` is what the first strike costs, doubled
-- by each further one up to `longest_wait`; a spent day waits for midnight, and where that was not the hour Zoho counts
-- from, asks again every `wait`. Calls that were under way together are one strike.
WITH call AS (
    SELECT clock_timestamp() AS at, (started_at < closed_until)::integer AS is_known
      FROM api_gate, api_calls
     WHERE api_calls.id = %(call_id)s
), strike AS (
    SELECT greatest(strikes + 1 - is_known, 1) AS strikes,
           greatest(
               at + %(told)s::interval,
               CASE WHEN %(until_midnight)s AND (strikes = 0 OR reason IS DISTINCT FROM %(reason)s)
                    THEN date_trunc('day', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '1 day'
                    WHEN %(until_midnight)s
                    THEN at + %(wait)s::interval
                    ELSE at + least(%(wait)s::interval * power(2, least(greatest(strikes - is_known, 0), 10)),
                                    %(longest_wait)s::interval)
               END) AS until
      FROM api_gate, call
)
UPDATE api_gate
   SET strikes = strike.strikes,
       reason = CASE WHEN until > closed_until THEN %(reason)s ELSE reason END,
       cause = CASE WHEN until > closed_until THEN %(cause)s ELSE cause END,
       connection = CASE WHEN until > closed_until THEN %(connection)s ELSE connection END,
       organization_id = CASE WHEN until > closed_until THEN %(organization_id)s ELSE organization_id END,
       organizations = CASE WHEN connection IS NOT DISTINCT FROM %(connection)s THEN organizations END,
       closed_since = CASE WHEN cause = %(cause)s THEN coalesce(closed_since, clock_timestamp())
                           ELSE clock_timestamp() END,
       closed_at = clock_timestamp(),
       closed_until = greatest(closed_until, until)
  FROM strike
RETURNING closed_until - clock_timestamp() AS closed_for;

-- name: claim_organizations
-- Which organisations this connection reaches is asked once for each closing, by one process.
UPDATE api_gate
   SET organizations = ''
 WHERE cause = 'installation' AND organizations IS NULL
RETURNING true AS is_mine;

-- name: keep_organizations
UPDATE api_gate SET organizations = %(organizations)s WHERE cause = 'installation' AND organizations = '';

-- name: unusable_in_a_row
-- How many of the latest answers to the mirror's own calls, at most so many, could not be read.
SELECT count(*) FILTER (WHERE verdict = 'unusable') AS count
  FROM (SELECT verdict
          FROM api_calls
         WHERE NOT is_running AND verdict IS NOT NULL
         ORDER BY ends_at DESC
         LIMIT %(most)s) AS latest;

-- name: standing
-- What other calls of the last hour say of a refusal. What Zoho gave of one item shows that it does not refuse all.
WITH shown AS (
    SELECT max(ends_at) AS at
      FROM api_calls
     WHERE verdict IN ('good', 'gone') AND NOT about && %(about)s::text[] AND about <> '{/items}'
), refused AS (
    SELECT about && %(about)s::text[] AS is_same, ends_at <= at AS is_before
      FROM api_calls, shown
     WHERE verdict = 'refused' AND id <> %(call_id)s AND ends_at > clock_timestamp() - interval '1 hour'
)
SELECT coalesce(bool_or(is_same AND is_before), false) AS is_its_own,
       coalesce(bool_or(is_before IS NOT TRUE), false) AS is_second,
       coalesce(bool_or(is_before IS NOT TRUE AND NOT is_same), false) AS is_of_others
  FROM refused;

-- name: live_item
-- One that Zoho gave once, and that was not refused lately: whether it is given now tells whose the refusals are.
SELECT zoho_item_id
  FROM products
 WHERE deleted_at IS NULL
   AND NOT zoho_item_id = ANY (ARRAY(SELECT unnest(about) FROM api_calls WHERE verdict = 'refused') || %(about)s::text[])
 ORDER BY zoho_item_id
 LIMIT 1;

-- name: forget_old_calls
-- The calls of a run that is under way, or may go on, are still to be counted.
DELETE FROM api_calls
 WHERE ends_at < now() - interval '25 hours'
   AND (run_id IS NULL OR run_id NOT IN (SELECT id FROM reconciliation_runs WHERE state IN ('running', 'held')));

-- name: usage
SELECT count(*) FILTER (WHERE ends_at > now() - interval '60 seconds') AS minute,
       count(*) AS day,
       (SELECT greatest(closed_until - now(), '0') FROM api_gate) AS closed_for,
       (SELECT reason FROM api_gate WHERE closed_until > now()) AS closed_because
  FROM api_calls
 WHERE ends_at > now() - interval '24 hours';

-- name: breaker
-- Open until a call shows that the cause is over, whether one may be made now or not.
SELECT coalesce(cause, 'quota') AS cause, coalesce(reason, '') AS reason, coalesce(closed_since, closed_at) AS since,
       now() - coalesce(closed_since, closed_at) AS age, greatest(closed_until - now(), '0') AS closed_for,
       organization_id, nullif(organizations, '') AS organizations
  FROM api_gate
 WHERE strikes > 0;
