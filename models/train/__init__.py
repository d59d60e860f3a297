"""The recipe of the bundled models: speech from espeak-ng, networks from nothing, one command (`python -m models.train`)."""
