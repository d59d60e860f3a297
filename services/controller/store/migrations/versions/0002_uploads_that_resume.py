"""What was declared of an upload when it was begun, and when it became complete."""

import sqlalchemy as sa
from alembic import op

from services.controller.store.schema import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.add_column(sa.Column("declared_bytes", sa.BigInteger(), server_default="0", nullable=False))
        batch_op.add_column(
            sa.Column("declared_sha256", sa.String(length=64), server_default=sa.text("''"), nullable=False)
        )
        batch_op.add_column(sa.Column("completed_at", UtcDateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.drop_column("completed_at")
        batch_op.drop_column("declared_sha256")
        batch_op.drop_column("declared_bytes")
