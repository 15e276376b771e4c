//! Names of strangers that become names of folders: ids and working directories.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    sandbox_executor::request_property::names_hold(text);
});
