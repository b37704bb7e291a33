//! Finds a node that welcomes us, and the way home.
//!
//! Nodes are tried in their order. One that does not answer is not waited for: after a moment another
//! one is tried beside it, of another cluster first, and who welcomes us first is taken. Who is on a
//! standby cluster looks now and then whether a better one is there again, each agent at a moment of
//! its own, and changes over when all that is in flight is answered, so that nothing is sent twice.
//!
//! Not for: the order of the nodes (see [`super::nodes`]), one connection (see [`super::link`]).

use std::time::Duration;

use tokio::{
    select,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Sender, Told, changed,
    link::{Link, LinkError},
};

/// Another node is tried beside one that has not welcomed us within this, then twice as long, …
const BESIDE_AFTER: Duration = Duration::from_secs(2);
/// … after a node hung: its site may be gone.
const BESIDE_SOON: Duration = Duration::from_millis(400);
/// A change to a better cluster waits this long for what is in flight.
const CHANGE_WITHIN: Duration = Duration::from_secs(60);

/// A try to connect to a node.
type Try = (usize, Result<Link, LinkError>);

/// Tries that run beside each other.
#[derive(Debug, Default)]
struct Tries {
    running: JoinSet<Try>,
    nodes: Vec<usize>,
}

/// What ended a wait.
enum Event {
    Tried(Option<Try>),
    Time,
    Ways,
}

/// The way from a standby cluster to a better one.
#[derive(Debug)]
pub(super) struct Home {
    /// When to look; never when this is the first cluster.
    look_at: Option<Instant>,
    looking: JoinSet<Try>,
    /// A better node welcomed us: everything in flight is to be answered until then.
    found: Option<(usize, Link, Instant)>,
}

impl Home {
    /// There is no better cluster.
    pub(super) fn here() -> Self {
        Self {
            look_at: None,
            looking: JoinSet::new(),
            found: None,
        }
    }

    /// When something is to be done.
    pub(super) fn next(&self) -> Option<Instant> {
        let found = self.found.as_ref().map(|&(_, _, until)| until);
        found.or(self.look_at.filter(|_| self.looking.is_empty()))
    }

    /// Whether nothing new is to be sent here.
    pub(super) fn is_found(&self) -> bool {
        self.found.is_some()
    }

    /// The node that welcomed us.
    pub(super) fn take(&mut self) -> Option<(usize, Link)> {
        self.found.take().map(|(node, link, _)| (node, link))
    }

    /// A look's end; for ever when none is under way.
    pub(super) async fn looked(&mut self) -> Option<Try> {
        match self.looking.join_next().await {
            Some(done) => done.ok(),
            None => std::future::pending().await,
        }
    }
}

impl Sender {
    /// Tries nodes until one welcomes us; `None` when it is time to end.
    pub(super) async fn connect(
        &mut self,
        stop: &CancellationToken,
        told: &mut Told,
    ) -> Option<(usize, Link)> {
        self.rest(stop).await;
        let mut tries = Tries::default();
        let mut wait = match std::mem::take(&mut self.hung) {
            true => BESIDE_SOON,
            false => BESIDE_AFTER,
        };
        let mut beside_at = Instant::now();
        loop {
            if self.ended && self.window.is_empty() {
                return None;
            }
            if self.reorder || self.ways.has_changed().unwrap_or(false) {
                self.take_over();
                tries = Tries::default();
                self.found = None;
            }
            if let Some(found) = self.found.take() {
                return Some(found);
            }
            let now = Instant::now();
            let until = if tries.nodes.is_empty() || beside_at <= now {
                match self.nodes.pick(now, &tries.nodes) {
                    Ok(node) => {
                        self.start(node, &mut tries);
                        beside_at = now + wait;
                        wait *= 2;
                        beside_at
                    }
                    Err(until) => until,
                }
            } else {
                beside_at
            };
            let mut ways = self.ways.clone();
            let first = async {
                select! {
                    biased;
                    Some(done) = tries.running.join_next() => Event::Tried(done.ok()),
                    () = sleep_until(until) => Event::Time,
                    () = changed(&mut ways) => Event::Ways,
                }
            };
            match self.meanwhile(first, stop).await? {
                Event::Tried(Some((node, Ok(link)))) => return Some((node, link)),
                Event::Tried(Some((node, Err(error)))) => {
                    tries.nodes.retain(|&other| other != node);
                    beside_at = Instant::now();
                    self.no_welcome(node, &error, told);
                }
                // A try that panicked: all begin anew.
                Event::Tried(None) => tries = Tries::default(),
                Event::Ways => self.reorder = true,
                Event::Time => {}
            }
        }
    }

