//! Python: the bootstrap is the interpreter's script; unbuffered, so that a timeout keeps what was printed.

use std::io;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::{Interpreter, Invocation, Language};

const BOOTSTRAP: &str = include_str!("bootstrap.py");
const FILE: &str = "bootstrap.py";

pub(crate) fn program(invocation: &Invocation<'_>, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
    let script = format!("{}/{FILE}", layout.files);
    let mut program =
        invocation.base(vec![interpreter.path.to_string_lossy().into(), "-u".into(), script], interpreter)?;
    program.descriptors.push(invocation.request(Language::Python)?);
    program.files.push((FILE.into(), channel::sealed(FILE, &[BOOTSTRAP.as_bytes()])?));
    Ok(program)
}
