"""What is known of an attempt is a state, "asked" where there was nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("UPDATE attempts SET ending = 'asked' WHERE ending IS NULL")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.alter_column(
            "ending",
            new_column_name="state",
            existing_type=sa.String(length=20),
            existing_nullable=True,
            nullable=False,
        )


def downgrade() -> None:
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.alter_column(
            "state",
            new_column_name="ending",
            existing_type=sa.String(length=20),
            existing_nullable=False,
            nullable=True,
        )
    op.execute("UPDATE attempts SET ending = NULL WHERE ending = 'asked'")
