//! The compiled filters against the list, the list against libc, and both against golden files.
//!
//! After a change to the list, `GOLDEN=write cargo test -p sandbox golden` writes the files anew;
//! their diff is what the change means.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::interpreter::{SeccompData, evaluate};
use super::table::EPERM;
use super::*;

const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];
static PROGRAMS: LazyLock<[Vec<Instruction>; 2]> = LazyLock::new(|| ARCHES.map(compile));
const REFUSED: u32 = ERRNO | EPERM as u32;
const MISSING: u32 = ERRNO | ENOSYS as u32;
const NO_FAMILY: u32 = ERRNO | 97;
const JUNK: u64 = 0xdead_beef_0000_0000;

fn call(arch: Arch, nr: u32, args: [u64; 6]) -> u32 {
    let data = SeccompData { nr, arch: arch.audit(), instruction_pointer: 0x1000, args };
    let program = match arch {
        Arch::X86_64 => &PROGRAMS[0],
        Arch::Aarch64 => &PROGRAMS[1],
    };
    evaluate(program, &data)
}

/// The rule the list gives a number, without the compiler.
fn listed(arch: Arch, nr: u32) -> (&'static str, Rule<'static>) {
    TABLE
        .iter()
        .flat_map(|group| group.1.iter().map(move |call| (call, group.0)))
        .find(|(call, _)| call.number(arch) == Some(nr))
        .map_or(("-", Rule::Errno(ENOSYS)), |(call, rule)| (call.name, rule))
}

/// The verdict the list gives a call, without the compiler.
fn intended(arch: Arch, nr: u32, args: [u64; 6]) -> u32 {
    property::verdict(listed(arch, nr).1, args)
}

fn number(arch: Arch, name: &str) -> u32 {
    let mut calls = TABLE.iter().flat_map(|group| group.1);
    let call = calls.find(|call| call.name == name).expect("listed");
    call.number(arch).expect("this architecture has it")
}

/// Asks both filters about `name`, if the architecture has it, with the arguments at their places.
fn on_each(name: &str, places: &[(usize, u64)], verdict: u32) {
    for arch in ARCHES.into_iter().filter(|&arch| arch == Arch::X86_64 || name != "mknod") {
        let mut args = [0; 6];
        for &(place, value) in places {
            args[place] = value;
        }
        let answer = call(arch, number(arch, name), args);
        assert_eq!(answer, verdict, "{arch:?} {name} {places:x?}: {answer:#x}");
    }
}

#[test]
fn every_number_gets_the_verdict_of_the_list() {
    for arch in ARCHES {
        for nr in (0..=600).chain(X32_BIT..=X32_BIT + 600).chain([X32_BIT - 1, u32::MAX]) {
            assert_eq!(call(arch, nr, [0; 6]), intended(arch, nr, [0; 6]), "{arch:?} {nr}");
        }
    }
}

#[test]
fn x32_numbers_are_missing() {
    for nr in (0..=600).map(|nr| nr | X32_BIT) {
        assert_eq!(call(Arch::X86_64, nr, [0; 6]), MISSING, "{nr:#x}");
    }
}

#[test]
fn another_architecture_is_killed() {
    const I386: u32 = 0x4000_0003;
    for (arch, other) in [
        (Arch::X86_64, I386),
        (Arch::X86_64, Arch::Aarch64.audit()),
        (Arch::Aarch64, Arch::X86_64.audit()),
        (Arch::Aarch64, 0x4000_0028),
    ] {
        for nr in 0..=600 {
            let data = SeccompData { nr, arch: other, instruction_pointer: 0, args: [0; 6] };
            assert_eq!(evaluate(&compile(arch), &data), KILL_PROCESS, "{arch:?} {nr}");
        }
    }
}

