//! The CPU limit for all threads that work much: the reader, and the one that compresses.
//!
//! The reader asks before each turn and finds other work meanwhile; the spool's thread has none, and waits
//! here between two pieces of its work. It goes by the class of the file that it works for, so P0 of the
//! reader goes first where that is bulk; and a piece now and then is its due, as a class has its
//! floor: while bulk waits, disks fill with what is deleted.
//!
//! Not for: the arithmetic (see [`super::cpu`]).

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::ids::Class;

use super::{Allowed, Cpu, Reason, cpu_used, lock};
use crate::status::Status;

/// After a wait of this length one piece is due, whatever the class: some ms of CPU, about the
/// twentieth that a class has for its floor.
const OWED_AFTER: Duration = Duration::from_millis(100);
/// What is being saved at the stop goes on for so long, without the limit; then it is left.
const END_WITHIN: Duration = Duration::from_secs(6);

/// The limit of the process.
#[derive(Debug)]
pub(crate) struct Brake {
    state: Mutex<State>,
    /// The limit is another one, or all is ending.
    changed: Condvar,
    /// The CPU time that the process has used.
    used: fn() -> Duration,
}

#[derive(Debug)]
struct State {
    limit: Option<Cpu>,
    /// All is ending; until then what must not be lost goes on.
    ending: Option<Instant>,
}

impl Brake {
    /// A limit of so many percent of one core; without one nobody waits.
    pub(crate) fn new(percent: Option<f64>) -> Arc<Self> {
        Self::counting(percent, cpu_used)
    }

    fn counting(percent: Option<f64>, used: fn() -> Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                limit: percent.map(|percent| Cpu::new(percent, used(), Instant::now())),
                ending: None,
            }),
            changed: Condvar::new(),
            used,
        })
    }

    /// Another limit, from now on, also for who waits.
    pub(crate) fn keep_to(&self, percent: Option<f64>) {
        lock(&self.state).limit =
            percent.map(|percent| Cpu::new(percent, (self.used)(), Instant::now()));
        self.changed.notify_all();
    }

    /// Who may go on now.
    pub(crate) fn allows(&self, now: Instant) -> Allowed {
        match &mut lock(&self.state).limit {
            Some(cpu) => cpu.allows((self.used)(), now),
            None => Allowed::All,
        }
    }

    /// All is ending: nobody waits any more.
    pub(crate) fn end(&self) {
        lock(&self.state)
            .ending
            .get_or_insert_with(|| Instant::now() + END_WITHIN);
        self.changed.notify_all();
    }

    /// Waits until a class may go on; the answer is when all must be done, if all is ending.
    fn wait(&self, class: Class, mut waited: impl FnMut(Instant, Instant)) -> Option<Instant> {
        let mut state = lock(&self.state);
        let began = Instant::now();
        loop {
            let now = Instant::now();
            if state.ending.is_some() {
                return state.ending;
            }
            let allowed = match &mut state.limit {
                Some(cpu) => cpu.allows((self.used)(), now),
                None => Allowed::All,
            };
            let owed = now >= began + OWED_AFTER;
            let until = allowed.until().filter(|_| !allowed.lets(class, owed))?;
            let until = match owed {
                true => until,
                false => until.min(began + OWED_AFTER),
            };
            waited(now, until);
            let pause = until.saturating_duration_since(now);
            state = self
                .changed
                .wait_timeout(state, pause)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }
}

/// What a piece of work is for, when there is one: what must not be lost is finished at the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtStop {
    /// It would be lost.
    Finish,
    /// The next life does it.
    Leave,
}

/// What a job keeps to, piece by piece.
#[derive(Debug, Clone)]
pub(crate) struct Restraint {
    /// The limit.
    pub(crate) brake: Arc<Brake>,
    /// For whom the work is.
    pub(crate) class: Class,
    /// Where waiting is noted.
    pub(crate) status: Arc<Status>,
}

impl Restraint {
    /// Waits until the next piece may be worked on.
    ///
    /// # Errors
    /// When all is ending, and the work is to be left.
    pub(crate) fn next_piece(&self, at_stop: AtStop) -> io::Result<()> {
        let throttled = self.status.throttled();
        let ending = self.brake.wait(self.class, |from, until| {
            throttled.note(self.class, Reason::Cpu, from, until);
        });
        match ending {
            None => Ok(()),
            Some(until) if at_stop == AtStop::Finish && Instant::now() < until => Ok(()),
            Some(_) => Err(io::Error::other("the agent stops")),
        }
    }

    /// Whether all is ending.
    pub(crate) fn is_ending(&self) -> bool {
        lock(&self.brake.state).ending.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use super::*;

    fn restraint(brake: &Arc<Brake>, class: Class) -> Restraint {
        Restraint {
            brake: Arc::clone(brake),
            class,
            status: Arc::default(),
        }
    }

    #[test]
    fn two_that_ask_keep_to_one_limit_and_both_go_on() {
        static USED_MS: AtomicU64 = AtomicU64::new(0);
        let used = || Duration::from_millis(USED_MS.load(Ordering::Relaxed));
        let brake = Brake::counting(Some(50.0), used);
        let began = Instant::now();
        let work = |class| {
            let restraint = restraint(&brake, class);
            move || {
                let mut pieces = 0;
                while began.elapsed() < Duration::from_secs(2) {
                    restraint.next_piece(AtStop::Leave).unwrap();
                    USED_MS.fetch_add(4, Ordering::Relaxed);
                    pieces += 1;
                }
                (
                    pieces,
                    restraint.status.throttled().total(class, Reason::Cpu),
                )
            }
        };
        let urgent = thread::spawn(work(Class::P0));
        let (bulk, waited) = work(Class::P3)();
        let (urgent, _) = urgent.join().unwrap();
        // A quarter of a second may go at once, and the urgent overdraw a little.
        let most = (began.elapsed().mul_f64(0.5) + Duration::from_millis(200)).as_millis();
        let used = u128::from(USED_MS.load(Ordering::Relaxed));
        assert!(used <= most && used * 10 >= most * 5, "{used} of {most}");
        assert!(bulk >= 5 && urgent > bulk, "{bulk} and {urgent}");
        assert!(waited > Duration::from_millis(500), "{waited:?}");
    }

    #[test]
    fn who_waits_for_long_goes_on_when_the_limit_changes_and_ends_when_all_does() {
        let brake = Brake::counting(Some(1.0), || Duration::ZERO);
        let restraint = restraint(&brake, Class::P3);
        let spend = || {
            if let Some(cpu) = &mut lock(&brake.state).limit {
                cpu.spend(Duration::from_secs(60));
            }
        };
        let put_off = |change: &(dyn Fn() + Sync)| {
            spend();
            let began = Instant::now();
            let end = thread::scope(|scope| {
                let waits = scope.spawn(|| restraint.next_piece(AtStop::Leave));
                thread::sleep(Duration::from_millis(300));
                assert!(!waits.is_finished());
                change();
                waits.join().unwrap()
            });
            assert!(began.elapsed() < Duration::from_secs(20));
            end
        };
        put_off(&|| brake.keep_to(None)).unwrap();
        brake.keep_to(Some(1.0));
        let end = put_off(&|| brake.end());
        assert!(end.unwrap_err().to_string().contains("stops"));
        restraint.next_piece(AtStop::Finish).unwrap();
        assert!(restraint.is_ending());
    }
}
