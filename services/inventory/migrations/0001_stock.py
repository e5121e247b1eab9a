"""Items, warehouses, stock, reservations, and the ledger of movements."""

from alembic import op

revision = "inventory_0001"
down_revision = None
branch_labels = ("inventory",)
depends_on = None


def upgrade() -> None:
    # The row of an item is the lock for its stock in all warehouses and for its reservations.
    op.execute("""
        CREATE TABLE item (
            sku text CONSTRAINT item_one_row_per_sku PRIMARY KEY,
            unit text,
            weight_grams bigint NOT NULL DEFAULT 0 CONSTRAINT item_weight_not_negative CHECK (weight_grams >= 0),
            reorder_point numeric NOT NULL DEFAULT 0,
            recovery_level numeric NOT NULL DEFAULT 0,
            sequence bigint NOT NULL DEFAULT -1,
            low boolean NOT NULL DEFAULT false,
            alert_sequence bigint NOT NULL DEFAULT 0
        ) WITH (fillfactor = 80)
    """)
    # A warehouse without a country has not been described yet: nothing is allocated from it.
    op.execute("""
        CREATE TABLE warehouse (
            warehouse text CONSTRAINT warehouse_one_row_per_name PRIMARY KEY,
            country text,
            priority integer NOT NULL DEFAULT 0,
            sequence bigint NOT NULL DEFAULT -1
        )
    """)
    # The warehouse need not be known: goods may arrive before its description does.
    # Every order updates these rows: room in the page keeps the updates out of the index.
    op.execute("""
        CREATE TABLE stock (
            sku text NOT NULL CONSTRAINT stock_of_an_item REFERENCES item (sku),
            warehouse text NOT NULL,
            on_hand numeric NOT NULL DEFAULT 0 CONSTRAINT stock_on_hand_not_negative CHECK (on_hand >= 0),
            reserved numeric NOT NULL DEFAULT 0 CONSTRAINT stock_reserved_not_negative CHECK (reserved >= 0),
            count_sequence bigint NOT NULL DEFAULT -1,
            CONSTRAINT stock_one_row_per_place PRIMARY KEY (sku, warehouse)
        ) WITH (fillfactor = 60)
    """)
    op.execute("""
        CREATE TABLE reservation (
            operation_id text NOT NULL,
            order_id text NOT NULL,
            sku text NOT NULL,
            warehouse text NOT NULL,
            quantity numeric NOT NULL CONSTRAINT reservation_quantity_positive CHECK (quantity > 0),
            state text NOT NULL DEFAULT 'reserved' CONSTRAINT reservation_state_is_known
                CHECK (state IN ('reserved', 'released', 'committed')),
            reserved_at timestamptz NOT NULL DEFAULT now(),
            ended_at timestamptz,
            CONSTRAINT reservation_one_per_operation_and_place PRIMARY KEY (operation_id, sku, warehouse),
            CONSTRAINT reservation_ends_with_a_moment CHECK ((state = 'reserved') = (ended_at IS NULL))
        ) WITH (fillfactor = 80)
    """)
    op.execute("CREATE INDEX reservation_of_order ON reservation (order_id)")
    op.execute("""
        CREATE TABLE stock_movement (
            position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            sku text NOT NULL,
            warehouse text NOT NULL,
            kind text NOT NULL CONSTRAINT stock_movement_kind_is_known CHECK (kind IN ('received', 'counted', 'committed')),
            quantity numeric NOT NULL,
            unmet numeric NOT NULL DEFAULT 0 CONSTRAINT stock_movement_unmet_not_negative CHECK (unmet >= 0),
            cause text NOT NULL,
            moved_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT stock_movement_one_per_cause_and_place UNIQUE (sku, warehouse, kind, cause)
        )
    """)


def downgrade() -> None:
    op.execute("DROP TABLE stock_movement, reservation, stock, warehouse, item")