#[test]
fn golden() {
    for (arch, file, committed) in [
        (Arch::X86_64, "golden_x86_64.txt", include_str!("../golden_x86_64.txt")),
        (Arch::Aarch64, "golden_aarch64.txt", include_str!("../golden_aarch64.txt")),
    ] {
        let current = verdicts(arch);
        #[allow(clippy::disallowed_methods)] // A switch of the test.
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/filter");
            std::fs::write(folder.join(file), current).expect("the checkout is writable");
        } else {
            assert!(
                current == committed,
                "the filter for {arch:?} changed; if that is meant, write {file} anew with\n\
                 GOLDEN=write cargo test -p sandbox golden\nIt would be:\n{current}"
            );
        }
    }
}

/// What the compiled filter says about all numbers: a range of equal verdict, then its names.
fn verdicts(arch: Arch) -> String {
    let word = |nr: u32| match (call(arch, nr, [0; 6]), listed(arch, nr).1) {
        (_, Rule::Arguments(checks)) => checks.iter().map(describe).collect::<Vec<_>>().join(", "),
        (ALLOW, _) => "allow".to_owned(),
        (REFUSED, _) => "EPERM".to_owned(),
        (MISSING, _) => "ENOSYS".to_owned(),
        (other, _) => format!("{other:#x}"),
    };
    let mut text = format!("# {arch:?}, numbers 0 to 600; - is a number the list does not name\n");
    let mut first = 0;
    while first <= 600 {
        let verdict = word(first);
        let last = (first..=600).take_while(|&nr| word(nr) == verdict).last().unwrap_or(first);
        let mut names: Vec<_> = (first..=last).map(|nr| listed(arch, nr).0).collect();
        names.dedup();
        let range = if first == last { format!("{first}") } else { format!("{first}-{last}") };
        writeln!(text, "{range} {verdict}: {}", names.join(" ")).expect("a string");
        first = last + 1;
    }
    text
}

fn describe(check: &Check<'_>) -> String {
    let values: Vec<_> = check.values.iter().map(|value| format!("{value:#x}")).collect();
    let verb = if check.passes { "in" } else { "not in" };
    let Check { argument, mask, errno, .. } = check;
    let when = check.when.map(|(argument, value)| format!("if arg{argument} is {value:#x} ")).unwrap_or_default();
    format!("{when}arg{argument} & {mask:#x} {verb} [{}] or errno {errno}", values.join(" "))
}

#[test]
fn clone_makes_no_namespace() {
    // fork, a thread of glibc, vfork, and a pidfd.
    for flags in [0x11, 0x3d_0f00, 0x4111, 0x1000 | 0x11, 0x120_0011] {
        on_each("clone", &[(0, flags)], ALLOW);
        on_each("clone", &[(0, flags | JUNK)], ALLOW);
    }
    for bit in [17, 25, 26, 27, 28, 29, 30] {
        on_each("clone", &[(0, 1 << bit)], REFUSED);
        on_each("clone", &[(0, 0x11 | JUNK | 1 << bit)], REFUSED);
    }
    on_each("clone3", &[], MISSING);
}

#[test]
fn no_ioctl_types_into_a_terminal() {
    for request in [0x5412, 0x541c, 0x5423] {
        on_each("ioctl", &[(1, request)], REFUSED);
        on_each("ioctl", &[(1, request | JUNK)], REFUSED);
        on_each("ioctl", &[(1, request | 1 << 32)], REFUSED);
    }
    // TCGETS, TIOCGWINSZ, FIONREAD, FIOCLEX, FICLONE; the number elsewhere is only data.
    for request in [0x5401, 0x5413, 0x541b, 0x5451, 0x4004_9409] {
        on_each("ioctl", &[(1, request)], ALLOW);
        on_each("ioctl", &[(0, 0x5412), (1, request), (2, 0x5412)], ALLOW);
    }
}

