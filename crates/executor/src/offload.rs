//! Work that takes the CPU for long goes to a thread that may: on one that serves connections and deadlines, ten megabytes of
//! JSON would make timeouts late.

/// Less than this many bytes are done with sooner than another thread has woken up.
const WORTH_A_THREAD: usize = 256 * 1024;

/// Does the work, here or there, depending on how many bytes it goes over.
pub async fn offload<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes < WORTH_A_THREAD {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It is never cancelled, so it panicked: as if it had been done here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
