//! What holds for every packet on a channel: it is refused as invalid, or it is a message that, sent on, arrives as the
//! same. The fuzzer (`fuzz/fuzz_targets/channel.rs`) and the unit tests share this.

use super::*;
use crate::init::{Order, Report};
use crate::launcher::Spawn;

/// Sends the bytes as one packet to every kind of reader; returns whether one of them took it for a message.
///
/// Panics when the property does not hold.
pub fn holds(bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(2 * MAX_PACKET)];
    let taken = [packet_holds::<Order>(bytes), packet_holds::<Report>(bytes), packet_holds::<Spawn>(bytes)];
    taken.contains(&true)
}

fn packet_holds<M: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let (ours, theirs) = pair().expect("a socket pair");
    rustix::net::send(&theirs, bytes, SendFlags::NOSIGNAL).expect("room for one packet");
    let message = match receive::<M>(ours.as_fd()) {
        Ok(Some(packet)) => {
            assert!(packet.fds.is_empty() && packet.pid.is_none());
            packet.message
        }
        Ok(None) => {
            assert!(bytes.is_empty());
            return false;
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            return false;
        }
    };
    assert!(bytes.len() <= MAX_PACKET, "{} bytes", bytes.len());
    let written = serde_json::to_vec(&message).expect("a message");
    match send(ours.as_fd(), &message, &[]) {
        Ok(()) => {
            let again = receive::<M>(theirs.as_fd()).expect("a message").expect("a packet");
            assert_eq!(serde_json::to_vec(&again.message).expect("a message"), written);
        }
        Err(error) => assert!(written.len() > MAX_PACKET, "{error}"),
    }
    true
}