#[test]
fn room_is_given_back_and_never_taken_at_once() {
    const UNSUPPORTED: u32 = ERRNO | 95;
    on_each("fallocate", &[(1, 3)], ALLOW);
    on_each("fallocate", &[(1, 3 | JUNK), (2, 0), (3, 1 << 40)], ALLOW);
    // As it is, KEEP_SIZE, COLLAPSE_RANGE, ZERO_RANGE with and without, INSERT_RANGE, UNSHARE_RANGE.
    for mode in [0, 1, 8, 0x10, 0x11, 0x20, 0x40, JUNK, 1 | JUNK] {
        on_each("fallocate", &[(1, mode)], UNSUPPORTED);
    }
    for request in [0x4030_580a, 0x4030_5824, 0x4030_5828, 0x4030_582a, 0x4030_5839, 0x401c_5820] {
        on_each("ioctl", &[(1, request)], UNSUPPORTED);
        on_each("ioctl", &[(1, request | JUNK)], UNSUPPORTED);
    }
    // FS_IOC_UNRESVSP, FS_IOC_UNRESVSP64, FS_IOC_FSGETXATTR.
    for request in [0x4030_5829, 0x4030_582b, 0x801c_581f] {
        on_each("ioctl", &[(1, request)], ALLOW);
    }
}

#[test]
fn personality_stays_as_it_is() {
    on_each("personality", &[(0, 0)], ALLOW);
    on_each("personality", &[(0, 0xffff_ffff)], ALLOW);
    on_each("personality", &[(0, u64::MAX)], ALLOW);
    // READ_IMPLIES_EXEC, ADDR_NO_RANDOMIZE, PER_LINUX32, and the first hidden under junk.
    for value in [0x40_0000, 0x4_0000, 8, 0x40_0000 | JUNK] {
        on_each("personality", &[(0, value)], REFUSED);
    }
}

#[test]
fn prctl_installs_no_filter() {
    for option in [22, 35, 62] {
        on_each("prctl", &[(0, option)], REFUSED);
        on_each("prctl", &[(0, option | JUNK)], REFUSED);
    }
    // PDEATHSIG, DUMPABLE, NAME, GET_SECCOMP, CAPBSET_READ, NO_NEW_PRIVS, SUBREAPER, VMA, PTRACER.
    for option in [1, 4, 15, 21, 23, 38, 36, 0x5356_4d41, 0x5961_6d61] {
        on_each("prctl", &[(0, option)], ALLOW);
    }
    on_each("seccomp", &[], REFUSED);
}

#[test]
fn sockets_are_local_or_internet() {
    for name in ["socket", "socketpair"] {
        for family in [1, 2, 10] {
            for kind in [1, 2, 5, 1 | 0o2_000_000, 2 | 0o4_000] {
                on_each(name, &[(0, family), (1, kind)], ALLOW);
                on_each(name, &[(0, family | JUNK), (1, kind | JUNK), (2, JUNK)], ALLOW);
            }
        }
        // NETLINK, PACKET, BLUETOOTH, ALG, VSOCK, KCM, XDP and the rest.
        for family in (0..64).filter(|family| ![1, 2, 10].contains(family)) {
            on_each(name, &[(0, family), (1, 1)], NO_FAMILY);
            on_each(name, &[(0, family | JUNK), (1, 1)], NO_FAMILY);
        }
        // AF_INET with SOCK_PACKET is AF_PACKET under another name, also with flags beside it.
        for kind in [10, 10 | 0o2_000_000, 6, 0] {
            on_each(name, &[(0, 2), (1, kind)], ERRNO | 94);
        }
        for protocol in [6, 17, 1, 58] {
            on_each(name, &[(0, 2), (1, 1), (2, protocol)], ALLOW);
        }
        // SCTP, DCCP, L2TP, UDP-Lite, SMC, MPTCP.
        for protocol in [132, 33, 115, 136, 256, 262] {
            on_each(name, &[(0, 2), (1, 1), (2, protocol)], ERRNO | 93);
        }
    }
}

