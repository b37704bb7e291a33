//! What a lane does with what brokers answer, case by case; at random it is tested in [`super::super::model`].

use std::time::Duration;

use tributary_common::wire::RefuseReason;

use super::*;

const US: Option<Producer> = Some(Producer { id: 7, epoch: 0 });

fn lane(batches: u32) -> Lane<u32> {
    let pause = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
    // The last two digits say which of a stream it is, those before which streams it is of.
    let streams = |cargo: &u32| match cargo / 100 {
        0 => vec![StreamId(u64::from(*cargo))],
        12 => vec![StreamId(1000), StreamId(2000)],
        one => vec![StreamId(u64::from(one) * 1000)],
    };
    let mut lane = Lane::new(pause, streams);
    (0..batches).for_each(|cargo| lane.push(parcel(cargo), Instant::now()));
    lane
}

fn parcel(cargo: u32) -> Parcel<u32> {
    Parcel {
        cargo,
        records: 10,
        bytes: 1,
        haste: Haste::Common,
        small: None,
        batches: 1,
    }
}

fn piece(cargo: u32, records: u32) -> Parcel<u32> {
    Parcel {
        records,
        ..parcel(cargo)
    }
}

/// Sends all that may go; (batch, sequence) of each, in requests from `request` on.
fn send(lane: &mut Lane<u32>, request: RequestNo) -> Vec<(u32, i32)> {
    let now = Instant::now() + Duration::from_secs(60);
    (request..)
        .map_while(|no| lane.send(no, US, now, |_run| unreachable!("none is small")))
        .map(|one| (one.cargo, one.sequence))
        .collect()
}

fn answer(lane: &mut Lane<u32>, request: RequestNo, meaning: Meaning) -> Verdict<u32> {
    let mut random = fastrand::Rng::with_seed(1);
    lane.answered(request, meaning, 0, (Instant::now(), &mut random))
}

#[test]
fn a_broker_that_does_not_know_the_producer_gets_one_batch_then_five() {
    let mut lane = lane(9);
    assert_eq!(send(&mut lane, 0), [(0, 0)]);
    answer(&mut lane, 0, Meaning::Taken);
    let five = [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50)];
    assert_eq!(send(&mut lane, 1), five);
    answer(&mut lane, 1, Meaning::Taken);
    assert_eq!(send(&mut lane, 6), [(6, 60)]);
}

#[test]
fn after_a_failure_the_same_batches_go_with_their_sequences_one_by_one() {
    let mut lane = lane(4);
    send(&mut lane, 0);
    answer(&mut lane, 0, Meaning::Taken);
    send(&mut lane, 1);
    assert_eq!(answer(&mut lane, 1, Meaning::Later), Verdict::Again);
    assert!(send(&mut lane, 9).is_empty(), "answers are missing");
    assert_eq!(answer(&mut lane, 2, Meaning::OutOfOrder), Verdict::Again);
    lane.lost(3);
    assert_eq!(send(&mut lane, 10), [(1, 10)]);
    answer(&mut lane, 10, Meaning::Taken);
    assert_eq!(send(&mut lane, 11), [(2, 20)]);
}

#[test]
fn behind_a_refused_batch_the_others_move_up() {
    let mut lane = lane(3);
    send(&mut lane, 0);
    answer(&mut lane, 0, Meaning::Taken);
    send(&mut lane, 1);
    let refused = Meaning::Refused(RefuseReason::Destination);
    assert_eq!(
        answer(&mut lane, 1, refused),
        Verdict::Refused(vec![parcel(1)])
    );
    assert_eq!(answer(&mut lane, 2, Meaning::OutOfOrder), Verdict::Again);
    assert_eq!(send(&mut lane, 3), [(2, 10)]);
}

/// A lane whose broker knows the producer, with these batches on their way from request 1 on.
fn flowing(batches: &[u32]) -> Lane<u32> {
    let mut lane = lane(1);
    send(&mut lane, 0);
    answer(&mut lane, 0, Meaning::Taken);
    let now = Instant::now();
    batches
        .iter()
        .for_each(|&cargo| lane.push(parcel(cargo), now));
    send(&mut lane, 1);
    lane
}

