//! Run one program in isolation.
