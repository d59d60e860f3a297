"""What is bundled, and ``train``, which makes it."""
