"""The worker: a light front process that holds streams and results, and an engine child that holds the models."""
