//! Latency bench.
fn main() {}
