//! The allow-list: every system call with an opinion about it, in small groups, a why beside each.
//!
//! It starts from the profile Docker gives a container without capabilities and takes away what a
//! program in a sandbox has no business with. Numbers are written out for both architectures, so
//! that either filter can be compiled and checked on any host; `-` says the architecture has no
//! such call. A call that is not listed, or is newer than the list, answers ENOSYS: libraries take
//! that as "an old kernel" and use what they used before.

use super::{Arch, Check, Rule};

/// Operation not permitted: the call exists and is refused.
pub(super) const EPERM: u16 = 1;
/// No such call: libraries probe for it and fall back.
pub(super) const ENOSYS: u16 = 38;
const ENOMEM: u16 = 12;
const EINVAL: u16 = 22;
const ENOPROTOOPT: u16 = 92;
const EPROTONOSUPPORT: u16 = 93;
const ESOCKTNOSUPPORT: u16 = 94;
const EOPNOTSUPP: u16 = 95;
const EAFNOSUPPORT: u16 = 97;

/// One system call and its number on each architecture that has it.
pub(super) struct Call {
    #[cfg_attr(not(test), expect(dead_code, reason = "for the golden files and the comparison with libc"))]
    pub(super) name: &'static str,
    x86_64: Option<u32>,
    aarch64: Option<u32>,
}

impl Call {
    /// The number on `arch`, as in syscall_64.tbl or asm-generic/unistd.h of the kernel.
    pub(super) fn number(&self, arch: Arch) -> Option<u32> {
        match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
        }
    }
}

/// Calls that share a rule and the reason for it.
pub(super) struct Group(pub(super) Rule<'static>, pub(super) &'static [Call]);

/// `read 0 63; open 2 -;` is name, number on x86_64, number on aarch64.
macro_rules! calls {
    ($($name:ident $x86_64:tt $aarch64:tt;)*) => {
        &[$(Call {
            name: stringify!($name),
            x86_64: calls!(@ $x86_64),
            aarch64: calls!(@ $aarch64),
        }),*]
    };
    (@ -) => { None };
    (@ $number:literal) => { Some($number) };
}

// The kernel reads each of these arguments as 32 bits (int, unsigned int, umode_t, or explicitly
// the lower half), so a comparison of the lower half is exact and junk in the upper one can't hide
// it.

/// clone(2): no flag that makes a namespace (NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID,
/// NEWNET). NEWTIME is part of the exit signal here and only means something to unshare and
/// clone3.
const CLONE: &[Check] = &[Check::only(0, 0x7e02_0000, &[0], EPERM)];

/// ioctl_tty(2): TIOCSTI types into a terminal and TIOCLINUX pastes into a console, both as
/// whoever sits there (CVE-2017-5226, CVE-2023-28100); TIOCSETD loads line disciplines. Devices
/// answer for the rest, and there are hardly any devices. Then what is fallocate by another name, see
/// below: XFS_IOC_ALLOCSP and ALLOCSP64 (until Linux 5.17), FS_IOC_RESVSP and RESVSP64,
/// FS_IOC_ZERO_RANGE; and FS_IOC_FSSETXATTR, by which each first byte of a file takes a gigabyte on
/// XFS (an extent size hint).
const IOCTL: &[Check] = &[
    Check::none(1, u32::MAX, &[0x5412, 0x541c, 0x5423], EPERM),
    Check::none(
        1,
        u32::MAX,
        &[0x4030_580a, 0x4030_5824, 0x4030_5828, 0x4030_582a, 0x4030_5839, 0x401c_5820],
        EOPNOTSUPP,
    ),
];

/// fallocate(2): gives room back (FALLOC_FL_PUNCH_HOLE with KEEP_SIZE, 3), and takes none. One call
/// takes all the room of a disk in the time of one write, sooner than anybody could count it, and
/// with KEEP_SIZE past RLIMIT_FSIZE as well. The error is that of a file system without it, on
/// which the C library's posix_fallocate writes.
const FALLOCATE: &[Check] = &[Check::only(1, u32::MAX, &[3], EOPNOTSUPP)];

