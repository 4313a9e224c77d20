-- The whole database of zoho-mirror, in reading order.
--
-- `python -m processors migrate` makes an empty database by this file. A database with rows gets here by the numbered
-- files in processors/store/migrations; a test proves that both ways end in the same. A change is made in both places:
-- docs/how-to-add.md, "A change of the schema".

-- ---------------------------------------------------------------------------------------------------------------
-- products: the copy, one row for each item. Other programs read it.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE products (
    zoho_item_id text PRIMARY KEY,
    name text NOT NULL DEFAULT '',
    sku text,                        -- not unique: the item id is the identity
    description text,
    price numeric,                   -- Zoho's rate
    stock_quantity integer,          -- stock_on_hand, floored; null where not tracked
    stock_on_hand numeric,           -- exact
    is_active boolean NOT NULL DEFAULT false,
    category_id text,
    category_name text,
    brand text,
    unit text,
    group_id text,                   -- of the item group whose variant it is
    group_name text,
    available_stock numeric,         -- of the accounting stock, what is not committed
    actual_available_stock numeric,  -- of the physical stock, what is not committed
    zoho_last_modified_at timestamptz,
    deleted_at timestamptz,          -- the tombstone; the row stays
    -- The richest body seen: of every key the newest value that any body carried. The columns above are its
    -- projection (processors/workflows/merging.py).
    raw jsonb NOT NULL DEFAULT '{}',
    -- Keys of `raw` whose value is older than zoho_last_modified_at, with the time of that value in seconds since
    -- 1970: a newer body did not carry them. "~" before a key: half a second earlier. Few, usually. "=" is no key, but the
    -- time of the newest answer of Zoho's that was merged.
    older_keys jsonb NOT NULL DEFAULT '{}',
    -- All of `raw` comes from Zoho's list, whose other keys give way to those of the first webhook or single answer.
    is_listed boolean NOT NULL DEFAULT false,
    -- Counts the writes of this row. Whoever decides on a write names the revision it decided upon.
    revision bigint NOT NULL DEFAULT 1,
    -- By which version of the field table (processors/field_table.py) the row was projected, and which revision of it. A
    -- release that does not know of versions counts the revision up, and leaves these two behind.
    fields_version text,
    fields_revision bigint,
    -- When something other than the mirror wrote this row; null: nothing did since Zoho confirmed what is in it.
    altered_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- An operator, or a shop, looks a product up by its SKU.
-- Hashed: a B-tree would refuse a row whose SKU is absurdly long.
CREATE INDEX products_sku ON products USING hash (sku) WHERE sku IS NOT NULL;

-- Whoever writes a row without counting its revision up is not the mirror. The next sweep asks Zoho what belongs there.
CREATE FUNCTION note_alteration() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.altered_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER products_altered BEFORE UPDATE ON products
    FOR EACH ROW
    WHEN (NEW.revision = OLD.revision
          AND NEW.altered_at IS NOT DISTINCT FROM OLD.altered_at
          AND (NEW.name, NEW.sku, NEW.description, NEW.price, NEW.stock_quantity, NEW.stock_on_hand, NEW.is_active,
               NEW.category_id, NEW.category_name, NEW.brand, NEW.unit, NEW.group_id, NEW.group_name,
               NEW.available_stock, NEW.actual_available_stock, NEW.zoho_last_modified_at, NEW.deleted_at,
               NEW.raw, NEW.older_keys)
              IS DISTINCT FROM
              (OLD.name, OLD.sku, OLD.description, OLD.price, OLD.stock_quantity, OLD.stock_on_hand, OLD.is_active,
               OLD.category_id, OLD.category_name, OLD.brand, OLD.unit, OLD.group_id, OLD.group_name,
               OLD.available_stock, OLD.actual_available_stock, OLD.zoho_last_modified_at, OLD.deleted_at,
               OLD.raw, OLD.older_keys))
    EXECUTE FUNCTION note_alteration();

-- How many there are, by state.
CREATE INDEX products_state ON products (deleted_at, is_active);

-- What a list of products is asked for. The planner takes it apart: what is null costs nothing.
CREATE FUNCTION product_is_meant(product products, text_ text, pattern text, state text,
    is_out_of_stock boolean, changed_since timestamptz, category text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (text_ IS NULL OR product.zoho_item_id = text_ OR product.sku = text_
            OR product.name ILIKE pattern OR product.sku ILIKE pattern)
       AND (state IS NULL OR CASE state
                WHEN 'live' THEN product.deleted_at IS NULL
                WHEN 'active' THEN product.deleted_at IS NULL AND product.is_active
                WHEN 'inactive' THEN product.deleted_at IS NULL AND NOT product.is_active
                WHEN 'deleted' THEN product.deleted_at IS NOT NULL END)
       AND (NOT is_out_of_stock OR product.deleted_at IS NULL AND product.stock_on_hand <= 0)
       AND (changed_since IS NULL OR product.updated_at >= changed_since)
       AND (category IS NULL OR product.category_id = category)
$$;

-- A part of what a certificate adds up (processors/store/sql/certificates.sql): texts with their length, numbers without
-- trailing zeros, "-" for null.
CREATE FUNCTION digest_part(value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(length(value) || ':' || value, '-')
$$;
CREATE FUNCTION digest_part(value numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(trim_scale(value)::text, '-')
$$;
CREATE FUNCTION digest_part(value integer) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(value::text, '-')
$$;
CREATE FUNCTION digest_part(value boolean) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(value::text, '-')
$$;

-- projection_passes: how far each version of the field table has gone through all products (store/sql/projection.sql).
CREATE TABLE projection_passes (
    version text PRIMARY KEY,
    position text NOT NULL DEFAULT '',  -- the id of the last row that was looked at
    passes integer NOT NULL DEFAULT 0,  -- that ended
    ended_at timestamptz                -- of the last one; null: one is under way
);

-- What the former release adds up; a later release drops it.
-- SHA-256 over what a row says of its item: each text with its length, numbers without trailing zeros, "-" for null.
-- A run's certificate adds these up (processors/store/sql/certificates.sql). Not part of it is what may differ between
-- two copies of the same content: times, and the other keys of the body.
CREATE FUNCTION content_digest(product products) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(
        length(product.zoho_item_id) || ':' || product.zoho_item_id || ','
        || length(product.name) || ':' || product.name || ','
        || coalesce(length(product.sku) || ':' || product.sku, '-') || ','
        || coalesce(length(product.description) || ':' || product.description, '-') || ','
        || coalesce(trim_scale(product.price)::text, '-') || ','
        || coalesce(product.stock_quantity::text, '-') || ','
        || coalesce(trim_scale(product.stock_on_hand)::text, '-') || ','
        || product.is_active::text || ','
        || coalesce(length(product.category_id) || ':' || product.category_id, '-') || ','
        || coalesce(length(product.category_name) || ':' || product.category_name, '-') || ','
        || coalesce(length(product.brand) || ':' || product.brand, '-') || ','
        || coalesce(length(product.unit) || ':' || product.unit, '-'), 'UTF8'))
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- events: the inbox. A delivery is committed here before Zoho gets its 2xx; Redis only carries the id.
--
--   recorded ──> queued ──> processing ──> processed
--      ^                        │
--      └──── tried again ───────┴────────> dead          a dead event goes back to recorded when it is replayed
--                                                        or when Zoho delivers it again; so does a processed one
--                                                        that is replayed
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL DEFAULT 'changed'
        CONSTRAINT events_kind CHECK (kind IN ('changed', 'deleted')),
    item_id text,                    -- null: the body could not be read
    state text NOT NULL DEFAULT 'recorded'
        CONSTRAINT events_state CHECK (state IN (
            'recorded',     -- committed; not handed to Redis yet, or waiting for its next try
            'queued',       -- its id is in Redis, as far as we know
            'processing',   -- a worker holds it until claimable_at
            'processed',    -- finished, with an outcome
            'dead'          -- needs a person
        )),
    outcome text
        CONSTRAINT events_outcome CHECK (
            outcome IN ('created', 'updated', 'unchanged', 'stale', 'tombstoned', 'gone')),
    attempts integer NOT NULL DEFAULT 0,   -- claims, each by one worker; fences late writes
    failures integer NOT NULL DEFAULT 0,   -- attempts that failed; waiting is no failure
    error_class text,
    error text,                      -- why it is dead, or why it is tried again
    error_at text,                   -- the traceback's last line: file, line and function
    warnings jsonb NOT NULL DEFAULT '[]', -- odd fields that were left empty
    body bytea NOT NULL DEFAULT '',  -- as received: jsonb would refuse NUL and bad UTF-8
    content_type text NOT NULL DEFAULT 'application/json',
    query_string bytea NOT NULL DEFAULT '',
    is_dated boolean NOT NULL DEFAULT true, -- its body says when the item was modified
    -- SHA-256 over route and body. At most one event holds a fingerprint; it gives it up when the same body would
    -- count as new (processors/store/sql/inbox.sql, release_fingerprints).
    fingerprint bytea CONSTRAINT events_fingerprint UNIQUE,
    -- From when a worker may take it: its receipt, its next try, or the end of the lease of the worker that has it.
    claimable_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz,           -- last handed to Redis
    needs_fetch boolean NOT NULL DEFAULT false, -- only Zoho can, or could, tell: on its own queue
    claimed_by text,                 -- the process that took it last
    claimed_at timestamptz,
    processed_at timestamptz,
    -- The replay that sent it again last; null: it was never replayed, or was delivered again since.
    replay_id bigint,
    -- An operator took a dead event for settled: it stays dead, and asks for nobody any more.
    discarded_at timestamptz,
    discarded_by text,
    discard_reason text,
    -- Not delivered, but found unusable by that reconciliation run, and kept here to be replayed.
    run_id bigint,
    -- A state and its evidence belong together.
    CONSTRAINT events_finished CHECK (
        (state = 'processed') = (outcome IS NOT NULL)
        AND (state = 'processed') = (processed_at IS NOT NULL)
        AND (state <> 'dead' OR error IS NOT NULL))
);

-- What is left to do: claims of a backlog, the relay, and the age of the oldest unfinished event.
CREATE INDEX events_unfinished ON events (needs_fetch, claimable_at)
    WHERE state IN ('recorded', 'queued', 'processing');
-- The timeline of one item, and other events that wait for the same fetch.
CREATE INDEX events_item ON events (item_id, id);
-- Items that are, or were, known to be gone (store/sql/inbox.sql, claim_events).
CREATE INDEX events_absence ON events (item_id)
    WHERE (state = 'processed') IS TRUE AND (kind = 'deleted' OR outcome IN ('gone', 'tombstoned'));
-- Counts for metrics and the console.
CREATE INDEX events_state_outcome ON events (state, outcome);
-- Dead letters, by cause and for replay; and the newest of them.
CREATE INDEX events_dead ON events (error_class, id) WHERE state = 'dead';
CREATE INDEX events_dead_by_id ON events (id) WHERE state = 'dead';
-- Whatever failed, by its error, its class or its cause.
CREATE INDEX events_with_error ON events (id) WHERE error IS NOT NULL;
-- What a run found unusable.
CREATE INDEX events_run ON events (run_id, id) WHERE run_id IS NOT NULL;
-- Deletions: few, among many changes.
CREATE INDEX events_deleted ON events (id) WHERE kind = 'deleted';
-- What was received in some hours. Rows lie in the order of their receipt, or nearly: so a few kilobytes do, which cost
-- writers almost nothing, where a B-tree would cost them a twelfth of their time. Where rows that retention removed made
-- room for others, old and new times share a page, hence more than one range for each group of pages.
CREATE INDEX events_received ON events USING brin (received_at timestamptz_minmax_multi_ops)
    WITH (pages_per_range = 32, autosummarize = on);
-- What a replay sent again.
CREATE INDEX events_replay ON events (replay_id) WHERE replay_id IS NOT NULL;
-- What was finished lately: its lag, and what the deliveries among it came to.
CREATE INDEX events_processed ON events (processed_at) INCLUDE (received_at, outcome, run_id)
    WHERE state = 'processed';

-- The root of an error's cause: its text but for numbers and what is quoted in it. Events that died of the same share it.
-- An apostrophe within a word quotes nothing.
CREATE FUNCTION root_cause(error text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT left(regexp_replace(regexp_replace(error, '(?<!\w)''[^'']*''|"[^"]*"', '…', 'g'), '\d+', '…', 'g'), 200)
$$;

-- What a list of events is asked for. The planner takes it apart: what is null costs nothing. Dead ones are those that
-- nobody discarded, unless the discarded ones are meant.
CREATE FUNCTION event_is_meant(event events, state_ text, is_discarded boolean, outcome_ text, kind_ text,
    item text, run bigint, error_part text, class text, cause text, since timestamptz, until timestamptz)
    RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (state_ IS NULL OR event.state = state_)
       AND (state_ IS DISTINCT FROM 'dead' OR (event.discarded_at IS NOT NULL) = is_discarded)
       AND (outcome_ IS NULL OR event.outcome = outcome_)
       AND (kind_ IS NULL OR event.kind = kind_)
       AND (item IS NULL OR event.item_id = item)
       AND (run IS NULL OR event.run_id = run)
       AND (error_part IS NULL OR event.error ILIKE error_part)
       AND (class IS NULL OR event.error_class = class AND event.error IS NOT NULL)
       AND (cause IS NULL OR root_cause(event.error) = cause)
       AND (since IS NULL OR event.received_at >= since)
       AND (until IS NULL OR event.received_at < until)
$$;

-- event_attempts: attempts that did not finish their event, one by one, and former successes of an event that was
-- replayed. The attempt that finished it is in the event's own row: most events have no row here.
CREATE TABLE event_attempts (
    event_id bigint NOT NULL,
    attempt integer NOT NULL,
    worker text,
    started_at timestamptz,
    ended_at timestamptz NOT NULL DEFAULT now(),
    outcome text,                    -- of an attempt that had finished the event
    error_class text,
    error text,
    error_at text,
    -- Waiting for the quota or the credentials is no failure; repeated waits for one thing are one row.
    is_wait boolean NOT NULL DEFAULT false,
    times integer NOT NULL DEFAULT 1,
    PRIMARY KEY (event_id, attempt)
);

CREATE UNIQUE INDEX event_attempts_wait ON event_attempts (event_id, error_class) WHERE is_wait;

-- ---------------------------------------------------------------------------------------------------------------
-- replays: events that a person sent again, all that matched, a few at a time.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE replays (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    requested_at timestamptz NOT NULL DEFAULT now(),
    requested_by text NOT NULL,
    reason text NOT NULL DEFAULT '',
    filter jsonb NOT NULL DEFAULT '{}',   -- what was asked for
    per_second integer NOT NULL DEFAULT 50,
    state text NOT NULL DEFAULT 'running'
        CONSTRAINT replays_state CHECK (state IN (
            'running',      -- events are sent again, per_second of them each second
            'complete',     -- all were sent; what came of them, they say themselves
            'cancelled'     -- a person stopped it; what was sent stays sent
        )),
    finished_at timestamptz,
    total integer NOT NULL DEFAULT 0
);

-- replay_events: the events that a replay sends.
CREATE TABLE replay_events (
    replay_id bigint NOT NULL,
    event_id bigint NOT NULL,
    sent_at timestamptz,                                       -- null: not yet
    note text,                                                 -- why it was not sent
    PRIMARY KEY (replay_id, event_id)
);

CREATE INDEX replay_events_unsent ON replay_events (replay_id, event_id) WHERE sent_at IS NULL;

-- retention: how far finished events were trimmed, by the time they finished.
CREATE TABLE retention (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT retention_singleton CHECK (singleton),
    bodies_trimmed_until timestamptz NOT NULL DEFAULT 'epoch',
    events_trimmed_until timestamptz NOT NULL DEFAULT 'epoch'
);

INSERT INTO retention DEFAULT VALUES;

-- How many finished events said that an item is gone. It stands in for the tombstone of an item that has no row: a
-- change that arrives later is checked with Zoho first. Of an item that came back it tells that a deletion, which
-- carries no time, may be the old one once more. "IS TRUE" stands here as it does in events_absence: so no index on the
-- state looks as good as that one, not even before the first ANALYZE.
CREATE FUNCTION absences_of(an_item_id text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*)
      FROM events
     WHERE item_id = an_item_id
       AND (state = 'processed') IS TRUE
       AND (kind = 'deleted' OR outcome IN ('gone', 'tombstoned'))
$$;

-- The same, and whether an item has a row, as it is at this moment: within one statement, after a lock was waited for.
CREATE FUNCTION absences_now(an_item_id text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN absences_of(an_item_id);
END $$;
CREATE FUNCTION has_row_now(an_item_id text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM products WHERE zoho_item_id = an_item_id);
END $$;

-- ---------------------------------------------------------------------------------------------------------------
-- product_changes: one row for each applied change. A change whose source is a sweep is drift, with the exceptions that
-- its cause names.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE product_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item_id text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    source text NOT NULL
        CONSTRAINT product_changes_source CHECK (source IN ('webhook', 'full', 'recent', 'replay', 'fetch', 'release')),
    event_id bigint,                 -- no foreign key: the history outlives the inbox
    run_id bigint,
    changes jsonb NOT NULL,          -- {"price": ["12.50", "13.00"]}
    zoho_modified_at timestamptz,    -- when Zoho says that the item was modified
    -- Of a sweep's change: why no webhook had made it, as far as can be told (processors/workflows/drift.py).
    cause text
        CONSTRAINT product_changes_cause CHECK (cause IN (
            -- Not drift:
            'first_load',           -- the mirror had never read the whole catalogue before
            'during_run',           -- changed in Zoho while the run was on its way
            'delivery_late',        -- its delivery came after the run had made the change
            -- Drift:
            'altered_here',         -- something other than the mirror wrote or removed the row
            'event_dead',           -- delivered, and its event is dead
            'event_unfinished',     -- delivered, and not worked on yet
            'delivery_incomplete',  -- delivered and processed, but its body lacked these fields
            'delivery_rejected',    -- deliveries were refused at the door at that time
            'stock_only',           -- only stock moved, which Zoho does not promise to report
            'no_delivery'           -- nothing was seen of it
        )),
    -- Since when the row was wrong. Of a tombstone: at the earliest.
    wrong_since timestamptz,
    -- The transaction, to tell which changes a snapshot of the database holds.
    made_in xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE INDEX product_changes_item ON product_changes (item_id, id);
-- What a run changed.
CREATE INDEX product_changes_run ON product_changes (run_id, id) WHERE run_id IS NOT NULL;
-- What changed lately: freshness. Without what a first run loads, which may be a million rows.
CREATE INDEX product_changes_changed_at ON product_changes (changed_at)
    WHERE cause IS DISTINCT FROM 'first_load';
-- What may turn out to have been late only.
CREATE INDEX product_changes_undelivered ON product_changes (changed_at) WHERE cause = 'no_delivery';

-- ---------------------------------------------------------------------------------------------------------------
-- reconciliation_runs: one comparison with Zoho's own list; all of it (full), or what was modified lately (recent).
--
--   running ──> complete        every page was read, every doubt cleared up; watermark and certificate move on
--      │  ^
--      │  └──── held            it would tombstone too much: an operator confirms, or discards (then partial)
--      ├──────> partial         ended after some pages; nothing is tombstoned
--      └──────> failed          ended before the first page
--
-- A run that is running is worked on by whoever holds its lease, page after page; between two pages it may be taken up
-- by another worker.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE reconciliation_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL
        CONSTRAINT reconciliation_runs_kind CHECK (kind IN ('full', 'recent')),
    trigger text NOT NULL DEFAULT 'schedule'
        CONSTRAINT reconciliation_runs_trigger CHECK (trigger IN ('schedule', 'console', 'api', 'cli')),
    state text NOT NULL DEFAULT 'running'
        CONSTRAINT reconciliation_runs_state CHECK (state IN ('running', 'complete', 'partial', 'held', 'failed')),
    phase text NOT NULL DEFAULT 'listing'
        CONSTRAINT reconciliation_runs_phase CHECK (phase IN (
            'listing',      -- reads pages
            'checking'      -- asks Zoho for the items that the list leaves in doubt
        )),
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    -- What was known when it started.
    known_since timestamptz,          -- start of the last complete full run; null: there was none
    -- The last item that it read, and when that was created in Zoho: everything up to it is known here.
    known_until timestamptz,
    known_to_id text,
    modified_since timestamptz,       -- a recent run reads back to here; null: to the beginning
    expected_items integer NOT NULL DEFAULT 0,
    -- How far it is.
    pages integer NOT NULL DEFAULT 0,
    read_to integer NOT NULL DEFAULT 0,   -- positions of Zoho's list
    newest_modified_at timestamptz,
    api_calls integer NOT NULL DEFAULT 0,
    seen integer NOT NULL DEFAULT 0,      -- items listed
    created integer NOT NULL DEFAULT 0,
    updated integer NOT NULL DEFAULT 0,
    unchanged integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,    -- items kept as dead events
    deleted integer NOT NULL DEFAULT 0,
    missed integer NOT NULL DEFAULT 0,    -- in Zoho, though the pages did not show them
    -- Products that the pages did not show, and how many there were to be shown.
    suspects integer NOT NULL DEFAULT 0,
    suspected_of integer NOT NULL DEFAULT 0,
    listed_until timestamptz,         -- when the last item of the list was created in Zoho
    listed_to_id text,                -- and which that is
    deletes_confirmed_by text,        -- the operator who let a held run go on
    -- The lease, as that of an event.
    claimable_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,         -- last handed to Redis
    attempts integer NOT NULL DEFAULT 0,
    claimed_by text,
    failures integer NOT NULL DEFAULT 0,  -- in a row, without a page between
    error_class text,
    error text,                       -- why it waits, is held, or ended
    -- Its result.
    watermark timestamptz,            -- every modification up to here is in the mirror
    webhooks text
        CONSTRAINT reconciliation_runs_webhooks CHECK (webhooks IN (
            'delivering',   -- deliveries came since the run before
            'quiet',        -- none came, and none was missed
            'dead'          -- none came, though there was something to deliver
        )),
    certified_at timestamptz,
    certified_items bigint,
    certified_hash text,
    certified_snapshot text,         -- pg_current_snapshot()
    certified_fields text,           -- by which version of the field table; null: it had none
    -- A state and its evidence belong together.
    CONSTRAINT reconciliation_runs_ended CHECK (
        (state = 'running') = (finished_at IS NULL)
        AND (state NOT IN ('partial', 'failed', 'held') OR error IS NOT NULL))
);

-- One run of a kind at a time.
CREATE UNIQUE INDEX reconciliation_runs_running ON reconciliation_runs (kind) WHERE state = 'running';
-- The last one that ended in a state, the last of its kind, and the last that found the webhooks dead.
CREATE INDEX reconciliation_runs_state ON reconciliation_runs (kind, state, started_at);
CREATE INDEX reconciliation_runs_kind_id ON reconciliation_runs (kind, id);
CREATE INDEX reconciliation_runs_dead_webhooks ON reconciliation_runs (id) WHERE webhooks = 'dead';

-- run_pages: which items each page showed, for as long as the run reads pages. One row for a page, since a row for each
-- item would cost as much as the items themselves.
CREATE TABLE run_pages (
    run_id bigint NOT NULL,
    number integer NOT NULL,
    item_ids text[] NOT NULL,                                  -- in the order of the list
    last_created_at timestamptz,                               -- when the last of them was created in Zoho
    PRIMARY KEY (run_id, number)
);

-- run_checks: items that the pages of a run leave in doubt. Only Zoho can tell.
CREATE TABLE run_checks (
    run_id bigint NOT NULL,
    item_id text NOT NULL,
    reason text NOT NULL,                                      -- completes "asked for because ..."
    is_suspect boolean NOT NULL,                               -- no page showed it: it may be deleted in Zoho
    PRIMARY KEY (run_id, item_id)
);

-- listed_digests: what Zoho's list said of an item when a run last found its row to agree, or wrote it so, and which
-- version of the row that was. Derived: an empty table only makes the next run slower, so it is not logged, and a crash empties it.
CREATE UNLOGGED TABLE listed_digests (
    item_id text PRIMARY KEY,
    digest bytea NOT NULL,            -- over what fills columns (processors/zoho/listing.py)
    row_version xid NOT NULL,         -- the row's xmin, which every transaction that writes it changes
    -- In a database restored from a dump xmin is counted anew, and may be the same by chance: the revision is not.
    revision bigint NOT NULL
);

-- How fresh the mirror is: from the modification in Zoho to its being visible here, over the last day, by lane.
CREATE VIEW freshness AS
SELECT lane, last_success_at, coalesce(changes, 0) AS changes, p50, p95, p99
  FROM (VALUES ('webhook', (SELECT max(processed_at) FROM events WHERE state = 'processed')),
               ('recent', (SELECT finished_at FROM reconciliation_runs WHERE kind = 'recent' AND state = 'complete'
                            ORDER BY started_at DESC LIMIT 1)),
               ('full', (SELECT finished_at FROM reconciliation_runs WHERE kind = 'full' AND state = 'complete'
                          ORDER BY started_at DESC LIMIT 1))
       ) AS lanes (lane, last_success_at)
  LEFT JOIN (SELECT source AS lane, count(*) AS changes,
                    percentile_cont(0.5) WITHIN GROUP (ORDER BY changed_at - zoho_modified_at) AS p50,
                    percentile_cont(0.95) WITHIN GROUP (ORDER BY changed_at - zoho_modified_at) AS p95,
                    percentile_cont(0.99) WITHIN GROUP (ORDER BY changed_at - zoho_modified_at) AS p99
               FROM product_changes
              WHERE changed_at > now() - interval '24 hours'
                AND zoho_modified_at IS NOT NULL
                -- What the mirror read for the first time, or repaired here, was not waiting for a lane.
                AND cause IS DISTINCT FROM 'first_load' AND cause IS DISTINCT FROM 'altered_here'
              GROUP BY source) AS delays USING (lane);

-- ---------------------------------------------------------------------------------------------------------------
-- zoho_connection: the one connection to Zoho. Secrets are Fernet ciphertexts.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE zoho_connection (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT zoho_connection_singleton CHECK (singleton),
    refresh_token bytea,
    -- SHA-256 of the ZOHO_REFRESH_TOKEN, with its client, that was last taken over: a changed setting replaces what
    -- is stored, an unchanged one does not undo a connection made since.
    seed_digest bytea,
    -- The same of one that was tried, and cannot do the work of the present connection; and why, for people.
    refused_seed_digest bytea,
    refused_seed_reason text,
    access_token bytea,
    access_token_expires_at timestamptz,
    api_domain text,                 -- as told with the token
    refreshed_at timestamptz,
    -- The token endpoint is left alone until refresh_allowed_at, longer after each refusal in a row.
    refusals integer NOT NULL DEFAULT 0,
    refresh_allowed_at timestamptz NOT NULL DEFAULT 'epoch',
    last_error text,
    -- What an operator entered in the console; a setting of the same meaning wins.
    data_center text,
    client_id text,
    client_secret bytea,
    organization_id text,
    organization_name text,
    -- Whose items the rows are. Set before the first is read from Zoho; another one only while there are none.
    mirrored_organization_id text,
    -- What keeps Zoho from being asked at all, as a process noted that was about to: its cause and the words for people.
    obstacle text,
    obstacle_reason text,
    -- Of a connection made in the browser.
    accounts_url text,               -- the accounts server that Zoho named
    scopes text,
    connected_as text,
    connected_at timestamptz,
    connected_by text
);

INSERT INTO zoho_connection DEFAULT VALUES;

-- token_calls: the latest calls to the token endpoint: Zoho allows 10 in 10 minutes. A table of its own, so that a call is
-- on record before it is made, while the connection's row is locked: a process killed in the middle of it has called
-- all the same.
CREATE TABLE token_calls (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ends_at timestamptz NOT NULL     -- while it is under way: when it will be at the latest
);

-- ---------------------------------------------------------------------------------------------------------------
-- api_calls: one row for each call to Zoho's API of the last day or so. It is the quota's memory, for all processes.
-- api_gate: the breaker, one row, whose lock puts the callers in line.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE api_calls (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When it was over; while it is under way, when it will be at the latest. A call counts against the minute and
    -- the day until they have passed since then: Zoho cannot have seen it later.
    ends_at timestamptz NOT NULL,
    purpose text NOT NULL
        CONSTRAINT api_calls_purpose CHECK (purpose IN ('item', 'sweep')),
    run_id bigint,                   -- the reconciliation run that made it
    is_running boolean NOT NULL DEFAULT true,
    status integer,                  -- HTTP; null: no answer
    code integer,                    -- Zoho's own
    -- What the answer says, and of what (processors/zoho/answers.py): ids of items, or the path of a list. Null: the call
    -- is none of the mirror's own work, or was admitted by a release that did not note it.
    verdict text,
    about text[]
);

CREATE INDEX api_calls_ends_at ON api_calls (ends_at);
CREATE INDEX api_calls_run ON api_calls (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE api_gate (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT api_gate_singleton CHECK (singleton),
    closed_until timestamptz NOT NULL DEFAULT 'epoch',
    strikes integer NOT NULL DEFAULT 0,  -- closings in a row, without a good answer between
    reason text,
    -- 'quota', 'installation' (Zoho refuses whatever is asked) or 'unusable' (it says nothing that can be read);
    -- null: it stands open, or a release that knew quotas only closed it.
    cause text,
    closed_since timestamptz,        -- of the first strike
    closed_at timestamptz NOT NULL DEFAULT 'epoch',  -- of the last
    -- Of a closing for the installation: which connection was refused, its organisation, and those it reaches.
    connection text,
    organization_id text,
    organizations text
);

INSERT INTO api_gate DEFAULT VALUES;

-- Start a call, or say how long to wait and for what. Limits come as the counts that this purpose may use. A window is
-- full when the nth newest call lies in it: so many steps along the index, whatever the table holds. The callers stand in
-- line at the gate's lock, and each counts what was admitted before it: hence a function, whose statements each see what
-- was committed until then, and which ends with its transaction whatever becomes of the caller.
CREATE FUNCTION admit_call(of_purpose text, of_run bigint, most_a_minute bigint, most_a_day bigint, most_at_once bigint,
    longest interval, by_connection text, is_persons boolean)
    RETURNS TABLE (id bigint, cause text, closed_by text, retry_after interval) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM api_gate FOR UPDATE;
    RETURN QUERY
    WITH clock AS MATERIALIZED (
        SELECT clock_timestamp() AS at
    ), waits AS (
        -- What was refused to one connection says nothing of another, and a person who looks finds out sooner.
        SELECT 'the breaker is open: ' || coalesce(reason, '') AS cause, closed_until AS until,
               coalesce(api_gate.cause, 'quota') AS closed_by
          FROM api_gate, clock
         WHERE closed_until > at
           AND (coalesce(api_gate.cause, 'quota') = 'quota'
                OR NOT is_persons
                   AND (api_gate.cause <> 'installation' OR connection IS NOT DISTINCT FROM by_connection))
         UNION ALL
        SELECT 'this minute''s calls are used up', ends_at + '60 seconds', NULL
          FROM (SELECT ends_at FROM api_calls ORDER BY ends_at DESC OFFSET most_a_minute - 1 LIMIT 1) AS nth, clock
         WHERE ends_at > at - interval '60 seconds'
         UNION ALL
        SELECT 'this day''s calls are used up', ends_at + '24 hours', NULL
          FROM (SELECT ends_at FROM api_calls ORDER BY ends_at DESC OFFSET most_a_day - 1 LIMIT 1) AS nth, clock
         WHERE ends_at > at - interval '24 hours'
         UNION ALL
        -- After the breaker was open a single call goes ahead and finds out.
        SELECT 'as many calls as allowed are under way', at + '50 milliseconds', NULL
          FROM clock
         WHERE (SELECT count(*) FROM api_calls WHERE is_running AND ends_at > at)
            >= (SELECT CASE WHEN strikes > 0 THEN 1 ELSE most_at_once END FROM api_gate)
    ), admitted AS (
        INSERT INTO api_calls (started_at, ends_at, purpose, run_id)
        SELECT at, at + longest, of_purpose, of_run
          FROM clock
         WHERE NOT EXISTS (SELECT FROM waits)
     RETURNING id
    )
    SELECT (SELECT id FROM admitted) AS id,
           (SELECT cause FROM waits ORDER BY until DESC LIMIT 1) AS cause,
           (SELECT closed_by FROM waits ORDER BY until DESC LIMIT 1) AS closed_by,
           (SELECT max(until) - (SELECT at FROM clock) FROM waits) AS retry_after;
END $$;

-- ---------------------------------------------------------------------------------------------------------------
-- rejections: what was refused at the door, counted by the hour. Nothing else is kept of such a request.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE rejections (
    hour timestamptz NOT NULL,
    route text NOT NULL,
    reason text NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (hour, route, reason)
);

-- ---------------------------------------------------------------------------------------------------------------
-- delivery_shapes: what deliveries look like, by a sample of at most one a second of each route and process. A new
-- shape is a template of Zoho's webhook form that somebody changed, or an item of another kind.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE delivery_shapes (
    route text NOT NULL,
    fingerprint bytea NOT NULL,                               -- of all the columns down to `keys`
    signature text NOT NULL CONSTRAINT delivery_shapes_signature CHECK (signature IN ('hex', 'base64')),
    secret integer NOT NULL,                                  -- which of ZOHO_WEBHOOK_SECRETS fits: 1 is the newest
    form text NOT NULL,                                       -- json, form, multipart
    envelope text NOT NULL,                                   -- the key around the item; "" if there is none
    keys text[] NOT NULL,                                     -- of the item, without custom and formatted ones
    missing text[] NOT NULL,                                  -- mapped keys that are not among them
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    looked_at bigint NOT NULL,                                -- how many deliveries
    PRIMARY KEY (route, fingerprint)
);

-- ---------------------------------------------------------------------------------------------------------------
-- jobs: the timetable's memory. The newest slot of each job that some clock has taken; slots are cut by this
-- database's clock, so that two clocks agree and a slot is run once.
-- processes: who is alive.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE jobs (
    name text PRIMARY KEY,
    slot timestamptz NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE processes (
    name text PRIMARY KEY,                                    -- role, host, pid and a random part
    role text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at timestamptz NOT NULL DEFAULT now()
);

-- ---------------------------------------------------------------------------------------------------------------
-- schema_migrations: the numbered migrations that this database has, one row for each.
-- schema_version: written by release 0.1.0, which had no numbered migrations. Its `migrate` is refused here, since it
-- would put its own functions back. A later release drops it.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    digest bytea NOT NULL,           -- SHA-256 of the file
    began_at timestamptz NOT NULL DEFAULT now(),
    applied_at timestamptz           -- null: it runs outside a transaction, and did not finish yet
);

CREATE TABLE schema_version (
    is_only boolean PRIMARY KEY DEFAULT true CONSTRAINT schema_version_is_only CHECK (is_only),
    digest bytea NOT NULL DEFAULT '',
    fingerprint text NOT NULL DEFAULT '',
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION refuse_former_migrate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a newer release of zoho-mirror has migrated this database'
        USING HINT = 'Run migrate of the newer release. Processes of this release work without it.';
END $$;

CREATE TRIGGER schema_version_is_left BEFORE INSERT OR UPDATE ON schema_version
    EXECUTE FUNCTION refuse_former_migrate();

-- ---------------------------------------------------------------------------------------------------------------
-- alerts: what people were told, or are to be told. One row for each cause.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE alerts (
    cause text PRIMARY KEY,
    what text NOT NULL,
    what_to_do text NOT NULL,
    page text NOT NULL,                                       -- of the console
    opened_at timestamptz NOT NULL DEFAULT now(),
    gone_since timestamptz,                                   -- not seen any more since; back again: null
    cleared_at timestamptz,                                   -- it stayed away; seen again: null
    sent_at timestamptz,                                      -- when people were told of it last
    is_told boolean NOT NULL DEFAULT false,                   -- they were, and not yet that it is over
    failures integer NOT NULL DEFAULT 0,                      -- in a row, to deliver the message
    try_at timestamptz NOT NULL DEFAULT now(),
    error text
);

-- ---------------------------------------------------------------------------------------------------------------
-- operators: who may use the console.
-- sessions: from where they are signed in.
-- api_tokens: the programs that may use the JSON API.
-- Of a password only its argon2 hash is kept, of a session or a token only the SHA-256 of a long random text.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE operators (
    name text PRIMARY KEY,           -- in lower case
    role text NOT NULL
        CONSTRAINT operators_role CHECK (role IN (
            'viewer',       -- sees everything that is no secret
            'operator'      -- acts, too
        )),
    password_hash text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sessions (
    digest bytea PRIMARY KEY,
    operator text NOT NULL
        CONSTRAINT sessions_operator_is_there REFERENCES operators ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),  -- to a minute
    expires_at timestamptz NOT NULL,
    address text,
    browser text NOT NULL DEFAULT ''
);

CREATE INDEX sessions_operator ON sessions (operator);

CREATE TABLE api_tokens (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    digest bytea NOT NULL CONSTRAINT api_tokens_digest UNIQUE,
    scope text NOT NULL
        CONSTRAINT api_tokens_scope CHECK (scope IN ('read', 'write')),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    used_at timestamptz,                  -- to a minute
    revoked_at timestamptz,
    revoked_by text
);

-- The audit log knows programs by their names: no two that are let in share one.
CREATE UNIQUE INDEX api_tokens_name ON api_tokens (name) WHERE revoked_at IS NULL;

-- ---------------------------------------------------------------------------------------------------------------
-- audit_log: one row for each thing that a person or a program did: who, what, which ids, when, from where.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    channel text NOT NULL
        CONSTRAINT audit_log_channel CHECK (channel IN ('console', 'api', 'cli')),
    requester text NOT NULL,              -- an operator, a token's name, a shell account
    address text,                        -- null: a shell
    action text NOT NULL,                 -- run.started, events.discarded, …
    targets text[] NOT NULL DEFAULT '{}', -- ids: of events, a run, items, …
    detail jsonb NOT NULL DEFAULT '{}'
);

-- What was done about one item: its timeline.
CREATE INDEX audit_log_fetches ON audit_log USING gin (targets) WHERE action = 'item.fetched';
-- How often somebody tried to sign in lately.
CREATE INDEX audit_log_failed_sign_ins ON audit_log (at) WHERE action = 'sign_in.failed';
-- Where somebody signs in usually.
CREATE INDEX audit_log_sign_ins ON audit_log (requester, at) WHERE action = 'sign_in.succeeded';
