//! The seccomp filter: an allow-list as data and its compiler to classic BPF.
//!
//! A sandboxed program reaches the kernel through a few hundred calls; the list in `table` says
//! which, and why. Unlisted numbers answer ENOSYS, since libraries probe for new calls and fall
//! back, and dangerous ones EPERM; the only death is for a call of another architecture, whose
//! numbers mean something else. The program is emitted here rather than by a library because one
//! filter has three verdicts and the x32 numbers to refuse, and because a few hundred instructions
//! are easily checked: the tests run them in an interpreter against the data. It is a binary
//! search over ranges of equal verdict; arguments are looked at only where a rule asks, so the
//! kernel can keep the verdict of every other number in a bitmap and skip the program (Linux 5.11,
//! `seccomp_cache_prepare`).

#[cfg(any(test, fuzzing))]
mod interpreter;
#[cfg(any(test, fuzzing))]
pub mod property;
mod table;
#[cfg(test)]
mod tests;

use table::{ENOSYS, TABLE};

/// One instruction of classic BPF, in the layout of `struct sock_filter` (linux/filter.h,
/// seccomp(2)).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation: class, size or comparison, and source.
    pub code: u16,
    /// How many instructions to skip if a comparison holds.
    pub jt: u8,
    /// How many instructions to skip if it does not.
    pub jf: u8,
    /// The operand: an offset into `struct seccomp_data`, a constant or a verdict.
    pub k: u32,
}

/// The instruction sets there is a list for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86 without the i386 and x32 interfaces.
    X86_64,
    /// 64-bit ARM without the 32-bit interface, little-endian.
    Aarch64,
}

impl Arch {
    /// The one this program is built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Self = Self::X86_64;
    /// The one this program is built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Self = Self::Aarch64;

    /// `AUDIT_ARCH_*` of linux/audit.h: ELF machine, 64-bit, little-endian.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

/// Compiles the list for `arch` into a program for `seccomp(SECCOMP_SET_MODE_FILTER)`, see
/// seccomp(2).
///
/// The caller sets no_new_privs first and installs it last: it refuses what a launcher needs.
pub fn compile(arch: Arch) -> Vec<Instruction> {
    compile_list(arch, list(arch))
}

/// The program for what this is built for, compiled once in a process and its children.
pub fn native() -> &'static [Instruction] {
    static PROGRAM: std::sync::OnceLock<Vec<Instruction>> = std::sync::OnceLock::new();
    PROGRAM.get_or_init(|| compile(Arch::NATIVE))
}

/// The same for a zygote: what its forks, which inherit it and add [`fork`], need to enter a sandbox.
pub fn zygote() -> Vec<Instruction> {
    let mut list = list(Arch::NATIVE);
    for (number, rule) in table::for_zygotes(Arch::NATIVE) {
        list.retain(|(known, _)| *known != number);
        list.push((number, rule));
    }
    compile_list(Arch::NATIVE, list)
}

/// What a fork of a process under [`zygote`] adds: where that lets more through than [`native`] does, the latter's verdict. The
/// kernel takes the stricter of two (seccomp(2)), so together they say what [`native`] says, and a short program is put in force
/// in a fraction of the time.
pub fn fork() -> Vec<Instruction> {
    let list = list(Arch::NATIVE);
    let own = |number| list.iter().find(|(known, _)| *known == number).map_or(UNLISTED, |(_, rule)| *rule);
    let numbers = table::for_zygotes(Arch::NATIVE).into_iter();
    compile_ranges(Arch::NATIVE, &ranges(numbers.map(|(number, _)| (number, own(number))).collect(), Rule::Allow))
}

/// The same for any list that names no number twice.
fn compile_list(arch: Arch, list: Vec<(u32, Rule<'_>)>) -> Vec<Instruction> {
    compile_ranges(arch, &ranges(list, UNLISTED))
}

fn compile_ranges(arch: Arch, ranges: &[Range<'_>]) -> Vec<Instruction> {
    let search = search(ranges);
    let mut program = vec![load(OFFSET_ARCH), jump(JEQ, arch.audit(), 1, 0), ret(KILL_PROCESS), load(OFFSET_NUMBER)];
    if arch == Arch::X86_64 {
        // x32 is x86_64 to the arch field and sets a bit in the number.
        program.extend([jump(JGE, X32_BIT, 0, 1), ret(Rule::Errno(ENOSYS).action())]);
    }
    program.extend(search);
    program
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule<'a> {
    Allow,
    /// Refused with this error.
    Errno(u16),
    /// Allowed if every check on the arguments passes; the first that does not gives the error.
    Arguments(&'a [Check<'a>]),
}

impl Rule<'_> {
    /// The verdict before any argument is looked at.
    fn action(self) -> u32 {
        match self {
            Self::Allow | Self::Arguments(_) => ALLOW,
            Self::Errno(errno) => ERRNO | u32::from(errno),
        }
    }
}

/// A condition on the lower 32 bits of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Check<'a> {
    /// An argument and the value that it must have for this check to be made at all.
    when: Option<(u32, u32)>,
    argument: u32,
    mask: u32,
    values: &'a [u32],
    /// Whether being one of the values passes or fails.
    passes: bool,
    errno: u16,
}

impl<'a> Check<'a> {
    /// Passes if the masked argument is one of `values`.
    const fn only(argument: u32, mask: u32, values: &'a [u32], errno: u16) -> Self {
        Self::new(argument, mask, values, true, errno)
    }