/// personality(2): only "as it is" and the question what it is. READ_IMPLIES_EXEC and
/// ADDR_NO_RANDOMIZE weaken the program against its own input, the others are old emulations.
const PERSONALITY: &[Check] = &[Check::only(0, u32::MAX, &[0, 0xffff_ffff], EPERM)];

/// prctl(2): SET_SECCOMP (22) as `seccomp` below; SET_MM (35) rewrites what /proc tells about the
/// process; SCHED_CORE (62) idles the sibling hyperthread, which belongs to a neighbour. The other
/// options act on the process alone (names, dumpable, subreaper, death signal, speculation) or ask
/// for a capability.
const PRCTL: &[Check] = &[Check::none(0, u32::MAX, &[22, 35, 62], EPERM)];

/// socket(2), socketpair(2): families UNIX, INET and INET6. AF_ALG wrote to the page cache
/// (CVE-2026-31431), AF_VSOCK leaves the network namespace, AF_NETLINK and AF_PACKET configure and
/// read networks. Then what could load a kernel module by way of an allowed family: the type, with
/// the flags beside it masked off, must not be the obsolete 10 that turns AF_INET into AF_PACKET,
/// and the protocol is the default, ICMP (1, in AF_UNIX its own name), TCP, UDP, ICMPv6 or RAW,
/// not SCTP, DCCP, L2TP, SMC or MPTCP. The errors are those of a kernel built without them.
const SOCKET: &[Check] = &[
    Check::only(0, u32::MAX, &[1, 2, 10], EAFNOSUPPORT),
    Check::only(1, 0xf, &[1, 2, 3, 5], ESOCKTNOSUPPORT),
    Check::only(2, u32::MAX, &[0, 1, 6, 17, 58, 255], EPROTONOSUPPORT),
];

/// mmap(2), memfd_create(2), shmget(2): no huge pages that the host set aside (MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB): no
/// memory controller counts them. The error is that of a host which has none. Transparent ones stay.
const MMAP: &[Check] = &[Check::only(3, 0x4_0000, &[0], ENOMEM)];
const MEMFD: &[Check] = &[Check::only(1, 4, &[0], EINVAL)];
const SHMGET: &[Check] = &[Check::only(2, 0o4000, &[0], EPERM)];

/// mknod(2): regular files (0 is one too), FIFOs and sockets, no devices.
const MKNOD: &[Check] = &[Check::only(1, 0o170_000, NO_DEVICES, EPERM)];
/// mknodat(2): the same, one argument later.
const MKNODAT: &[Check] = &[Check::only(2, 0o170_000, NO_DEVICES, EPERM)];
const NO_DEVICES: &[u32] = &[0, 0o100_000, 0o010_000, 0o140_000];

/// renameat2(2): RENAME_WHITEOUT (4) leaves a device node, the one that mknod needs no capability
/// for; EINVAL is what file systems without it answer.
const RENAME: &[Check] = &[Check::only(4, 4, &[0], EINVAL)];

/// inotify_add_watch(2): IN_ACCESS, IN_CLOSE_NOWRITE and IN_OPEN tell about readers, and whatever
/// is mounted from the host has readers outside: every command that is started there would be told
/// by name. Changes may be watched: nobody changes what is shared.
const INOTIFY: &[Check] = &[Check::only(2, 0x31, &[0], EPERM)];

/// fcntl(2): F_NOTIFY (1026) is the same by signal, without the name.
const FCNTL: &[Check] = &[Check::none(1, u32::MAX, &[1026], EPERM)];

/// prlimit64(2): only the caller's own. The init is of the same user: with a limit of no CPU time
/// the kernel kills it, and the service is left without the end of its execution.
const PRLIMIT: &[Check] = &[Check::only(0, u32::MAX, &[0], EPERM)];

