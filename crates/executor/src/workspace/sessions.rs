//! Who is in which session at the moment, and what is known of its workspace.
//!
//! Whoever works in a session stays in it ([`Stay`]); its workspace is removed only when nobody is, and meanwhile nobody enters. So
//! the end of a session, whoever wants it, can't meet its next execution half-way. All of this is memory: after a restart
//! nobody is in a session, and what there is to know is read off its folder.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::usage::Usage;
use super::watch::Watched;

/// Sessions in which nobody is that something is known of, at most.
const MOST_IDLE: usize = 1024;

/// All sessions in which somebody is, or that something is known of.
#[derive(Debug, Default)]
pub struct Sessions {
    known: Mutex<HashMap<String, Known>>,
    /// Somebody left, or a session is gone.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// Who is in it: executions, and transfers of files.
    runs: usize,
    transfers: usize,
    /// Its end has begun: nobody enters.
    closing: bool,
    /// Ends what goes on in it.
    end: CancellationToken,
    workspace: KnownWorkspace,
    left: Option<Instant>,
    /// How often somebody has entered, and how often until the one who made the workspace, if nobody else was there then.
    entered: u64,
    made_by: Option<u64>,
}

/// What is known of a session's workspace.
#[derive(Debug, Default)]
pub struct KnownWorkspace {
    /// What it held when it was last counted, or by what we did since.
    pub usage: Option<Usage>,
    /// How long programs have run in it since.
    pub ran: Duration,
    /// What uploads that are under way will add.
    pub promised: u64,
    /// Who tells of changes, where somebody does.
    pub watched: Option<Watched>,
    /// It was tried, and can't be.
    pub unwatchable: bool,
}

/// What somebody does in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Runs a program.
    Run,
    /// Reads or writes files.
    Transfer,
}

impl Sessions {
    /// Enters a session, once its end is over if it has begun.
    pub async fn enter(self: &Arc<Self>, session_id: &str, doing: Doing) -> Stay {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(end) = self.try_enter(session_id, doing) {
                return Stay { sessions: Arc::clone(self), session_id: session_id.to_owned(), doing, end };
            }
            changed.await;
        }
    }

    fn try_enter(&self, session_id: &str, doing: Doing) -> Option<CancellationToken> {
        let mut known = self.lock();
        forget_some(&mut known);
        let session = known.entry(session_id.to_owned()).or_default();
        if session.closing {
            return None;
        }
        *session.count(doing) += 1;
        session.entered += 1;
        Some(session.end.clone())
    }

    /// Begins the end of a session: ends what goes on in it, and waits until nobody is there. `None` when that takes longer, or
    /// when somebody else is at it for as long.
    pub async fn close(self: &Arc<Self>, session_id: &str, patience: Duration) -> Option<Closing> {
        let mut closing: Option<Closing> = None;
        let until = tokio::time::Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let mut known = self.lock();
                let session = known.entry(session_id.to_owned()).or_default();
                if closing.is_none() && !session.closing {
                    session.closing = true;
                    session.end.cancel();
                    closing = Some(Closing { sessions: Arc::clone(self), session_id: session_id.to_owned() });
                }
                if closing.is_some() && session.is_empty() {
                    return closing;
                }
            }
            tokio::time::timeout_at(until, changed).await.ok()?;
        }
    }

    /// The same, if nobody is in it now.
    pub fn close_idle(self: &Arc<Self>, session_id: &str) -> Option<Closing> {
        let mut known = self.lock();
        let session = known.entry(session_id.to_owned()).or_default();
        if session.closing || !session.is_empty() {
            return None;
        }
        session.closing = true;
        Some(Closing { sessions: Arc::clone(self), session_id: session_id.to_owned() })
    }

    /// The same for who made the workspace, if nobody else has ever been in it: when he leaves, it goes.
    pub fn close_unused(self: &Arc<Self>, stay: &Stay) -> Option<Closing> {
        let mut known = self.lock();
        let session = known.get_mut(&stay.session_id)?;
        if session.closing || session.made_by != Some(session.entered) || session.runs + session.transfers != 1 {
            return None;
        }
        session.closing = true;
        Some(Closing { sessions: Arc::clone(self), session_id: stay.session_id.clone() })
    }

    /// How many programs run in it.
    pub fn running(&self, session_id: &str) -> usize {
        self.lock().get(session_id).map_or(0, |session| session.runs)
    }

    /// What its workspace holds, where nothing has run since that was counted.
    pub fn exact_usage(&self, session_id: &str) -> Option<Usage> {
        let known = self.lock();
        let workspace = &known.get(session_id)?.workspace;
        workspace.usage.filter(|_| workspace.ran.is_zero())
    }

    /// Looks at or changes what is known of a session's workspace.
    fn with<T>(&self, session_id: &str, look: impl FnOnce(&mut KnownWorkspace) -> T) -> T {
        look(&mut self.lock().entry(session_id.to_owned()).or_default().workspace)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn count(&mut self, doing: Doing) -> &mut usize {
        match doing {
            Doing::Run => &mut self.runs,
            Doing::Transfer => &mut self.transfers,
        }
    }

    fn is_empty(&self) -> bool {
        self.runs == 0 && self.transfers == 0
    }
}

/// What is known of sessions that nobody has come back to for longest goes first.
fn forget_some(known: &mut HashMap<String, Known>) {
    if known.len() <= MOST_IDLE {
        return;
    }
    let idle = |session: &Known| session.is_empty() && !session.closing;
    let mut ages: Vec<Option<Instant>> =
        known.values().filter(|session| idle(session)).map(|session| session.left).collect();
    ages.sort_unstable();
    let Some(middle) = ages.get(ages.len() / 2).copied() else { return };
    known.retain(|_, session| !idle(session) || session.left > middle);
}

