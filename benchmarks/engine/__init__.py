"""How fast the engine is, beside stock faster-whisper over the same files: `compare` is where to begin reading."""
