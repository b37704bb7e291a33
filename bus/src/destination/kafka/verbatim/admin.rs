//! Questions to a cluster and orders for it that are no batches: who is there, where topics lie, create
//! one, move its replicas.
//!
//! Each call connects anew to whichever broker answers first, so that one that hangs holds up nobody;
//! a controller that has to be asked itself (before Kafka was its own quorum) is. A call ends within [`WITHIN`].
//! Used by [`super::super::groups`] and [`super::super::create`]. Not for: producing.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use kafka_protocol::{
    error::ResponseError,
    messages::{
        AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ApiKey,
        ApiVersionsResponse, BrokerId, CreateTopicsRequest, CreateTopicsResponse,
        ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, MetadataRequest,
        MetadataResponse,
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic},
        metadata_request::MetadataRequestTopic,
    },
    protocol::{Decodable, Encodable, HeaderVersion},
};
use tokio::{task::JoinSet, time::timeout};
use tributary_common::tls::Stream;

use super::{
    link, meaning,
    proto::{self, Range},
    security::Security,
};
use crate::route::Create;

/// A call may take so long.
const WITHIN: Duration = Duration::from_secs(8);
/// The cluster may take so long over an order, in ms.
const ORDER_MS: i32 = 5_000;

const METADATA: Range = Range {
    key: ApiKey::Metadata,
    min: 4,
    max: 9,
};
/// Assignments came long before; from 2 on every broker of today has it.
const CREATE: Range = Range {
    key: ApiKey::CreateTopics,
    min: 2,
    max: 5,
};
/// From Kafka 2.4 on.
const REASSIGN: Range = Range {
    key: ApiKey::AlterPartitionReassignments,
    min: 0,
    max: 0,
};
const LIST: Range = Range {
    key: ApiKey::ListPartitionReassignments,
    min: 0,
    max: 0,
};

/// A cluster that can be asked.
#[derive(Debug, Clone)]
pub(in super::super) struct Admin {
    bootstrap: Vec<String>,
    security: Arc<Security>,
}

/// What a cluster is.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Map {
    /// Brokers that are there.
    pub(in super::super) brokers: Vec<i32>,
    /// The topics that were asked for and are there.
    pub(in super::super) topics: Vec<TopicMap>,
}

/// Where a topic lies.
#[derive(Debug, Clone)]
pub(in super::super) struct TopicMap {
    pub(in super::super) name: String,
    pub(in super::super) partitions: Vec<PartitionMap>,
}

/// Where a partition lies.
#[derive(Debug, Clone)]
pub(in super::super) struct PartitionMap {
    pub(in super::super) no: i32,
    pub(in super::super) replicas: Vec<i32>,
    pub(in super::super) in_sync: Vec<i32>,
}

/// A partition on its way to other brokers.
#[derive(Debug, Clone)]
pub(in super::super) struct Move {
    pub(in super::super) topic: String,
    pub(in super::super) partition: i32,
    /// Brokers that get it, and have to read it whole.
    pub(in super::super) adding: Vec<i32>,
}

/// Why an order was not obeyed.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Disobeyed {
    /// The cluster says no, and will again.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers, or the cluster cannot now.
    #[error("{0:#}")]
    Later(#[from] anyhow::Error),
}

/// How a new topic is to be.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum NewTopic<'a> {
    /// With the replicas of each partition on these brokers.
    At(&'a [Vec<i32>]),
    /// As a route says; the cluster chooses the brokers.
    As(Create),
}

/// A topic, and for each partition by its number the brokers that are to have it.
pub(in super::super) type Placement = (String, Vec<(i32, Vec<i32>)>);

impl Admin {
    pub(in super::super) fn new(bootstrap: &[String], security: Arc<Security>) -> Self {
        Self {
            bootstrap: bootstrap.to_vec(),
            security,
        }
    }

    /// Whether a broker is there that answers.
    pub(in super::super) async fn answers(&self, within: Duration) -> bool {
        let asked = async {
            let mut talk = self.connect().await?;
            let map = talk.map(&[]).await?;
            anyhow::Ok(!map.brokers.is_empty())
        };
        matches!(timeout(within, asked).await, Ok(Ok(true)))
    }

    /// Who is there, and where these topics lie. Topics that the cluster does not know are left out, and
    /// none is made by it.
    ///
    /// # Errors
    /// Nobody answers.
    pub(in super::super) async fn map(&self, topics: &[Arc<str>]) -> Result<Map> {
        within(async { self.connect().await?.map(topics).await }).await
    }

