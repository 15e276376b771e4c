//! What holds for every list of rules, not only for the one in `table`: its program is one that the kernel takes, and
//! the program's verdict on a call is the list's own.
//!
//! The property is written once and fed twice: with random bytes by the unit tests, and by the fuzzer
//! (`fuzz/fuzz_targets/seccomp.rs`), which finds its way from the seeds to what nobody thought of.

use std::collections::{BTreeMap, BTreeSet};

use super::interpreter::{SeccompData, evaluate};
use super::*;

/// Most instructions of a filter (BPF_MAXINSNS of linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;
/// Checks that the rules of one list choose from.
const CHECKS: usize = 8;
/// Calls read from the bytes, beside those at the boundaries of the list.
const CALLS: usize = 32;
/// For the half of an argument that no check looks at.
const JUNK: u64 = 0xdead_beef_0000_0000;

type List<'a> = BTreeMap<u32, Rule<'a>>;

/// Makes a list and calls out of the bytes, compiles the one and judges the others. Returns the codes that the program is
/// made of.
///
/// Panics when the property does not hold.
pub fn holds(bytes: &[u8]) -> BTreeSet<u16> {
    let mut source = Source(bytes);
    let (arch, other) = if source.flag() { (Arch::X86_64, Arch::Aarch64) } else { (Arch::Aarch64, Arch::X86_64) };
    let values: [Vec<u32>; CHECKS] = std::array::from_fn(|_| source.values());
    let checks: Vec<Check<'_>> = values.iter().map(|values| source.check(values)).collect();
    let list = source.list(&checks);

    let program = compile_list(arch, list.iter().map(|(number, rule)| (*number, *rule)).collect());
    assert_accepted(&program);
    assert!(program.len() <= length_at_most(&list), "{} instructions", program.len());

    let ask = |arch: Arch, nr, args| {
        evaluate(&program, &SeccompData { nr, arch: arch.audit(), instruction_pointer: JUNK, args })
    };
    let judge = |nr, args| assert_eq!(ask(arch, nr, args), intended(arch, &list, nr, args), "{arch:?} {nr} {args:x?}");
    for nr in boundaries(&list) {
        judge(nr, [0; 6]);
        if let Some(Rule::Arguments(checks)) = list.get(&nr) {
            arguments_near(checks).into_iter().for_each(|args| judge(nr, args));
        }
    }
    for _ in 0..CALLS {
        let nr = source.number(&list);
        assert_eq!(ask(other, nr, [0; 6]), KILL_PROCESS, "{nr} of another architecture");
        judge(nr, std::array::from_fn(|_| source.argument()));
    }
    program.iter().map(|instruction| instruction.code).collect()
}

/// What the kernel looks at before it takes a program (bpf_check_classic, seccomp_check_filter).
pub(super) fn assert_accepted(program: &[Instruction]) {
    assert!(program.len() <= MAX_INSTRUCTIONS, "{} instructions", program.len());
    assert_eq!(program.last().map(|last| last.code), Some(RET));
    for (at, instruction) in program.iter().enumerate() {
        let rest = program.len() - at - 1;
        let Instruction { code, jt, jf, k } = *instruction;
        match code {
            JEQ | JGE => assert!(usize::from(jt.max(jf)) < rest, "{at}: {instruction:?}"),
            JA => assert!((k as usize) < rest, "{at}: {instruction:?}"),
            LOAD => assert!(k < 64 && k.is_multiple_of(4), "{at}: {instruction:?}"),
            AND | RET => {}
            _ => panic!("{at}: {instruction:?}"),
        }
    }
}

/// The rule's own verdict, without the compiler.
pub(super) fn verdict(rule: Rule<'_>, args: [u64; 6]) -> u32 {
    let failed = match rule {
        Rule::Arguments(checks) => checks.iter().find(|check| {
            if check.when.is_some_and(|(argument, value)| args[argument as usize] as u32 != value) {
                return false;
            }
            let value = args[check.argument as usize] as u32 & check.mask;
            check.values.contains(&value) != check.passes
        }),
        _ => None,
    };
    failed.map_or(rule.action(), |check| ERRNO | u32::from(check.errno))
}

fn intended(arch: Arch, list: &List<'_>, nr: u32, args: [u64; 6]) -> u32 {
    let missing = Rule::Errno(ENOSYS);
    let is_x32 = arch == Arch::X86_64 && nr >= X32_BIT;
    verdict(if is_x32 { missing } else { list.get(&nr).copied().unwrap_or(missing) }, args)
}

/// The listed numbers, those beside them, and the ends of what numbers there are.
fn boundaries(list: &List<'_>) -> BTreeSet<u32> {
    let listed = list.keys().flat_map(|number| [number.saturating_sub(1), *number, number.saturating_add(1)]);
    listed.chain([0, X32_BIT - 1, X32_BIT, X32_BIT + 1, u32::MAX]).collect()
}

