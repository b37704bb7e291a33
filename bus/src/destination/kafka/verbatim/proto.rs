//! Kafka's messages as bytes: frames, versions, the four requests of a producer.
//!
//! Versions from Kafka 2.1 (zstd came with it) to 4.x; a broker that has none of them is named. Not
//! for: what the answers mean (see [`super::meaning`]), sockets (see [`super::link`]).

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, InitProducerIdRequest,
        InitProducerIdResponse, MetadataRequest, MetadataResponse, ProduceResponse, RequestHeader,
        ResponseHeader, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
        SaslHandshakeResponse, TopicName, metadata_request::MetadataRequestTopic,
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use super::{
    frame::{self, Frame, Load},
    lane::{Producer, RequestNo},
    meaning::words,
    says::{Leaders, PartAnswer, TopicLeaders},
};

/// How long a broker may wait for its replicas, in ms.
const REPLICAS_WITHIN_MS: i32 = 10_000;
/// Who asks.
const CLIENT: StrBytes = StrBytes::from_static_str("tributary-bus");

/// Versions of a request that are used here.
pub(super) struct Range {
    pub(super) key: ApiKey,
    pub(super) min: i16,
    pub(super) max: i16,
}

/// From 7 on brokers take zstd; from 13 on topics have ids in the place of names.
const PRODUCE: Range = Range {
    key: ApiKey::Produce,
    min: 7,
    max: 9,
};
const METADATA: Range = Range {
    key: ApiKey::Metadata,
    min: 4,
    max: 9,
};
/// From 1 on a broker says how long a login lasts.
pub(super) const SASL: Range = Range {
    key: ApiKey::SaslAuthenticate,
    min: 0,
    max: 1,
};
const INIT_PRODUCER_ID: Range = Range {
    key: ApiKey::InitProducerId,
    min: 0,
    max: 2,
};

/// The versions that a broker and we have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    produce: i16,
    metadata: i16,
    producer: i16,
}

/// The question for the versions of a broker, which every broker understands.
pub(super) fn hello() -> Result<Bytes> {
    whole(ApiKey::ApiVersions, 0, 0, &ApiVersionsRequest::default())
}

/// What of a broker's knowledge is used here.
///
/// # Errors
/// A broker that is too old or too new.
pub(super) fn negotiate(known: &ApiVersionsResponse) -> Result<Versions> {
    Ok(Versions {
        produce: common(known, &PRODUCE)?,
        metadata: common(known, &METADATA)?,
        producer: common(known, &INIT_PRODUCER_ID)?,
    })
}

/// The answer to [`hello`] as it is: what a broker knows.
///
/// # Errors
/// What it says against the question.
pub(super) fn versions(answer: Bytes) -> Result<ApiVersionsResponse> {
    let (_no, answer) = open::<ApiVersionsResponse>(answer, 0, 0)?;
    ensure!(answer.error_code == 0, "{}", words(answer.error_code));
    Ok(answer)
}

/// The latest version of a request that a broker and we have in common.
///
/// # Errors
/// With what the broker has when there is none.
pub(super) fn common(known: &ApiVersionsResponse, range: &Range) -> Result<i16> {
    let mut keys = known.api_keys.iter();
    let theirs = keys.find(|one| one.api_key == range.key as i16);
    let (min, max) = theirs.map_or((0, -1), |one| (one.min_version, one.max_version));
    let version = max.min(range.max);
    ensure!(
        version >= min.max(range.min),
        "the broker has {:?} in versions {min} to {max}; needed is one of {} to {}",
        range.key,
        range.min,
        range.max,
    );
    Ok(version)
}

/// The name of a way to log in. Every broker that is new enough for zstd has these versions.
pub(super) fn sasl_handshake(mechanism: &str) -> Result<Bytes> {
    let mechanism = StrBytes::from_string(mechanism.to_owned());
    let body = SaslHandshakeRequest::default().with_mechanism(mechanism);
    whole(ApiKey::SaslHandshake, 1, 0, &body)
}

/// The answer to [`sasl_handshake`].
///
/// # Errors
/// With what the broker has instead.
pub(super) fn sasl_agreed(mechanism: &str, answer: Bytes) -> Result<()> {
    let answer: SaslHandshakeResponse = checked(answer, 1, 0)?;
    let known: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
    ensure!(
        answer.error_code == 0,
        "the broker does not take {mechanism}, but {}",
        known.join(", ")
    );
    Ok(())
}

