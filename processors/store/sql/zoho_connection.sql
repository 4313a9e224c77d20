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
       -- At most 3 calls in 30 seconds and 9 in 10 minutes; token_calls[1] is the newest.
       greatest(refresh_allowed_at, token_calls[3] + '30 seconds', token_calls[9] + '10 minutes')
           - clock_timestamp() AS left_alone_for
  FROM zoho_connection;

-- name: lock
-- The row's lock makes one process refresh while the others wait for what it gets.
SELECT FROM zoho_connection FOR UPDATE;

-- name: keep_tokens
-- An answer without a refresh token keeps the old one.
UPDATE zoho_connection
   SET access_token = %(access_token)s,
       access_token_expires_at = clock_timestamp() + %(good_for)s::interval,
       refresh_token = coalesce(%(refresh_token)s, refresh_token),
       api_domain = coalesce(%(api_domain)s, api_domain),
       refreshed_at = clock_timestamp(),
       token_calls = (clock_timestamp() || token_calls)[1:9],
       refusals = 0, refresh_allowed_at = 'epoch', last_error = NULL;

-- name: note_refusal
UPDATE zoho_connection
   SET refusals = refusals + 1,
       refresh_allowed_at = clock_timestamp() + %(wait)s::interval,
       token_calls = (clock_timestamp() || token_calls)[1:9],
       last_error = %(error)s;
