//! Python: the bootstrap is the interpreter's script; unbuffered, so that a timeout keeps what was printed.
//!
//! Compiling the bootstrap takes longer than running it, so the interpreter that will run it compiles it once, at the start
//! of the service, to what a `.pyc` file holds (PEP 3147, PEP 552).

pub mod install;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use sandbox::channel;
use sandbox::running::{Layout, Program};
use sandbox::zygote::Recipe;

use crate::interpreter::ask_bytes;
use crate::{Interpreter, Invocation, Language, Packages};

const BOOTSTRAP: &str = include_str!("bootstrap.py");
const ZYGOTE: &str = include_str!("zygote.py");
const FILE: &str = "bootstrap.pyc";
/// How long its imports may take.
const READY_WITHIN: Duration = Duration::from_secs(60);

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
    let mut program = invocation.base(argv(interpreter, layout), interpreter, layout)?;
    let packages = Packages::of(interpreter, layout);
    program.descriptors.push(invocation.request(Language::Python, packages.as_ref())?);
    program.files.push(bootstrap(interpreter)?);
    Ok(program)
}

/// The same without a request.
pub(crate) fn start(interpreter: &Interpreter, layout: &Layout, stdin: OwnedFd) -> io::Result<Program> {
    let mut program = interpreter.program(argv(interpreter, layout), layout, stdin);
    program.files.push(bootstrap(interpreter)?);
    Ok(program)
}

fn argv(interpreter: &Interpreter, layout: &Layout) -> Vec<String> {
    vec![interpreter.path.to_string_lossy().into(), "-u".into(), format!("{}/{FILE}", layout.files)]
}

fn bootstrap(interpreter: &Interpreter) -> io::Result<(String, OwnedFd)> {
    Ok((FILE.into(), channel::sealed(FILE, &[&interpreter.bootstrap])?))
}

/// A zygote of this interpreter that has imported these modules.
pub(crate) fn zygote(interpreter: &Interpreter, imports: &[String]) -> Recipe {
    // Not by a path, since it sees no /proc; and under another name than a script, which would run at once.
    const LOADER: &str = "exec(compile(open(4, encoding='utf-8').read(), 'zygote', 'exec'), {'__name__': 'zygote'})";
    Recipe {
        // Without the packages of a user whose home is the host's /tmp, where anybody could have laid some.
        argv: [&interpreter.path.to_string_lossy(), "-u", "-s", "-c", LOADER].map(str::to_owned).to_vec(),
        env: interpreter.environment("/tmp", None),
        source: [BOOTSTRAP, ZYGOTE].concat(),
        arguments: imports.to_vec(),
        read_only: interpreter.folders.clone(),
        ready_within: READY_WITHIN,
    }
}