    /// Asked to go, with nothing to send: the agents of a node do not come to another all at once.
    async fn rest(&mut self, stop: &CancellationToken) {
        let Some(until) = self.rest_until.take() else {
            return;
        };
        while self.window.is_empty() && !self.ended && !stop.is_cancelled() {
            select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep_until(until) => return,
                hand = self.incoming.recv() => self.take_in(hand),
            }
        }
    }

    fn start(&self, node: usize, tries: &mut Tries) {
        tries.nodes.push(node);
        self.open(node, &mut tries.running);
    }

    fn open(&self, node: usize, running: &mut JoinSet<Try>) {
        let addr = self.nodes.name(node).1.to_owned();
        let (hello, tls) = (self.hello.clone(), self.tls.clone());
        let elsewhere = self.nodes.has_neighbour(node, Instant::now());
        running.spawn(async move {
            let opened = Link::open(&addr, hello, tls.as_deref(), elsewhere).await;
            (node, opened)
        });
    }

    /// A node did not welcome us.
    fn no_welcome(&mut self, node: usize, error: &LinkError, told: &mut Told) {
        if matches!(error, LinkError::TurnedAway) {
            return self.nodes.turned_away(node, Instant::now());
        }
        self.nodes.failed(node, Instant::now(), &mut self.rng);
        let addr = self.nodes.name(node).1.to_owned();
        self.tell(&addr, error, told);
    }

    /// The way home from a node, if it is none.
    pub(super) fn way_home(&mut self, node: usize, now: Instant) -> Home {
        let mut home = Home::here();
        if !self.nodes.is_home(node) {
            home.look_at = Some(self.look_later(now));
        }
        home
    }

    fn look_later(&mut self, now: Instant) -> Instant {
        now + once_to_twice(self.return_after, &mut self.rng)
    }

    /// Looks for a better node when it is time.
    pub(super) fn look_home(&mut self, node: usize, home: &mut Home, now: Instant) {
        if home.found.take_if(|(_, _, until)| *until <= now).is_some() {
            home.look_at = Some(self.look_later(now));
        }
        let due = home.look_at.is_some_and(|at| at <= now);
        if !due || home.found.is_some() || !home.looking.is_empty() {
            return;
        }
        // With other ways the order counts when this connection ends.
        match self.nodes.better(node, now).filter(|_| !self.reorder) {
            Some(better) => self.open(better, &mut home.looking),
            None => home.look_at = Some(self.look_later(now)),
        }
    }

    /// A look for a better node has ended.
    pub(super) fn looked(&mut self, home: &mut Home, looked: Option<Try>) {
        let now = Instant::now();
        match looked {
            Some((node, Ok(link))) if !self.reorder => {
                let (cluster, addr) = self.nodes.name(node);
                tracing::info!(cluster, node = addr, "a better cluster is there again");
                home.found = Some((node, link, now + CHANGE_WITHIN));
            }
            Some((node, Err(LinkError::TurnedAway))) if !self.reorder => {
                self.nodes.turned_away(node, now);
                home.look_at = Some(now);
            }
            Some((node, Err(error))) if !self.reorder => {
                tracing::debug!(%error, "the better cluster is not there");
                self.nodes.failed(node, now, &mut self.rng);
                home.look_at = Some(self.look_later(now));
            }
            Some(_) | None => home.look_at = Some(self.look_later(now)),
        }
    }
}

/// Between one and two times the configured while, each as likely: the agents of a site do not come home all at once.
fn once_to_twice(configured: Duration, random: &mut fastrand::Rng) -> Duration {
    configured.mul_f64(1.0 + random.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_of_a_site_come_home_one_after_the_other() {
        let configured = Duration::from_secs(60);
        let mut in_each_tenth = [0; 10];
        for agent in 0..10_000 {
            let mut random = fastrand::Rng::with_seed(agent);
            let after = once_to_twice(configured, &mut random);
            assert!(
                (configured..2 * configured).contains(&after),
                "{after:?} of {agent}"
            );
            in_each_tenth[((after - configured).as_secs() / 6) as usize] += 1;
        }
        // A thousand each: never a herd.
        assert!(
            in_each_tenth
                .iter()
                .all(|count| (800..1_200).contains(count)),
            "{in_each_tenth:?}"
        );
    }
}
