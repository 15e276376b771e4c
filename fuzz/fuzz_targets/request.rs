//! The body of `POST /execute`: strict JSON, then a request within the ceilings.

#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    runtime::json::property::holds(body);
    sandbox_executor::request_property::holds(body);
});
