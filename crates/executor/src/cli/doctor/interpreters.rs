//! The interpreters: whether they are there, run in a sandbox, and have what they should.

use runtime::{Interpreter, Language};

use super::trial::Trial;
use super::{Check, Status};
use crate::config::Config;
use crate::interpreters;

/// A language with its interpreter, or why it has none.
pub(super) struct Found {
    pub language: Language,
    /// Whether somebody named it.
    configured: bool,
    pub interpreter: Result<Interpreter, String>,
}

pub(super) fn interpreters(config: &Config) -> Vec<Found> {
    let find = |language| {
        let configured = interpreters::named(config, language).is_some();
        Found { language, configured, interpreter: interpreters::find(config, language) }
    };
    Language::ALL.into_iter().map(find).collect()
}

/// A check a language, and one of Python's modules. A language that nobody named may be missing as long as another is
/// there.
pub(super) async fn languages(config: &Config, found: &[Found], trial: &mut Trial) -> Vec<Check> {
    let none = found.iter().all(|found| found.interpreter.is_err());
    let mut checks = Vec::new();
    for Found { language, configured, interpreter } in found {
        let name = language.name();
        checks.push(match interpreter {
            Ok(interpreter) => runs(config, interpreter, trial).await,
            Err(cause) if *configured => {
                let variable = language.variable();
                let fix = format!("correct {variable}, or unset it to have {name} looked for in the system's folders");
                Check::problem(name, format!("{variable} is not usable: {cause}"), fix + modules_fix(cause))
            }
            Err(cause) => {
                let packages = match language {
                    Language::Python => "apt-get install python3",
                    Language::Javascript => "apt-get install nodejs",
                    Language::Shell => "apt-get install bash",
                };
                let fix = format!("{packages}, or set {}{}", language.variable(), modules_fix(cause));
                if none { Check::problem(name, cause, fix) } else { Check::warning(name, cause, fix) }
            }
        });
        if *language == Language::Python {
            let runs = checks.last().is_some_and(|check| check.status == Status::Ok);
            let interpreter = interpreter.as_ref().ok().filter(|_| runs);
            checks.push(modules(config, interpreter, trial).await);
        }
    }
    checks
}

/// Whether it runs in a sandbox, too.
async fn runs(config: &Config, interpreter: &Interpreter, trial: &mut Trial) -> Check {
    let (language, name) = (interpreter.language, interpreter.language.name());
    let program = if language == Language::Javascript { "node " } else { "" };
    let evidence = format!("{program}{} ({})", interpreter.version, interpreter.path.display());
    match trial.of_language(config, interpreter).await {
        None => Check::ok(name, format!("{evidence}; not tried in a sandbox")),
        Some(Ok(())) => Check::ok(name, evidence),
        Some(Err(cause)) => {
            let fix = format!(
                "take an interpreter from the system's packages, or name another one with {}: libraries outside /usr \
                 and its own folder are not visible in a sandbox; if memory ran out: export MAX_MEMORY_MB=1024{}",
                language.variable(),
                modules_fix(&cause)
            );
            Check::warning(name, format!("it does not run in a sandbox: {cause}"), fix).seen(evidence)
        }
    }
}

/// What to add to the fix of a Python that can't import its own modules.
fn modules_fix(cause: &str) -> &'static str {
    if !cause.contains("ModuleNotFoundError") {
        return "";
    }
    "\nthis Python does not find its own modules: they have to lie in the installation that the program belongs to \
     (PYTHONPATH and PYTHONHOME of the service are not passed on)"
}

/// Modules that people expect of a Python and that its builds and packages come without: `python3-minimal`, or built
/// where a library was missing.
const MODULES: &str = "asyncio bz2 csv ctypes datetime decimal hashlib json logging lzma math multiprocessing random re \
                       sqlite3 ssl statistics subprocess threading unittest urllib.request uuid zlib";

async fn modules(config: &Config, interpreter: Option<&Interpreter>, trial: &mut Trial) -> Check {
    const NAME: &str = "python modules";
    let Some(interpreter) = interpreter else { return Check::skipped(NAME, "no Python ran in a sandbox") };
    let code = format!(
        "import importlib\n\
         for name in '{MODULES}'.split():\n    \
             try:\n        importlib.import_module(name)\n    \
             except ImportError as error:\n        print(type(error).__name__ + ': ' + str(error))\n\
         print('done')\n"
    );
    let printed = trial.printed(config, interpreter, &code).await;
    let Some(missing) = printed.as_deref().and_then(|printed| printed.trim_end().strip_suffix("done")) else {
        return Check::skipped(NAME, "the program that imports them did not come to its end in a sandbox");
    };
    let missing = missing.trim();
    if missing.is_empty() {
        let fix = "modules of your own: in the workspace, or a folder there in env_vars as PYTHONPATH";
        return Check::ok(NAME, format!("{} of the standard library; {fix}", MODULES.split_whitespace().count()));
    }
    let fix = "install the whole of Python: apt-get install python3 (python3-minimal is a part of it), or build it where \
               the development packages of the missing libraries are installed; or name another one with PYTHON_PATH\n\
               (PYTHONPATH of the service is not passed on to code; a request's env_vars may set one)";
    let cause = "modules of Python's standard library can't be imported in a sandbox";
    Check::warning(NAME, cause, fix).seen(format!("{}: {}", interpreter.path.display(), missing.replace('\n', "; ")))
}
