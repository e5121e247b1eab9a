"""The record of screenings."""

from alembic import op

revision = "compliance_0001"
down_revision = None
branch_labels = ("compliance",)
depends_on = None


def upgrade() -> None:
    # No names: who was screened stands in the order, and whom it resembled follows from the list of that version.
    op.execute("""
        CREATE TABLE screening (
            operation_id text NOT NULL,
            order_id text NOT NULL,
            list_version text NOT NULL,
            verdict text NOT NULL,
            best_score smallint,
            screened_at timestamptz NOT NULL,
            CONSTRAINT screening_one_per_operation PRIMARY KEY (operation_id),
            CONSTRAINT screening_verdict_known CHECK (verdict IN ('cleared', 'review', 'blocked')),
            CONSTRAINT screening_score_within_100 CHECK (best_score BETWEEN 0 AND 100)
        )
    """)
    # An auditor asks by order, and an order may have been screened in several operations.
    op.execute("CREATE INDEX screening_by_order ON screening (order_id)")


def downgrade() -> None:
    op.execute("DROP TABLE screening")
