"""From a recording to windows, and from decoded words to segments: what happens around the models."""
