//! Classic BPF as the kernel runs it on `struct seccomp_data`, so that a filter can be asked
//! about any call without installing it.

use super::{AND, Instruction, JA, JEQ, JGE, LOAD, RET};

/// What the kernel shows a filter: `struct seccomp_data` of linux/seccomp.h.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeccompData {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) instruction_pointer: u64,
    pub(super) args: [u64; 6],
}

impl SeccompData {
    /// The aligned 32-bit word at `offset`, on a little-endian machine.
    fn word(&self, offset: u32) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 64, "the kernel refuses this load");
        let half = |value: u64| {
            if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 }
        };
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => half(self.instruction_pointer),
            _ => half(self.args[(offset as usize - 16) / 8]),
        }
    }
}

/// The verdict of `program` on a call.
///
/// Panics on what the kernel's check of the program would have refused: an unknown code, a load
/// outside the data, a run off the end.
pub(super) fn evaluate(program: &[Instruction], data: &SeccompData) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let skip = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1;
        match code {
            LOAD => accumulator = data.word(k),
            AND => accumulator &= k,
            JA => at += k as usize,
            JEQ => at += skip(accumulator == k),
            JGE => at += skip(accumulator >= k),
            RET => return k,
            other => panic!("unknown code {other:#x}"),
        }
    }
}
