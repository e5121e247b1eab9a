"""The chassis' own tables, the same in every service's schema."""

from alembic import op

revision = "chassis_0001"
down_revision = None
branch_labels = ("chassis",)
depends_on = None


TABLES = """
-- What became of each message. Outlives the longest replay, so that a duplicate is always recognised.
CREATE TABLE inbox (
    consumer text NOT NULL,
    source text NOT NULL,
    message_id text NOT NULL,
    state text NOT NULL DEFAULT 'handled' CONSTRAINT inbox_state_is_known CHECK (state IN ('handled', 'retrying', 'dead')),
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT inbox_one_row_per_message PRIMARY KEY (consumer, source, message_id)
);
CREATE INDEX inbox_received_at ON inbox USING brin (received_at);

-- One row per saga and step, for its do and its undo together.
CREATE TABLE operation (
    operation_id text CONSTRAINT operation_one_row_per_step PRIMARY KEY,
    correlation_id text NOT NULL,
    state text NOT NULL DEFAULT 'claimed' CONSTRAINT operation_state_is_known
        CHECK (state IN ('claimed', 'pending', 'done', 'refused', 'undone', 'tombstone')),
    do_type text,
    do_revision integer NOT NULL DEFAULT 0,
    undo_revision integer NOT NULL DEFAULT 0,
    do_answer_type text,
    do_answer bytea,
    undo_answer_type text,
    undo_answer bytea,
    do_message_id text,
    undo_message_id text,
    pending_do bytea,
    pending_undo bytea,
    dead_do boolean NOT NULL DEFAULT false,
    dead_undo boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz
) WITH (fillfactor = 80);
-- The few that wait for a system outside.
CREATE INDEX operation_pending ON operation (operation_id) WHERE pending_do IS NOT NULL OR pending_undo IS NOT NULL;
CREATE INDEX operation_started_at ON operation USING brin (started_at);

-- What has been decided and not yet confirmed by the broker. Rows are deleted on confirm.
CREATE TABLE outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id text NOT NULL CONSTRAINT outbox_one_row_per_message UNIQUE,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    type text NOT NULL,
    correlation_id text NOT NULL,
    content_type text NOT NULL,
    headers text NOT NULL DEFAULT '{}',
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT now(),
    last_error text,
    parked boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- Every emission, so that a vanished outbox row leaves a trace for reconciliation.
CREATE TABLE emission (
    message_id text CONSTRAINT emission_one_row_per_message PRIMARY KEY,
    type text NOT NULL,
    operation_id text,
    correlation_id text NOT NULL,
    emitted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX emission_emitted_at ON emission USING brin (emitted_at);

-- Messages that wait for another try. The row is the message: it is never published again.
CREATE TABLE retry (
    consumer text NOT NULL,
    source text NOT NULL,
    message_id text NOT NULL,
    type text NOT NULL,
    operation_id text,
    correlation_id text,
    raw bytea NOT NULL,
    attempts integer NOT NULL,
    first_failed_at timestamptz NOT NULL,
    last_failed_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    error_class text NOT NULL,
    error text NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    CONSTRAINT retry_one_row_per_message PRIMARY KEY (consumer, source, message_id)
);
CREATE INDEX retry_due_at ON retry (consumer, due_at);

-- Requests to systems outside, committed before they are sent.
CREATE TABLE call (
    key text CONSTRAINT call_one_row_per_key PRIMARY KEY,
    operation_id text NOT NULL,
    direction text NOT NULL CONSTRAINT call_direction_is_known CHECK (direction IN ('do', 'undo')),
    consumer text NOT NULL,
    dependency text NOT NULL,
    request text NOT NULL,
    state text NOT NULL DEFAULT 'due' CONSTRAINT call_state_is_known CHECK (state IN ('due', 'answered', 'exhausted')),
    outcome text NOT NULL DEFAULT 'unknown' CONSTRAINT call_outcome_is_known CHECK (outcome IN ('done', 'refused', 'unknown')),
    response text NOT NULL DEFAULT '{}',
    sent boolean NOT NULL DEFAULT false,
    attempt integer NOT NULL DEFAULT 0,
    tries integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now(),
    duration_ms integer NOT NULL DEFAULT 0,
    error_class text,
    error text
);
CREATE INDEX call_of_operation ON call (operation_id);
-- The calls that somebody has to make: a handful among all that were ever made.
CREATE INDEX call_due ON call (due_at) WHERE state = 'due';

-- Messages that were taken alone because they may kill the process, with their committed tries.
CREATE TABLE suspect (
    consumer text NOT NULL,
    identity text NOT NULL,
    tries integer NOT NULL,
    last_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT suspect_one_row_per_message PRIMARY KEY (consumer, identity)
);
"""


def upgrade() -> None:
    # The driver takes one statement at a time.
    for statement in filter(str.strip, TABLES.split(";")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE suspect, call, retry, emission, outbox, operation, inbox")
