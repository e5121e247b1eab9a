"""Partners and their keys, the orders as partners see them, and the answers that a repeated request gets again."""

from alembic import op

revision = "ingress_0001"
down_revision = None
branch_labels = ("ingress",)
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE partner (
            partner_id text CONSTRAINT partner_one_row_per_id PRIMARY KEY,
            requests_per_minute integer NOT NULL CONSTRAINT partner_rate_is_positive CHECK (requests_per_minute > 0),
            broker_users text[] NOT NULL DEFAULT '{}',
            created_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("""
        CREATE TABLE partner_key (
            key_id text CONSTRAINT partner_key_one_row_per_id PRIMARY KEY,
            partner_id text NOT NULL CONSTRAINT partner_key_belongs_to_a_partner REFERENCES partner,
            secret_hash bytea NOT NULL CONSTRAINT partner_key_hash_is_sha256 CHECK (octet_length(secret_hash) = 32),
            scopes text[] NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz,
            revoked_at timestamptz,
            last_used_at timestamptz
        )
    """)
    op.execute("CREATE INDEX partner_key_of_partner ON partner_key (partner_id)")
    # No reference to partner: the credential has proved that the partner exists, and the reference would lock the
    # partner's one row for every order. Every order is updated when it ends: room in the page keeps that out of the
    # indexes. The id sorts by time in the C collation only, and pages are cut by it.
    op.execute("""
        CREATE TABLE partner_order (
            order_id text COLLATE "C" CONSTRAINT partner_order_one_row_per_id PRIMARY KEY,
            partner_id text NOT NULL,
            correlation_id text NOT NULL,
            order_number text NOT NULL,
            buyer_id text NOT NULL,
            revision integer NOT NULL CONSTRAINT partner_order_revision_not_negative CHECK (revision >= 0),
            status text NOT NULL DEFAULT 'running' CONSTRAINT partner_order_status_is_known CHECK (status IN (
                'running', 'waiting', 'held', 'paused', 'compensating', 'stuck',
                'completed', 'refused', 'cancelled', 'failed')),
            stage text NOT NULL DEFAULT 'accepted',
            accepted_at timestamptz NOT NULL,
            expected_by timestamptz,
            finished_at timestamptz,
            total_minor bigint,
            total_currency text,
            reasons text NOT NULL DEFAULT '[]',
            shipments text NOT NULL DEFAULT '[]',
            steps text NOT NULL DEFAULT '[]',
            CONSTRAINT partner_order_one_per_number_and_revision UNIQUE (partner_id, order_number, buyer_id, revision),
            CONSTRAINT partner_order_finished_when_its_status_says_so CHECK (
                (finished_at IS NOT NULL) = (status IN ('completed', 'refused', 'cancelled', 'failed'))),
            CONSTRAINT partner_order_total_has_a_currency CHECK ((total_minor IS NULL) = (total_currency IS NULL))
        ) WITH (fillfactor = 70)
    """)
    # A partner's orders, newest first: what GET /v1/orders walks.
    op.execute("CREATE INDEX partner_order_of_partner ON partner_order (partner_id, order_id)")
    op.execute("""
        CREATE TABLE idempotency_key (
            partner_id text NOT NULL,
            route text NOT NULL,
            key text NOT NULL CONSTRAINT idempotency_key_length_is_bounded CHECK (length(key) BETWEEN 1 AND 255),
            fingerprint bytea NOT NULL
                CONSTRAINT idempotency_key_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32),
            order_id text NOT NULL,
            correlation_id text NOT NULL,
            answer bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT idempotency_key_one_per_partner_and_route PRIMARY KEY (partner_id, route, key)
        )
    """)
    # Rows are purged by age and inserted in order of time, so that a block range index is enough.
    op.execute("CREATE INDEX idempotency_key_created_at ON idempotency_key USING brin (created_at)")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_key, partner_order, partner_key, partner")
