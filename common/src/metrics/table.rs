//! Every metric: name, type, unit, labels and meaning, in one table.
//!
//! A name is `tributary_<part>_<thing>_<unit>[_total]`, in base units. Labels are few and bounded:
//! `topic`, `class`, `destination`, `reason`; never a file or a host on the bus. Rows of a part
//! stand together.
//!
//! Not for: setting figures; that is done where things happen.

use super::row::{Kind, Metric, Unit, counter, gauge, histogram};

/// Every metric, the rows of a part together.
pub const TABLE: &[Metric] = &[
    // agent
    counter(
        "tributary_agent_read_bytes_total",
        Unit::Bytes,
        &["topic"],
        "Source bytes cut into batches.",
    ),
    counter(
        "tributary_agent_read_records_total",
        Unit::Records,
        &["topic"],
        "Records cut into batches.",
    ),
    counter(
        "tributary_agent_read_batches_total",
        Unit::Count,
        &["topic"],
        "Batches cut.",
    ),
    counter(
        "tributary_agent_split_records_total",
        Unit::Records,
        &["topic"],
        "Records that are not whole: pieces of long ones, unfinished ones.",
    ),
    counter(
        "tributary_agent_malformed_records_total",
        Unit::Records,
        &["topic"],
        "Lines that are none of the container runtime's, sent as they stand.",
    ),
    counter(
        "tributary_agent_undecodable_characters_total",
        Unit::Count,
        &["topic"],
        "Characters U+FFFD that stand for bytes that are no text in the task's encoding.",
    ),
    counter(
        "tributary_agent_untimed_records_total",
        Unit::Records,
        &["topic", "reason"],
        "Records with the time of reading, since their line's is not-found or impossible.",
    ),
    counter(
        "tributary_agent_keyless_records_total",
        Unit::Records,
        &["topic"],
        "Records without a key of tasks that ask for one.",
    ),
    counter(
        "tributary_agent_shortened_records_total",
        Unit::Records,
        &["topic"],
        "Records whose text was cut, since they would be over 1 MiB as JSON or UTF-8.",
    ),
    counter(
        "tributary_agent_bad_input_total",
        Unit::Count,
        &["topic", "reason"],
        "What writers of logs should not do: lines that are too long or have strange bytes, holes, names that are no text, pipes, sockets and devices, files that shrink; the reasons are in framing.md.",
    ),
    counter(
        "tributary_agent_truncations_total",
        Unit::Count,
        &["topic"],
        "Files that were cut off or written anew.",
    ),
    counter(
        "tributary_agent_hole_bytes_total",
        Unit::Bytes,
        &["topic"],
        "Bytes that were never written, before the data of a writer that does not append: jumped over.",
    ),
    counter(
        "tributary_agent_polling_total",
        Unit::Count,
        &["reason"],
        "Times that looking took over from the kernel's hints: overflow, watch-limit, instance-limit, no-events.",
    ),
    counter(
        "tributary_agent_far_silences_total",
        Unit::Count,
        &[],
        "Times that a file system of another host, or of FUSE, did not answer: its files wait until it does.",
    ),
    gauge(
        "tributary_agent_far_silent_count",
        Unit::Count,
        &[],
        "Mounted file systems that do not answer now.",
    ),
    gauge(
        "tributary_agent_left_out_files_count",
        Unit::Count,
        &[],
        "Paths that match and are no files: directories, pipes, sockets, devices.",
    ),
    gauge(
        "tributary_agent_deleted_unread_bytes",
        Unit::Bytes,
        &[],
        "Bytes of deleted files that are kept open because they are not read.",
    ),
    gauge(
        "tributary_agent_spool_bytes",
        Unit::Bytes,
        &[],
        "Size of the spool on disk: what deleted files held, compressed.",
    ),
    counter(
        "tributary_agent_spool_failures_total",
        Unit::Count,
        &[],
        "Failures to save a deleted file in the spool.",
    ),
    counter(
        "tributary_agent_lost_bytes_total",
        Unit::Bytes,
        &["topic", "reason"],
        "Source bytes that will never be sent, by reason.",
    ),
    counter(
        "tributary_agent_sent_bytes_total",
        Unit::Bytes,
        &[],
        "Bytes given to connections, repeats included.",
    ),
    counter(
        "tributary_agent_resent_batches_total",
        Unit::Count,
        &[],
        "Batches sent again.",
    ),
    counter(
        "tributary_agent_acknowledged_batches_total",
        Unit::Count,
        &[],
        "Batches that the bus acknowledged.",
    ),
    counter(
        "tributary_agent_acknowledged_records_total",
        Unit::Records,
        &[],
        "Their records.",
    ),
    counter(
        "tributary_agent_busy_total",
        Unit::Count,
        &[],
        "Batches that the bus had no room for.",
    ),
    counter(
        "tributary_agent_refused_total",
        Unit::Count,
        &["reason"],
        "Batches that the bus refused, by reason.",
    ),
    counter(
        "tributary_agent_disconnects_total",
        Unit::Count,
        &[],
        "Connections to the bus that ended.",
    ),
    gauge(
        "tributary_agent_connected_count",
        Unit::Count,
        &[],
        "Open connections to the bus: 0 or 1.",
    ),
    counter(
        "tributary_agent_checkpoint_failures_total",
        Unit::Count,
        &[],
        "Failures to write the checkpoint; above 0 somebody must look at its disk.",
    ),
    counter(
        "tributary_agent_checkpoint_damaged_total",
        Unit::Count,
        &[],
        "Damaged checkpoint files found at the start; what they lost is sent again.",
    ),
    gauge(
        "tributary_agent_checkpoint_bytes",
        Unit::Bytes,
        &[],
        "Size of the checkpoint's file.",
    ),
    counter(
        "tributary_agent_report_failures_total",
        Unit::Count,
        &[],
        "Reports that the manager did not take.",
    ),
    gauge(
        "tributary_agent_open_files",
        Unit::Count,
        &[],
        "Log files that are open.",
    ),
    gauge(
        "tributary_agent_open_files_limit",
        Unit::Count,
        &[],
        "Log files that may be open: limits.open_files, or what the process may open.",
    ),
    counter(
        "tributary_agent_open_files_limited_total",
        Unit::Count,
        &[],
        "Times a log file could not be opened since none of those that are open could be closed.",
    ),
    gauge(
        "tributary_agent_memory_bytes",
        Unit::Bytes,
        &[],
        "Bytes of batches that are not acknowledged.",
    ),
    gauge(
        "tributary_agent_class_memory_bytes",
        Unit::Bytes,
        &["class"],
        "Bytes of a class's batches that are not acknowledged.",
    ),
    gauge(
        "tributary_agent_class_waiting_count",
        Unit::Count,
        &["class"],
        "Batches of a class that wait to be sent.",
    ),
    gauge(
        "tributary_agent_class_in_flight_bytes",
        Unit::Bytes,
        &["class"],
        "Payload of a class's batches that are sent and not answered.",
    ),
    counter(
        "tributary_agent_throttled_seconds_total",
        Unit::Seconds,
        &["class", "reason"],
        "Time in which something of a class was held back by a limit: bandwidth, cpu, memory, rate.",
    ),
    gauge(
        "tributary_agent_behind_bytes",
        Unit::Bytes,
        &["topic"],
        "Source bytes that are known and not read.",
    ),
    counter(
        "tributary_agent_config_loads_total",
        Unit::Count,
        &["outcome"],
        "Configurations that came while it ran: applied, unchanged, refused.",
    ),
    gauge(
        "tributary_agent_config_applied_seconds",
        Unit::Seconds,
        &[],
        "Since when the configuration counts, in seconds since 1970.",
    ),
    gauge(
        "tributary_agent_config_faulty_count",
        Unit::Count,
        &[],
        "1 when the last configuration was refused and the one before it goes on, else 0.",
    ),
    // bus
    gauge(
        "tributary_bus_connections_count",
        Unit::Count,
        &[],
        "Open agent connections.",
    ),
    counter(
        "tributary_bus_handshakes_failed_total",
        Unit::Count,
        &["reason"],
        "Connections that did not come to TLS: not_tls, refused, broken, slow.",
    ),
    counter(
        "tributary_bus_sessions_ended_total",
        Unit::Count,
        &["reason"],
        "Agent connections that ended with an error, by its kind.",
    ),
    counter(
        "tributary_bus_received_records_total",
        Unit::Records,
        &["topic"],
        "Records taken in, repeats not counted.",
    ),
    counter(
        "tributary_bus_received_bytes_total",
        Unit::Bytes,
        &["topic"],
        "Bytes of records taken in, uncompressed, repeats not counted.",
    ),
    counter(
        "tributary_bus_delivered_records_total",
        Unit::Records,
        &["topic"],
        "Records that every destination of their route has.",
    ),
    counter(
        "tributary_bus_spilled_records_total",
        Unit::Records,
        &["topic"],
        "Records that were acknowledged from this node's disk.",
    ),
    counter(
        "tributary_bus_drained_records_total",
        Unit::Records,
        &["destination"],
        "Records that went from the disk to a destination.",
    ),
    counter(
        "tributary_bus_documents_records_total",
        Unit::Records,
        &["destination", "reason"],
        "Records of which a search server has said what became of them: created, known (it had them before: a repeat), dead.",
    ),
    histogram(
        "tributary_bus_search_request_seconds",
        Unit::Seconds,
        &["destination"],
        "From a request to a search server to its answer, or to giving up.",
    ),
    counter(
        "tributary_bus_dead_records_total",
        Unit::Records,
        &["destination"],
        "Records that were put to the dead letters.",
    ),
    counter(
        "tributary_bus_dead_replayed_records_total",
        Unit::Records,
        &["destination"],
        "Dead letters that the destination took when they were replayed.",
    ),
    counter(
        "tributary_bus_dead_purged_records_total",
        Unit::Records,
        &["destination"],
        "Dead letters that an operator gave up.",
    ),
    counter(
        "tributary_bus_dead_untold_records_total",
        Unit::Records,
        &["destination"],
        "Dead letters that ended, of which the manager was not told because it was away for too long.",
    ),
    gauge(
        "tributary_bus_dead_letters_count",
        Unit::Count,
        &["destination"],
        "Dead letters that are kept now.",
    ),
    gauge(
        "tributary_bus_dead_letters_bytes",
        Unit::Bytes,
        &["destination"],
        "Bytes of dead letters that are kept now.",
    ),
    gauge(
        "tributary_bus_spill_backlog_bytes",
        Unit::Bytes,
        &["destination"],
        "Bytes on the disk that wait for a destination.",
    ),
    counter(
        "tributary_bus_spill_lost_records_total",
        Unit::Records,
        &["destination", "reason"],
        "Acknowledged records that the disk has lost: spill-damaged, spill-full. Above 0 somebody must look.",
    ),
    counter(
        "tributary_bus_spill_damaged_bytes_total",
        Unit::Bytes,
        &["destination"],
        "Damaged bytes found in the spill at the start.",
    ),
    counter(
        "tributary_bus_duplicate_records_total",
        Unit::Records,
        &["topic"],
        "Records of repeated batches that were acknowledged and not delivered again.",
    ),
    counter(
        "tributary_bus_refused_records_total",
        Unit::Records,
        &["reason"],
        "Records of batches that were refused, each batch once: their streams stand still.",
    ),
    counter(
        "tributary_bus_busy_batches_total",
        Unit::Count,
        &["reason"],
        "Batches that were answered Busy at admission (`down`, `order`, `memory`, `agent_rate`, `topic_rate`, `destination`, `group`, `stopping`), or because their delivery `failed`.",
    ),
    counter(
        "tributary_bus_lines_requests_total",
        Unit::Count,
        &["reason"],
        "Requests to /v1/lines, by the status of the answer.",
    ),
    gauge(
        "tributary_bus_in_flight_batches_count",
        Unit::Count,
        &[],
        "Batches taken in and not yet at all their destinations.",
    ),
    gauge(
        "tributary_bus_memory_used_bytes",
        Unit::Bytes,
        &[],
        "Bytes of the memory limit that batches hold.",
    ),
    gauge(
        "tributary_bus_destination_up_count",
        Unit::Count,
        &["destination"],
        "1 when the destination takes batches, else 0.",
    ),
    gauge(
        "tributary_bus_topics_outside_group_count",
        Unit::Count,
        &["destination"],
        "Topics of this node with replicas outside of the group of brokers of their class.",
    ),
    histogram(
        "tributary_bus_deliver_seconds",
        Unit::Seconds,
        &["destination"],
        "Time from giving a batch to a destination to its acknowledgement there.",
    ),
    counter(
        "tributary_bus_merged_in_batches_total",
        Unit::Count,
        &["destination"],
        "Small batches that went to Kafka merged with others.",
    ),
    counter(
        "tributary_bus_merged_out_batches_total",
        Unit::Count,
        &["destination"],
        "The batches that Kafka got of them.",
    ),
    counter(
        "tributary_bus_destination_missing_bytes_total",
        Unit::Bytes,
        &["destination"],
        "Acknowledged bytes that somebody else removed from files of a destination.",
    ),
    counter(
        "tributary_bus_files_total",
        Unit::Count,
        &["destination"],
        "Files that are complete in HDFS.",
    ),
    counter(
        "tributary_bus_files_failed_total",
        Unit::Count,
        &["destination"],
        "Files in HDFS that failed and were taken away; their batches come again.",
    ),
    counter(
        "tributary_bus_journal_damaged_bytes_total",
        Unit::Bytes,
        &[],
        "Damaged bytes found in the journal at the start.",
    ),
    gauge(
        "tributary_bus_route_used_count",
        Unit::Count,
        &["topic", "destination"],
        "Of routes with a standby, by their pattern: 1 where new batches go now, else 0.",
    ),
    counter(
        "tributary_bus_route_switches_total",
        Unit::Count,
        &["topic", "destination"],
        "Times that new batches of a route with a standby began to go to this destination.",
    ),
    counter(
        "tributary_bus_config_loads_total",
        Unit::Count,
        &["outcome"],
        "Configurations that came while it ran: applied, unchanged, refused.",
    ),
    gauge(
        "tributary_bus_config_applied_seconds",
        Unit::Seconds,
        &[],
        "Since when the configuration counts, in seconds since 1970.",
    ),
    gauge(
        "tributary_bus_config_faulty_count",
        Unit::Count,
        &[],
        "1 when the last configuration was refused and the one before it goes on, else 0.",
    ),
    counter(
        "tributary_bus_report_failures_total",
        Unit::Count,
        &[],
        "Reports that the manager did not take; they are sent again.",
    ),
    counter(
        "tributary_bus_report_dropped_batches_total",
        Unit::Count,
        &[],
        "Batches whose facts fell off because the manager was away for too long.",
    ),
    // manager
    counter(
        "tributary_manager_reports_total",
        Unit::Count,
        &["outcome"],
        "Reports that came to the database: taken, or failed.",
    ),
    counter(
        "tributary_manager_refused_requests_total",
        Unit::Count,
        &["reason"],
        "Requests that were answered with an error, by its code.",
    ),
    histogram(
        "tributary_manager_write_seconds",
        Unit::Seconds,
        &[],
        "Time to write a group of reports to the disk.",
    ),
    gauge(
        "tributary_manager_live_pages_count",
        Unit::Count,
        &[],
        "Open pages that get live events.",
    ),
    // process
    gauge(
        "process_resident_memory_bytes",
        Unit::Bytes,
        &[],
        "Memory that the process holds in RAM.",
    ),
    gauge(
        "process_cpu_seconds_total",
        Unit::Seconds,
        &[],
        "User and system CPU time so far.",
    ),
    gauge(
        "process_open_fds",
        Unit::Count,
        &[],
        "Open file descriptors.",
    ),
];