/// One word of a login.
pub(super) fn sasl_token(token: Bytes, version: i16) -> Result<Bytes> {
    let body = SaslAuthenticateRequest::default().with_auth_bytes(token);
    whole(ApiKey::SaslAuthenticate, version, 0, &body)
}

/// What a broker says to a word of a login.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) token: Bytes,
    /// How long the connection may live, from a broker that wants to be logged in at again (KIP-368).
    pub(super) lifetime: Option<Duration>,
}

/// The answer to [`sasl_token`].
///
/// # Errors
/// What the broker says against it.
pub(super) fn sasl_answer(answer: Bytes, version: i16) -> Result<Said> {
    let answer: SaslAuthenticateResponse = checked(answer, version, 0)?;
    let why = answer.error_message.unwrap_or_default();
    ensure!(
        answer.error_code == 0,
        "{}: {why}",
        words(answer.error_code)
    );
    let lifetime = u64::try_from(answer.session_lifetime_ms).ok();
    Ok(Said {
        token: answer.auth_bytes,
        lifetime: lifetime.filter(|ms| *ms > 0).map(Duration::from_millis),
    })
}

/// Batches for one broker, acknowledged by all replicas.
pub(super) fn produce(versions: Versions, no: RequestNo, loads: Vec<Load>) -> Result<Frame> {
    let first = (versions.produce, correlation(no));
    frame::produce(first, (&CLIENT, REPLICAS_WITHIN_MS), loads)
}

/// What became of each batch, and how long to send nothing.
pub(super) fn produced(
    versions: Versions,
    no: RequestNo,
    answer: Bytes,
) -> Result<(Vec<PartAnswer>, Duration)> {
    let answer: ProduceResponse = checked(answer, versions.produce, no)?;
    let throttle = u64::try_from(answer.throttle_time_ms).unwrap_or(0);
    let answers = answer.responses.into_iter().flat_map(|topic| {
        let name = topic.name.to_string();
        topic.partition_responses.into_iter().map(move |one| {
            let records = one.record_errors.into_iter().filter_map(|error| {
                let words = error.batch_index_error_message.unwrap_or_default();
                Some((u32::try_from(error.batch_index).ok()?, words.to_string()))
            });
            PartAnswer {
                topic: name.clone(),
                partition: one.index,
                code: one.error_code,
                offset: one.base_offset,
                message: one.error_message.unwrap_or_default().to_string(),
                records: records.collect(),
            }
        })
    });
    Ok((answers.collect(), Duration::from_millis(throttle)))
}

/// The question who leads the partitions of these topics; none is made by it.
pub(super) fn ask_leaders(versions: Versions, no: RequestNo, topics: &[Arc<str>]) -> Result<Frame> {
    let topics = topics
        .iter()
        .map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic))));
    let body = MetadataRequest::default()
        .with_topics(Some(topics.collect()))
        .with_allow_auto_topic_creation(false);
    Ok(whole(METADATA.key, versions.metadata, no, &body)?.into())
}

/// The answer to [`ask_leaders`].
pub(super) fn leaders(versions: Versions, no: RequestNo, answer: Bytes) -> Result<Leaders> {
    let answer: MetadataResponse = checked(answer, versions.metadata, no)?;
    let brokers = answer.brokers.iter().map(|broker| {
        let addr = match broker.host.contains(':') {
            true => format!("[{}]:{}", broker.host, broker.port),
            false => format!("{}:{}", broker.host, broker.port),
        };
        (broker.node_id.0, addr)
    });
    let topics = answer.topics.iter().map(|topic| TopicLeaders {
        topic: topic
            .name
            .as_ref()
            .map(|name| name.to_string())
            .unwrap_or_default(),
        code: topic.error_code,
        partitions: topic
            .partitions
            .iter()
            .map(|one| {
                let leader = (one.leader_id.0 >= 0).then_some(one.leader_id.0);
                (one.partition_index, leader)
            })
            .collect(),
    });
    Ok(Leaders {
        brokers: brokers.collect(),
        topics: topics.collect(),
    })
}

