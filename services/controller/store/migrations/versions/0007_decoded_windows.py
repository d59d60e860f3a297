"""Windows whose words are known, before it is known who said them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "decoded_windows",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("window_index", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_decoded_windows_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "window_index", name=op.f("pk_decoded_windows")),
    )


def downgrade() -> None:
    op.drop_table("decoded_windows")
