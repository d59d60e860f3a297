"""Plumbing that names no job, model or window: servers, channels, interceptors, logs, lifecycle."""
