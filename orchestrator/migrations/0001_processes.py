"""Processes, their history, the definitions they run on, and what operators ask of them."""

from alembic import op

revision = "orchestrator_0001"
down_revision = None
branch_labels = ("orchestrator",)
depends_on = None

APPEND_ONLY = ("workflow_history", "workflow_definition")


def upgrade() -> None:
    # What a version said when it was first used. Only inserted: a process ends on the version that it began on.
    op.execute("""
        CREATE TABLE workflow_definition (
            workflow text NOT NULL,
            version integer NOT NULL,
            content_hash text NOT NULL,
            document text NOT NULL,
            published_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT workflow_definition_said_once PRIMARY KEY (workflow, version)
        )
    """)
    # `finished` is true of a row that waits for nothing: the process has ended, or has not begun (`absent`).
    # Each answer rewrites the row: room in its page keeps most of these updates there, and a document of a few kilobytes
    # stays in the row instead of being compressed and moved away and back.
    op.execute("""
        CREATE TABLE workflow_instance (
            saga_id text CONSTRAINT workflow_instance_one_per_saga PRIMARY KEY,
            state text NOT NULL DEFAULT 'absent',
            finished boolean NOT NULL DEFAULT true,
            next_timer_at timestamptz,
            workflow text NOT NULL DEFAULT '',
            version integer NOT NULL DEFAULT 0,
            subject text,
            partner text,
            owner text,
            started_at timestamptz,
            finished_at timestamptz,
            document json NOT NULL DEFAULT '{}',
            timer_tries integer NOT NULL DEFAULT 0,
            timer_claimed_until timestamptz,
            CONSTRAINT workflow_instance_waits_for_something CHECK (finished OR next_timer_at IS NOT NULL),
            CONSTRAINT workflow_instance_stuck_has_an_owner CHECK (state <> 'stuck' OR owner IS NOT NULL),
            CONSTRAINT workflow_instance_rests_or_moves CHECK (
                finished = (state IN ('absent', 'completed', 'refused', 'cancelled', 'failed'))
            )
        ) WITH (fillfactor = 50, toast_tuple_target = 8160)
    """)
    op.execute("CREATE INDEX workflow_instance_due ON workflow_instance (next_timer_at) WHERE NOT finished")
    op.execute("CREATE INDEX workflow_instance_unfinished ON workflow_instance (state) WHERE NOT finished")
    op.execute("CREATE INDEX workflow_instance_subject ON workflow_instance (subject)")
    op.execute("CREATE INDEX workflow_instance_partner ON workflow_instance (partner, saga_id)")
    op.execute("""
        CREATE TABLE workflow_history (
            position bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT workflow_history_in_order PRIMARY KEY,
            saga_id text NOT NULL,
            at timestamptz NOT NULL,
            kind text NOT NULL,
            step text,
            message_id text,
            detail json NOT NULL
        )
    """)
    op.execute("CREATE INDEX workflow_history_of_saga ON workflow_history (saga_id, position)")
    op.execute("""
        CREATE TABLE operator_act (
            act_id text CONSTRAINT operator_act_one_row_per_act PRIMARY KEY,
            saga_id text NOT NULL,
            kind text NOT NULL,
            reason text NOT NULL,
            actor text NOT NULL,
            requested_at timestamptz NOT NULL DEFAULT now(),
            state text NOT NULL DEFAULT 'open'
                CONSTRAINT operator_act_state_is_known CHECK (state IN ('open', 'accepted', 'refused')),
            detail text,
            decided_at timestamptz,
            tries integer NOT NULL DEFAULT 0,
            claimed_until timestamptz,
            CONSTRAINT operator_act_decided_has_a_moment CHECK ((state = 'open') = (decided_at IS NULL))
        )
    """)
    op.execute("CREATE INDEX operator_act_open ON operator_act (requested_at) WHERE state = 'open'")
    op.execute("CREATE INDEX operator_act_of_saga ON operator_act (saga_id)")


def downgrade() -> None:
    for table in ("operator_act", "workflow_history", "workflow_instance", "workflow_definition"):
        op.execute(f"DROP TABLE {table}")