/// sched_setscheduler(2), sched_setparam(2), sched_setattr(2), sched_setaffinity(2): of any process
/// but the init (1). That is of the same user, and one that is idle by class or bound to a busy
/// core kills nobody: a timeout would come as late as the program likes.
const SCHEDULING: &[Check] = &[Check::none(0, u32::MAX, &[1], EPERM)];
/// setpriority(2), the same: neither the init (PRIO_PROCESS, 0) nor its group (PRIO_PGRP, 1), nor
/// all of the user (PRIO_USER, 2), which it is one of.
const PRIORITY: &[Check] = &[
    Check::none(1, u32::MAX, &[1], EPERM).when(0, 0),
    Check::none(1, u32::MAX, &[1], EPERM).when(0, 1),
    Check::none(0, u32::MAX, &[2], EPERM),
];
/// ioprio_set(2), the same (IOPRIO_WHO_PROCESS, 1; IOPRIO_WHO_PGRP, 2; IOPRIO_WHO_USER, 3).
const IO_PRIORITY: &[Check] = &[
    Check::none(1, u32::MAX, &[1], EPERM).when(0, 1),
    Check::none(1, u32::MAX, &[1], EPERM).when(0, 2),
    Check::none(0, u32::MAX, &[3], EPERM),
];

/// setsockopt(2), by level: SOL_SOCKET (1) takes no program for the kernel (ATTACH_FILTER 26,
/// ATTACH_BPF 50, ATTACH_REUSEPORT_CBPF 51 and _EBPF 52), SOL_TCP (6) no protocol on top (ULP 31:
/// kernel TLS, a steady source of escalations) and SOL_UDP (17) no IPsec or L2TP in it (ENCAP 100).
const SETSOCKOPT: &[Check] = &[
    Check::none(2, u32::MAX, &[26, 50, 51, 52], EPERM).when(1, 1),
    Check::none(2, u32::MAX, &[31], ENOPROTOOPT).when(1, 6),
    Check::none(2, u32::MAX, &[100], ENOPROTOOPT).when(1, 17),
];

