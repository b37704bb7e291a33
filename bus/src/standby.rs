//! Looks a few times a second how the destinations are, and lets the routes use those that are well.
//!
//! The loop around [`crate::breaker`] and [`crate::switch`]. Not for: where one batch goes
//! (see [`crate::node`]).

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::node::Node;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks until the node stops.
///
/// # Errors
/// None.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while node.stop.run_until_cancelled(tick.tick()).await.is_some() {
        look(&node, Instant::now());
    }
    Ok(())
}

/// One look.
pub(crate) fn look(node: &Node, now: Instant) {
    let routing = node.routing();
    for (site, _leaving) in routing.sites() {
        site.look(now);
    }
    for branch in routing.table().with_standby() {
        let site = |no: usize| routing.site(branch.nth(no).0);
        let all = 0..=branch.standby.len();
        let closed = all.map(|no| site(no).is_some_and(|site| site.is_used()));
        let closed: Vec<bool> = closed.collect();
        let how = |no: usize| {
            let health = site(no).map(|site| site.destination.health());
            let detail = health.map(|health| health.detail).unwrap_or_default();
            match detail.is_empty() {
                true => "it is on trial after an outage".to_owned(),
                false => detail,
            }
        };
        branch.switch.decide(&closed, how);
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        dedupe::{Answer, Waiter},
        destination::{
            Failure,
            memory::{MemorySink, Script},
        },
        testing::{Rig, accepted_by, batch, rig, rig_with_spill},
    };

    async fn give(rig: &Rig, stream: u64, seq: u64) -> oneshot::Receiver<Answer> {
        let (told, answer) = oneshot::channel();
        let batch = accepted_by(&rig.node, batch("safe", stream, seq, &["x"])).await;
        rig.node.take(batch, Waiter::Lines(told));
        answer
    }

    async fn given(rig: &Rig, stream: u64, seq: u64) -> Answer {
        give(rig, stream, seq).await.await.unwrap()
    }

    /// Lets time pass for the breakers.
    fn pass(rig: &Rig, now: &mut Instant, seconds: u64) {
        for _look in 0..seconds * 4 {
            *now += LOOK_EVERY;
            look(&rig.node, *now);
        }
    }

    async fn pass_really(rig: &Rig, seconds: u32) {
        for _look in 0..seconds * 4 {
            tokio::time::advance(LOOK_EVERY).await;
            look(&rig.node, Instant::now());
        }
    }

    fn arrived(sink: &MemorySink) -> Vec<(u64, u64)> {
        let all = sink.delivered().into_iter();
        all.map(|(id, ..)| (id.stream.0, id.seq)).collect()
    }

    fn uses(rig: &Rig) -> String {
        let routing = rig.node.routing();
        let page = routing
            .table()
            .with_standby()
            .next()
            .unwrap()
            .switch
            .status();
        page["uses"].as_str().unwrap().to_owned()
    }

    fn is_delivered(answer: &Answer) -> bool {
        match answer {
            Answer::Receipt(receipt) => {
                matches!(
                    receipt.outcome,
                    tributary_common::wire::Outcome::Delivered(_)
                )
            }
            Answer::Busy(_) | Answer::Refuse(_) => false,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_standby_takes_new_batches_and_what_was_given_stays_where_it_is() {
        let rig = rig_with_spill(TempDir::new().unwrap(), 10 << 20, 1 << 20);
        let mut now = Instant::now();
        assert!(is_delivered(&given(&rig, 1, 1).await));
        rig.sink.script([Script::Hold]);
        let hung = give(&rig, 1, 2).await;
        rig.sink.set_down(Some("away"));
        pass(&rig, &mut now, 2);
        assert_eq!(uses(&rig), "first", "a short trouble moves nothing");
        assert!(!is_delivered(&given(&rig, 2, 1).await), "it is spilled");
        pass(&rig, &mut now, 2);
        assert_eq!(uses(&rig), "second");
        // Its batch that hangs is on its disk by now, and not sent anywhere else.
        assert!(matches!(hung.await.unwrap(), Answer::Receipt(_)));
        for (stream, seq) in [(1, 2), (1, 3), (2, 1), (2, 2)] {
            let answer = given(&rig, stream, seq).await;
            assert!(matches!(answer, Answer::Receipt(_)), "{answer:?}");
        }
        assert_eq!(arrived(&rig.second), [(1, 3), (2, 2)]);

        rig.second.set_down(Some("away, too"));
        pass(&rig, &mut now, 4);
        assert_eq!(uses(&rig), "first", "nobody is well: its spill takes them");
        assert!(!is_delivered(&given(&rig, 3, 1).await));
        rig.second.set_down(None);
        rig.sink.set_down(None);
        rig.sink.release();
        for _look in 0..3_000 {
            if rig.spills().iter().all(|spill| spill.is_empty()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        pass(&rig, &mut now, 6);
        assert_eq!(uses(&rig), "first", "what its disk held was delivered");
        assert!(is_delivered(&given(&rig, 1, 4).await));
        let mut first = arrived(&rig.sink);
        first.sort_unstable();
        assert_eq!(first, [(1, 1), (1, 2), (1, 4), (2, 1), (3, 1)]);
        assert_eq!(arrived(&rig.second), [(1, 3), (2, 2)]);
        rig.end();
    }

    #[tokio::test(start_paused = true)]
    async fn one_batch_sees_whether_the_primary_is_well_and_what_failed_goes_nowhere_else() {
        let rig = rig();
        let failed = Failure::Unavailable("gone".to_owned());
        rig.sink.script([Script::Fail(failed)]);
        assert!(matches!(given(&rig, 1, 1).await, Answer::Busy(_)));
        rig.sink.set_down(Some("away"));
        pass_really(&rig, 4).await;
        assert!(is_delivered(&given(&rig, 2, 1).await));
        rig.sink.set_down(None);
        assert!(
            is_delivered(&given(&rig, 1, 1).await),
            "it may be there, and only there"
        );
        pass_really(&rig, 1).await;
        assert!(is_delivered(&given(&rig, 2, 2).await));
        pass_really(&rig, 6).await;
        assert_eq!(uses(&rig), "second");
        for seq in [3, 4] {
            assert!(is_delivered(&given(&rig, 2, seq).await));
        }
        pass_really(&rig, 1).await;
        assert_eq!(uses(&rig), "first");
        assert_eq!(arrived(&rig.sink), [(1, 1), (2, 3)]);
        assert_eq!(arrived(&rig.second), [(2, 1), (2, 2), (2, 4)]);
        rig.end();
    }
}
