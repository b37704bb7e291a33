//! Topics: the list with counts per hop, one topic with its hosts, its minutes for charts.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        error::{ApiError, ErrorBody},
        extract::{Params, Segment},
    },
    app::App,
    service::{
        range::{Grain, MINUTE_MS, Minutes, Named},
        rates::{Rate, WINDOW_S},
        states::{NodeState, TopicState},
        tally::Tally,
    },
    store::{
        nodes::TopicHostRow,
        tallies::{Chart, TopicRow},
    },
};

/// Which event minutes: a named range, or both ends.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RangeQuery {
    /// A range that ends now: `1h`, `6h`, `24h` or `7d`; or `all`, every minute that is known.
    #[param(value_type = Option<Named>)]
    pub(crate) range: Option<String>,
    /// First instant, in ms since 1970; rounded down to a whole minute. Needs `to`.
    pub(crate) from: Option<i64>,
    /// First instant after the range, in ms since 1970; rounded up to a whole minute. Needs `from`.
    pub(crate) to: Option<i64>,
}

impl RangeQuery {
    /// Whether nothing is asked for.
    fn is_empty(&self) -> bool {
        self.range.is_none() && self.from.is_none() && self.to.is_none()
    }

    /// The minutes asked for.
    pub(crate) fn minutes(&self, default: Named, now_ms: i64) -> Result<Minutes, ApiError> {
        let minutes =
            Minutes::from_query(self.range.as_deref(), self.from, self.to, default, now_ms)?;
        Ok(minutes)
    }
}

/// Records by what became of them, in event time. All but `unexplained` are never negative.
///
/// `read + ahead = delivered + dead + purged + in_flight + refused + dropped + unexplained`, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Counts {
    /// Read and cut into batches by an agent.
    pub(crate) read: i64,
    /// Given to a connection at least once.
    pub(crate) sent: i64,
    /// Taken in by a bus node.
    pub(crate) received: i64,
    /// In every destination of the topic's route, without what one of them refused for good.
    pub(crate) delivered: i64,
    /// Read, not delivered, held by their agent, waiting to be sent or acknowledged, or by a bus node
    /// on its disk.
    pub(crate) in_flight: i64,
    /// Of those in flight: acknowledged, on a bus node's disk.
    pub(crate) spilled: i64,
    /// Repeats that a bus node recognised, acknowledged and did not forward.
    pub(crate) duplicates_removed: i64,
    /// Read, refused by the bus, held by their agent.
    pub(crate) refused: i64,
    /// Read, and lost with a known file, range and reason: see the losses.
    pub(crate) dropped: i64,
    /// Delivered more than once, counted once for each time too many.
    pub(crate) doubled: i64,
    /// Read, and neither delivered, nor held, nor told as lost. Compared by the identity of each
    /// batch, so that a surplus elsewhere never hides a loss.
    pub(crate) unexplained: i64,
    /// Delivered without that an agent has told the reading: for a moment where a bus node reports
    /// first, and for lines that came by HTTP.
    pub(crate) ahead: i64,
    /// In the dead letters of a destination, on a bus node: refused for good, kept until somebody replays
    /// or purges them. Not in `delivered`.
    pub(crate) dead: i64,
    /// Dead letters that an operator gave up: lost on purpose. Not in `delivered`.
    pub(crate) purged: i64,
    /// Of those delivered: they had died, and a replay brought them to their destination.
    pub(crate) replayed: i64,
}

impl From<&Tally> for Counts {
    fn from(tally: &Tally) -> Self {
        Self {
            read: tally.read,
            sent: tally.sent,
            received: tally.received,
            delivered: tally.delivered,
            in_flight: tally.in_flight,
            spilled: tally.spilled,
            duplicates_removed: tally.duplicates,
            refused: tally.refused,
            dropped: tally.dropped,
            doubled: tally.doubled,
            unexplained: tally.unexplained(),
            ahead: tally.ahead,
            dead: tally.dead,
            purged: tally.purged,
            replayed: tally.replayed,
        }
    }
}

/// Records per second over the last `window_s` seconds, by the arrival of reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct Rates {
    /// Read, in records/s.
    pub(crate) read_per_s: f64,
    /// Delivered, in records/s.
    pub(crate) delivered_per_s: f64,
    /// The window in seconds.
    pub(crate) window_s: u32,
}

impl From<Rate> for Rates {
    fn from(rate: Rate) -> Self {
        Self {
            read_per_s: rate.read_per_s,
            delivered_per_s: rate.delivered_per_s,
            window_s: WINDOW_S,
        }
    }
}

