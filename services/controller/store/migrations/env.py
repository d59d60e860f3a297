"""Alembic's entry: runs the migrations on the connection that the store hands over."""

from alembic import context

from services.controller.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,  # SQLite can, where its transactions are begun by hand
)
with context.begin_transaction():
    context.run_migrations()
