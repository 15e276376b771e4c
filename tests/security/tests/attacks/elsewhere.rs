//! Numbers of the catalogue that are tried in another place, or that there is nothing to try for yet.

use security::{Column, Host, Table};

const LIST: [(u32, &str, &str); 6] = [
    (60, "numbers 0 to 600 against the golden table", "crates/sandbox/src/filter/seccomp/tests.rs, `make test`"),
    (66, "a minute of random system calls", "bench/src/calls.rs, `make soak`"),
    (90, "ten thousand executions and no growth", "bench/src/soak.rs, `make soak`"),
    (
        101,
        "change installed packages for the next who imports them",
        "tests/conformance/tests/packages/apart.rs, `make test`",
    ),
    (
        102,
        "have an installer read what a session's workspace holds",
        "tests/conformance/tests/packages/apart.rs, `make test`",
    ),
    (
        132,
        "have the service call an address of the caller's",
        "no field names an address; that one is refused: see above",
    ),
];

/// Lists them.
pub fn list(table: &mut Table, _: &Column, _: &mut Host) {
    for (number, name, why) in LIST {
        table.elsewhere(number, name, why);
    }
}