/// The question for a producer id of our own.
pub(super) fn ask_producer(versions: Versions, no: RequestNo) -> Result<Frame> {
    let body = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(0);
    Ok(whole(INIT_PRODUCER_ID.key, versions.producer, no, &body)?.into())
}

/// The answer to [`ask_producer`]: a producer, or an error's code.
pub(super) fn producer(
    versions: Versions,
    no: RequestNo,
    answer: Bytes,
) -> Result<Result<Producer, i16>> {
    let answer: InitProducerIdResponse = checked(answer, versions.producer, no)?;
    Ok(match answer.error_code {
        0 => Ok(Producer {
            id: answer.producer_id.0,
            epoch: answer.producer_epoch,
        }),
        code => Err(code),
    })
}

pub(super) fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// The number of a request as the broker repeats it: its low bits.
fn correlation(no: RequestNo) -> i32 {
    i32::try_from(no & 0x7fff_ffff).unwrap_or_default()
}

/// A request with its length before it.
pub(super) fn whole<R: Encodable + HeaderVersion>(
    key: ApiKey,
    version: i16,
    no: RequestNo,
    body: &R,
) -> Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation(no))
        .with_client_id(Some(CLIENT));
    let header_version = R::header_version(version);
    let size = header.compute_size(header_version)? + body.compute_size(version)?;
    let mut out = BytesMut::with_capacity(4 + size);
    out.put_u32(u32::try_from(size).context("a request of more than 4 GiB")?);
    header.encode(&mut out, header_version)?;
    body.encode(&mut out, version)?;
    Ok(out.freeze())
}

/// A whole answer without its length, and the number in it.
fn open<R: Decodable>(mut answer: Bytes, version: i16, header_version: i16) -> Result<(i32, R)> {
    let header = ResponseHeader::decode(&mut answer, header_version)?;
    let body = R::decode(&mut answer, version)?;
    ensure!(!answer.has_remaining(), "bytes follow an answer");
    Ok((header.correlation_id, body))
}

/// The answer to the request `no`.
pub(super) fn checked<R: Decodable + HeaderVersion>(
    answer: Bytes,
    version: i16,
    no: RequestNo,
) -> Result<R> {
    let (told, body) = open(answer, version, R::header_version(version))?;
    ensure!(
        told == correlation(no),
        "a broker answers request {told} before {}",
        correlation(no)
    );
    Ok(body)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::api_versions_response::ApiVersion;

    use super::*;

    /// An answer of a broker with these versions of Produce.
    fn agreed(produce: (i16, i16)) -> Result<Versions> {
        let key = |key: ApiKey, (min, max)| {
            ApiVersion::default()
                .with_api_key(key as i16)
                .with_min_version(min)
                .with_max_version(max)
        };
        let answer = ApiVersionsResponse::default().with_api_keys(vec![
            key(ApiKey::Produce, produce),
            key(ApiKey::Metadata, (0, 13)),
            key(ApiKey::InitProducerId, (0, 1)),
        ]);
        let mut out = BytesMut::new();
        ResponseHeader::default().encode(&mut out, 0)?;
        answer.encode(&mut out, 0)?;
        negotiate(&versions(out.freeze())?)
    }

    #[test]
    fn the_latest_common_version_is_used_and_a_broker_without_one_is_named() {
        let common = agreed((3, 7)).unwrap();
        assert_eq!(
            (common.produce, common.metadata, common.producer),
            (7, 9, 1)
        );
        assert_eq!(agreed((3, 13)).unwrap().produce, 9);
        assert_eq!(
            agreed((3, 6)).unwrap_err().to_string(),
            "the broker has Produce in versions 3 to 6; needed is one of 7 to 9"
        );
        assert!(agreed((10, 13)).is_err());
    }

    #[test]
    fn an_answer_to_another_request_or_with_bytes_behind_it_is_an_error() {
        let all = agreed((7, 9)).unwrap();
        let answer = |no, behind: &[u8]| {
            let mut out = BytesMut::new();
            let header = ResponseHeader::default().with_correlation_id(no);
            header.encode(&mut out, 0).unwrap();
            InitProducerIdResponse::default()
                .encode(&mut out, 1)
                .unwrap();
            out.extend_from_slice(behind);
            producer(all, 5, out.freeze())
        };
        assert!(answer(5, b"").unwrap().is_ok());
        assert!(answer(6, b"").is_err() && answer(5, b"x").is_err());
    }
}
