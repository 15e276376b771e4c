//! `openapi`: the OpenAPI document, as `GET /openapi.json` gives it.

use std::io::{self, Write};

use crate::http;

/// Writes it.
///
/// # Errors
/// `out` can't be written to.
pub fn run(out: &mut dyn Write) -> io::Result<()> {
    let document = http::document().to_pretty_json().map_err(io::Error::other)?;
    writeln!(out, "{document}")?;
    out.flush()
}
