"""Credit lines, the holds on them, and the ledger of their limits."""

from alembic import op

revision = "credit_0001"
down_revision = None
branch_labels = ("credit",)
depends_on = None


def upgrade() -> None:
    # Every order updates its buyer's line: room in the page keeps those updates out of the indexes.
    op.execute("""
        CREATE TABLE credit_line (
            buyer_id text NOT NULL,
            currency text NOT NULL,
            limit_minor bigint NOT NULL DEFAULT 0,
            limit_sequence bigint,
            held_minor bigint NOT NULL DEFAULT 0,
            used_minor bigint NOT NULL DEFAULT 0,
            CONSTRAINT credit_line_one_per_buyer_and_currency PRIMARY KEY (buyer_id, currency),
            CONSTRAINT credit_line_limit_not_negative CHECK (limit_minor >= 0),
            CONSTRAINT credit_line_no_limit_without_sequence CHECK (limit_sequence IS NOT NULL OR limit_minor = 0),
            CONSTRAINT credit_line_held_not_negative CHECK (held_minor >= 0),
            CONSTRAINT credit_line_used_not_negative CHECK (used_minor >= 0)
        ) WITH (fillfactor = 70)
    """)
    op.execute("""
        CREATE TABLE credit_hold (
            operation_id text NOT NULL,
            order_id text NOT NULL,
            buyer_id text NOT NULL,
            currency text NOT NULL,
            amount_minor bigint NOT NULL,
            state text NOT NULL DEFAULT 'held',
            placed_at timestamptz NOT NULL,
            ended_at timestamptz,
            CONSTRAINT credit_hold_one_per_operation PRIMARY KEY (operation_id),
            CONSTRAINT credit_hold_amount_not_negative CHECK (amount_minor >= 0),
            CONSTRAINT credit_hold_state_known CHECK (state IN ('held', 'released', 'captured')),
            CONSTRAINT credit_hold_ended_unless_held CHECK ((state = 'held') = (ended_at IS NULL))
        ) WITH (fillfactor = 80)
    """)
    # Not partial on the held ones: with `state` in its predicate, ending a hold would have to touch the index.
    op.execute("CREATE INDEX credit_hold_by_order ON credit_hold (order_id)")
    op.execute("""
        CREATE TABLE credit_limit_change (
            buyer_id text NOT NULL,
            currency text NOT NULL,
            sequence bigint NOT NULL,
            limit_minor bigint NOT NULL,
            reason text NOT NULL,
            stated_at timestamptz NOT NULL,
            CONSTRAINT credit_limit_change_one_per_sequence PRIMARY KEY (buyer_id, currency, sequence),
            CONSTRAINT credit_limit_change_limit_not_negative CHECK (limit_minor >= 0)
        )
    """)


def downgrade() -> None:
    op.execute("DROP TABLE credit_limit_change, credit_hold, credit_line")
