//! Who has a network, who may write to packages, and what of a session an installer reads: nothing.

use crate::{Index, body, layers, post, run, sync, version};
use conformance::assert_completed;
use serde_json::json;

/// A backend that builds a wheel of itself, after `then` was run by pip, in the installer's sandbox.
pub fn backend(name: &str, then: &str) -> String {
    format!(
        r#"
import os, socket, urllib.request, zipfile
found = "nothing"
{then}
def build_wheel(folder, config_settings=None, metadata_directory=None):
    file, info = "{name}-1.0-py3-none-any.whl", "{name}-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, file), "w") as wheel:
        wheel.writestr("{name}.py", "version = '1.0'\nfound = " + repr(found) + "\n")
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "/RECORD", "")
    return file
"#
    )
}

#[test]
fn an_installer_has_the_hosts_network_and_users_have_none() {
    let index = Index::new();
    let reach = format!(
        "try:\n    found = str(urllib.request.urlopen('{}/builder/', timeout=10).status)\nexcept OSError as error:\n    found = str(error)",
        index.url()
    );
    index.add(json!({"name": "builder", "version": "1.0", "backend": backend("builder", &reach)}));
    let service = index.service(&[("ALLOW_SOURCE_BUILDS", "true")]);
    let before = format!("import urllib.request\n{reach}\nprint(found)");
    let unreachable = |session| run(&service, session, "python", &before);
    let is_isolated = service.get("/health").json()["isolation"] != "none";
    if is_isolated {
        assert!(unreachable("s").contains("refused"), "{}", unreachable("s"));
    }
    assert_eq!(sync(&service, "s", &["builder==1.0"], "replace"), ["builder 1.0"]);
    assert_eq!(run(&service, "s", "python", "import builder; print(builder.found)"), "200");
    if is_isolated {
        for session in ["s", "t"] {
            assert!(unreachable(session).contains("refused"), "{}", unreachable(session));
        }
        assert_eq!(run(&service, "s", "shell", "cat /etc/resolv.conf 2>/dev/null; grep -c . /etc/hosts"), "2");
        assert_eq!(run(&service, "s", "shell", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo");
    }
}

#[test]
fn nothing_is_built_unless_that_is_allowed() {
    let index = Index::new();
    index.add(json!({"name": "builder", "version": "1.0", "backend": backend("builder", "")}));
    let service = index.service(&[]);
    post(&service, &body("s", &["builder==1.0"], "replace")).assert_error(422, "Executor.DependencyInstallError");
    assert!(!index.requests().iter().any(|path| path.ends_with(".tar.gz")), "{:?}", index.requests());
    let service = index.service(&[("ALLOW_SOURCE_BUILDS", "true")]);
    assert_eq!(sync(&service, "s", &["builder==1.0"], "replace"), ["builder 1.0"]);
}

#[test]
fn an_installer_reads_nothing_of_a_session() {
    let index = Index::new();
    index.add_module("one", "1.0");
    let service = index.service(&[]);
    let evil = Index::new();
    evil.add_module("one", "6.6.6");
    // Whatever pip and its Python would read of the folder that they run in, of HOME, and of names like their own.
    let poison = format!(
        "import os\nmark = 'open(\"/workspace/read\", \"a\").write(__file__)'\n\
         for name in ('sitecustomize', 'usercustomize', 'numpy', 'json', 'pip/__init__', 'pip/__main__', 'compileall', 'ssl'):\n  \
         os.makedirs(os.path.dirname(name) or '.', exist_ok=True); open(name + '.py', 'w').write(mark)\n\
         for name in ('pip.conf', '.pip/pip.conf', '.config/pip/pip.conf', '.pydistutils.cfg', 'setup.cfg', '.npmrc', '.netrc'):\n  \
         os.makedirs(os.path.dirname(name) or '.', exist_ok=True)\n  \
         open(name, 'w').write('[global]\\nindex-url = {0}\\nextra-index-url = {0}\\n[install]\\nindex-url = {0}\\n')\n\
         open('x.pth', 'w').write('import sitecustomize')\n\
         os.makedirs('packages/one', exist_ok=True); open('packages/one/__init__.py', 'w').write('version = 0')\n\
         os.makedirs('tmp', exist_ok=True); os.makedirs('one==1.0', exist_ok=True)",
        evil.url()
    );
    let answer = service.execute(json!({"session_id": "s", "language": "python", "code": poison}));
    assert_completed(&answer);
    assert_eq!(sync(&service, "s", &["one==1.0"], "replace"), ["one 1.0"]);
    let looked = "test -e read && cat read; python3 -c 'import one; print(one.__file__, one.version)' || true";
    // One that stands in that folder reads it all: the last line is what it finds then.
    let read = run(&service, "s", "shell", looked);
    assert!(!read.contains("6.6.6") && evil.requests().is_empty(), "{read} {:?}", evil.requests());
    assert_eq!(
        run(&service, "s", "shell", "test -e read || echo unread; python3 -m pip --version; test -e read && echo read"),
        "unread\nread"
    );
}

#[test]
fn nobody_changes_what_all_read() {
    let index = Index::new();
    index.add_module("one", "1.0");
    let service = index.service(&[]);
    for session in ["s", "t"] {
        sync(&service, session, &["one==1.0"], "replace");
    }
    let attack = r#"
import ctypes, glob, os, one, py_compile, shutil
folder = os.path.dirname(one.__file__)
cached = one.__cached__
open('evil.py', 'w').write("version = 'evil'\n")
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags):
    if libc.mount(source.encode(), target.encode(), kind, flags, None) != 0:
        raise OSError(ctypes.get_errno(), 'mount')
def write(path):
    with open(path, 'r+b') as file: file.write(b'evil')
attempts = {
    'write the source': lambda: write(one.__file__),
    'write what is compiled': lambda: write(cached),
    'replace what is compiled': lambda: py_compile.compile('evil.py', cfile=cached, doraise=True),
    'add a module': lambda: open(folder + '/new.py', 'w'),
    'add a .pth': lambda: open(folder + '/new.pth', 'w'),
    'remove': lambda: os.unlink(cached),
    'rename': lambda: os.rename(one.__file__, folder + '/two.py'),
    'rename the folder': lambda: os.rename(folder, '/workspace/x'),
    'mode of a file': lambda: os.chmod(one.__file__, 0o777),
    'mode of the folder': lambda: os.chmod(folder, 0o777),
    'owner': lambda: os.chown(one.__file__, os.getuid(), os.getgid()),
    'times': lambda: os.utime(one.__file__, (0, 0)),
    'truncate': lambda: os.truncate(one.__file__, 0),
    'hard link': lambda: os.link(one.__file__, '/workspace/linked'),
    'link in its place': lambda: os.symlink('/workspace/evil.py', folder + '/evil.py'),
    'write by another way': lambda: write('/proc/self/root' + one.__file__),
    'mount over it': lambda: mount('/workspace', folder, b'none', 4096),
    'remount': lambda: mount('none', folder, b'none', 32 | 4096),
    'attributes': lambda: os.setxattr(one.__file__, 'user.x', b'x'),
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
    except (OSError, py_compile.PyCompileError):
        continue
    done.append(name)
print(done)
"#;
    let answer = service.execute(json!({"session_id": "s", "language": "python", "code": attack}));
    assert_completed(&answer);
    let isolation = service.get("/health").json()["isolation"].clone();
    if isolation == "native" || isolation == "bubblewrap" {
        assert_eq!(answer["stdout"], "[]\n", "{answer}");
    }
    for session in ["s", "t"] {
        assert_eq!(version(&service, session, "one"), "1.0");
    }
    // The same attempts on a folder of one's own get through, most of them.
    let own = attack.replace(
        "import ctypes",
        "import sys; os = __import__('os'); os.makedirs('own', exist_ok=True); \
        open('own/one.py', 'w').write('version = 1'); sys.path.insert(0, '/workspace/own'); import ctypes",
    );
    let control = service.execute(json!({"session_id": "u", "language": "python", "code": own}));
    assert_completed(&control);
    for name in ["write the source", "replace what is compiled", "add a module", "rename", "rename the folder"] {
        assert!(control["stdout"].as_str().is_some_and(|done| done.contains(name)), "{name}: {control}");
    }
}

#[test]
fn what_a_package_leaves_beside_packages_is_the_end_of_it() {
    let index = Index::new();
    let target = "target = os.path.join(os.environ['TMPDIR'], '../packages'); os.makedirs(target, exist_ok=True)\n";
    for (name, then) in [
        ("alink", "os.symlink('/etc/shadow', target + '/shadow')"),
        ("upward", "os.symlink('../../../../etc', target + '/up')"),
        ("fifo", "os.mkfifo(target + '/fifo')"),
        ("asocket", "socket.socket(socket.AF_UNIX).bind(target + '/s')"),
        ("setuid", "open(target + '/x', 'w').close(); os.chmod(target + '/x', 0o4755)"),
        ("sparse", "[open(target + n, 'w').truncate(90 << 20) for n in ('/x', '/y')]"),
        ("honest", "open(target + '/extra.py', 'w').write('x = 1')"),
    ] {
        index.add(json!({"name": name, "version": "1.0", "backend": backend(name, &format!("{target}try: {then}\nexcept OSError: pass"))}));
    }
    let service = index.service(&[("ALLOW_SOURCE_BUILDS", "true"), ("MAX_PACKAGES_MB", "100")]);
    for (name, said) in [
        ("alink", "a link leads out"),
        ("upward", "a link leads out"),
        ("fifo", "neither file, folder nor link"),
        ("asocket", "neither file, folder nor link"),
        ("setuid", "another user's program"),
        ("sparse", "MAX_PACKAGES_MB"),
    ] {
        let refused = post(&service, &body("s", &[&format!("{name}==1.0")], "replace"));
        let refused = refused.assert_error(422, "Executor.DependencyInstallError");
        assert!(refused["error_detail"].as_str().is_some_and(|lines| lines.contains(said)), "{name}: {refused}");
    }
    assert_eq!(layers(&service.path("state")), [""; 0]);
    assert_eq!(sync(&service, "s", &["honest==1.0"], "replace"), ["honest 1.0"]);
    assert_eq!(run(&service, "s", "python", "import extra; print(extra.x)"), "1");
}

#[test]
fn a_wheel_whose_files_lie_elsewhere_is_not_installed() {
    let index = Index::new();
    index.add(json!({"name": "outside", "version": "1.0", "raw": {"../../../../tmp/outside.py": "x = 1"}}));
    index.add(json!({"name": "absolute", "version": "1.0", "raw": {"/tmp/absolute.py": "x = 1"}}));
    index.add_module("inside", "1.0");
    let service = index.service(&[]);
    for name in ["outside", "absolute"] {
        let response = post(&service, &body("s", &[&format!("{name}==1.0")], "replace"));
        assert!(matches!(response.status, 200 | 422), "{}", response.text());
        assert!(!std::path::Path::new("/tmp").join(format!("{name}.py")).exists());
    }
    assert_eq!(sync(&service, "s", &["inside==1.0"], "replace"), ["inside 1.0"]);
}
