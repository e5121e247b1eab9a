"""Carriers, and the parcels that they take."""

from alembic import op

revision = "fulfillment_0001"
down_revision = None
branch_labels = ("fulfillment",)
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE carrier (
            carrier text CONSTRAINT carrier_one_row_per_name PRIMARY KEY,
            booking text NOT NULL DEFAULT 'http' CONSTRAINT carrier_booking_is_known CHECK (booking IN ('own-fleet', 'http')),
            countries text[] NOT NULL DEFAULT '{}',
            service_levels text[] NOT NULL DEFAULT '{}',
            weight_grams_max bigint NOT NULL DEFAULT 0 CONSTRAINT carrier_weight_not_negative CHECK (weight_grams_max >= 0),
            rank integer NOT NULL DEFAULT 1000,
            active boolean NOT NULL DEFAULT false,
            sequence bigint NOT NULL DEFAULT -1
        )
    """)
    # One warehouse's part of an order. The key is the second wall against sending something twice.
    op.execute("""
        CREATE TABLE parcel (
            operation_id text NOT NULL,
            order_id text NOT NULL,
            warehouse text NOT NULL,
            carrier text NOT NULL,
            external boolean NOT NULL,
            state text NOT NULL CONSTRAINT parcel_state_is_known
                CHECK (state IN ('planned', 'booked', 'refused', 'cancelled', 'delivered')),
            tracking text,
            refusal text,
            planned_at timestamptz NOT NULL DEFAULT now(),
            changed_at timestamptz NOT NULL DEFAULT now(),
            delivered_at timestamptz,
            CONSTRAINT parcel_one_per_operation_and_warehouse PRIMARY KEY (operation_id, warehouse),
            CONSTRAINT parcel_on_its_way_has_a_number CHECK (state NOT IN ('booked', 'delivered') OR tracking IS NOT NULL),
            CONSTRAINT parcel_delivered_has_a_moment CHECK ((state = 'delivered') = (delivered_at IS NOT NULL))
        ) WITH (fillfactor = 80)
    """)
    op.execute("CREATE INDEX parcel_of_order ON parcel (order_id)")
    op.execute("CREATE INDEX parcel_tracking ON parcel (tracking, carrier)")
    # What waits for a carrier's answer: a handful among all that were ever sent.
    op.execute("CREATE INDEX parcel_planned ON parcel (planned_at) WHERE state = 'planned'")


def downgrade() -> None:
    op.execute("DROP TABLE parcel, carrier")
