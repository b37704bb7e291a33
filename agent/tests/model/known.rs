//! Lives that went wrong once: they are lived first, whatever the seeds are.
//!
//! Each stands behind a word about what was wrong with it.

use crate::{
    Act::{self, *},
    Names,
};

/// The lives, with what the task names in them.
pub(crate) const KNOWN: &[(Names, &[Act])] = &[
    // A copy beside a damaged compressed file was read as a file of its own.
    (
        Names::All,
        &[
            Kill { torn: true },
            CopyTruncate { log: 0 },
            Write {
                log: 0,
                lines: 99,
                torn: false,
            },
            Rename { log: 1 },
            Write {
                log: 1,
                lines: 60,
                torn: false,
            },
            Chain { log: 0 },
            Truncate {
                log: 1,
                to_zero: false,
            },
            Stop,
            Start,
            CopyTruncate { log: 1 },
            Kill { torn: false },
            Start,
            Kill { torn: false },
            Late { log: 1 },
            Wait(104),
            Jump {
                log: 0,
                forward: false,
            },
            Write {
                log: 0,
                lines: 27,
                torn: true,
            },
            Delete { log: 1 },
            Mood(3),
            CopyTruncate { log: 1 },
            Truncate {
                log: 0,
                to_zero: false,
            },
        ],
    ),
    // The same, with compressed files left out.
    (
        Names::Renamed,
        &[
            Write {
                log: 1,
                lines: 9,
                torn: false,
            },
            Kill { torn: true },
            Delete { log: 1 },
            Rename { log: 0 },
            Wait(15),
            Write {
                log: 1,
                lines: 193,
                torn: true,
            },
            CopyTruncate { log: 1 },
            Chain { log: 0 },
            Kill { torn: true },
            Delete { log: 0 },
            Wait(30),
            Write {
                log: 0,
                lines: 32,
                torn: true,
            },
        ],
    ),
    // A file of the checkpoint went while the kill copied it.
    (
        Names::Log,
        &[
            Write {
                log: 0,
                lines: 280,
                torn: true,
            },
            Chain { log: 1 },
            Write {
                log: 0,
                lines: 71,
                torn: true,
            },
            Kill { torn: false },
            Kill { torn: false },
            Wait(118),
            Write {
                log: 1,
                lines: 157,
                torn: false,
            },
            Late { log: 1 },
            Stop,
            Chain { log: 1 },
            Chain { log: 0 },
            Kill { torn: false },
            Start,
            Swap,
            Delete { log: 0 },
            Start,
            Chain { log: 0 },
            Write {
                log: 0,
                lines: 242,
                torn: false,
            },
            Kill { torn: false },
            Late { log: 0 },
        ],
    ),
    // A copy was read twice while an older file was looked for.
    (
        Names::All,
        &[
            Delete { log: 1 },
            Write {
                log: 0,
                lines: 96,
                torn: false,
            },
            Late { log: 1 },
            Write {
                log: 1,
                lines: 273,
                torn: false,
            },
            Write {
                log: 1,
                lines: 229,
                torn: false,
            },
            Truncate {
                log: 0,
                to_zero: false,
            },
            CopyTruncate { log: 1 },
            CopyTruncate { log: 0 },
            Die { torn: true },
            Start,
            Stop,
            Wait(62),
            Jump {
                log: 1,
                forward: true,
            },
            Write {
                log: 0,
                lines: 154,
                torn: false,
            },
            Mood(2),
            Rewrite { log: 1, lines: 130 },
            Kill { torn: true },
        ],
    ),
    // A copy was read twice while a deleted file was looked for.
    (
        Names::All,
        &[
            Jump {
                log: 0,
                forward: false,
            },
            CopyTruncate { log: 0 },
            Write {
                log: 1,
                lines: 205,
                torn: true,
            },
            Kill { torn: false },
            CopyTruncate { log: 0 },
            Write {
                log: 0,
                lines: 28,
                torn: true,
            },
            Stop,
            Rewrite { log: 1, lines: 280 },
            Write {
                log: 1,
                lines: 120,
                torn: false,
            },
            Start,
            Delete { log: 0 },
            Rename { log: 0 },
            Write {
                log: 0,
                lines: 240,
                torn: false,
            },
            CopyTruncate { log: 0 },
            Kill { torn: true },
            Write {
                log: 0,
                lines: 170,
                torn: false,
            },
        ],
    ),
    // A file of the checkpoint went while the kill copied it.
    (
        Names::All,
        &[
            Stop,
            Kill { torn: true },
            Write {
                log: 0,
                lines: 181,
                torn: true,
            },
            Rewrite { log: 0, lines: 3 },
            Write {
                log: 1,
                lines: 138,
                torn: true,
            },
            Start,
            Write {
                log: 1,
                lines: 36,
                torn: true,
            },
            Wait(1),
            Chain { log: 0 },
            Kill { torn: false },
            Chain { log: 1 },
            Gzip { log: 0 },
            Write {
                log: 0,
                lines: 233,
                torn: true,
            },
            Write {
                log: 1,
                lines: 216,
                torn: true,
            },
        ],
    ),
    // A renamed file that went on growing was not looked at any more.
    (
        Names::Log,
        &[
            Chain { log: 1 },
            Write {
                log: 0,
                lines: 153,
                torn: false,
            },
            CopyTruncate { log: 1 },
            Kill { torn: false },
            Chain { log: 0 },
            CopyTruncate { log: 0 },
            CopyTruncate { log: 1 },
            Swap,
            Late { log: 0 },
        ],
    ),
];
