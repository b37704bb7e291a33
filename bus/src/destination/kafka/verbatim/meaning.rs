//! What a broker's answer to a batch means for it. A table; pure.
//!
//! Final, for single records, is what the same record brings about again whoever sends it and when: it is
//! too large for the topic, its time lies outside of what the topic takes, it has no key where one is needed,
//! or the broker cannot read what we can. What an operator may allow any time (authorisation, a policy, a
//! codec, a format) holds the stream instead: nothing is wrong with its records.
//!
//! Source: <https://kafka.apache.org/protocol#protocol_error_codes>. Not for: what is done then
//! (see [`super::lane`]).

use kafka_protocol::error::ResponseError as Error;
use tributary_common::wire::RefuseReason;

/// The meaning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is in the log.
    Taken,
    /// Another broker leads the partition: ask who, then send it again.
    Moved,
    /// The partition does not take it now; it may have it. Send it again after a while.
    Later,
    /// It was damaged on the way, or always, by the broker's word: send it again a few times, then find the
    /// record that is the reason.
    Damaged,
    /// Its bytes are too many for the topic: cut it; a single record of it is never taken.
    TooLarge,
    /// The broker misses what is before it. Where that is to come again, so is this.
    OutOfOrder,
    /// The broker no longer knows the producer as the producer knows itself, or says something that no
    /// producer expects: look what is there, and begin anew.
    Broken,
    /// Not with these records, whoever sends them: some are left out, and become dead letters.
    Unfit,
    /// Not until an operator allows it: the stream stands still.
    Refused(RefuseReason),
}

/// The meaning of an error code; 0 is none.
pub(super) fn meaning_of(code: i16) -> Meaning {
    let Some(error) = Error::try_from_code(code) else {
        return Meaning::Taken;
    };
    match error {
        Error::NotLeaderOrFollower
        | Error::LeaderNotAvailable
        | Error::ReplicaNotAvailable
        | Error::UnknownTopicOrPartition
        | Error::UnknownTopicId
        | Error::FencedLeaderEpoch
        | Error::UnknownLeaderEpoch
        | Error::KafkaStorageError
        | Error::NetworkException => Meaning::Moved,
        Error::NotEnoughReplicas
        // It is in the leader's log: the same sequence again is answered as taken.
        | Error::NotEnoughReplicasAfterAppend
        | Error::RequestTimedOut
        | Error::ThrottlingQuotaExceeded
        | Error::CoordinatorLoadInProgress
        | Error::CoordinatorNotAvailable
        | Error::UnknownServerError => Meaning::Later,
        Error::CorruptMessage => Meaning::Damaged,
        Error::MessageTooLarge | Error::RecordListTooLarge => Meaning::TooLarge,
        Error::OutOfOrderSequenceNumber => Meaning::OutOfOrder,
        Error::InvalidRecord | Error::InvalidTimestamp => Meaning::Unfit,
        Error::TopicAuthorizationFailed
        | Error::ClusterAuthorizationFailed
        | Error::InvalidTopicException
        | Error::PolicyViolation
        | Error::UnsupportedCompressionType
        | Error::UnsupportedForMessageFormat => Meaning::Refused(RefuseReason::Destination),
        // DuplicateSequenceNumber: it is there, and nobody knows where. UnknownProducerId,
        // InvalidProducerEpoch: the broker has forgotten the producer.
        _ => Meaning::Broken,
    }
}

/// An error code by its name.
pub(in super::super) fn kind(code: i16) -> String {
    Error::try_from_code(code).map_or_else(|| "none".to_owned(), |error| format!("{error:?}"))
}

/// An error code in words.
pub(super) fn words(code: i16) -> String {
    Error::try_from_code(code).map_or_else(|| "no error".to_owned(), |error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_a_meaning_and_only_zero_is_taken() {
        assert_eq!(meaning_of(0), Meaning::Taken);
        for code in (i16::MIN..=i16::MAX).filter(|&code| code != 0) {
            assert_ne!(meaning_of(code), Meaning::Taken, "{code}");
        }
        let check = |code, meaning| assert_eq!(meaning_of(code), meaning, "{}", words(code));
        check(6, Meaning::Moved);
        check(19, Meaning::Later);
        check(20, Meaning::Later);
        check(10, Meaning::TooLarge);
        check(45, Meaning::OutOfOrder);
        check(46, Meaning::Broken);
        check(59, Meaning::Broken);
        check(29, Meaning::Refused(RefuseReason::Destination));
        check(44, Meaning::Refused(RefuseReason::Destination));
        check(18, Meaning::TooLarge);
        check(2, Meaning::Damaged);
        check(32, Meaning::Unfit);
        check(87, Meaning::Unfit);
    }
}
