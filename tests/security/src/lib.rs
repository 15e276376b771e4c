//! Shared parts of the attack tests.
