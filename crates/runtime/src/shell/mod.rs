//! Shell: no bootstrap; the interpreter runs the code as the file that it is. The event is a file, and a variable too
//! when it is small enough for one (an environment string is at most 128 KiB, execve(2)). What the script writes to
//! descriptor 3 is its return value.

use std::io;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::{Interpreter, Invocation};

const FILE: &str = "main.sh";
const EVENT_FILE: &str = "event.json";
/// Longer events are in the file only.
const MAX_EVENT_VARIABLE: usize = 96 * 1024;

pub(crate) fn program(invocation: &Invocation<'_>, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
    let script = format!("{}/{FILE}", layout.files);
    let mut program = invocation.base(vec![interpreter.path.to_string_lossy().into(), script], interpreter, layout)?;
    if invocation.event.len() <= MAX_EVENT_VARIABLE {
        program.env.push(("EVENT_JSON".into(), invocation.event.into()));
    }
    program.env.push(("EVENT_FILE".into(), format!("{}/{EVENT_FILE}", layout.files)));
    program.files.push((FILE.into(), channel::sealed(FILE, &[invocation.code.as_bytes()])?));
    program.files.push((EVENT_FILE.into(), channel::sealed(EVENT_FILE, &[invocation.event.as_bytes()])?));
    Ok(program)
}
