//! Packets between the service, its launcher and the inits.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sandbox::channel::property::holds(bytes);
});
