//! A cluster that says for a moment that it has no brokers: what a lone broker answers while it is
//! fenced after a pause. A broker of a few lines says it, for a real one says it seldom.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsResponse, BrokerId, MetadataResponse, ResponseHeader, TopicName,
        api_versions_response::ApiVersion,
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
    },
    protocol::{Encodable, HeaderVersion, StrBytes},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tributary_common::net;

use super::{ProducerKind, tests};
use crate::testing::{accepted, batch, until};

const TOPIC: &str = "web";
const LEADER_NOT_AVAILABLE: i16 = 5;
/// Now and then librdkafka asks once more before it forgets its brokers, and is none the worse.
const ROUNDS: u64 = 8;
/// Who was denied so often has not forgotten them.
const STILL_ASKS: u32 = 5;

/// What the broker says, and how often it was asked.
#[derive(Default)]
struct Broker {
    port: u16,
    fenced: AtomicBool,
    /// Answers with itself, and without.
    answers: [AtomicU32; 2],
}

impl Broker {
    /// It says what it is asked about itself; a question of another kind is never answered.
    fn answer(&self, mut question: Bytes) -> Option<Bytes> {
        let key = ApiKey::try_from(question.get_i16()).ok()?;
        let (version, correlation) = (question.get_i16(), question.get_i32());
        let mut out = BytesMut::new();
        let head = ResponseHeader::default().with_correlation_id(correlation);
        match key {
            ApiKey::ApiVersions => {
                let known = [(ApiKey::ApiVersions, 0, 3), (ApiKey::Metadata, 4, 9)];
                let known = known.map(|(key, min, max)| {
                    ApiVersion::default()
                        .with_api_key(key as i16)
                        .with_min_version(min)
                        .with_max_version(max)
                });
                head.encode(&mut out, 0).unwrap();
                let body = ApiVersionsResponse::default().with_api_keys(known.to_vec());
                body.encode(&mut out, version.min(3)).unwrap();
            }
            ApiKey::Metadata => {
                let header = MetadataResponse::header_version(version);
                head.encode(&mut out, header).unwrap();
                self.metadata().encode(&mut out, version).unwrap();
            }
            _ => return None,
        }
        Some(out.freeze())
    }

    fn metadata(&self) -> MetadataResponse {
        let fenced = self.fenced.load(Ordering::SeqCst);
        self.answers[usize::from(fenced)].fetch_add(1, Ordering::SeqCst);
        let partition = MetadataResponsePartition::default().with_partition_index(0);
        let partition = match fenced {
            true => partition
                .with_error_code(LEADER_NOT_AVAILABLE)
                .with_leader_id(BrokerId(-1)),
            false => partition
                .with_leader_id(BrokerId(1))
                .with_replica_nodes(vec![BrokerId(1)])
                .with_isr_nodes(vec![BrokerId(1)]),
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str(TOPIC))))
            .with_partitions(vec![partition]);
        let itself = MetadataResponseBroker::default()
            .with_node_id(BrokerId(1))
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(i32::from(self.port));
        let brokers = if fenced { Vec::new() } else { vec![itself] };
        MetadataResponse::default()
            .with_brokers(brokers)
            .with_cluster_id(Some(StrBytes::from_static_str("lone")))
            .with_controller_id(BrokerId(1))
            .with_topics(vec![topic])
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let length = stream.read_u32().await?;
            let mut question = vec![0; length as usize];
            stream.read_exact(&mut question).await?;
            if let Some(answer) = self.answer(question.into()) {
                let mut frame = BytesMut::new();
                frame.put_u32(u32::try_from(answer.len()).unwrap());
                frame.extend_from_slice(&answer);
                stream.write_all(&frame).await?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_forgot_all_brokers_is_replaced_when_they_are_there() {
    let listener = net::listen("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = Arc::new(Broker {
        port,
        ..Broker::default()
    });
    let serving = Arc::clone(&broker);
    let mut connections = tokio::task::JoinSet::new();
    let accept = async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            connections.spawn(Arc::clone(&serving).serve(stream));
        }
    };
    let watch = async {
        let dir = tempfile::TempDir::new().unwrap();
        let rig = tests::start(ProducerKind::Rdkafka, dir, &format!("127.0.0.1:{port}"));
        let answers = |fenced: bool| broker.answers[usize::from(fenced)].load(Ordering::SeqCst);
        for round in 1..=ROUNDS {
            // Somebody has to want something of the cluster.
            let one = accepted(batch(TOPIC, 1, round, &["a"])).await;
            let _outcome = rig.deliver(TOPIC, &one);
            let known = answers(false) + 2;
            until("a producer that knows the broker", || {
                answers(false) >= known
            })
            .await;
            let asked = answers(true) + STILL_ASKS;
            broker.fenced.store(true, Ordering::SeqCst);
            until("what it makes of that", || {
                rig.is_down(TOPIC) || answers(true) >= asked
            })
            .await;
            let forgot = rig.is_down(TOPIC);
            broker.fenced.store(false, Ordering::SeqCst);
            let known = answers(false) + 2;
            let goes_on = || !rig.is_down(TOPIC) && answers(false) >= known;
            until("a producer that goes on", goes_on).await;
            if forgot {
                break;
            }
        }
        tokio::task::spawn_blocking(move || drop(rig.kill()))
            .await
            .unwrap();
    };
    tokio::select! {
        () = accept => {}
        () = watch => {}
    }
}
