//! Numbers of the catalogue that are tried in another place, or that there is nothing to try for yet.

use security::{Column, Host, Table};

const ROUTES: &str = "the product has no routes for files yet";

const LIST: [(u32, &str, &str); 13] = [
    (60, "numbers 0 to 600 against the golden table", "crates/sandbox/src/filter/seccomp/tests.rs, `make test`"),
    (66, "a minute of random system calls", "bench/src/calls.rs, `make soak`"),
    (90, "ten thousand executions and no growth", "bench/src/soak.rs, `make soak`"),
    (103, "have a link of the workspace followed by the host", ROUTES),
    (104, "swap a folder for a link while the host collects", ROUTES),
    (106, "have the owner of a hard link changed", "nothing changes owners after use; to be tried with the routes"),
    (107, "have the host block on a FIFO, a socket, a device", ROUTES),
    (108, "break the list of files by names", ROUTES),
    (109, "exhaust the list of files", ROUTES),
    (110, "let a file grow while it is downloaded", ROUTES),
    (111, "send the host around a loop of links", ROUTES),
    (113, "upload an archive that leads out", ROUTES),
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
