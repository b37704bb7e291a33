//! Sends documents to the nodes until the server has said of each what became of it.
//!
//! Not for: batches and dead letters (see [`super`]).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::time::Instant;
use tributary_common::{backoff::Backoff, http::Content};

use super::{
    super::{
        PATIENCE,
        bulk::{self, Docs, Verdict},
        link::NoAnswer,
        template,
    },
    IDLE, Worker,
};
use crate::destination::Condition;

/// How long the server may wait for its own shards before it answers.
const SERVER_WAITS: &str = "10s";

/// What came of documents.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) created: u64,
    pub(super) known: u64,
    /// The numbers of those that will never be taken, with status and reason.
    pub(super) dead: Vec<(usize, u16, String)>,
}

/// What came of one request.
enum Answer {
    /// It has all of them now.
    Created,
    Each(Vec<Verdict>),
    /// Not now.
    Later(String),
    /// Not as one request; or one of its documents is the reason.
    Apart(u16, String),
    /// Not with these credentials.
    Denied(String),
    /// There is no node, or it did not answer.
    Gone(String),
}

/// Documents that are to be sent.
struct Lot {
    left: Vec<usize>,
    /// When one of them was last taken.
    since: Instant,
    /// The most bytes of a request, once one was too large.
    most: usize,
}

/// How it goes on.
enum Heard {
    /// At once.
    Well,
    /// After a while.
    Later(String),
}

/// A node's answer, or none.
type Told = Result<(StatusCode, Bytes), NoAnswer>;