#[test]
fn mknod_makes_no_devices() {
    for (name, mode) in [("mknod", 1), ("mknodat", 2)] {
        for kind in [0, 0o100_000, 0o010_000, 0o140_000] {
            on_each(name, &[(mode, kind | 0o644)], ALLOW);
            on_each(name, &[(mode, kind | 0o644 | JUNK)], ALLOW);
        }
        for kind in [0o020_000, 0o060_000, 0o040_000, 0o120_000] {
            on_each(name, &[(mode, kind | 0o7777)], REFUSED);
            on_each(name, &[(mode, kind | JUNK)], REFUSED);
        }
    }
}

#[test]
fn the_huge_pages_of_the_host_stay_its_own() {
    const ENOMEM: u32 = 0x0005_000c;
    const EINVAL: u32 = 0x0005_0016;
    // MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, with a size as well; without.
    on_each("mmap", &[(3, 0x4_0022)], ENOMEM);
    on_each("mmap", &[(3, 0x4_0022 | 21 << 26 | JUNK)], ENOMEM);
    on_each("mmap", &[(3, 0x22)], ALLOW);
    on_each("mmap", &[(3, 0x2_0022 | JUNK)], ALLOW);
    // MFD_CLOEXEC | MFD_ALLOW_SEALING, and MFD_HUGETLB beside it.
    on_each("memfd_create", &[(1, 3)], ALLOW);
    on_each("memfd_create", &[(1, 7)], EINVAL);
    // IPC_CREAT, and SHM_HUGETLB beside it.
    on_each("shmget", &[(2, 0o1600)], ALLOW);
    on_each("shmget", &[(2, 0o5600)], REFUSED);
}

#[test]
fn readers_of_shared_files_are_not_watched() {
    // IN_ACCESS, IN_CLOSE_NOWRITE, IN_OPEN, IN_ALL_EVENTS.
    for mask in [1, 0x10, 0x20, 0xfff] {
        on_each("inotify_add_watch", &[(2, mask)], REFUSED);
        on_each("inotify_add_watch", &[(2, mask | JUNK)], REFUSED);
    }
    // What libuv asks for, and a file that is closed after writing.
    for mask in [0xfc6, 8, 2 | JUNK] {
        on_each("inotify_add_watch", &[(2, mask)], ALLOW);
    }
    on_each("fcntl", &[(1, 1026)], REFUSED);
    // GETFL, SETFL, SETLK, DUPFD_CLOEXEC, SETPIPE_SZ, ADD_SEALS.
    for command in [3, 4, 6, 1030, 1031, 1033] {
        on_each("fcntl", &[(1, command), (2, 1026)], ALLOW);
    }
}

#[test]
fn limits_of_others_stay() {
    on_each("prlimit64", &[], ALLOW);
    on_each("prlimit64", &[(0, JUNK), (1, 7)], ALLOW);
    for pid in [1, 2, 1 | JUNK, u64::MAX] {
        on_each("prlimit64", &[(0, pid)], REFUSED);
    }
}

#[test]
fn nobody_slows_the_init_down() {
    for name in ["sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr"] {
        for pid in [1, 1 | JUNK] {
            on_each(name, &[(0, pid)], REFUSED);
        }
        // Oneself, and others by their numbers.
        for pid in [0, JUNK, 2, 4711] {
            on_each(name, &[(0, pid), (1, 1)], ALLOW);
        }
    }
    // Each call's words for a process, a process group and a user.
    for (name, process, group, user) in [("setpriority", 0, 1, 2), ("ioprio_set", 1, 2, 3)] {
        for which in [process, group] {
            on_each(name, &[(0, which), (1, 1)], REFUSED);
            on_each(name, &[(0, which | JUNK), (1, 1 | JUNK)], REFUSED);
            for who in [0, 2, 4711] {
                on_each(name, &[(0, which), (1, who), (2, 1)], ALLOW);
            }
        }
        for who in [0, 1, 1000] {
            on_each(name, &[(0, user), (1, who)], REFUSED);
        }
    }
}

