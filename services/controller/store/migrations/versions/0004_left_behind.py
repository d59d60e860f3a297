"""Attempts that outlive their deleted jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "left_behind",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_left_behind")),
    )


def downgrade() -> None:
    op.drop_table("left_behind")
