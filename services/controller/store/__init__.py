"""Where jobs are kept: one Protocol, its adapters, and the schema's migrations."""
