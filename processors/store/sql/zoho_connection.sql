-- The one connection to Zoho: tokens, encrypted.

-- name: seed
-- Take over a refresh token from the settings, once: a connection made since then is not undone by a restart.
UPDATE zoho_connection
   SET refresh_token = %(refresh_token)s, seed_digest = %(seed_digest)s, access_token = NULL,
       access_token_expires_at = NULL, api_domain = NULL, refusals = 0, refresh_allowed_at = 'epoch',
       last_error = NULL
 WHERE seed_digest IS DISTINCT FROM %(seed_digest)s;

-- name: read
SELECT refresh_token, access_token, access_token_expires_at - clock_timestamp() AS good_for, api_domain, refusals,
       last_error,
       -- At most 3 calls in 30 seconds and 9 in 10 minutes.
       greatest(refresh_allowed_at,
                (SELECT ends_at FROM token_calls ORDER BY ends_at DESC OFFSET 2 LIMIT 1) + '30 seconds',
                (SELECT ends_at FROM token_calls ORDER BY ends_at DESC OFFSET 8 LIMIT 1) + '10 minutes')
           - clock_timestamp() AS left_alone_for
  FROM zoho_connection;

-- name: lock
-- The row's lock makes one process refresh while the others wait for what it gets.
SELECT FROM zoho_connection FOR UPDATE;

-- name: begin_token_call
WITH forgotten AS (
    DELETE FROM token_calls WHERE ends_at < clock_timestamp() - interval '1 hour'
)
INSERT INTO token_calls (ends_at) VALUES (clock_timestamp() + %(longest)s::interval) RETURNING id;

-- name: end_token_call
UPDATE token_calls SET ends_at = clock_timestamp() WHERE id = %(id)s;

-- name: keep_tokens
UPDATE zoho_connection
   SET access_token = %(access_token)s,
       access_token_expires_at = clock_timestamp() + %(good_for)s::interval,
       refresh_token = %(refresh_token)s,
       api_domain = %(api_domain)s,
       refreshed_at = clock_timestamp(),
       refusals = 0, refresh_allowed_at = 'epoch', last_error = NULL;

-- name: note_refusal
UPDATE zoho_connection
   SET refusals = refusals + 1,
       refresh_allowed_at = clock_timestamp() + %(wait)s::interval,
       last_error = %(error)s;
