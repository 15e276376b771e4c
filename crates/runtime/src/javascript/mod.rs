//! JavaScript: the bootstrap is Node's script. ES modules come from memory by way of `vm.SourceTextModule`, which has
//! to be switched on.

use std::io;
use std::os::fd::OwnedFd;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::{Interpreter, Invocation, Language};

pub(crate) const BOOTSTRAP: &str = include_str!("bootstrap.cjs");
const FILE: &str = "bootstrap.cjs";

pub(crate) fn program(invocation: &Invocation<'_>, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
    let mut program = invocation.base(argv(interpreter, layout, invocation.memory_bytes), interpreter, layout)?;
    program.descriptors.push(invocation.request(Language::Javascript, None)?);
    finished(program, interpreter)
}

/// The same without a request.
pub(crate) fn start(
    interpreter: &Interpreter,
    layout: &Layout,
    memory_bytes: u64,
    stdin: OwnedFd,
) -> io::Result<Program> {
    finished(interpreter.program(argv(interpreter, layout, memory_bytes), layout, stdin), interpreter)
}

fn argv(interpreter: &Interpreter, layout: &Layout, memory_bytes: u64) -> Vec<String> {
    // V8 would otherwise size its heap by the machine's memory and collect too late for the execution's.
    let heap = format!("--max-old-space-size={}", memory_bytes / (1024 * 1024));
    let script = format!("{}/{FILE}", layout.files);
    [&interpreter.path.to_string_lossy(), "--experimental-vm-modules", &heap, &script].map(str::to_owned).to_vec()
}

fn finished(mut program: Program, interpreter: &Interpreter) -> io::Result<Program> {
    program.files.push((FILE.into(), channel::sealed(FILE, &[&interpreter.bootstrap])?));
    // V8 reserves far more address space than it uses.
    program.bears_rlimit = false;
    Ok(program)
}
