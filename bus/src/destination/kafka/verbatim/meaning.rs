//! What a broker's answer to a batch means for it. A table; pure.
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
    /// It was damaged on the way, or always: send it again, but not for ever.
    Damaged,
    /// Its bytes are too many for the topic: cut it.
    TooLarge,
    /// The broker misses what is before it. Where that is to come again, so is this.
    OutOfOrder,
    /// The broker no longer knows the producer as the producer knows itself, or says something that no
    /// producer expects: look what is there, and begin anew.
    Broken,
    /// Not with these records: of a merged batch the rest may be taken.
    Unfit(RefuseReason),
    /// Never.
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
        Error::InvalidRecord | Error::InvalidTimestamp => Meaning::Unfit(RefuseReason::Destination),
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
        check(32, Meaning::Unfit(RefuseReason::Destination));
        check(87, Meaning::Unfit(RefuseReason::Destination));
    }
}
