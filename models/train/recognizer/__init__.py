"""A small Whisper of fifty words: phrases, windows mixed of them, training, conversion to CTranslate2."""