impl Worker {
    /// Sends documents until each is there or will never be.
    ///
    /// # Errors
    /// Why it is not so now: some may be there.
    pub(super) fn send(&mut self, docs: &Docs, target: &str) -> Result<Sent, String> {
        let mut sent = Sent::default();
        let mut lot = Lot {
            left: (0..docs.at.len()).collect(),
            since: Instant::now(),
            most: usize::MAX,
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        while !lot.left.is_empty() {
            if let Some(why) = self.shared.refuses() {
                return Err(why);
            }
            if self.shared.stop.is_cancelled() {
                return Err("this node is stopping".to_owned());
            }
            let shared = Arc::clone(&self.shared);
            let Some(turn) = shared.flow.turn(IDLE) else {
                continue;
            };
            let count = docs.fitting(&lot.left, turn.bytes.min(lot.most));
            let (now, _rest) = lot.left.split_at(count);
            let answer = self.request(docs, now);
            drop(turn);
            let before = lot.since;
            match self.hear(answer, count, (docs, target), (&mut lot, &mut sent))? {
                Heard::Well => {}
                Heard::Later(why) if lot.since.elapsed() >= PATIENCE => {
                    self.shared.leave(target, &why);
                    return Err(why);
                }
                Heard::Later(_why) => {
                    if lot.since != before {
                        backoff.reset();
                    }
                    std::thread::sleep(backoff.next(&mut self.rng));
                }
            }
        }
        Ok(sent)
    }

    /// Does what an answer to the first `count` documents says.
    fn hear(
        &self,
        answer: Answer,
        count: usize,
        (docs, target): (&Docs, &str),
        (lot, sent): (&mut Lot, &mut Sent),
    ) -> Result<Heard, String> {
        let shared = &self.shared;
        match answer {
            Answer::Created => {
                lot.left.drain(..count);
                lot.since = Instant::now();
                sent.created += count as u64;
                shared.flow.calm();
                Ok(Heard::Well)
            }
            Answer::Each(verdicts) => {
                let now: Vec<usize> = lot.left.drain(..count).collect();
                let again = sent.sort(&now, verdicts);
                if again.left.len() < count {
                    lot.since = Instant::now();
                }
                if again.left.is_empty() {
                    shared.flow.calm();
                    return Ok(Heard::Well);
                }
                let stuck = again.left.len() == count && again.blocked;
                lot.left.extend(again.left);
                if again.denied || stuck {
                    shared.leave(target, &again.why);
                    return Err(again.why);
                }
                shared.flow.slower(Instant::now());
                Ok(Heard::Later(again.why))
            }
            Answer::Later(why) => {
                shared.flow.slower(Instant::now());
                Ok(Heard::Later(why))
            }
            Answer::Apart(status, why) if count == 1 => {
                let dead = lot.left.drain(..1).map(|no| (no, status, why.clone()));
                sent.dead.extend(dead);
                Ok(Heard::Well)
            }
            Answer::Apart(_status, _why) => {
                let bytes = |no: &usize| docs.at.get(*no).map_or(0, |at| at.end - at.start);
                let now = lot.left.iter().take(count);
                lot.most = (now.map(bytes).sum::<usize>() / 2).max(1);
                Ok(Heard::Well)
            }
            Answer::Denied(why) => {
                shared.go_down(Condition::Refused, &why);
                Err(why)
            }
            Answer::Gone(why) => {
                self.end_where_all_fail()?;
                // What takes time to be found is no sign of an index that takes nothing.
                lot.since = Instant::now();
                Ok(Heard::Later(why))
            }
        }
    }

    /// Takes the destination down once no node has answered for a while.
    fn end_where_all_fail(&self) -> Result<(), String> {
        let failing = self.shared.nodes().all_failing(Instant::now());
        match failing.filter(|(long, _why)| *long >= PATIENCE) {
            Some((_long, why)) => {
                self.shared.go_down(Condition::Down, &why);
                Err(why)
            }
            None => Ok(()),
        }
    }

    /// Sends one request to a node.
    fn request(&mut self, docs: &Docs, which: &[usize]) -> Answer {
        let path = format!("/_bulk?timeout={SERVER_WAITS}&{}", bulk::FILTER);
        let content = self.content(docs.body(which));
        let (no, told) = match self.ask(Method::POST, &path, content) {
            Some(asked) => asked,
            None => return Answer::Gone("no node answers".to_owned()),
        };
        let (status, body) = match told {
            Ok(answer) => answer,
            Err(NoAnswer::TooLong(why)) => return Answer::Apart(413, why),
            Err(NoAnswer::Failed(why)) => {
                self.shared.nodes().failed(no, &why, Instant::now());
                return Answer::Gone(why);
            }
            Err(NoAnswer::Wrong(why)) => return Answer::Denied(why),
            Err(NoAnswer::Stopped) => return Answer::Gone("this node is stopping".to_owned()),
        };
        let fault = || match bulk::fault_of(&body) {
            words if words.is_empty() => format!("the server answers {status}"),
            words => format!("the server answers {status}: {words}"),
        };
        let failed = |why: String| {
            self.shared.nodes().failed(no, &why, Instant::now());
            why
        };
        match status.as_u16() {
            200 if bulk::all_created(&body, which.len()) => {
                self.shared.nodes().well(no);
                Answer::Created
            }
            200 => match bulk::verdicts(&body, which.len()) {
                Some(verdicts) => {
                    self.shared.nodes().well(no);
                    Answer::Each(verdicts)
                }
                None => Answer::Gone(failed(
                    "the server answers something that is no answer to a bulk request".to_owned(),
                )),
            },
            429 => {
                self.shared.nodes().well(no);
                Answer::Later(fault())
            }
            status @ (400 | 413) => {
                self.shared.nodes().well(no);
                Answer::Apart(status, fault())
            }
            401 | 403 => Answer::Denied(fault()),
            500..=599 => Answer::Later(failed(fault())),
            _other => Answer::Gone(failed(fault())),
        }
    }

    fn content(&mut self, body: Bytes) -> Content {
        let packed = match self.shared.config.gzip {
            true => self.packer.pack(&body),
            false => None,
        };
        let gzip = packed.is_some();
        Content {
            body: packed.unwrap_or(body),
            kind: Some("application/x-ndjson"),
            gzip,
        }
    }

    /// Asks a node that answers; none when there is none now.
    fn ask(&mut self, method: Method, path: &str, content: Content) -> Option<(usize, Told)> {
        let (no, url) = {
            let mut nodes = self.shared.nodes();
            let no = nodes.pick(Instant::now())?;
            (no, nodes.url(no)?.to_owned())
        };
        let asked = Instant::now();
        self.shared.health().asked.insert(self.number, asked);
        let limit = self.shared.config.timeout;
        let call = (method, path, content);
        let told = self.links.ask(&self.shared, (no, &url), call, limit);
        self.shared.health().asked.remove(&self.number);
        let name = self.shared.name.to_string();
        metrics::histogram!("tributary_bus_search_request_seconds", "destination" => name)
            .record(asked.elapsed().as_secs_f64());
        Some((no, told))
    }

    /// Sees to the target's index template.
    pub(super) fn ready(&mut self, target: &str) -> Result<(), String> {
        let kind = self.shared.config.template;
        if kind == template::Kind::None || self.shared.health().templates.contains(target) {
            return Ok(());
        }
        let path = format!("/_index_template/{}", template::name(target));
        let there = self.simply(&Method::HEAD, &path, &Content::default())?;
        if there == 404 {
            let body = template::body(kind, target).to_string().into_bytes();
            let status = self.simply(&Method::PUT, &path, &Content::json(body))?;
            if status != 200 {
                let why = format!("its index template cannot be installed: status {status}");
                self.shared.leave(target, &why);
                return Err(why);
            }
            tracing::info!(destination = %self.shared.name, target, "an index template was installed");
        } else if there != 200 {
            let why = format!("its index template cannot be looked at: status {there}");
            self.shared.leave(target, &why);
            return Err(why);
        }
        self.shared.health().templates.insert(target.to_owned());
        Ok(())
    }

    /// A request whose status says all.
    fn simply(&mut self, method: &Method, path: &str, content: &Content) -> Result<u16, String> {
        loop {
            if let Some(why) = self.shared.refuses() {
                return Err(why);
            }
            let asked = self.ask(method.clone(), path, content.clone());
            if let Some((no, told)) = asked {
                match told {
                    Ok((status, _body)) => {
                        self.shared.nodes().well(no);
                        return Ok(status.as_u16());
                    }
                    Err(NoAnswer::Wrong(why)) => return Err(why),
                    Err(NoAnswer::Stopped) => return Err("this node is stopping".to_owned()),
                    Err(NoAnswer::Failed(why) | NoAnswer::TooLong(why)) => {
                        self.shared.nodes().failed(no, &why, Instant::now());
                    }
                }
            }
            self.end_where_all_fail()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What is to be sent again.
#[derive(Default)]
struct Again {
    left: Vec<usize>,
    blocked: bool,
    denied: bool,
    why: String,
}

impl Sent {
    /// Takes the results of the documents of these numbers.
    fn sort(&mut self, numbers: &[usize], verdicts: Vec<Verdict>) -> Again {
        let mut again = Again::default();
        for (&no, verdict) in numbers.iter().zip(verdicts) {
            let why = match verdict {
                Verdict::Created => {
                    self.created += 1;
                    continue;
                }
                Verdict::Known => {
                    self.known += 1;
                    continue;
                }
                Verdict::Dead(status, why) => {
                    self.dead.push((no, status, why));
                    continue;
                }
                Verdict::Later(why) => why,
                Verdict::Blocked(why) => {
                    again.blocked = true;
                    why
                }
                Verdict::Denied(why) => {
                    again.denied = true;
                    why
                }
            };
            again.left.push(no);
            again.why = why;
        }
        again
    }
}
