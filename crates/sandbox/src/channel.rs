//! The private channel between the service and what it starts: a sequenced-packet socket pair (unix(7)) that
//! carries one JSON message a packet and, beside it, descriptors (SCM_RIGHTS).
//!
//! ```text
//! service → launcher   Spawn {…}   + descriptors       launcher → service   Spawned {…} + pidfd
//! service → init       Order::Start + descriptors      init → service       Report::Ready (with its pid by SCM_CREDENTIALS)
//! service → init       Order::Kill                     init → service       Report::Ended | Report::Failed
//! ```
//!
//! The end of the stream means that the peer is gone. No byte of a request travels here but inside sealed memfds.

#[cfg(any(test, fuzzing))]
pub mod property;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most descriptors in one packet (SCM_MAX_FD is 253).
const MAX_FDS: usize = 32;
/// Largest packet in bytes; longer data goes into a memfd.
const MAX_PACKET: usize = 64 * 1024;

/// What came in one packet.
pub struct Packet<M> {
    /// The message.
    pub message: M,
    /// The descriptors beside it.
    pub fds: Vec<OwnedFd>,
    /// The sender's pid in the receiver's pid namespace, where the receiver asked for credentials.
    pub pid: Option<rustix::process::Pid>,
}

/// A connected pair of close-on-exec sockets.
///
/// # Errors
/// socketpair(2)'s own.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message; waits for room.
///
/// # Errors
/// sendmsg(2)'s own; `EPIPE` when the peer is gone, `EMSGSIZE` for a message that no receiver has room for.
pub fn send<M: Serialize>(socket: BorrowedFd<'_>, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_PACKET {
        // Cut off it would be no message, and its receiver would leave.
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; `None` at the end of the stream.
///
/// # Errors
/// recvmsg(2)'s own (`WouldBlock` on a non-blocking socket), `InvalidData` for a packet that is no message.
pub fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<Packet<M>>> {
    // Its length first: room for the longest would be written to each time, and copied where the process is a fork.
    let (_, length) = rustix::net::recv(socket, &mut [0; 0], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    let mut bytes = vec![0; length.min(MAX_PACKET)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let (mut fds, mut pid) = (Vec::new(), None);
    for item in ancillary.drain() {
        match item {
            RecvAncillaryMessage::ScmRights(received) => fds.extend(received),
            RecvAncillaryMessage::ScmCredentials(credentials) => pid = Some(credentials.pid),
            _ => {}
        }
    }
    let message = serde_json::from_slice(&bytes[..received.bytes]);
    let message = message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some(Packet { message, fds, pid }))
}

/// A socket of a [`pair`] in the async service.
pub struct AsyncChannel(AsyncFd<OwnedFd>);

impl AsyncChannel {
    /// Registers the socket with the runtime that this is called in.
    ///
    /// # Errors
    /// The runtime's.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        crate::sys::watch(socket, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Whether the peer still holds its end.
    pub fn is_connected(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut sockets = [PollFd::new(self.0.get_ref(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut sockets, Some(&now)).is_ok() && !sockets[0].revents().contains(PollFlags::HUP)
    }

    /// Whether the peer holds its end and has said nothing that was not received yet.
    pub fn is_quiet(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut sockets = [PollFd::new(self.0.get_ref(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut sockets, Some(&now)).is_ok() && sockets[0].revents().is_empty()
    }

    /// As [`send`].
    ///
    /// # Errors
    /// As [`send`].
    pub async fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|socket| send(socket.as_fd(), message, fds)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// As [`receive`]; may be dropped while it waits without losing a message.
    ///
    /// # Errors
    /// As [`receive`].
    pub async fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<Packet<M>>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| receive(socket.as_fd())) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

/// A file in memory with this content that nobody can change any more (memfd_create(2), F_ADD_SEALS of fcntl(2)).
///
/// # Errors
/// The system calls' own.
pub fn sealed(name: &str, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    for part in parts {
        io::Write::write_all(&mut file, part)?;
    }
    io::Seek::rewind(&mut file)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_that_does_not_fit_is_not_sent() {
        let (ours, theirs) = pair().unwrap();
        let quotes = 2;
        send(ours.as_fd(), &"x".repeat(MAX_PACKET - quotes), &[]).unwrap();
        assert_eq!(receive::<String>(theirs.as_fd()).unwrap().unwrap().message.len(), MAX_PACKET - quotes);
        let error = send(ours.as_fd(), &"x".repeat(MAX_PACKET - quotes + 1), &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn every_seed_of_the_fuzzer_is_a_message_or_refused() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/channel");
        let seeds = std::fs::read_dir(seeds).expect("the seeds are committed");
        let read = seeds.map(|seed| std::fs::read(seed.expect("a seed").path()).expect("a readable seed"));
        let found: Vec<_> = read.map(|bytes| property::holds(&bytes)).collect();
        assert!(found.contains(&true) && found.contains(&false), "{found:?}");
    }

    proptest! {
        #[test]
        fn any_packet_is_a_message_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            name in "(Ready|Failed|Ended|Start|Kill|number|argv|stage|x)",
            value in "[\\[\\]{}\":,0-9a-z.\\-]{0,30}",
        ) {
            property::holds(&bytes);
            property::holds(format!("\"{name}\"").as_bytes());
            property::holds(format!("{{\"{name}\":{value}}}").as_bytes());
        }
    }
}