#[test]
fn sockets_take_no_programs() {
    for option in [26, 50, 51, 52] {
        on_each("setsockopt", &[(1, 1), (2, option)], REFUSED);
        on_each("setsockopt", &[(1, 1 | JUNK), (2, option | JUNK)], REFUSED);
    }
    for (level, option) in [(6, 31), (17, 100)] {
        on_each("setsockopt", &[(1, level), (2, option)], ERRNO | 92);
    }
    // IPV6_V6ONLY has the number of ATTACH_FILTER on another level; REUSEADDR, TCP_NODELAY, UDP_GRO.
    for (level, option) in [(41, 26), (1, 2), (6, 1), (17, 104), (1, 31), (6, 26), (17, 31)] {
        on_each("setsockopt", &[(1, level), (2, option)], ALLOW);
    }
}

#[test]
fn renaming_leaves_no_device() {
    // NOREPLACE, EXCHANGE; then WHITEOUT alone and beside.
    for flags in [0, 1, 2, JUNK] {
        on_each("renameat2", &[(4, flags)], ALLOW);
    }
    for flags in [4, 5, 4 | JUNK] {
        on_each("renameat2", &[(4, flags)], ERRNO | 22);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_call_gets_the_verdict_of_the_list(
        x86 in any::<bool>(),
        nr in prop_oneof![8 => 0..=600u32, 1 => any::<u32>()],
        args in any_arguments(),
    ) {
        let arch = if x86 { Arch::X86_64 } else { Arch::Aarch64 };
        prop_assert_eq!(call(arch, nr, args), intended(arch, nr, args));
    }

    #[test]
    fn any_checked_argument_gets_the_verdict_of_the_list(
        x86 in any::<bool>(),
        name in prop::sample::select(vec![
            "clone", "ioctl", "personality", "prctl", "socket", "socketpair", "mknodat", "renameat2",
            "inotify_add_watch", "fcntl", "prlimit64", "setsockopt",
            "sched_setattr", "setpriority", "ioprio_set",
        ]),
        args in any_arguments(),
    ) {
        let arch = if x86 { Arch::X86_64 } else { Arch::Aarch64 };
        let nr = number(arch, name);
        prop_assert_eq!(call(arch, nr, args), intended(arch, nr, args));
    }
}

/// What the kernel makes of a zygote's filter and the one that its fork adds: the stricter action, of equals the later (seccomp(2)).
fn in_a_fork(filters: &[Vec<Instruction>; 2], nr: u32, args: [u64; 6]) -> u32 {
    let data = SeccompData { nr, arch: Arch::NATIVE.audit(), instruction_pointer: 0x1000, args };
    let [first, later] = filters.each_ref().map(|program| evaluate(program, &data));
    let strictness = |verdict: u32| (verdict & 0xffff_0000).cast_signed();
    if strictness(first) < strictness(later) { first } else { later }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_fork_of_a_zygote_is_under_the_list(
        nr in prop_oneof![8 => 0..=600u32, 4 => prop::sample::select(
            table::for_zygotes(Arch::NATIVE).into_iter().map(|(number, _)| number).collect::<Vec<_>>()
        ), 1 => any::<u32>()],
        args in any_arguments(),
    ) {
        let answer = in_a_fork(&[zygote(), fork()], nr, args);
        let becomes_root = table::for_zygotes(Arch::NATIVE).iter().any(|(number, rule)| {
            *number == nr && property::verdict(*rule, args) == ERRNO | 22
        });
        // As the kernel answers there, where there is no root.
        let expected = if becomes_root { ERRNO | 22 } else { intended(Arch::NATIVE, nr, args) };
        prop_assert_eq!(answer, expected, "{}", nr);
    }
}

#[test]
fn alone_neither_filter_of_a_fork_is_the_list() {
    let setns = number(Arch::NATIVE, "setns");
    let [zygote, fork] = [zygote(), fork()];
    let unlisted = 599;
    assert_eq!(in_a_fork(&[zygote.clone(), zygote.clone()], setns, [0; 6]), ALLOW);
    assert_eq!(in_a_fork(&[fork.clone(), fork.clone()], unlisted, [0; 6]), ALLOW);
    assert_ne!(in_a_fork(&[zygote.clone(), fork.clone()], setns, [0; 6]), ALLOW);
    assert_eq!(in_a_fork(&[zygote, fork.clone()], unlisted, [0; 6]), MISSING);
    assert!(fork.len() * 3 < compile(Arch::NATIVE).len(), "{} instructions", fork.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_list_is_compiled_right(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        property::holds(&bytes);
    }
}

#[test]
fn every_seed_of_the_fuzzer_is_compiled_right() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/seccomp");
    let far = std::fs::read_dir(seeds)
        .expect("the seeds are committed")
        .map(|seed| std::fs::read(seed.expect("a seed").path()).expect("a readable seed"))
        .filter(|bytes| property::holds(bytes).contains(&JA))
        .count();
    assert!(far > 0, "no seed needs a far branch");
}

#[test]
fn the_largest_number_has_nothing_above() {
    let program = compile_list(Arch::Aarch64, vec![(u32::MAX, Rule::Allow), (0, Rule::Allow)]);
    let arch = Arch::Aarch64.audit();
    for (nr, verdict) in [(0, ALLOW), (1, MISSING), (u32::MAX - 1, MISSING), (u32::MAX, ALLOW)] {
        assert_eq!(
            evaluate(&program, &SeccompData { nr, arch, instruction_pointer: 0, args: [0; 6] }),
            verdict,
            "{nr}"
        );
    }
}

/// Small values, single bits and the values of the checks as often as arbitrary ones, junk above.
fn any_arguments() -> impl Strategy<Value = [u64; 6]> {
    let mentioned: Vec<u64> = TABLE
        .iter()
        .filter_map(|group| match group.0 {
            Rule::Arguments(checks) => Some(checks),
            _ => None,
        })
        .flatten()
        .flat_map(|check| check.values)
        .map(|&value| value.into())
        .collect();
    let low = prop_oneof![
        0..64u64,
        (0..32u32).prop_map(|bit| 1 << bit),
        prop::sample::select(mentioned),
        any::<u32>().prop_map(u64::from),
    ];
    let argument = (low, any::<bool>(), any::<u32>()).prop_map(
        |(low, junk, high)| {
            if junk { low | u64::from(high) << 32 } else { low }
        },
    );
    prop::array::uniform6(argument)
}

#[test]
fn programs_are_what_the_kernel_accepts() {
    for arch in ARCHES {
        let program = compile(arch);
        println!("{arch:?}: {} instructions", program.len());
        property::assert_accepted(&program);
    }
}

#[test]
fn far_branches_reach() {
    // More ranges than the list has, so that conditional jumps no longer reach.
    let rules = [Rule::Allow, Rule::Errno(EPERM)];
    let ranges: Vec<_> = (0..1500).map(|first| Range { first, rule: rules[first as usize % 2] }).collect();
    let mut program = vec![load(OFFSET_NUMBER)];
    program.extend(search(&ranges));
    assert!(program.iter().any(|instruction| instruction.code == JA));
    for nr in 0..2000 {
        let data = SeccompData { nr, arch: 0, instruction_pointer: 0, args: [0; 6] };
        let rule = ranges[nr.min(1499) as usize].rule;
        assert_eq!(evaluate(&program, &data), rule.action(), "{nr}");
    }
}

#[test]
fn verdicts_that_need_no_argument_load_none() {
    // Only then does the kernel keep an allowed number in its bitmap and skip the program.
    for arch in ARCHES {
        for range in ranges(list(arch), UNLISTED) {
            let arguments = matches!(range.rule, Rule::Arguments(_));
            let loads = leaf(range.rule).iter().any(|instruction| instruction.code == LOAD);
            assert_eq!(loads, arguments, "{arch:?} {}", range.first);
        }
        let loads = compile(arch).iter().filter(|instruction| instruction.code == LOAD).count();
        let checks: usize = ranges(list(arch), UNLISTED)
            .iter()
            .map(|range| leaf(range.rule))
            .map(|leaf| leaf.iter().filter(|instruction| instruction.code == LOAD).count())
            .sum();
        assert_eq!(loads, checks + 2, "beside the arguments only arch and number");
    }
}

#[test]
fn nothing_is_listed_twice() {
    let mut names = HashSet::new();
    let mut numbers: BTreeMap<_, &str> = BTreeMap::new();
    for call in TABLE.iter().flat_map(|group| group.1) {
        assert!(names.insert(call.name), "{}", call.name);
        for arch in ARCHES {
            let Some(number) = call.number(arch) else {
                continue;
            };
            let before = numbers.insert((arch.audit(), number), call.name);
            assert_eq!(before, None, "{arch:?} {}", call.name);
        }
    }
}

/// Calls too new for the libc crate, or old ones it leaves out on one architecture: their numbers
/// come from the kernel's own tables alone.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const NOT_IN_LIBC: &str = "
        io_pgetevents renameat fchmodat2 getxattrat setxattrat listxattrat removexattrat
        sync_file_range cachestat map_shadow_stack futex_wait futex_wake futex_requeue getrlimit
        setrlimit uretprobe open_tree_attr statmount listmount lsm_get_self_attr lsm_set_self_attr
        lsm_list_modules
";

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn native_numbers_are_those_of_libc() {
    use libc::*;

    // SYS_read is the number of read.
    macro_rules! numbers {
        ($($constant:ident)*) => { vec![$((stringify!($constant), $constant)),*] };
    }
    let common = numbers! {
        SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev
        SYS_preadv2 SYS_pwritev2 SYS_lseek SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_fcntl
        SYS_sendfile SYS_splice SYS_tee SYS_copy_file_range SYS_pipe2 SYS_ppoll SYS_pselect6
        SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_signalfd4
        SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_inotify_init1
        SYS_inotify_add_watch SYS_inotify_rm_watch SYS_io_setup SYS_io_destroy SYS_io_submit
        SYS_io_cancel SYS_io_getevents SYS_openat SYS_openat2 SYS_faccessat SYS_faccessat2
        SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_readlinkat SYS_getdents64
        SYS_getcwd SYS_chdir SYS_fchdir SYS_umask SYS_mkdirat SYS_renameat2 SYS_linkat
        SYS_symlinkat SYS_unlinkat SYS_truncate SYS_ftruncate SYS_fallocate SYS_fchmod SYS_fchmodat
        SYS_utimensat SYS_fchown SYS_fchownat SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_setxattr
        SYS_lsetxattr SYS_fsetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_removexattr
        SYS_lremovexattr SYS_fremovexattr SYS_fsync SYS_fdatasync SYS_sync SYS_syncfs SYS_fadvise64
        SYS_readahead SYS_flock SYS_brk SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise
        SYS_mincore SYS_msync SYS_remap_file_pages SYS_mlock SYS_mlock2 SYS_mlockall SYS_munlock
        SYS_munlockall SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_memfd_create
        SYS_membarrier SYS_mseal SYS_process_madvise SYS_process_mrelease SYS_get_mempolicy
        SYS_set_mempolicy SYS_mbind SYS_set_mempolicy_home_node SYS_getcpu SYS_execve SYS_execveat
        SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_set_tid_address SYS_restart_syscall
        SYS_futex SYS_futex_waitv SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_gettid
        SYS_sched_yield SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending
        SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo
        SYS_sigaltstack SYS_kill SYS_tkill SYS_tgkill SYS_pidfd_open SYS_pidfd_send_signal
        SYS_getpid SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid
        SYS_getresgid SYS_getgroups SYS_getpgid SYS_getsid SYS_uname SYS_sysinfo SYS_getrusage
        SYS_times SYS_setpgid SYS_setsid SYS_setuid SYS_setgid SYS_setreuid SYS_setregid
        SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_capget SYS_capset
        SYS_getpriority SYS_setpriority SYS_sched_getaffinity SYS_sched_setaffinity
        SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler SYS_sched_setscheduler
        SYS_sched_getattr SYS_sched_setattr SYS_sched_get_priority_max SYS_sched_get_priority_min
        SYS_sched_rr_get_interval SYS_ioprio_get SYS_ioprio_set SYS_prlimit64 SYS_gettimeofday
        SYS_clock_gettime SYS_clock_getres SYS_nanosleep SYS_clock_nanosleep SYS_getitimer
        SYS_setitimer SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun
        SYS_timer_delete SYS_bind SYS_connect SYS_listen SYS_accept SYS_accept4 SYS_getsockname
        SYS_getpeername SYS_getsockopt SYS_setsockopt SYS_sendto SYS_recvfrom SYS_sendmsg
        SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_shutdown SYS_shmget SYS_shmat SYS_shmctl
        SYS_shmdt SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget SYS_msgsnd SYS_msgrcv
        SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify
        SYS_mq_getsetattr SYS_getrandom SYS_landlock_create_ruleset SYS_landlock_add_rule
        SYS_landlock_restrict_self SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_unshare
        SYS_setns SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp
        SYS_migrate_pages SYS_move_pages SYS_open_by_handle_at SYS_name_to_handle_at SYS_add_key
        SYS_request_key SYS_keyctl SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_fanotify_init
        SYS_fanotify_mark SYS_seccomp SYS_init_module SYS_finit_module SYS_delete_module
        SYS_kexec_load SYS_kexec_file_load SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl
        SYS_quotactl_fd SYS_syslog SYS_vhangup SYS_settimeofday SYS_clock_settime SYS_clock_adjtime
        SYS_adjtimex SYS_sethostname SYS_setdomainname SYS_clone3 SYS_io_uring_setup
        SYS_io_uring_enter SYS_io_uring_register SYS_open_tree SYS_move_mount SYS_fsopen
        SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr SYS_memfd_secret SYS_vmsplice
        SYS_clone SYS_ioctl SYS_personality SYS_prctl SYS_socket SYS_socketpair SYS_mknodat
    };
    #[cfg(target_arch = "x86_64")]
    let own = numbers! {
        SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd
        SYS_signalfd SYS_inotify_init SYS_open SYS_creat SYS_access SYS_stat SYS_lstat SYS_readlink
        SYS_getdents SYS_mkdir SYS_rmdir SYS_rename SYS_renameat SYS_link SYS_symlink SYS_unlink
        SYS_chmod SYS_fchmodat2 SYS_utime SYS_utimes SYS_futimesat SYS_chown SYS_lchown
        SYS_sync_file_range SYS_fork SYS_vfork SYS_arch_prctl SYS_pause SYS_getpgrp SYS_getrlimit
        SYS_setrlimit SYS_time SYS_alarm SYS_modify_ldt SYS_iopl SYS_ioperm SYS_mknod
    };
    #[cfg(target_arch = "aarch64")]
    let own = Vec::new();

    let libc: BTreeMap<&str, c_long> = common.into_iter().chain(own).collect();
    for call in TABLE.iter().flat_map(|group| group.1) {
        let ours = call.number(Arch::NATIVE).map(c_long::from);
        match libc.get(format!("SYS_{}", call.name).as_str()) {
            Some(theirs) => assert_eq!(ours, Some(*theirs), "{}", call.name),
            None => assert!(
                ours.is_none() || NOT_IN_LIBC.split_whitespace().any(|name| name == call.name),
                "{} is compared with nothing",
                call.name
            ),
        }
    }
}
