"""Items with their list price and stock level, contracts and their prices."""

from alembic import op

revision = "pricing_0001"
down_revision = None
branch_labels = ("pricing",)
depends_on = None


def upgrade() -> None:
    # An item is known as soon as anything is said of it: its stock may be low before it has a price.
    op.execute("""
        CREATE TABLE item (
            sku text NOT NULL,
            unit text,
            currency text,
            unit_price_minor bigint,
            tiers jsonb,
            scarcity_surcharge integer,
            price_sequence bigint,
            scarce boolean NOT NULL DEFAULT false,
            stock_sequence bigint,
            CONSTRAINT item_one_per_sku PRIMARY KEY (sku),
            CONSTRAINT item_price_whole_or_absent CHECK (
                num_nulls(unit, currency, unit_price_minor, tiers, scarcity_surcharge, price_sequence) IN (0, 6)
            ),
            CONSTRAINT item_price_not_negative CHECK (unit_price_minor >= 0),
            CONSTRAINT item_surcharge_within_whole CHECK (scarcity_surcharge BETWEEN -10000 AND 10000),
            CONSTRAINT item_scarce_only_when_told CHECK (stock_sequence IS NOT NULL OR NOT scarce)
        )
    """)
    op.execute("""
        CREATE TABLE contract (
            partner_id text NOT NULL,
            sequence bigint,
            CONSTRAINT contract_one_per_partner PRIMARY KEY (partner_id)
        )
    """)
    op.execute("""
        CREATE TABLE contract_price (
            partner_id text NOT NULL,
            sku text NOT NULL,
            currency text NOT NULL,
            from_quantity numeric NOT NULL,
            unit_price_minor bigint NOT NULL,
            CONSTRAINT contract_price_one_per_threshold PRIMARY KEY (partner_id, sku, currency, from_quantity),
            CONSTRAINT contract_price_belongs_to_contract FOREIGN KEY (partner_id) REFERENCES contract (partner_id),
            CONSTRAINT contract_price_quantity_positive CHECK (from_quantity > 0),
            CONSTRAINT contract_price_not_negative CHECK (unit_price_minor >= 0)
        )
    """)


def downgrade() -> None:
    op.execute("DROP TABLE contract_price, contract, item")
