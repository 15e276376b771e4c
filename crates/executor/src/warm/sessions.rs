//! What is kept for the next execution of a session: the walls of the last one, and in a session that goes on, a stand.
//!
//! Only for an execution that is alone in its session: those that run at once have walls of their own, and walls are never those of
//! another session. What is kept is little, bounded, and given up after a while.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::Language;
use sandbox::walls::Walls;
use tokio::sync::{mpsc, oneshot};

use super::Stand;
use crate::packages::Layer;
use crate::workspace::Workspace;

/// How long something is kept for a session that does not come back.
const KEPT: Duration = Duration::from_secs(60);
/// All sessions that something is kept for.
pub struct Sessions {
    most: usize,
    most_stands: usize,
    numbers: AtomicU64,
    kept: Mutex<HashMap<String, Kept>>,
    /// Sessions in which an execution has just ended that was not the first.
    going_on: mpsc::Sender<(String, Language)>,
}

#[derive(Default)]
struct Kept {
    /// Tells it from one of the same name that was forgotten.
    number: u64,
    running: usize,
    /// Whether executions have been in it at once since nobody was.
    shared: bool,
    runs: usize,
    walls: Option<Arc<Walls>>,
    stand: Option<Made>,
    /// Whether one is being made, whether that is worth waiting for, and who waits.
    making: bool,
    worth_waiting: bool,
    waits: Option<oneshot::Sender<Made>>,
    left: Option<Instant>,
}

/// A stand, and the language that it is for.
type Made = (Language, Stand);

impl Sessions {
    /// With room for so many sessions and so many stands; the other end tells where one is wanted.
    pub fn new(most: usize, most_stands: usize) -> (Self, mpsc::Receiver<(String, Language)>) {
        let (going_on, wanted) = mpsc::channel(64);
        (Self { most, most_stands, numbers: AtomicU64::default(), kept: Mutex::default(), going_on }, wanted)
    }

    /// An execution of this session begins.
    pub fn enter(&self, session_id: &str) -> Visit<'_> {
        let mut kept = self.lock();
        forget_some(&mut kept, self.most);
        let new = || Kept { number: self.numbers.fetch_add(1, Ordering::Relaxed), ..Kept::default() };
        let session = kept.entry(session_id.to_owned()).or_insert_with(new);
        session.running += 1;
        session.runs += 1;
        let is_alone = session.running == 1;
        session.shared = !is_alone;
        let (walls, stand) = if is_alone { (session.walls.take(), session.stand.take()) } else { (None, None) };
        let promise = (is_alone && session.making && session.worth_waiting).then(|| {
            let (give, get) = oneshot::channel();
            session.waits = Some(give);
            get
        });
        Visit { sessions: self, session_id: session_id.to_owned(), number: session.number, walls, stand, promise }
    }

    /// Takes the walls to make a stand with that will be given to [`Self::put`]; `None` where it is not wanted any more.
    pub fn prepare(&self, session_id: &str, worth_waiting: bool) -> Option<Option<Arc<Walls>>> {
        let mut kept = self.lock();
        let stands = kept.values().filter(|session| session.stand.is_some()).count();
        let session = kept.get_mut(session_id)?;
        let wanted = session.running == 0 && session.stand.is_none() && !session.making && stands < self.most_stands;
        wanted.then(|| {
            (session.making, session.worth_waiting) = (true, worth_waiting);
            session.walls.take()
        })
    }

    /// Gives a stand that was made, or `None` if it could not be, to whoever waits for it, or keeps it.
    pub fn put(&self, session_id: &str, made: Option<Made>) {
        let mut kept = self.lock();
        let Some(session) = kept.get_mut(session_id) else { return };
        session.making = false;
        match (session.waits.take(), made) {
            (Some(waits), Some(made)) => drop(waits.send(made)),
            (None, Some(made)) if session.running == 0 => session.stand = Some(made),
            (None, _) | (_, None) => {}
        }
    }

    /// Gives up what is kept for a session that ends.
    pub fn forget(&self, session_id: &str) {
        self.lock().remove(session_id);
    }

    /// Gives everything up.
    pub fn close(&self) {
        self.lock().clear();
    }

    /// Gives up what nobody came for.
    pub fn settle(&self) {
        forget_some(&mut self.lock(), self.most);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_some(kept: &mut HashMap<String, Kept>, most: usize) {
    kept.retain(|_, session| {
        session.running > 0 || session.making || session.left.is_none_or(|left| left.elapsed() < KEPT)
    });
    while kept.len() > most {
        let idle = kept.iter().filter(|(_, session)| session.running == 0 && !session.making);
        let Some(oldest) = idle.min_by_key(|(_, session)| session.left).map(|(name, _)| name.clone()) else { return };
        kept.remove(&oldest);
    }
}

/// One execution in its session.
pub struct Visit<'a> {
    sessions: &'a Sessions,
    session_id: String,
    number: u64,
    /// What the last left, if this execution is alone.
    pub walls: Option<Arc<Walls>>,
    stand: Option<Made>,
    promise: Option<oneshot::Receiver<Made>>,
}

impl Visit<'_> {
    /// The stand that was made for it, or is being made, if it is of this kind and still that of this workspace and these packages.
    pub async fn stand(
        &mut self,
        language: Language,
        workspace: &Workspace,
        packages: Option<&Arc<Layer>>,
    ) -> Option<Stand> {
        let (made_for, stand) = match (self.stand.take(), self.promise.take()) {
            (Some(made), _) => made,
            (None, Some(promise)) => promise.await.ok()?,
            (None, None) => return None,
        };
        let same = made_for == language
            && stand.body.is_waiting()
            && is_same(&stand.workspace.folder, &workspace.folder)
            && stand.workspace.identity == workspace.identity
            && stand.packages.as_ref().map(|layer| &layer.key) == packages.map(|layer| &layer.key);
        same.then_some(stand)
    }

    /// Whether no other was in the session while this one was. Those that were at once may have handed each other descriptors.
    pub fn was_alone(&self) -> bool {
        self.of(&mut self.sessions.lock()).is_some_and(|session| !session.shared)
    }

    /// Ends it. `walls` are what it leaves, when nothing of it is alive.
    pub fn leave(self, language: Language, walls: Option<Arc<Walls>>) {
        let runs = {
            let mut kept = self.sessions.lock();
            let Some(session) = self.of(&mut kept) else { return };
            if session.running == 1 {
                session.walls = walls;
            }
            session.runs
        };
        if runs > 1 {
            self.sessions.going_on.try_send((self.session_id.clone(), language)).ok();
        }
    }

    /// What is kept for its session, if that was not given up since, and begun anew.
    fn of<'a>(&self, kept: &'a mut HashMap<String, Kept>) -> Option<&'a mut Kept> {
        kept.get_mut(&self.session_id).filter(|session| session.number == self.number)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.of(&mut self.sessions.lock()) {
            session.running = session.running.saturating_sub(1);
            session.left = Some(Instant::now());
        }
    }
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |folder| rustix::fs::fstat(folder).map(|state| (state.st_dev, state.st_ino));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}
