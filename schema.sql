-- The whole database of zoho-mirror, in reading order.
--
-- `python -m processors migrate` runs this file in one transaction, under a lock. It may be run again at any time,
-- by any number of processes: a table is created with its key, and every other column is added where it is
-- missing, so that an older database moves forward and keeps its rows. Nothing here removes or rewrites data.

-- ---------------------------------------------------------------------------------------------------------------
-- products: the copy. Other programs read it.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS products (zoho_item_id text PRIMARY KEY);

ALTER TABLE products
    ADD COLUMN IF NOT EXISTS name text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS sku text,                        -- not unique: the item id is the identity
    ADD COLUMN IF NOT EXISTS description text,
    ADD COLUMN IF NOT EXISTS price numeric,                   -- Zoho's rate
    ADD COLUMN IF NOT EXISTS stock_quantity integer,          -- stock_on_hand, floored; null where not tracked
    ADD COLUMN IF NOT EXISTS stock_on_hand numeric,           -- exact
    ADD COLUMN IF NOT EXISTS is_active boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS category_id text,
    ADD COLUMN IF NOT EXISTS category_name text,
    ADD COLUMN IF NOT EXISTS brand text,
    ADD COLUMN IF NOT EXISTS unit text,
    ADD COLUMN IF NOT EXISTS zoho_last_modified_at timestamptz,
    ADD COLUMN IF NOT EXISTS deleted_at timestamptz,          -- the tombstone; the row stays
    -- The richest body seen: of every key the newest value that any body carried. The columns above are its
    -- projection (processors/workflows/merging.py).
    ADD COLUMN IF NOT EXISTS raw jsonb NOT NULL DEFAULT '{}',
    -- Keys of `raw` whose value is older than zoho_last_modified_at, with the time of that value in seconds since
    -- 1970: a newer body did not carry them. Usually empty.
    ADD COLUMN IF NOT EXISTS older_keys jsonb NOT NULL DEFAULT '{}',
    -- Counts the writes of this row. Whoever decides on a write names the revision it decided upon.
    ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now();

-- An operator, or a shop, looks a product up by its SKU.
-- Hashed: a B-tree would refuse a row whose SKU is absurdly long.
CREATE INDEX IF NOT EXISTS products_sku ON products USING hash (sku) WHERE sku IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------
-- events: the inbox. A delivery is committed here before Zoho gets its 2xx; Redis only carries the id.
--
--   recorded ──> queued ──> processing ──> processed
--      ^                        │
--      └──── tried again ───────┴────────> dead          a dead event goes back to recorded when it is replayed
--                                                        or when Zoho delivers it again
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);

ALTER TABLE events
    ADD COLUMN IF NOT EXISTS received_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'changed'
        CONSTRAINT events_kind CHECK (kind IN ('changed', 'deleted')),
    ADD COLUMN IF NOT EXISTS item_id text,                    -- null: the body could not be read
    ADD COLUMN IF NOT EXISTS state text NOT NULL DEFAULT 'recorded'
        CONSTRAINT events_state CHECK (state IN (
            'recorded',     -- committed; not handed to Redis yet, or waiting for its next try
            'queued',       -- its id is in Redis, as far as we know
            'processing',   -- a worker holds it until claimable_at
            'processed',    -- finished, with an outcome
            'dead'          -- needs a person
        )),
    ADD COLUMN IF NOT EXISTS outcome text
        CONSTRAINT events_outcome CHECK (
            outcome IN ('created', 'updated', 'unchanged', 'stale', 'tombstoned', 'gone')),
    ADD COLUMN IF NOT EXISTS attempts integer NOT NULL DEFAULT 0,   -- claims, each by one worker; fences late writes
    ADD COLUMN IF NOT EXISTS failures integer NOT NULL DEFAULT 0,   -- attempts that failed; waiting is no failure
    ADD COLUMN IF NOT EXISTS error_class text,
    ADD COLUMN IF NOT EXISTS error text,                      -- why it is dead, or why it is tried again
    ADD COLUMN IF NOT EXISTS warnings jsonb NOT NULL DEFAULT '[]', -- odd fields that were left empty
    ADD COLUMN IF NOT EXISTS body bytea NOT NULL DEFAULT '',  -- as received: jsonb would refuse NUL and bad UTF-8
    ADD COLUMN IF NOT EXISTS content_type text NOT NULL DEFAULT 'application/json',
    ADD COLUMN IF NOT EXISTS query_string bytea NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS is_dated boolean NOT NULL DEFAULT true, -- its body says when the item was modified
    -- SHA-256 over route and body. At most one event holds a fingerprint; it gives it up when the same body would
    -- count as new (processors/store/sql/inbox.sql, release_fingerprints).
    ADD COLUMN IF NOT EXISTS fingerprint bytea CONSTRAINT events_fingerprint UNIQUE,
    -- From when a worker may take it: its receipt, its next try, or the end of the lease of the worker that has it.
    ADD COLUMN IF NOT EXISTS claimable_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS queued_at timestamptz,           -- last handed to Redis
    ADD COLUMN IF NOT EXISTS needs_fetch boolean NOT NULL DEFAULT false, -- only Zoho can tell: done on a queue of its own
    ADD COLUMN IF NOT EXISTS claimed_by text,                 -- the process that took it last
    ADD COLUMN IF NOT EXISTS processed_at timestamptz;