    /// Passes if the masked argument is none of `values`.
    const fn none(argument: u32, mask: u32, values: &'a [u32], errno: u16) -> Self {
        Self::new(argument, mask, values, false, errno)
    }

    /// What can't be compiled is an error of the build: the table is a constant.
    const fn new(argument: u32, mask: u32, values: &'a [u32], passes: bool, errno: u16) -> Self {
        assert!(argument < 6, "a call has six arguments");
        assert!(!values.is_empty() && values.len() <= MAX_VALUES, "a comparison jumps over the others");
        Self { when: None, argument, mask, values, passes, errno }
    }

    /// The same, only where this other argument has this value.
    const fn when(self, argument: u32, value: u32) -> Self {
        assert!(argument < 6, "a call has six arguments");
        Self { when: Some((argument, value)), ..self }
    }
}

/// Most values of one check: as far as a conditional jump reaches.
const MAX_VALUES: usize = 255;

/// Numbers from `first` up to the next range share a rule.
struct Range<'a> {
    first: u32,
    rule: Rule<'a>,
}

/// The table's numbers and rules for `arch`.
fn list(arch: Arch) -> Vec<(u32, Rule<'static>)> {
    let calls = TABLE.iter().flat_map(|group| group.1.iter().map(move |call| (call.number(arch), group.0)));
    calls.filter_map(|(number, rule)| Some((number?, rule))).collect()
}

/// What happens to a number that is in no list.
const UNLISTED: Rule<'static> = Rule::Errno(ENOSYS);

/// The list as ranges that cover every number, with one rule for all that are not in it.
fn ranges<'a>(mut list: Vec<(u32, Rule<'a>)>, others: Rule<'a>) -> Vec<Range<'a>> {
    list.sort_by_key(|&(number, _)| number);
    let mut ranges = vec![Range { first: 0, rule: others }];
    // The number after the last one seen; none after the largest there is.
    let mut next = Some(0);
    for (number, rule) in list {
        if let Some(gap) = next.filter(|&gap| gap < number) {
            start(&mut ranges, gap, others);
        }
        start(&mut ranges, number, rule);
        next = number.checked_add(1);
    }
    if let Some(gap) = next {
        start(&mut ranges, gap, others);
    }
    ranges
}

/// Begins a range, unless it only continues the one before.
fn start<'a>(ranges: &mut Vec<Range<'a>>, first: u32, rule: Rule<'a>) {
    match ranges.last_mut() {
        Some(last) if last.rule == rule => {}
        Some(last) if last.first == first => last.rule = rule,
        _ => ranges.push(Range { first, rule }),
    }
}

/// A binary search, with the number in the accumulator. Jumps are relative, so parts can be
/// joined.
fn search(ranges: &[Range<'_>]) -> Vec<Instruction> {
    if let [range] = ranges {
        return leaf(range.rule);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (below, above) = (search(low), search(high));
    let mut program = branch(high[0].first, below.len());
    program.extend(below);
    program.extend(above);
    program
}

/// Skips the `below` instructions that follow if the accumulator is at least `first`.
fn branch(first: u32, below: usize) -> Vec<Instruction> {
    match u8::try_from(below) {
        Ok(near) => vec![jump(JGE, first, near, 0)],
        // A conditional jump reaches 255 instructions, an unconditional one as far as it likes.
        Err(_) => {
            let far = u32::try_from(below).expect("a filter has at most 4096 instructions");
            vec![jump(JGE, first, 0, 1), Instruction { code: JA, jt: 0, jf: 0, k: far }]
        }
    }
}

/// The end of a search: the checks, if any, and the verdict.
fn leaf(rule: Rule<'_>) -> Vec<Instruction> {
    let mut program = Vec::new();
    if let Rule::Arguments(checks) = rule {
        for check in checks {
            program.extend(compare(check));
        }
    }
    program.push(ret(rule.action()));
    program
}

/// One check: falls through to what follows, or returns the error.
fn compare(check: &Check<'_>) -> Vec<Instruction> {
    // Little-endian: the lower half comes first.
    let mut program = vec![load(OFFSET_ARGUMENTS + 8 * check.argument)];
    if check.mask != u32::MAX {
        program.push(Instruction { code: AND, jt: 0, jf: 0, k: check.mask });
    }
    // Each comparison that holds jumps to the error or past it, the last that does not as well.
    for (value, after) in check.values.iter().zip((0..check.values.len()).rev()) {
        let to_error = u8::try_from(after).expect("a check has few values");
        let (hit, miss) = if check.passes { (to_error + 1, 0) } else { (to_error, 1) };
        program.push(jump(JEQ, *value, hit, if after == 0 { miss } else { 0 }));
    }
    program.push(ret(Rule::Errno(check.errno).action()));
    let Some((argument, value)) = check.when else { return program };
    let past = u32::try_from(program.len()).expect("a check has few values");
    let skip = Instruction { code: JA, jt: 0, jf: 0, k: past };
    [load(OFFSET_ARGUMENTS + 8 * argument), jump(JEQ, value, 1, 0), skip].into_iter().chain(program).collect()
}

// Codes of linux/bpf_common.h and verdicts of linux/seccomp.h.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JA: u16 = 0x05; // BPF_JMP | BPF_JA
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RET: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

// Members of struct seccomp_data.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// `__X32_SYSCALL_BIT` of asm/unistd.h.
const X32_BIT: u32 = 0x4000_0000;

const fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k: offset }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

const fn ret(verdict: u32) -> Instruction {
    Instruction { code: RET, jt: 0, jf: 0, k: verdict }
}
