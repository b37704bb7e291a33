//! What can change while the node runs, and what becomes of what is on its way.

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::{
    config,
    dedupe::{Answer, Waiter},
    destination::memory::Script,
    route::Table,
    testing::{Rig, accepted_by, batch, rig, rig_with_spill},
};

const OLD: &str = "zone = 'z'\ncluster = 'c'\nnode = 'n'\n\
    [[destination]]\nname = 'first'\nkind = 'file'\npath = '/a/{topic}'\n\
    [[destination]]\nname = 'second'\nkind = 'file'\npath = '/b/{topic}'\n\
    [[route]]\ntopic = 'web*'\nto = [{ destination = 'first' }]\n";

fn load(text: &str) -> Config {
    config::parse(text, "test").unwrap().value
}

#[test]
fn what_the_process_was_started_with_needs_a_restart() {
    let check = |from: &str, to: &str, fixed: &[&str]| {
        let (old, new) = (load(OLD), load(&OLD.replacen(from, to, 1)));
        let found = differences(&SCHEMA, &old.effective, &new.effective);
        assert!(!found.is_empty(), "{from} -> {to}");
        let keys: Vec<&str> = found.iter().filter_map(fixed_key).collect();
        assert_eq!(keys, fixed, "{from} -> {to}: {found:?}");
    };
    check("'z'", "'y'", &["zone"]);
    check(
        "node = 'n'",
        "node = 'm'\ndata_dir = '/d'",
        &["node", "data_dir"],
    );
    check(
        "zone",
        "listen = '127.0.0.1:1'\nadmin = '127.0.0.1:2'\nzone",
        &["listen", "admin"],
    );
    check(
        "[[dest",
        "[limits]\nmemory = '64MiB'\n[[dest",
        &["limits.memory"],
    );
    check(
        "[[route]]",
        "[spill]\nmax = '1GiB'\nwhen_full = 'drop-oldest'\n[[route]]",
        &[],
    );
    check("'/a/{topic}'", "'/c/{topic}'", &[]);
    check("name = 'second'", "name = 'third'", &[]);
    check("'web*'", "'*'", &[]);
}

/// The rules of a document for the destinations of a rig.
fn route_by(rig: &Rig, text: &str) {
    let table: Table = load(text).routes;
    rig.node
        .reroute(|routing| routing.route_by(table.moved_to(&[0, 1])));
}

/// Gives the node a batch.
async fn give(rig: &Rig, stream: u64, seq: u64) -> oneshot::Receiver<Answer> {
    let (told, answer) = oneshot::channel();
    let batch = accepted_by(&rig.node, batch("web", stream, seq, &["x"])).await;
    rig.node.take(batch, Waiter::Lines(told));
    answer
}

#[tokio::test]
async fn a_stream_waits_for_what_went_the_old_way_and_nothing_goes_twice() {
    let rig = rig();
    rig.sink.script([Script::Hold]);
    let first = give(&rig, 1, 1).await;
    route_by(
        &rig,
        &OLD.replace(
            "to = [{ destination = 'first'",
            "to = [{ destination = 'second'",
        ),
    );
    let early = give(&rig, 1, 2).await.await.unwrap();
    assert!(matches!(early, Answer::Busy(_)), "{early:?}");
    let other = give(&rig, 2, 1).await.await.unwrap();
    assert!(matches!(other, Answer::Receipt(_)), "{other:?}");
    rig.sink.release();
    let held = first.await.unwrap();
    assert!(matches!(held, Answer::Receipt(_)), "{held:?}");
    for seq in [1, 2] {
        let answer = give(&rig, 1, seq).await.await.unwrap();
        assert!(matches!(answer, Answer::Receipt(_)), "{answer:?}");
    }
    let arrived = |sink: &crate::destination::memory::MemorySink| {
        let all = sink.delivered().into_iter();
        let all = all.map(|(id, ..)| (id.stream.0, id.seq));
        all.collect::<Vec<_>>()
    };
    assert_eq!(arrived(&rig.sink), [(1, 1)]);
    assert_eq!(arrived(&rig.second), [(2, 1), (1, 2)]);
    rig.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_whose_spill_holds_batches_cannot_go() {
    let rig = rig_with_spill(TempDir::new().unwrap(), 10 << 20, 1 << 20);
    let old = load(OLD);
    let gone = OLD.replacen(
        "name = 'first'\nkind = 'file'\npath = '/a/{topic}'",
        "name = 'x'\nkind = 'file'\npath = '/x'",
        1,
    );
    let gone = load(&gone.replace("destination = 'first'", "destination = 'x'"));
    let elsewhere = load(&OLD.replace("'/a/", "'/c/"));
    let stuck = |new: &Config| {
        let words = stuck(&rig.node.routing(), &old, new).into_iter();
        words
            .map(|(key, why)| format!("{key}: {why}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(stuck(&gone), Vec::<String>::new());
    rig.sink.set_down(Some("away"));
    give(&rig, 1, 1).await.await.unwrap();
    assert_eq!(
        stuck(&gone),
        [
            "destination: \"first\": it cannot be removed: it has 1 batches in its spill that wait for it; \
          leave it in the file, without routes, until they are delivered"
        ]
    );
    assert!(stuck(&elsewhere)[0].starts_with("destination[0]: \"first\": it cannot lie elsewhere"));
    assert_eq!(stuck(&old), Vec::<String>::new());
    rig.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_leaves_goes_when_it_has_nothing_to_finish() {
    let rig = rig_with_spill(TempDir::new().unwrap(), 10 << 20, 1 << 20);
    rig.sink.script([Script::Hold]);
    let first = give(&rig, 1, 1).await;
    let name = Name::new("first").unwrap();
    rig.node.put(|routing| routing.leave(&name));
    assert!(!rig.node.routing().is_untidy());
    tidy(&rig.node).await.unwrap();
    assert!(rig.node.routing().place_of(&name).is_some());
    rig.sink.release();
    let held = first.await.unwrap();
    assert!(matches!(held, Answer::Receipt(_)), "{held:?}");
    assert!(rig.node.routing().is_untidy());
    tidy(&rig.node).await.unwrap();
    assert!(rig.node.routing().place_of(&name).is_none());
    rig.end();
}
