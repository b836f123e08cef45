"""How fast, how small, how fresh: measured as a user has it, from a sender's socket to a subscriber's."""
