"""How long a job is expected to take still, and where voice gave no words."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("seconds_left", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("silent_stretches", sa.JSON(), server_default=sa.text("'[]'"), nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("silent_stretches")
        batch_op.drop_column("seconds_left")