/// The whole list.
#[rustfmt::skip] // keeps a group's calls together
pub(super) const TABLE: &[Group] = &[
    // I/O on descriptors: nothing here opens anything.
    Group(Rule::Allow, calls! {
        read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; pwrite64 18 68;
        preadv 295 69; pwritev 296 70; preadv2 327 286; pwritev2 328 287; lseek 8 62; close 3 57;
        close_range 436 436; dup 32 23; dup2 33 -; dup3 292 24;
    }),
    // Descriptor to descriptor copies (shutil, cp, Node streams). Not vmsplice, see below.
    Group(Rule::Allow, calls! {
        sendfile 40 71; splice 275 76; tee 276 77; copy_file_range 326 285;
    }),
    // Pipes, readiness and notification: asyncio, libuv, every event loop.
    Group(Rule::Allow, calls! {
        pipe 22 -; pipe2 293 59; poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72;
        epoll_create 213 -; epoll_create1 291 20; epoll_ctl 233 21; epoll_wait 232 -;
        epoll_pwait 281 22; epoll_pwait2 441 441; eventfd 284 -; eventfd2 290 19; signalfd 282 -;
        signalfd4 289 74; timerfd_create 283 85; timerfd_settime 286 86; timerfd_gettime 287 87;
        inotify_init 253 -; inotify_init1 294 26; inotify_rm_watch 255 28;
    }),
    // Opening and looking up: mounts, modes and Landlock say what is reachable, so the path needs
    // no rule here (and could not have one: a filter sees pointers, not strings).
    Group(Rule::Allow, calls! {
        open 2 -; openat 257 56; openat2 437 437; creat 85 -; access 21 -; faccessat 269 48;
        faccessat2 439 439; stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79; statx 332 291;
        statfs 137 43; fstatfs 138 44; readlink 89 -; readlinkat 267 78; getdents 78 -;
        getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50; umask 95 166;
    }),
    // Changing the tree below what is mounted writable.
    Group(Rule::Allow, calls! {
        mkdir 83 -; mkdirat 258 34; rmdir 84 -; rename 82 -; renameat 264 38;
        link 86 -; linkat 265 37; symlink 88 -; symlinkat 266 36; unlink 87 -; unlinkat 263 35;
        truncate 76 45; ftruncate 77 46; chmod 90 -; fchmod 91 52; fchmodat 268 53;
        fchmodat2 452 452; utime 132 -; utimes 235 -; futimesat 261 -; utimensat 280 88;
    }),
    // Ownership: without CAP_CHOWN only a no-op succeeds, and tar, pip and git ask for it.
    Group(Rule::Allow, calls! { chown 92 -; fchown 93 55; lchown 94 -; fchownat 260 54; }),
    // Extended attributes: cp -a and shutil.copystat read and write user.*; trusted.* and
    // security.* need a capability.
    Group(Rule::Allow, calls! {
        getxattr 191 8; lgetxattr 192 9; fgetxattr 193 10; getxattrat 464 464; setxattr 188 5;
        lsetxattr 189 6; fsetxattr 190 7; setxattrat 463 463; listxattr 194 11; llistxattr 195 12;
        flistxattr 196 13; listxattrat 465 465; removexattr 197 14; lremovexattr 198 15;
        fremovexattr 199 16; removexattrat 466 466;
    }),
    // Durability and page-cache advice; flock is how sqlite, git and pip lock (the shared-file
    // channel it opens is documented, not closed).
    Group(Rule::Allow, calls! {
        fsync 74 82; fdatasync 75 83; sync 162 81; syncfs 306 267; sync_file_range 277 84;
        fadvise64 221 223; readahead 187 213; cachestat 451 451; flock 73 32;
    }),
    // Memory: JITs map and re-protect (V8, wasm, ctypes), pkeys guard the code space of V8, mseal
    // and shadow stacks only ever restrict. RLIMIT_MEMLOCK bounds the locks.
    Group(Rule::Allow, calls! {
        brk 12 214; munmap 11 215; mprotect 10 226; mremap 25 216; madvise 28 233;
        mincore 27 232; msync 26 227; remap_file_pages 216 234; mlock 149 228; mlock2 325 284;
        mlockall 151 230; munlock 150 229; munlockall 152 231; pkey_alloc 330 289;
        pkey_free 331 290; pkey_mprotect 329 288; membarrier 324 283;
        mseal 462 462; map_shadow_stack 453 453;
    }),
    // Acting on the memory of another process asks the kernel for ptrace rights first; on itself,
    // and on a process already being killed, both are harmless.
    Group(Rule::Allow, calls! { process_madvise 440 440; process_mrelease 448 448; }),
    // NUMA policy of its own memory: OpenBLAS sets and reads it.
    Group(Rule::Allow, calls! {
        get_mempolicy 239 236; set_mempolicy 238 237; mbind 237 235;
        set_mempolicy_home_node 450 450; getcpu 309 168;
    }),
    // Processes without namespace flags; clone itself has a rule below.
    Group(Rule::Allow, calls! {
        fork 57 -; vfork 58 -; execve 59 221; execveat 322 281; exit 60 93; exit_group 231 94;
        wait4 61 260; waitid 247 95; set_tid_address 218 96; restart_syscall 219 128;
    }),
    // Thread plumbing of glibc, V8 and the runtimes of other languages.
    Group(Rule::Allow, calls! {
        futex 202 98; futex_waitv 449 449; futex_wait 455 455; futex_wake 454 454;
        futex_requeue 456 456; set_robust_list 273 99; get_robust_list 274 100; rseq 334 293;
        gettid 186 178; sched_yield 24 124; arch_prctl 158 -;
    }),
    // Signals, also by pidfd: reach is the pid namespace and the Landlock scope.
    Group(Rule::Allow, calls! {
        rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139; rt_sigpending 127 136;
        rt_sigsuspend 130 133; rt_sigtimedwait 128 137; rt_sigqueueinfo 129 138;
        rt_tgsigqueueinfo 297 240; sigaltstack 131 132; kill 62 129; tkill 200 130; tgkill 234 131;
        pidfd_open 434 434; pidfd_send_signal 424 424; pause 34 -;
    }),
    // Who and where am I.
    Group(Rule::Allow, calls! {
        getpid 39 172; getppid 110 173; getuid 102 174; geteuid 107 175; getgid 104 176;
        getegid 108 177; getresuid 118 148; getresgid 120 150; getgroups 115 158; getpgid 121 155;
        getpgrp 111 -; getsid 124 156; uname 63 160; sysinfo 99 179; getrusage 98 165;
        times 100 153;
    }),
    // Sessions and process groups: shells with job control.
    Group(Rule::Allow, calls! { setpgid 109 154; setsid 112 157; }),
    // Changing identity: no capability, no setuid gain (no_new_privs) and no unmapped id to change
    // to, yet daemons, su-like tools and test suites call these and expect the kernel's own
    // answer.
    Group(Rule::Allow, calls! {
        setuid 105 146; setgid 106 144; setreuid 113 145; setregid 114 143; setresuid 117 147;
        setresgid 119 149; setfsuid 122 151; setfsgid 123 152; setgroups 116 159; capget 125 90;
        capset 126 91;
    }),
    // Scheduling and limits: the kernel refuses every raise (RLIMIT_NICE, RLIMIT_RTPRIO, hard
    // limit). What sets the scheduling of others has a rule below.
    Group(Rule::Allow, calls! {
        getpriority 140 141; sched_getaffinity 204 123; sched_getparam 143 121;
        sched_getscheduler 145 120; sched_getattr 315 275; sched_get_priority_max 146 125;
        sched_get_priority_min 147 126; sched_rr_get_interval 148 127; ioprio_get 252 31;
        getrlimit 97 163; setrlimit 160 164;
    }),
    // Reading clocks and sleeping; the setters are below.
    Group(Rule::Allow, calls! {
        time 201 -; gettimeofday 96 169; clock_gettime 228 113; clock_getres 229 114;
        nanosleep 35 101; clock_nanosleep 230 115; alarm 37 -; getitimer 36 102; setitimer 38 103;
        timer_create 222 107; timer_settime 223 110; timer_gettime 224 108;
        timer_getoverrun 225 109; timer_delete 226 111;
    }),
    // Sockets once they exist; socket and socketpair have a rule below, and the network namespace
    // decides who can be reached.
    Group(Rule::Allow, calls! {
        bind 49 200; connect 42 203; listen 50 201; accept 43 202; accept4 288 242;
        getsockname 51 204; getpeername 52 205; getsockopt 55 209; sendto 44 206; recvfrom 45 207;
        sendmsg 46 211; recvmsg 47 212; sendmmsg 307 269; recvmmsg 299 243; shutdown 48 210;
    }),
    // System V and POSIX message queues, semaphores and shared memory (multiprocessing): the ipc
    // namespace is the sandbox's own.
    Group(Rule::Allow, calls! {
        shmat 30 196; shmctl 31 195; shmdt 67 197; semget 64 190; semop 65 193;
        semtimedop 220 192; semctl 66 191; msgget 68 186; msgsnd 69 189; msgrcv 70 188;
        msgctl 71 187; mq_open 240 180; mq_unlink 241 181; mq_timedsend 242 182;
        mq_timedreceive 243 183; mq_notify 244 184; mq_getsetattr 245 185;
    }),
    // Randomness.
    Group(Rule::Allow, calls! { getrandom 318 278; }),
    // A program that confines itself further is welcome: a Landlock domain only takes rights away.
    Group(Rule::Allow, calls! {
        landlock_create_ruleset 444 444; landlock_add_rule 445 445; landlock_restrict_self 446 446;
    }),
    // The return trampoline of a probe the host placed: refused, the probed program would die.
    Group(Rule::Allow, calls! { uretprobe 335 -; }),
    // Mounts and roots.
    Group(Rule::Errno(EPERM), calls! {
        mount 165 40; umount2 166 39; pivot_root 155 41; chroot 161 51;
    }),
    // Namespaces: a new user namespace is the way to most kernel code that asks for capabilities.
    Group(Rule::Errno(EPERM), calls! { unshare 272 97; setns 308 268; }),
    // Other processes: memory, descriptors, identity of kernel objects.
    Group(Rule::Errno(EPERM), calls! {
        ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; pidfd_getfd 438 438;
        kcmp 312 272;
    }),
    // Placing pages of a process on NUMA nodes of the host; no runtime needs it.
    Group(Rule::Errno(EPERM), calls! { migrate_pages 256 238; move_pages 279 239; }),
    // Opening by handle steps around paths (the Shocker escape); making handles is its first half.
    Group(Rule::Errno(EPERM), calls! { open_by_handle_at 304 265; name_to_handle_at 303 264; }),
    // Keyrings are not namespaced like the rest and have been a source of escalations.
    Group(Rule::Errno(EPERM), calls! { add_key 248 217; request_key 249 218; keyctl 250 219; }),
    // Programmable or introspecting kernel parts: the richest escalation surface there is.
    Group(Rule::Errno(EPERM), calls! {
        bpf 321 280; perf_event_open 298 241; userfaultfd 323 282; fanotify_init 300 262;
        fanotify_mark 301 263;
    }),
    // Filters on top of ours: SECCOMP_RET_USER_NOTIF stalls a call at will. Refused in prctl too.
    Group(Rule::Errno(EPERM), calls! { seccomp 317 277; }),
    // The machine itself: modules, kernels, power, swap, accounting, quotas, log, console.
    Group(Rule::Errno(EPERM), calls! {
        init_module 175 105; finit_module 313 273; delete_module 176 106; kexec_load 246 104;
        kexec_file_load 320 294; reboot 169 142; swapon 167 224; swapoff 168 225; acct 163 89;
        quotactl 179 60; quotactl_fd 443 443; syslog 103 116; vhangup 153 58;
    }),
    // The clocks and names of the host. adjtimex can merely read, but its mode is behind a
    // pointer.
    Group(Rule::Errno(EPERM), calls! {
        settimeofday 164 170; clock_settime 227 112; clock_adjtime 305 266; adjtimex 159 171;
        sethostname 170 161; setdomainname 171 162;
    }),
    // x86 descriptor tables and I/O ports.
    Group(Rule::Errno(EPERM), calls! { modify_ldt 154 -; iopl 172 -; ioperm 173 -; }),
    // Its flags are behind a pointer a filter can't read; glibc falls back to clone.
    Group(Rule::Errno(ENOSYS), calls! { clone3 435 435; }),
    // A second system-call interface whose operations no filter sees; libuv falls back to threads.
    Group(Rule::Errno(ENOSYS), calls! {
        io_uring_setup 425 425; io_uring_enter 426 426; io_uring_register 427 427;
    }),
    // Kernel AIO: one number for the whole machine (fs.aio-max-nr), which no namespace or cgroup
    // divides, so that one program could take it from every database there. Storage engines fall
    // back, and Python and Node never ask.
    Group(Rule::Errno(ENOSYS), calls! {
        io_setup 206 0; io_destroy 207 1; io_submit 209 2; io_cancel 210 3; io_getevents 208 4;
        io_pgetevents 333 292;
    }),
    // The new mount interface and its views of the mount tree (CVE-2022-0185).
    Group(Rule::Errno(ENOSYS), calls! {
        open_tree 428 428; open_tree_attr 467 467; move_mount 429 429; fsopen 430 430;
        fsconfig 431 431; fsmount 432 432; fspick 433 433; mount_setattr 442 442; statmount 457 457;
        listmount 458 458;
    }),
    // Memory hidden even from the host's kernel; OpenSSL and Node go on without.
    Group(Rule::Errno(ENOSYS), calls! { memfd_secret 447 447; }),
    // Names of the host's security modules: nothing to know here.
    Group(Rule::Errno(ENOSYS), calls! {
        lsm_get_self_attr 459 459; lsm_set_self_attr 460 460; lsm_list_modules 461 461;
    }),
    // Lends user pages to a pipe, past copy-on-write (CVE-2020-29374); writev does the same work.
    Group(Rule::Errno(ENOSYS), calls! { vmsplice 278 75; }),
    Group(Rule::Arguments(CLONE), calls! { clone 56 220; }),
    Group(Rule::Arguments(MMAP), calls! { mmap 9 222; }),
    Group(Rule::Arguments(MEMFD), calls! { memfd_create 319 279; }),
    Group(Rule::Arguments(SHMGET), calls! { shmget 29 194; }),
    Group(Rule::Arguments(IOCTL), calls! { ioctl 16 29; }),
    Group(Rule::Arguments(FALLOCATE), calls! { fallocate 285 47; }),
    Group(Rule::Arguments(PERSONALITY), calls! { personality 135 92; }),
    Group(Rule::Arguments(PRCTL), calls! { prctl 157 167; }),
    Group(Rule::Arguments(SOCKET), calls! { socket 41 198; socketpair 53 199; }),
    Group(Rule::Arguments(FCNTL), calls! { fcntl 72 25; }),
    Group(Rule::Arguments(INOTIFY), calls! { inotify_add_watch 254 27; }),
    Group(Rule::Arguments(PRLIMIT), calls! { prlimit64 302 261; }),
    Group(Rule::Arguments(SCHEDULING), calls! {
        sched_setaffinity 203 122; sched_setparam 142 118; sched_setscheduler 144 119;
        sched_setattr 314 274;
    }),
    Group(Rule::Arguments(PRIORITY), calls! { setpriority 141 140; }),
    Group(Rule::Arguments(IO_PRIORITY), calls! { ioprio_set 251 30; }),
    Group(Rule::Arguments(SETSOCKOPT), calls! { setsockopt 54 208; }),
    Group(Rule::Arguments(RENAME), calls! { renameat2 316 276; }),
    Group(Rule::Arguments(MKNOD), calls! { mknod 133 -; }),
    Group(Rule::Arguments(MKNODAT), calls! { mknodat 259 33; }),
];