    /// Partitions that are on their way to other brokers.
    ///
    /// # Errors
    /// Nobody answers, or the cluster is older than 2.4.
    pub(in super::super) async fn moves(&self) -> Result<Vec<Move>> {
        let asked = async {
            let mut talk = self.connect().await?;
            let body = ListPartitionReassignmentsRequest::default()
                .with_timeout_ms(ORDER_MS)
                .with_topics(None);
            let mut answer: ListPartitionReassignmentsResponse = talk.ask(&LIST, &body).await?;
            if is_not_controller(answer.error_code) {
                answer = self.controller(talk).await?.ask(&LIST, &body).await?;
            }
            said(answer.error_code, answer.error_message.as_deref())?;
            let moves = answer.topics.into_iter().flat_map(|topic| {
                let name = topic.name.to_string();
                topic.partitions.into_iter().map(move |one| Move {
                    topic: name.clone(),
                    partition: one.partition_index,
                    adding: one.adding_replicas.iter().map(|id| id.0).collect(),
                })
            });
            Ok(moves.collect())
        };
        within(asked).await
    }

    /// Creates a topic. One that is there already is fine.
    ///
    /// # Errors
    /// [`Disobeyed`].
    pub(in super::super) async fn create(
        &self,
        topic: &str,
        new: NewTopic<'_>,
    ) -> Result<(), Disobeyed> {
        let (
            places,
            Create {
                partitions,
                replicas,
            },
        ) = match new {
            NewTopic::At(places) => (places, Create::default()),
            NewTopic::As(create) => (&[][..], create),
        };
        let assignments = places.iter().zip(0..).map(|(replicas, no)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(no)
                .with_broker_ids(ids(replicas))
        });
        // -1: as the assignments say, or the brokers (from Kafka 2.4 on).
        let new = CreatableTopic::default()
            .with_name(proto::name(topic))
            .with_num_partitions(partitions.unwrap_or(-1))
            .with_replication_factor(replicas.unwrap_or(-1))
            .with_assignments(assignments.collect());
        let body = CreateTopicsRequest::default()
            .with_topics(vec![new])
            .with_timeout_ms(ORDER_MS);
        let asked = async {
            let mut talk = self.connect().await?;
            let mut answer: CreateTopicsResponse = talk.ask(&CREATE, &body).await?;
            if answer
                .topics
                .iter()
                .any(|one| is_not_controller(one.error_code))
            {
                answer = self.controller(talk).await?.ask(&CREATE, &body).await?;
            }
            Ok(answer)
        };
        let answer = within(asked).await?;
        let answer = answer
            .topics
            .first()
            .context("the broker says nothing of the topic")?;
        match ResponseError::try_from_code(answer.error_code) {
            None | Some(ResponseError::TopicAlreadyExists) => Ok(()),
            Some(
                ResponseError::TopicAuthorizationFailed
                | ResponseError::ClusterAuthorizationFailed
                | ResponseError::InvalidTopicException
                | ResponseError::InvalidPartitions
                | ResponseError::InvalidReplicationFactor
                | ResponseError::PolicyViolation,
            ) => Err(Disobeyed::Refused(text(
                answer.error_code,
                answer.error_message.as_deref(),
            ))),
            Some(_) => {
                Err(anyhow!(text(answer.error_code, answer.error_message.as_deref())).into())
            }
        }
    }

    /// Moves replicas. The cluster does it in its own time (see [`Admin::moves`]).
    ///
    /// # Errors
    /// With the first partition that it does not move, and why; others may be on their way.
    pub(in super::super) async fn reassign(&self, places: &[Placement]) -> Result<()> {
        let topics = places.iter().map(|(topic, partitions)| {
            let partitions = partitions.iter().map(|(no, replicas)| {
                ReassignablePartition::default()
                    .with_partition_index(*no)
                    .with_replicas(Some(ids(replicas)))
            });
            ReassignableTopic::default()
                .with_name(proto::name(topic))
                .with_partitions(partitions.collect())
        });
        let body = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(ORDER_MS)
            .with_topics(topics.collect());
        let asked = async {
            let mut talk = self.connect().await?;
            let mut answer: AlterPartitionReassignmentsResponse =
                talk.ask(&REASSIGN, &body).await?;
            if is_not_controller(answer.error_code) {
                answer = self.controller(talk).await?.ask(&REASSIGN, &body).await?;
            }
            said(answer.error_code, answer.error_message.as_deref())?;
            for topic in &answer.responses {
                for one in &topic.partitions {
                    let place =
                        || format!("partition {} of topic {}", one.partition_index, *topic.name);
                    said(one.error_code, one.error_message.as_deref()).with_context(place)?;
                }
            }
            Ok(())
        };
        within(asked).await
    }

    /// A connection to whichever broker answers first.
    async fn connect(&self) -> Result<Talk> {
        let mut tries = JoinSet::new();
        for addr in &self.bootstrap {
            let (addr, security) = (addr.clone(), Arc::clone(&self.security));
            tries.spawn(async move {
                let talk = Talk::begin(&addr, &security).await;
                talk.with_context(|| format!("failed to ask {addr}"))
            });
        }
        let mut first = None;
        while let Some(tried) = tries.join_next().await {
            match tried.map_err(anyhow::Error::from).flatten() {
                Ok(talk) => return Ok(talk),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| anyhow!("there is nobody to ask")))
    }

    /// A connection to the controller.
    async fn controller(&self, mut talk: Talk) -> Result<Talk> {
        let answer: MetadataResponse = talk.ask(&METADATA, &asked_for(&[])).await?;
        let mut brokers = answer.brokers.iter();
        let controller = brokers.find(|one| one.node_id == answer.controller_id);
        let controller = controller.context("the cluster has no controller now")?;
        let addr = format!("{}:{}", &*controller.host, controller.port);
        Talk::begin(&addr, &self.security).await
    }
}