/// Tells the recorder what each name means.
pub(super) fn describe() {
    for metric in TABLE {
        let unit = metric.unit.facade();
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, unit, metric.meaning),
            Kind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.meaning),
            Kind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.meaning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        let mut seen = std::collections::HashSet::new();
        for metric in TABLE {
            let name = metric.name;
            assert!(seen.insert(name), "{name} stands twice");
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(
                ["agent", "bus", "manager", "process"].contains(&metric.part()),
                "{name}: part {} is unknown",
                metric.part()
            );
            assert!(
                metric.meaning.ends_with('.') && metric.meaning.len() < 200,
                "{name}"
            );
            if metric.kind == Kind::Counter {
                assert!(name.ends_with("_total"), "{name} is a counter");
            }
            if metric.unit != Unit::Count {
                assert!(name.contains(metric.unit.as_str()), "{name} lacks its unit");
            }
        }
    }

    #[test]
    fn rows_of_a_part_stand_together() {
        let mut parts: Vec<_> = TABLE.iter().map(Metric::part).collect();
        parts.dedup();
        let unique: std::collections::HashSet<_> = parts.iter().collect();
        assert_eq!(unique.len(), parts.len(), "{parts:?}");
    }

    #[test]
    fn every_kind_of_row_can_be_made() {
        let rows = [
            counter("tributary_bus_a_bytes_total", Unit::Bytes, &["topic"], "A."),
            gauge("tributary_bus_b_records", Unit::Records, &[], "B."),
            histogram("tributary_agent_c_seconds", Unit::Seconds, &[], "C."),
        ];
        assert_eq!(rows.map(|row| row.part()), ["bus", "bus", "agent"]);
    }
}
