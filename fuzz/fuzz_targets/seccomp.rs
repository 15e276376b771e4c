//! The seccomp compiler: lists of rules that nobody wrote, asked about calls that nobody makes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sandbox::filter::seccomp::property::holds(bytes);
});