fn refused(batches: &[u32]) -> Verdict<u32> {
    Verdict::Refused(batches.iter().copied().map(parcel).collect())
}

const DENIED: Meaning = Meaning::Refused(RefuseReason::Destination);

#[test]
fn behind_a_refused_batch_nothing_of_its_stream_is_sent_and_others_go_on() {
    let mut lane = flowing(&[100, 200, 101, 201, 102, 103, 202, 104]);
    assert_eq!(answer(&mut lane, 1, DENIED), refused(&[100, 103, 104]));
    assert_eq!(answer(&mut lane, 2, Meaning::OutOfOrder), Verdict::Again);
    assert_eq!(answer(&mut lane, 3, Meaning::OutOfOrder), refused(&[101]));
    assert_eq!(answer(&mut lane, 4, Meaning::OutOfOrder), Verdict::Again);
    // It comes again, and the last answer of what was behind it is still to come: one that is behind that
    // would land before it.
    let now = Instant::now();
    lane.push(parcel(100), now);
    lane.push(parcel(104), now);
    let again = answer(&mut lane, 5, DENIED);
    assert_eq!(again, refused(&[102, 100, 104]));
    lane.push(parcel(100), now);
    assert_eq!(send(&mut lane, 6), [(200, 10)]);
    answer(&mut lane, 6, Meaning::Taken);
    let rest = [(201, 20), (202, 30), (100, 40)];
    assert_eq!(send(&mut lane, 7), rest);
}

#[test]
fn a_merged_batch_behind_a_refused_one_takes_its_other_streams_with_it() {
    let mut lane = flowing(&[100, 1200, 200, 300]);
    assert_eq!(answer(&mut lane, 1, DENIED), refused(&[100]));
    for (request, batch) in [(2, 1200), (3, 200)] {
        let behind = answer(&mut lane, request, Meaning::OutOfOrder);
        assert_eq!(behind, refused(&[batch]));
    }
    assert_eq!(answer(&mut lane, 4, Meaning::OutOfOrder), Verdict::Again);
    assert_eq!(send(&mut lane, 5), [(300, 10)]);
}

#[test]
fn a_batch_that_is_given_up_while_it_is_taken_apart_takes_its_stream_with_it() {
    let mut lane = flowing(&[100, 101, 200, 102]);
    assert_eq!(answer(&mut lane, 1, Meaning::Unfit), Verdict::Cut(0));
    assert_eq!(answer(&mut lane, 2, Meaning::Unfit), Verdict::Cut(1));
    assert_eq!(answer(&mut lane, 3, Meaning::OutOfOrder), Verdict::Again);
    assert_eq!(answer(&mut lane, 4, Meaning::OutOfOrder), Verdict::Again);
    let out = lane.refuse_cut(0).into_iter().map(|one| one.cargo);
    assert_eq!(out.collect::<Vec<u32>>(), [100, 101, 102]);
    assert_eq!(lane.cutting(1), None);
    assert_eq!(send(&mut lane, 5), [(200, 10)]);
}

#[test]
fn a_lost_answer_of_what_is_behind_a_refused_batch_is_looked_for() {
    let mut lane = flowing(&[100, 101]);
    assert_eq!(answer(&mut lane, 1, DENIED), refused(&[100]));
    assert_eq!(lane.lost(2), Verdict::Broken(vec![parcel(101)]));
}

#[test]
fn a_lost_batch_whose_sequence_has_changed_is_looked_for() {
    let mut lane = lane(3);
    send(&mut lane, 0);
    answer(&mut lane, 0, Meaning::Taken);
    send(&mut lane, 1);
    let refused = Meaning::Refused(RefuseReason::Destination);
    answer(&mut lane, 1, refused);
    assert_eq!(lane.lost(2), Verdict::Broken(vec![parcel(2)]));
}

