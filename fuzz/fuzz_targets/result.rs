//! What comes over a result channel, in a frame and without one.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    runtime::protocol::property::holds(bytes);
});
