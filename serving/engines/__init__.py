"""What answers a conversation: one protocol (``base``), one file per engine."""
