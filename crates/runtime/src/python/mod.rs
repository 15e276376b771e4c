//! Python: the bootstrap is the interpreter's script; unbuffered, so that a timeout keeps what was printed.
//!
//! Compiling the bootstrap takes longer than running it, so the interpreter that will run it compiles it once, at the start
//! of the service, to what a `.pyc` file holds (PEP 3147, PEP 552).

use std::io;
use std::path::Path;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::interpreter::ask_bytes;
use crate::{Interpreter, Invocation, Language};

const BOOTSTRAP: &str = include_str!("bootstrap.py");
const FILE: &str = "bootstrap.pyc";

/// Magic number, twelve bytes that only matter where there is a source file beside it, and the code.
const COMPILE: &str = "import importlib.util, marshal, sys; code = compile(sys.argv[1], 'bootstrap.py', 'exec'); \
    sys.stdout.buffer.write(importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code))";

/// The bootstrap as this interpreter's bytecode.
///
/// # Errors
/// When the interpreter does not run or can't compile it.
pub(crate) fn compile_bootstrap(interpreter: &Path) -> io::Result<Vec<u8>> {
    ask_bytes(interpreter, &["-I", "-c", COMPILE, BOOTSTRAP])
}

pub(crate) fn program(invocation: &Invocation<'_>, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
    let script = format!("{}/{FILE}", layout.files);
    let mut program =
        invocation.base(vec![interpreter.path.to_string_lossy().into(), "-u".into(), script], interpreter, layout)?;
    program.descriptors.push(invocation.request(Language::Python)?);
    program.files.push((FILE.into(), channel::sealed(FILE, &[&interpreter.bootstrap])?));
    Ok(program)
}