/// One topic within the range.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct TopicSummary {
    /// Its name.
    pub(crate) topic: String,
    /// How it is, in one word (`docs/states.md`).
    pub(crate) state: TopicState,
    /// Records per hop within the range.
    pub(crate) counts: Counts,
    /// Records per hop of every event minute that is known (within the retention).
    pub(crate) total: Counts,
    /// Start of the first event minute that is known, in ms since 1970; absent when there is none.
    #[schema(nullable)]
    pub(crate) first_minute_ms: Option<i64>,
    /// Start of the last one.
    #[schema(nullable)]
    pub(crate) last_minute_ms: Option<i64>,
    /// Records per second now.
    pub(crate) rates: Rates,
    /// Agents that ever told facts of it (within the retention).
    pub(crate) agents: i64,
    /// Of these, agents that have not reported for 15 s.
    pub(crate) silent_agents: i64,
    /// Told losses within the range.
    pub(crate) losses: i64,
    /// Source bytes of these losses.
    pub(crate) lost_bytes: i64,
    /// When the manager last heard something new of it, in ms since 1970.
    pub(crate) last_event_ms: i64,
}

/// All topics within a range.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TopicsPage {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// Start of the range as used, in ms since 1970.
    pub(crate) from_ms: i64,
    /// End of the range as used, in ms since 1970; the first instant outside.
    pub(crate) to_ms: i64,
    /// The topics, by name.
    pub(crate) topics: Vec<TopicSummary>,
}

/// One host that collects a topic.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TopicHost {
    /// The agent's id.
    pub(crate) agent: String,
    /// Its host name.
    pub(crate) host: String,
    /// Its zone.
    pub(crate) zone: String,
    /// Whether it reports.
    pub(crate) state: NodeState,
    /// Its last report, in ms since 1970.
    pub(crate) last_report_ms: i64,
    /// Files that match the topic's tasks on this host.
    pub(crate) files: u64,
    /// Bytes of those files that are not acknowledged.
    pub(crate) bytes_behind: u64,
    /// Age of the oldest byte that is not acknowledged, in ms.
    pub(crate) oldest_unacked_ms: u64,
    /// The last error of the topic's tasks in words; empty when there was none.
    pub(crate) last_error: String,
}

/// One topic with its hosts.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TopicDetail {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// Start of the range as used, in ms since 1970.
    pub(crate) from_ms: i64,
    /// End of the range as used, in ms since 1970; the first instant outside.
    pub(crate) to_ms: i64,
    /// The same figures as in the list.
    pub(crate) summary: TopicSummary,
    /// The hosts that collect it, silent ones first, then by host name.
    pub(crate) hosts: Vec<TopicHost>,
}

/// One event minute of a topic, or one hour or day in UTC where a chart is longer than seven days.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct MinuteCounts {
    /// Its start, in ms since 1970.
    pub(crate) minute_ms: i64,
    /// Its records.
    pub(crate) counts: Counts,
}

/// A topic's records per event minute.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TopicCounts {
    /// The manager's clock, in ms since 1970.
    pub(crate) generated_at_ms: i64,
    /// Start of the range as used, in ms since 1970.
    pub(crate) from_ms: i64,
    /// End of the range as used, in ms since 1970; the first instant outside.
    pub(crate) to_ms: i64,
    /// The topic.
    pub(crate) topic: String,
    /// The sum of all minutes.
    pub(crate) totals: Counts,
    /// How many minutes each entry of `minutes` covers: 1, or 60 or 1440 for a range whose records
    /// are more than 7 or 420 days apart.
    pub(crate) step_minutes: i64,
    /// Every minute of the range (as used) in order, also those without records.
    pub(crate) minutes: Vec<MinuteCounts>,
}

fn summary(app: &App, row: TopicRow) -> TopicSummary {
    TopicSummary {
        state: TopicState::of(&row.tally, row.losses, row.silent_agents),
        counts: Counts::from(&row.tally),
        total: Counts::from(&row.total),
        first_minute_ms: row.found.map(|(first, _last)| first * MINUTE_MS),
        last_minute_ms: row.found.map(|(_first, last)| last * MINUTE_MS),
        rates: app.rates.of(&row.topic).into(),
        agents: row.agents,
        silent_agents: row.silent_agents,
        losses: row.losses,
        lost_bytes: row.lost_bytes,
        last_event_ms: row.last_ms,
        topic: row.topic,
    }
}

/// The list for a range; the live events send the same.
pub(crate) async fn page(app: &App, minutes: Minutes, now_ms: i64) -> Result<TopicsPage, ApiError> {
    let rows = app.store.topics(minutes, now_ms).await?;
    let ends = rows.iter().filter_map(|row| row.found);
    let minutes = minutes.shown(ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))));
    Ok(TopicsPage {
        generated_at_ms: now_ms,
        from_ms: minutes.start_ms(),
        to_ms: minutes.end_ms(),
        topics: rows.into_iter().map(|row| summary(app, row)).collect(),
    })
}

/// All topics with their counts per hop. Without a range: every event minute that is known.
#[utoipa::path(
    get, path = "/api/v1/topics", operation_id = "listTopics", tag = "topics", params(RangeQuery),
    responses(
        (status = 200, body = TopicsPage),
        (status = 400, body = ErrorBody, description = "The range is none."),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    Params(query): Params<RangeQuery>,
) -> Result<Json<TopicsPage>, ApiError> {
    let now_ms = app.clock.now_ms();
    Ok(Json(
        page(&app, query.minutes(Named::All, now_ms)?, now_ms).await?,
    ))
}