/// setresuid(2), setresgid(2), setreuid(2), setuid(2) and the like: never root's, which the capability to become a sandbox's user
/// would also give. The error is what the kernel answers
/// in a sandbox, where there is no root.
const NOT_ROOT: &[Check] = &[Check::none(0, u32::MAX, &[0], EINVAL)];
const NOT_ROOT_TWO: &[Check] = &[Check::none(0, u32::MAX, &[0], EINVAL), Check::none(1, u32::MAX, &[0], EINVAL)];
const NOT_ROOT_THREE: &[Check] = &[
    Check::none(0, u32::MAX, &[0], EINVAL),
    Check::none(1, u32::MAX, &[0], EINVAL),
    Check::none(2, u32::MAX, &[0], EINVAL),
];

/// What replaces the rules above for a zygote.
#[rustfmt::skip]
const FOR_ZYGOTES: &[Group] = &[
    // To enter a sandbox whose descriptors the service hands it, and to put the filter of programs in force.
    Group(Rule::Allow, calls! { setns 308 268; seccomp 317 277; }),
    Group(Rule::Arguments(NOT_ROOT), calls! { setuid 105 146; setgid 106 144; setfsuid 122 151; setfsgid 123 152; }),
    Group(Rule::Arguments(NOT_ROOT_TWO), calls! { setreuid 113 145; setregid 114 143; }),
    Group(Rule::Arguments(NOT_ROOT_THREE), calls! { setresuid 117 147; setresgid 119 149; }),
];

/// The numbers and rules of that for `arch`.
pub(super) fn for_zygotes(arch: Arch) -> Vec<(u32, Rule<'static>)> {
    let calls = FOR_ZYGOTES.iter().flat_map(|group| group.1.iter().map(move |call| (call.number(arch), group.0)));
    calls.filter_map(|(number, rule)| Some((number?, rule))).collect()
}