#[test]
fn the_pieces_of_a_batch_have_its_sequences() {
    let mut lane = lane(2);
    send(&mut lane, 0);
    answer(&mut lane, 0, Meaning::Taken);
    lane.push(parcel(2), Instant::now());
    send(&mut lane, 1);
    assert_eq!(answer(&mut lane, 1, Meaning::TooLarge), Verdict::Cut(0));
    assert_eq!(answer(&mut lane, 2, Meaning::OutOfOrder), Verdict::Again);
    assert!(send(&mut lane, 3).is_empty(), "it is being cut");
    assert_eq!(lane.cutting(0), Some(&parcel(1)));
    assert_eq!(lane.cut(0, vec![piece(11, 4), piece(12, 6)]), None);
    assert_eq!(send(&mut lane, 4), [(11, 10)]);
    answer(&mut lane, 4, Meaning::Taken);
    assert_eq!(send(&mut lane, 5), [(12, 14)]);
    answer(&mut lane, 5, Meaning::Taken);
    assert_eq!(send(&mut lane, 6), [(2, 20)]);
}

#[test]
fn behind_a_batch_that_lost_records_the_others_move_up_whatever_order_they_are_mended_in() {
    let mut lane = lane(4);
    send(&mut lane, 0);
    answer(&mut lane, 0, Meaning::Taken);
    assert_eq!(send(&mut lane, 1), [(1, 10), (2, 20), (3, 30)]);
    // Brokers look at the records before they look at the sequence.
    assert_eq!(answer(&mut lane, 1, Meaning::Unfit), Verdict::Cut(0));
    assert_eq!(answer(&mut lane, 2, Meaning::Unfit), Verdict::Cut(1));
    assert_eq!(answer(&mut lane, 3, Meaning::OutOfOrder), Verdict::Again);
    assert_eq!(lane.cut(1, Vec::new()), Some(parcel(2)), "nothing is left");
    assert!(send(&mut lane, 4).is_empty(), "the first one is not mended");
    assert_eq!(lane.cut(0, vec![piece(1, 7)]), None);
    assert_eq!(lane.cut(0, vec![piece(9, 7)]), None, "it is mended already");
    assert_eq!(send(&mut lane, 4), [(1, 10)]);
    answer(&mut lane, 4, Meaning::Taken);
    assert_eq!(send(&mut lane, 5), [(3, 17)]);
    answer(&mut lane, 5, Meaning::Taken);
    lane.push(parcel(5), Instant::now());
    assert_eq!(send(&mut lane, 6), [(5, 27)]);
}

#[test]
fn a_record_is_damaged_for_good_only_when_it_is_so_again_and_again() {
    let mut lane = lane(1);
    let mut request = 0;
    let mut damaged = |lane: &mut Lane<u32>| {
        send(lane, request);
        request += 1;
        answer(lane, request - 1, Meaning::Damaged)
    };
    for _try in 1..DAMAGED_TRIES {
        assert_eq!(damaged(&mut lane), Verdict::Again);
    }
    assert_eq!(damaged(&mut lane), Verdict::Cut(0));
    lane.cut(0, vec![piece(11, 9), piece(12, 1)]);
    assert_eq!(damaged(&mut lane), Verdict::Cut(1), "of several records");
    lane.cut(1, Vec::new());
    for _try in 1..DAMAGED_TRIES {
        assert_eq!(damaged(&mut lane), Verdict::Again);
    }
    assert_eq!(damaged(&mut lane), Verdict::Cut(2));
}

#[test]
fn what_the_broker_forgot_is_given_back_to_be_looked_for() {
    let mut lane = lane(3);
    send(&mut lane, 0);
    answer(&mut lane, 0, Meaning::Taken);
    send(&mut lane, 1);
    assert_eq!(answer(&mut lane, 1, Meaning::OutOfOrder), Verdict::Again);
    let all = Verdict::Broken(vec![parcel(1), parcel(2)]);
    assert_eq!(answer(&mut lane, 2, Meaning::OutOfOrder), all);
    assert!(lane.is_empty());
    lane.push(parcel(5), Instant::now());
    assert_eq!(send(&mut lane, 7), [(5, 0)]);
}

#[test]
fn sequences_begin_again_after_the_largest() {
    assert_eq!(moved(i32::MAX, 1), 0);
    assert_eq!(moved(i32::MAX - 1, 5), 3);
    assert_eq!(moved(3, -5), i32::MAX - 1);
}
