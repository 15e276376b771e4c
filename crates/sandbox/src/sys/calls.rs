//! A list of system calls as machine code can carry it out that belongs to no program: the zygote, which is in another language
//! and has none of our code in it, is handed these bytes and calls them.
//!
//! A fork that enters a sandbox makes some seventy calls, and each that an interpreter makes costs many times the call, most
//! of all in pages that are touched first after a fork. The code reads nothing but its list and writes nothing but its stack.

/// Number of an entry that forks (its arguments are clone(2)'s) and returns the child's number to the caller; the child goes on.
pub const FORK: i64 = -2;
/// Number of an entry that forks and ends the caller; the child goes on.
pub const ORPHAN: i64 = -3;

// `long carry_out(const struct entry *)`, with an entry of eight words: the number, six arguments, and an errno that is no
// failure; the last one has number -1. Returns 0 at the end, the child's number after FORK, and for the entry of this index that
// failed with this errno -(index * 65536 + errno). System V calling convention; position-independent.
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
    "mov rbx, rdi",
    "xor r12d, r12d",
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
    "jmp 9f",
    "7:",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jle 3b",
    "jmp 9f",
    "8:",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jle 3b",
    "xor edi, edi",
    "mov eax, 231",
    "syscall",
    "9:",
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