-- What is left to do: claims of a backlog, the relay, and the age of the oldest unfinished event.
CREATE INDEX IF NOT EXISTS events_unfinished ON events (needs_fetch, claimable_at)
    WHERE state IN ('recorded', 'queued', 'processing');
-- The timeline of one item, and other events that wait for the same fetch.
CREATE INDEX IF NOT EXISTS events_item ON events (item_id, id);
-- Items that are, or were, known to be gone (store/sql/inbox.sql, claim_events).
CREATE INDEX IF NOT EXISTS events_absence ON events (item_id)
    WHERE (state = 'processed') IS TRUE AND (kind = 'deleted' OR outcome IN ('gone', 'tombstoned'));
-- Counts for metrics and the console.
CREATE INDEX IF NOT EXISTS events_state_outcome ON events (state, outcome);
-- Lag of what was finished lately.
CREATE INDEX IF NOT EXISTS events_processed_at ON events (processed_at) INCLUDE (received_at) WHERE state = 'processed';

DO $$
BEGIN
    -- A state and its evidence belong together.
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'events'::regclass AND conname = 'events_finished') THEN
        ALTER TABLE events ADD CONSTRAINT events_finished CHECK (
            (state = 'processed') = (outcome IS NOT NULL)
            AND (state = 'processed') = (processed_at IS NOT NULL)
            AND (state <> 'dead' OR error IS NOT NULL));
    END IF;
END $$;

-- How many finished events said that an item is gone. It stands in for the tombstone of an item that has no row: a
-- change that arrives later is checked with Zoho first. Of an item that came back it tells that a deletion, which
-- carries no time, may be the old one once more. "IS TRUE" stands here as it does in events_absence: so no index on the
-- state looks as good as that one, not even before the first ANALYZE.
CREATE OR REPLACE FUNCTION absences_of(an_item_id text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*)
      FROM events
     WHERE item_id = an_item_id
       AND (state = 'processed') IS TRUE
       AND (kind = 'deleted' OR outcome IN ('gone', 'tombstoned'))
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- product_changes: one row for each applied change. A change whose source is a sweep is drift.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS product_changes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);

ALTER TABLE product_changes
    ADD COLUMN IF NOT EXISTS item_id text NOT NULL,
    ADD COLUMN IF NOT EXISTS changed_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS source text NOT NULL
        CONSTRAINT product_changes_source CHECK (source IN ('webhook', 'full', 'recent', 'replay', 'fetch')),
    ADD COLUMN IF NOT EXISTS event_id bigint,                 -- no foreign key: the history outlives the inbox
    ADD COLUMN IF NOT EXISTS run_id bigint,
    ADD COLUMN IF NOT EXISTS changes jsonb NOT NULL;          -- {"price": ["12.50", "13.00"]}

CREATE INDEX IF NOT EXISTS product_changes_item ON product_changes (item_id, id);