/// A connection, one question after the other.
struct Talk {
    stream: Stream,
    known: ApiVersionsResponse,
    no: u64,
}

impl Talk {
    async fn begin(addr: &str, security: &Security) -> Result<Self> {
        let (stream, known, _lifetime) = link::open(addr, security).await?;
        Ok(Self {
            stream,
            known,
            no: 0,
        })
    }

    async fn ask<Q, A>(&mut self, range: &Range, body: &Q) -> Result<A>
    where
        Q: Encodable + HeaderVersion,
        A: Decodable + HeaderVersion,
    {
        let version = proto::common(&self.known, range)?;
        self.no += 1;
        let question = proto::whole(range.key, version, self.no, body)?;
        link::write(&mut self.stream, &question).await?;
        let answer: Bytes = link::read(&mut self.stream).await?;
        proto::checked(answer, version, self.no)
    }

    async fn map(&mut self, topics: &[Arc<str>]) -> Result<Map> {
        let answer: MetadataResponse = self.ask(&METADATA, &asked_for(topics)).await?;
        let brokers = answer.brokers.iter().map(|broker| broker.node_id.0);
        let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
        let topics = answer.topics.iter().filter(|topic| topic.error_code == 0);
        let topics = topics.map(|topic| TopicMap {
            name: topic
                .name
                .as_ref()
                .map(|name| name.to_string())
                .unwrap_or_default(),
            partitions: topic
                .partitions
                .iter()
                .map(|one| PartitionMap {
                    no: one.partition_index,
                    replicas: numbers(&one.replica_nodes),
                    in_sync: numbers(&one.isr_nodes),
                })
                .collect(),
        });
        Ok(Map {
            topics: topics.collect(),
            brokers: brokers.collect(),
        })
    }
}

fn asked_for(topics: &[Arc<str>]) -> MetadataRequest {
    let topics = topics.iter();
    let topics =
        topics.map(|topic| MetadataRequestTopic::default().with_name(Some(proto::name(topic))));
    MetadataRequest::default()
        .with_topics(Some(topics.collect()))
        .with_allow_auto_topic_creation(false)
}

fn ids(brokers: &[i32]) -> Vec<BrokerId> {
    brokers.iter().map(|id| BrokerId(*id)).collect()
}

fn is_not_controller(code: i16) -> bool {
    ResponseError::try_from_code(code) == Some(ResponseError::NotController)
}

fn text(code: i16, message: Option<&str>) -> String {
    let words = meaning::words(code);
    message.map_or_else(|| words.clone(), |message| format!("{words} ({message})"))
}

fn said(code: i16, message: Option<&str>) -> Result<()> {
    ensure!(code == 0, "{}", text(code, message));
    Ok(())
}

async fn within<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(WITHIN, asked).await {
        Ok(answer) => answer,
        Err(_late) => bail!("the cluster gives no answer within {WITHIN:?}"),
    }
}
