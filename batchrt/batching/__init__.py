"""Items that become a list: lists packed, sent, split, and shared."""