/// Arguments that pass as many checks as can be, and those that differ from them in one place: at a value, beside it,
/// in a bit, in the half that does not count.
fn arguments_near(checks: &[Check<'_>]) -> Vec<[u64; 6]> {
    let mut passing = [0; 6];
    for check in checks.iter().filter(|check| check.passes) {
        passing[check.argument as usize] = check.values[0].into();
    }
    let mut all = vec![passing, passing.map(|argument| argument | JUNK)];
    for check in checks {
        let ends = [check.values[0], check.values[check.values.len() / 2], check.values[check.values.len() - 1]];
        let near = ends.into_iter().flat_map(|value| [value, value ^ 1, value ^ 1 << 31, !value, value | !check.mask]);
        for value in near {
            for half in [0, JUNK] {
                let mut args = passing;
                if let Some((argument, wanted)) = check.when {
                    args[argument as usize] = u64::from(wanted) | half;
                }
                args[check.argument as usize] = u64::from(value) | half;
                all.push(args);
            }
        }
    }
    all
}

/// How long the program of a list can get: each number begins a range and the one after it another, each with at most
/// two instructions to branch.
fn length_at_most(list: &List<'_>) -> usize {
    let start = 6;
    let end = 1;
    start + end + list.values().map(|rule| length_of_entry(*rule)).sum::<usize>()
}

fn length_of_entry(rule: Rule<'_>) -> usize {
    let checks = match rule {
        Rule::Arguments(checks) => checks.iter().map(|check| check.values.len() + 6).sum(),
        _ => 0,
    };
    let (own, gap, branches) = (checks + 1, 1, 4);
    own + gap + branches
}

/// Values out of bytes; zeros when these are used up.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// Small, a single bit, an end of what there is, or anything.
    fn word(&mut self) -> u32 {
        match self.byte() {
            kind @ 0..=159 => u32::from(kind) % 4 * 256 + u32::from(self.byte()),
            160..=191 => 1 << self.below(32),
            192..=207 => u32::MAX - u32::from(self.byte()),
            208..=223 => X32_BIT.wrapping_sub(8).wrapping_add(self.byte().into()),
            _ => u32::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    fn values(&mut self) -> Vec<u32> {
        match self.byte() {
            count @ 0..=239 => (0..=count % 6).map(|_| self.word()).collect(),
            // As many as there may be, or nearly.
            count => {
                let first = self.word();
                (0..(MAX_VALUES - usize::from(count - 240)) as u32).map(|index| first.wrapping_add(index)).collect()
            }
        }
    }

    fn check<'v>(&mut self, values: &'v [u32]) -> Check<'v> {
        let argument = self.below(6) as u32;
        let mask = if self.flag() { u32::MAX } else { self.word() };
        let errno = self.byte().into();
        let check = if self.flag() {
            Check::only(argument, mask, values, errno)
        } else {
            Check::none(argument, mask, values, errno)
        };
        if self.flag() { check } else { check.when(self.below(6) as u32, self.below(4) as u32) }
    }

    fn rule<'v>(&mut self, checks: &'v [Check<'v>]) -> Rule<'v> {
        match self.below(4) {
            0 => Rule::Allow,
            1 => Rule::Errno(self.byte().into()),
            _ => {
                let first = self.below(checks.len());
                let count = 1 + self.below((checks.len() - first).min(3));
                Rule::Arguments(&checks[first..first + count])
            }
        }
    }

    /// Runs of numbers with two rules in turn, as long as the program can't get too long.
    fn list<'v>(&mut self, checks: &'v [Check<'v>]) -> List<'v> {
        let mut list = List::new();
        let mut length = length_at_most(&list);
        for _ in 0..self.below(24) {
            let (first, step, count) = (self.word(), 1 + self.below(3) as u32, self.run());
            let rules = [self.rule(checks), self.rule(checks)];
            for index in 0..=count {
                let rule = rules[index as usize % 2];
                length += length_of_entry(rule);
                let Some(number) = first.checked_add(index * step).filter(|_| length <= MAX_INSTRUCTIONS) else {
                    return list;
                };
                list.insert(number, rule);
            }
        }
        list
    }

    /// Mostly short: a long run takes long to judge, and few are enough to need far branches.
    fn run(&mut self) -> u32 {
        match self.byte() {
            count @ 0..=223 => u32::from(count) % 8,
            count => u32::from(count),
        }
    }

    fn number(&mut self, list: &List<'_>) -> u32 {
        match (self.flag(), list.len()) {
            (true, 1..) => {
                let index = usize::from(self.byte()) * list.len() / 256;
                list.keys().nth(index).copied().unwrap_or_default()
            }
            _ => self.word(),
        }
    }

    fn argument(&mut self) -> u64 {
        let low = u64::from(self.word());
        if self.flag() { low } else { low | u64::from(self.word()) << 32 }
    }
}