/// Somebody is in a session for as long as this is kept.
#[derive(Debug)]
pub struct Stay {
    sessions: Arc<Sessions>,
    session_id: String,
    doing: Doing,
    end: CancellationToken,
}

impl Stay {
    /// Until the session is to end.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Looks at or changes what is known of its workspace.
    pub fn with<T>(&self, look: impl FnOnce(&mut KnownWorkspace) -> T) -> T {
        self.sessions.with(&self.session_id, look)
    }

    /// Whoever is in it made its workspace, which is empty.
    pub fn has_made_it(&self) {
        if let Some(session) = self.sessions.lock().get_mut(&self.session_id) {
            session.workspace.usage = Some(Usage::default());
            session.made_by = (session.runs + session.transfers == 1).then_some(session.entered);
        }
    }

    /// Whose it is.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// What its workspace holds has changed by so much that it is to be counted again.
    pub fn forget_usage(&self) {
        self.with(|known| known.usage = None);
    }

    /// Stays for a transfer as well, beside what it is for.
    pub fn another(&self) -> Self {
        if let Some(session) = self.sessions.lock().get_mut(&self.session_id) {
            *session.count(Doing::Transfer) += 1;
        }
        let (sessions, session_id) = (Arc::clone(&self.sessions), self.session_id.clone());
        Self { sessions, session_id, doing: Doing::Transfer, end: self.end.clone() }
    }

    /// Whether no other program runs in it.
    pub fn is_alone(&self) -> bool {
        self.running() <= 1
    }

    /// How many programs run in it.
    pub fn running(&self) -> usize {
        self.sessions.running(&self.session_id)
    }

    /// Whether it is that of a program.
    pub fn is_for_a_run(&self) -> bool {
        self.doing == Doing::Run
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(session) = self.sessions.lock().get_mut(&self.session_id) {
            let count = session.count(self.doing);
            *count = count.saturating_sub(1);
            session.left = Some(Instant::now());
        }
        self.sessions.changed.notify_waiters();
    }
}

/// Nobody is in a session, and nobody enters while this is kept; afterwards nothing is known of it.
#[derive(Debug)]
pub struct Closing {
    sessions: Arc<Sessions>,
    session_id: String,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let mut known = self.sessions.lock();
        if let Some(session) = known.get_mut(&self.session_id) {
            if session.is_empty() {
                known.remove(&self.session_id);
            } else {
                // It was not waited for until the end: those who are in it have been told to leave.
                (session.closing, session.end) = (false, CancellationToken::new());
            }
        }
        drop(known);
        self.sessions.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn nobody_enters_a_session_that_ends_and_nobody_is_in_it_when_it_has() {
        let sessions = Arc::new(Sessions::default());
        let stay = sessions.enter("s", Doing::Run).await;
        assert_eq!(sessions.running("s"), 1);
        assert!(sessions.close_idle("s").is_none());
        let ending = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { sessions.close("s", Duration::from_secs(5)).await }
        });
        // It is told to leave, and until it does the end waits, and so does whoever wants in.
        stay.ended().await;
        assert!(tokio::time::timeout(SHORT, sessions.enter("s", Doing::Transfer)).await.is_err());
        assert!(!ending.is_finished());
        drop(stay);
        let closing = ending.await.unwrap().unwrap();
        assert!(tokio::time::timeout(SHORT, sessions.enter("s", Doing::Run)).await.is_err());
        drop(closing);
        let again = tokio::time::timeout(SHORT, sessions.enter("s", Doing::Run)).await.unwrap();
        assert!(tokio::time::timeout(SHORT, again.ended()).await.is_err());
    }

    #[tokio::test]
    async fn an_end_that_takes_too_long_is_given_up() {
        let sessions = Arc::new(Sessions::default());
        let stay = sessions.enter("s", Doing::Run).await;
        assert!(sessions.close("s", SHORT).await.is_none());
        let other = tokio::time::timeout(SHORT, sessions.enter("s", Doing::Run)).await.unwrap();
        assert_eq!(sessions.running("s"), 2);
        drop((stay, other));
        assert!(sessions.close_idle("s").is_some());
    }

    #[tokio::test]
    async fn who_made_a_workspace_takes_it_away_only_if_nobody_else_was_there() {
        let sessions = Arc::new(Sessions::default());
        drop(sessions.enter("s", Doing::Transfer).await);
        let maker = sessions.enter("s", Doing::Transfer).await;
        assert!(sessions.close_unused(&maker).is_none());
        maker.has_made_it();
        drop(sessions.close_unused(&maker).unwrap());
        // Somebody came and went.
        drop(sessions.enter("s", Doing::Run).await);
        assert!(sessions.close_unused(&maker).is_none());
        drop(maker);
        // Somebody was there before.
        let (other, maker) = (sessions.enter("t", Doing::Run).await, sessions.enter("t", Doing::Transfer).await);
        maker.has_made_it();
        drop(other);
        assert!(sessions.close_unused(&maker).is_none());
    }

    #[tokio::test]
    async fn what_is_known_is_bounded() {
        let sessions = Arc::new(Sessions::default());
        let kept = sessions.enter("kept", Doing::Run).await;
        for number in 0..3 * MOST_IDLE {
            drop(sessions.enter(&number.to_string(), Doing::Run).await);
        }
        assert!(sessions.lock().len() <= MOST_IDLE + 1);
        assert!(!kept.is_alone() || sessions.running("kept") == 1);
    }
}
