-- The one connection to Zoho: tokens, encrypted.

-- name: seed
-- Take over a refresh token from the settings, once: a connection made since then is not undone by a restart.
UPDATE zoho_connection
   SET refresh_token = %(refresh_token)s, seed_digest = %(seed_digest)s, access_token = NULL,
       refused_seed_digest = NULL, refused_seed_reason = NULL,
       access_token_expires_at = NULL, api_domain = NULL, refusals = 0, refresh_allowed_at = 'epoch',
       last_error = NULL,
       accounts_url = NULL, scopes = NULL, connected_as = NULL, connected_at = NULL, connected_by = NULL
 WHERE seed_digest IS DISTINCT FROM %(seed_digest)s;

-- name: note_seed
-- The settings' token needs no taking over: it is the stored one, or a connection was made, or ended, since.
UPDATE zoho_connection
   SET seed_digest = %(seed_digest)s, refused_seed_digest = NULL, refused_seed_reason = NULL,
       refusals = 0, refresh_allowed_at = 'epoch', last_error = NULL;

-- name: note_refused_seed
UPDATE zoho_connection SET refused_seed_digest = %(seed_digest)s, refused_seed_reason = %(reason)s;

-- name: take_over_organization
-- The organisation of the settings, for processes and statements that know the row only.
UPDATE zoho_connection
   SET organization_id = %(organization_id)s, organization_name = NULL
 WHERE organization_id IS DISTINCT FROM %(organization_id)s;

-- name: read
WITH calls AS (
    -- At most 3 calls in 30 seconds and 9 in 10 minutes.
    SELECT greatest((SELECT ends_at FROM token_calls ORDER BY ends_at DESC OFFSET 2 LIMIT 1) + '30 seconds',
                    (SELECT ends_at FROM token_calls ORDER BY ends_at DESC OFFSET 8 LIMIT 1) + '10 minutes')
               AS allowed_at
)
SELECT refresh_token, seed_digest, refused_seed_digest, refused_seed_reason, access_token, access_token_expires_at, access_token_expires_at - clock_timestamp() AS good_for,
       refreshed_at, api_domain, refusals, last_error,
       greatest(refresh_allowed_at, calls.allowed_at) AS refresh_allowed_at,
       greatest(refresh_allowed_at, calls.allowed_at) - clock_timestamp() AS left_alone_for,
       coalesce(calls.allowed_at - clock_timestamp(), '0') AS often_called_for,
       data_center, client_id, client_secret, organization_id, organization_name, mirrored_organization_id, obstacle,
       obstacle_reason, accounts_url, scopes, connected_as, connected_at, connected_by
  FROM zoho_connection
 CROSS JOIN calls;

-- name: organization_id
-- Of the rows, where there are any: a setting that names another one is refused elsewhere, and kills no delivery.
SELECT coalesce(mirrored_organization_id, organization_id) AS organization_id FROM zoho_connection;

-- name: lock
-- The row's lock makes one process refresh while the others wait for what it gets. Its transaction spans a call to the
-- token endpoint: for so long it may be without a statement.
SELECT set_config('idle_in_transaction_session_timeout', %(longest_call_ms)s::text, true) FROM zoho_connection FOR UPDATE;

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
       client_secret = %(client_secret)s,
       api_domain = %(api_domain)s,
       refreshed_at = clock_timestamp(),
       refusals = 0, refresh_allowed_at = 'epoch', last_error = NULL;

-- name: note_refusal
UPDATE zoho_connection
   SET refusals = refusals + 1,
       refresh_allowed_at = clock_timestamp() + %(wait)s::interval,
       last_error = %(error)s;

-- name: note_obstacle
UPDATE zoho_connection SET obstacle = %(obstacle)s, obstacle_reason = %(reason)s;

-- name: note_error
-- What went wrong without being a reason to leave the token endpoint alone.
UPDATE zoho_connection SET last_error = %(error)s;

-- name: keep_client
-- What was held against the former client is not held against this one.
UPDATE zoho_connection
   SET data_center = %(data_center)s, client_id = %(client_id)s, client_secret = %(client_secret)s,
       refusals = 0, refresh_allowed_at = 'epoch', last_error = NULL;

-- name: keep_connection
-- An operator gave consent in the browser: all that is known of a connection made before is over.
UPDATE zoho_connection
   SET refresh_token = %(refresh_token)s,
       access_token = %(access_token)s,
       access_token_expires_at = clock_timestamp() + %(good_for)s::interval,
       api_domain = %(api_domain)s,
       accounts_url = %(accounts_url)s,
       scopes = %(scopes)s,
       connected_as = NULL, connected_at = clock_timestamp(), connected_by = %(connected_by)s,
       refreshed_at = clock_timestamp(),
       refusals = 0, refresh_allowed_at = 'epoch', last_error = NULL;

-- name: keep_user
UPDATE zoho_connection SET connected_as = %(connected_as)s;

-- name: choose_organization
UPDATE zoho_connection SET organization_id = %(organization_id)s, organization_name = %(organization_name)s;

-- name: forget_tokens
-- Client and organisation stay, and so does seed_digest: an unchanged setting does not connect again by itself.
UPDATE zoho_connection
   SET refresh_token = NULL, access_token = NULL, access_token_expires_at = NULL, api_domain = NULL,
       accounts_url = NULL, scopes = NULL, connected_as = NULL, connected_at = NULL, connected_by = NULL,
       refusals = 0, refresh_allowed_at = 'epoch', last_error = NULL;

-- name: replace_ciphertexts
-- The same secrets under another key.
UPDATE zoho_connection
   SET refresh_token = coalesce(%(refresh_token)s, refresh_token),
       access_token = coalesce(%(access_token)s, access_token),
       client_secret = coalesce(%(client_secret)s, client_secret);