-- ---------------------------------------------------------------------------------------------------------------
-- zoho_connection: the one connection to Zoho. Secrets are Fernet ciphertexts.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS zoho_connection (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT zoho_connection_singleton CHECK (singleton));

ALTER TABLE zoho_connection
    ADD COLUMN IF NOT EXISTS refresh_token bytea,
    -- SHA-256 of the ZOHO_REFRESH_TOKEN, with its client, that was last taken over: a changed setting replaces what
    -- is stored, an unchanged one does not undo a connection made since.
    ADD COLUMN IF NOT EXISTS seed_digest bytea,
    ADD COLUMN IF NOT EXISTS access_token bytea,
    ADD COLUMN IF NOT EXISTS access_token_expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS api_domain text,                 -- as told with the token
    ADD COLUMN IF NOT EXISTS refreshed_at timestamptz,
    -- The token endpoint is left alone until refresh_allowed_at, longer after each refusal in a row.
    ADD COLUMN IF NOT EXISTS refusals integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS refresh_allowed_at timestamptz NOT NULL DEFAULT 'epoch',
    ADD COLUMN IF NOT EXISTS last_error text;

INSERT INTO zoho_connection DEFAULT VALUES ON CONFLICT DO NOTHING;

-- The latest calls to the token endpoint: Zoho allows 10 in 10 minutes. A table of its own, so that a call is on record
-- before it is made, while the connection's row is locked: a process killed in the middle of it has called all the same.
CREATE TABLE IF NOT EXISTS token_calls (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);

ALTER TABLE token_calls
    ADD COLUMN IF NOT EXISTS ends_at timestamptz NOT NULL;    -- while it is under way: when it will be at the latest

-- ---------------------------------------------------------------------------------------------------------------
-- api_calls: one row for each call to Zoho's API of the last day or so. It is the quota's memory, for all processes.
-- api_gate: the breaker, one row, whose lock puts the callers in line.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS api_calls (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);

ALTER TABLE api_calls
    ADD COLUMN IF NOT EXISTS started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When it was over; while it is under way, when it will be at the latest. A call counts against the minute and
    -- the day until they have passed since then: Zoho cannot have seen it later.
    ADD COLUMN IF NOT EXISTS ends_at timestamptz NOT NULL,
    ADD COLUMN IF NOT EXISTS purpose text NOT NULL
        CONSTRAINT api_calls_purpose CHECK (purpose IN ('item', 'sweep')),
    ADD COLUMN IF NOT EXISTS is_running boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS status integer,                  -- HTTP; null: no answer
    ADD COLUMN IF NOT EXISTS code integer;                    -- Zoho's own

CREATE INDEX IF NOT EXISTS api_calls_ends_at ON api_calls (ends_at);

CREATE TABLE IF NOT EXISTS api_gate (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT api_gate_singleton CHECK (singleton));

ALTER TABLE api_gate
    ADD COLUMN IF NOT EXISTS closed_until timestamptz NOT NULL DEFAULT 'epoch',
    ADD COLUMN IF NOT EXISTS strikes integer NOT NULL DEFAULT 0,  -- closings in a row, without a good answer between
    ADD COLUMN IF NOT EXISTS reason text;

INSERT INTO api_gate DEFAULT VALUES ON CONFLICT DO NOTHING;

-- ---------------------------------------------------------------------------------------------------------------
-- rejections: what was refused at the door, counted by the hour. Nothing else is kept of such a request.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS rejections (
    hour timestamptz NOT NULL,
    route text NOT NULL,
    reason text NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (hour, route, reason));

-- ---------------------------------------------------------------------------------------------------------------
-- jobs: the timetable's memory. The newest slot of each job that some clock has taken; slots are cut by this
-- database's clock, so that two clocks agree and a slot is run once.
-- processes: who is alive.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS jobs (
    name text PRIMARY KEY,
    slot timestamptz NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE IF NOT EXISTS processes (
    name text PRIMARY KEY,                                    -- role, host, pid and a random part
    role text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at timestamptz NOT NULL DEFAULT now());
