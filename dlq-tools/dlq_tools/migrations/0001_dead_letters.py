"""Dead letters, their history, and the campaigns that replay them."""

from alembic import op

revision = "deadletters_0001"
down_revision = None
branch_labels = ("deadletters",)
depends_on = None


def upgrade() -> None:
    # A row begins as `announced`, whoever mentions it first: so failures and proofs lock the same row in whatever order they come.
    op.execute("""
        CREATE TABLE dead_letter (
            id text NOT NULL,
            state text NOT NULL DEFAULT 'announced',
            queue text NOT NULL DEFAULT '',
            type text NOT NULL DEFAULT '',
            message_id text NOT NULL DEFAULT '',
            source text,
            correlation_id text NOT NULL DEFAULT '',
            operation_id text,
            subject text NOT NULL DEFAULT '',
            partner_id text,
            kind text NOT NULL DEFAULT '',
            error_class text NOT NULL DEFAULT '',
            error text NOT NULL DEFAULT '',
            trace text NOT NULL DEFAULT '',
            step text NOT NULL DEFAULT '',
            attempts integer NOT NULL DEFAULT 0,
            replays integer NOT NULL DEFAULT 0,
            revision integer NOT NULL DEFAULT 0,
            service text NOT NULL DEFAULT '',
            service_version text NOT NULL DEFAULT '',
            identity text[] NOT NULL DEFAULT '{}',
            group_id text NOT NULL DEFAULT '',
            signature text NOT NULL DEFAULT '',
            original text NOT NULL DEFAULT '{}',
            body bytea NOT NULL DEFAULT '',
            first_failed_at timestamptz,
            last_failed_at timestamptz,
            replayed_at timestamptz,
            proved_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT dead_letter_one_per_identity PRIMARY KEY (id),
            CONSTRAINT dead_letter_state_known
                CHECK (state IN ('announced', 'open', 'replaying', 'resolved', 'discarded', 'parked')),
            CONSTRAINT dead_letter_announced_until_failed CHECK ((state = 'announced') = (last_failed_at IS NULL)),
            CONSTRAINT dead_letter_counts_not_negative CHECK (attempts >= 0 AND replays >= 0 AND revision >= 0)
        ) WITH (fillfactor = 80)
    """)
    # Lists run newest first, nearly always within one state.
    op.execute("CREATE INDEX dead_letter_newest_by_state ON dead_letter (state, last_failed_at DESC, id)")
    # From an order to its dead letters.
    op.execute("CREATE INDEX dead_letter_by_correlation ON dead_letter (correlation_id) WHERE correlation_id <> ''")
    op.execute("CREATE INDEX dead_letter_by_group ON dead_letter (group_id)")
    op.execute("""
        CREATE TABLE dead_letter_history (
            position bigint GENERATED ALWAYS AS IDENTITY,
            dead_letter_id text NOT NULL,
            at timestamptz NOT NULL,
            what text NOT NULL,
            actor text NOT NULL,
            reason text NOT NULL DEFAULT '',
            detail text NOT NULL DEFAULT '{}',
            recorded_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT dead_letter_history_one_per_position PRIMARY KEY (position)
        )
    """)
    op.execute("CREATE INDEX dead_letter_history_by_letter ON dead_letter_history (dead_letter_id, position)")
    # A collector that dies between its commit and its acknowledgement gets the message again.
    op.execute("""
        CREATE TABLE collected (
            key text NOT NULL,
            collected_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT collected_once PRIMARY KEY (key)
        )
    """)
    op.execute("CREATE INDEX collected_at ON collected USING brin (collected_at)")
    op.execute("""
        CREATE TABLE campaign (
            id text NOT NULL,
            actor text NOT NULL,
            reason text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT campaign_one_per_id PRIMARY KEY (id),
            CONSTRAINT campaign_reason_given CHECK (reason <> '')
        )
    """)
    op.execute("""
        CREATE TABLE campaign_item (
            campaign_id text NOT NULL REFERENCES campaign (id),
            dead_letter_id text NOT NULL REFERENCES dead_letter (id),
            replay integer NOT NULL,
            outcome text NOT NULL DEFAULT 'pending',
            CONSTRAINT campaign_item_one_per_letter PRIMARY KEY (campaign_id, dead_letter_id),
            CONSTRAINT campaign_item_outcome_known CHECK (outcome IN ('pending', 'resolved', 'failed-again'))
        )
    """)
    # The few replays that still wait for a result, found by the dead letter that a result names.
    op.execute("CREATE INDEX campaign_item_pending ON campaign_item (dead_letter_id) WHERE outcome = 'pending'")


def downgrade() -> None:
    op.execute("DROP TABLE campaign_item, campaign, collected, dead_letter_history, dead_letter")
