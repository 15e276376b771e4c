//! JavaScript: the bootstrap is Node's script. ES modules come from memory by way of `vm.SourceTextModule`, which has
//! to be switched on.

use std::io;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::{Interpreter, Invocation, Language};

pub(crate) const BOOTSTRAP: &str = include_str!("bootstrap.cjs");
const FILE: &str = "bootstrap.cjs";

pub(crate) fn program(invocation: &Invocation<'_>, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
    // V8 would otherwise size its heap by the machine's memory and collect too late for the execution's.
    let heap = format!("--max-old-space-size={}", invocation.memory_bytes / (1024 * 1024));
    let script = format!("{}/{FILE}", layout.files);
    let argv = [&interpreter.path.to_string_lossy(), "--experimental-vm-modules", &heap, &script];
    let mut program = invocation.base(argv.map(str::to_owned).to_vec(), interpreter, layout)?;
    program.descriptors.push(invocation.request(Language::Javascript)?);
    program.files.push((FILE.into(), channel::sealed(FILE, &[&interpreter.bootstrap])?));
    // V8 reserves far more address space than it uses.
    program.bears_rlimit = false;
    Ok(program)
}
