//! What things are: identity, encoding, commits, operations, authority, heads, the sync engine.