/// One topic with the hosts that collect it. Without a range: every event minute that is known.
#[utoipa::path(
    get, path = "/api/v1/topics/{topic}", operation_id = "getTopic", tag = "topics",
    params(("topic" = String, Path, description = "The topic's name."), RangeQuery),
    responses(
        (status = 200, body = TopicDetail),
        (status = 400, body = ErrorBody, description = "The range is none."),
        (status = 404, body = ErrorBody, description = "No such topic."),
    )
)]
pub(crate) async fn show(
    State(app): State<App>,
    Segment(topic): Segment,
    Params(query): Params<RangeQuery>,
) -> Result<Json<TopicDetail>, ApiError> {
    let now_ms = app.clock.now_ms();
    let minutes = query.minutes(Named::All, now_ms)?;
    let Some(row) = app.store.topic(&topic, minutes, now_ms).await? else {
        return Err(ApiError::UnknownTopic(topic));
    };
    let minutes = minutes.shown(row.found);
    let hosts = app.store.topic_hosts(row.id).await?;
    Ok(Json(TopicDetail {
        generated_at_ms: now_ms,
        from_ms: minutes.start_ms(),
        to_ms: minutes.end_ms(),
        summary: summary(&app, row),
        hosts: sorted_hosts(&topic, hosts, now_ms),
    }))
}

fn sorted_hosts(topic: &str, rows: Vec<TopicHostRow>, now_ms: i64) -> Vec<TopicHost> {
    let mut hosts: Vec<TopicHost> = rows
        .into_iter()
        .map(|row| {
            let mut host = TopicHost {
                agent: row.name,
                host: row.host,
                zone: row.zone,
                state: NodeState::of(row.last_ms, now_ms),
                last_report_ms: row.last_ms,
                files: 0,
                bytes_behind: 0,
                oldest_unacked_ms: 0,
                last_error: String::new(),
            };
            for task in row
                .health
                .tasks
                .iter()
                .filter(|task| task.topic.as_str() == topic)
            {
                host.files = host.files.saturating_add(task.files);
                host.bytes_behind = host.bytes_behind.saturating_add(task.bytes_behind);
                host.oldest_unacked_ms = host.oldest_unacked_ms.max(task.oldest_unacked_ms);
                if host.last_error.is_empty() {
                    host.last_error.clone_from(&task.last_error);
                }
            }
            host
        })
        .collect();
    hosts.sort_by(|a, b| {
        let live = |host: &TopicHost| host.state == NodeState::Live;
        live(a).cmp(&live(b)).then_with(|| a.host.cmp(&b.host))
    });
    hosts
}

/// One topic's records per event minute, for charts. Without a range: the last hour, or where it
/// has no records the hour up to the last one that has. A range of more than 7 days is cut to the
/// minutes from the first to the last one that has records; where these are more than 7 days the
/// entries are hours, over more than 420 days they are days.
#[utoipa::path(
    get, path = "/api/v1/topics/{topic}/counts", operation_id = "getTopicCounts", tag = "topics",
    params(("topic" = String, Path, description = "The topic's name."), RangeQuery),
    responses(
        (status = 200, body = TopicCounts),
        (status = 400, body = ErrorBody, description = "The range is none, or has records over more than 100 years."),
        (status = 404, body = ErrorBody, description = "No such topic."),
    )
)]
pub(crate) async fn counts(
    State(app): State<App>,
    Segment(topic): Segment,
    Params(query): Params<RangeQuery>,
) -> Result<Json<TopicCounts>, ApiError> {
    let now_ms = app.clock.now_ms();
    let range = match query.is_empty() {
        true => None,
        false => Some(query.minutes(Named::H1, now_ms)?),
    };
    let Some(chart) = app.store.topic_chart(&topic, range, now_ms).await? else {
        return Err(ApiError::UnknownTopic(topic));
    };
    let Chart { range, grain, rows } = chart?;
    let (totals, minutes) = dense(range, grain, rows);
    Ok(Json(TopicCounts {
        generated_at_ms: now_ms,
        from_ms: range.start_ms(),
        to_ms: range.end_ms(),
        topic,
        totals,
        step_minutes: grain.minutes(),
        minutes,
    }))
}

/// Every step of the range from the sparse rows, which are in order; and their sum.
fn dense(range: Minutes, grain: Grain, rows: Vec<(i64, Tally)>) -> (Counts, Vec<MinuteCounts>) {
    let step = grain.minutes();
    let mut totals = Tally::default();
    let mut rows = rows.into_iter().peekable();
    let minutes = (range.from / step..range.to / step)
        .map(|at| {
            let row = rows.next_if(|&(found, _)| found == at);
            let tally = row.map_or_else(Tally::default, |(_, tally)| tally);
            totals.add(&tally);
            MinuteCounts {
                minute_ms: at * step * MINUTE_MS,
                counts: Counts::from(&tally),
            }
        })
        .collect();
    (Counts::from(&totals), minutes)
}
