//! A list of system calls as machine code can carry it out that belongs to no program: the zygote, which is in another language
//! and has none of our code in it, is handed these bytes and calls them.
//!
//! A fork that enters a sandbox makes some seventy calls, and each that an interpreter makes costs many times the call, most
//! of all in pages that are touched first after a fork. The code reads nothing but its list and writes nothing but its stack and a
//! word of the list.

/// Number of an entry that makes a child with the caller's memory while the caller waits (its arguments are clone(2)'s, with
/// `CLONE_VM` and `CLONE_VFORK`). The child goes on until it ends, by [`ORPHAN`] or because a call failed; the caller then gets its
/// number, or what failed.
pub const LEND: i64 = -2;
/// Number of an entry that makes a child, which goes on, and ends the caller.
pub const ORPHAN: i64 = -3;

// `long carry_out(struct entry *)`, with an entry of eight words: the number, six arguments, and an errno that is no failure; the
// last one has number -1. Returns 0 at the end, the child's number after LEND, and for the entry of this index that failed with
// this errno -(index * 65536 + errno). The entry of LEND has 0 as its last word, which such a value is written to while memory is
// lent, when r13 is its address; the stack is lent as well, so nothing is pushed and nobody returns meanwhile. System V calling
// convention; position-independent.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.sandbox_calls, \"ax\", @progbits",
    ".globl sandbox_calls_start",
    ".globl sandbox_calls_end",
    ".hidden sandbox_calls_start",
    ".hidden sandbox_calls_end",
    "sandbox_calls_start:",
    "endbr64",
    "push rbx",
    "push r12",
    "push r13",
    "mov rbx, rdi",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "2:",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "cmp rax, -1",
    "je 5f",
    "cmp rax, -2",
    "je 7f",
    "cmp rax, -3",
    "je 8f",
    "syscall",
    "3:",
    "cmp rax, -4095",
    "jb 4f",
    "neg rax",
    "cmp rax, [rbx + 56]",
    "jne 6f",
    "4:",
    "add rbx, 64",
    "inc r12",
    "jmp 2b",
    "5:",
    "xor eax, eax",
    "jmp 9f",
    "6:",
    "shl r12, 16",
    "or rax, r12",
    "neg rax",
    "test r13, r13",
    "jz 9f",
    "mov [r13 + 56], rax",
    "jmp 31f",
    "7:",
    "mov r13, rbx",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 3b",
    "mov r13d, 0",
    "js 3b",
    "cmp qword ptr [rbx + 56], 0",
    "cmovne rax, [rbx + 56]",
    "mov qword ptr [rbx + 56], 0",
    "jmp 9f",
    "8:",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jg 31f",
    "js 3b",
    "test qword ptr [rbx + 8], 0x100",
    "jnz 3b",
    "xor r13d, r13d",
    "jmp 3b",
    "31:",
    "xor edi, edi",
    "mov eax, 231",
    "syscall",
    "9:",
    "pop r13",
    "pop r12",
    "pop rbx",
    "ret",
    "sandbox_calls_end:",
    ".popsection",
);

/// The code, where there is one for this kind of processor.
#[cfg(target_arch = "x86_64")]
pub fn code() -> Option<&'static [u8]> {
    unsafe extern "C" {
        static sandbox_calls_start: u8;
        static sandbox_calls_end: u8;
    }
    let (start, end) = (&raw const sandbox_calls_start, &raw const sandbox_calls_end);
    // SAFETY: both labels are in one section (above), in this order, and what lies between is never written to.
    Some(unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) })
}

/// The code, where there is one for this kind of processor.
#[cfg(not(target_arch = "x86_64"))]
pub fn code() -> Option<&'static [u8]> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    const LENDING: i64 = (libc::SIGCHLD | libc::CLONE_VM | libc::CLONE_VFORK) as i64;
    const END: [i64; 8] = [-1, 0, 0, 0, 0, 0, 0, 0];

    fn entry(words: &[i64]) -> [i64; 8] {
        std::array::from_fn(|index| words.get(index).copied().unwrap_or_default())
    }

    fn carry_out(list: &mut [[i64; 8]]) -> i64 {
        let code: *const u8 = code().unwrap().as_ptr();
        // SAFETY: the code is a function of this type (above), and the list ends as it expects.
        unsafe { std::mem::transmute::<*const u8, extern "C" fn(*mut [i64; 8]) -> i64>(code)(list.as_mut_ptr()) }
    }

    #[test]
    fn the_child_of_one_that_lent_its_memory_goes_on() {
        let (mut reads, writes) = std::io::pipe().unwrap();
        let fork = entry(&[ORPHAN, libc::SIGCHLD.into()]);
        for between in [vec![], vec![entry(&[ORPHAN, LENDING])]] {
            let mut list = vec![entry(&[LEND, LENDING])];
            list.extend(between);
            list.extend([
                fork,
                entry(&[libc::SYS_write, writes.as_raw_fd().into(), c"x".as_ptr() as i64, 1]),
                entry(&[libc::SYS_exit_group, 0]),
                END,
            ]);
            let child = carry_out(&mut list);
            assert!(child > 0, "{child}");
            let mut written = [0];
            reads.read_exact(&mut written).unwrap();
            assert_eq!(&written, b"x");
            let mut status = -1;
            // SAFETY: a child of ours, and the place is there for as long as the call.
            let collected = unsafe { libc::waitpid(child as i32, &raw mut status, 0) };
            assert_eq!((i64::from(collected), status), (child, 0));
        }
    }

    #[test]
    fn a_call_that_fails_while_memory_is_lent_is_told_to_the_lender() {
        let closed = entry(&[libc::SYS_close, -1]);
        let mut list = [entry(&[LEND, LENDING]), closed, END];
        assert_eq!(carry_out(&mut list), -(1 << 16 | i64::from(libc::EBADF)));
        let mut list = [entry(&[LEND, LENDING]), entry(&[ORPHAN, LENDING]), closed, END];
        assert_eq!(carry_out(&mut list), -(2 << 16 | i64::from(libc::EBADF)));
        // Nothing of it stays in the list.
        assert_eq!(list[0][7], 0);
        // Where it is no failure, and where nothing was lent.
        let mut list = [entry(&[libc::SYS_close, -1, 0, 0, 0, 0, 0, libc::EBADF.into()]), closed, END];
        assert_eq!(carry_out(&mut list), -(1 << 16 | i64::from(libc::EBADF)));
    }
}
