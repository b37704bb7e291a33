//! `[tls]` of the parts: keys, raw forms, checks.
//!
//! The files are read when the configuration is checked, so that a missing one is told with the key that
//! names it, before anything starts.

use std::{path::PathBuf, sync::Arc};

use serde::Deserialize;

use super::{Acceptor, Dialer, Identity, TlsError};
use crate::config::{Checker, Key, Kind, Schema};

/// The keys of `[tls]` of a part that only dials.
pub static DIALER: Schema = Schema::new(
    "Connections are TLS 1.3: who is trusted, and who this is. Files are PEM and are read again when they change.",
    &[
        Key::optional(
            "ca",
            Kind::Path,
            "Certificates of the authorities that are trusted. Left out: those of the system.",
        ),
        Key::optional(
            "cert",
            Kind::Path,
            "The own certificate, with those between it and its authority. For who asks for one; only together with `key`.",
        ),
        Key::optional("key", Kind::Path, "Its private key."),
    ],
);

/// The keys of `[tls]` of a part that listens.
pub static ACCEPTOR: Schema = Schema::new(
    "The port speaks TLS 1.3 only. Files are PEM and are read again when they change.",
    &[
        Key::required(
            "cert",
            Kind::Path,
            "The own certificate, with those between it and its authority.",
        ),
        Key::required("key", Kind::Path, "Its private key."),
        Key::optional(
            "client_ca",
            Kind::Path,
            "Certificates of authorities: who connects must show a certificate of theirs. Left out: nobody has to.",
        ),
    ],
);

/// `[tls]` of a part that dials, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialerSettings {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl DialerSettings {
    /// Reads the files; says what is wrong with them.
    pub fn check(self, checker: &mut Checker) -> Option<Arc<Dialer>> {
        let identity = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some(Identity { cert, key }),
            (None, None) => None,
            (Some(_), None) => {
                checker.fault("tls.cert", "is of no use without `key`");
                return None;
            }
            (None, Some(_)) => {
                checker.fault("tls.key", "is of no use without `cert`");
                return None;
            }
        };
        told(Dialer::new(self.ca.as_deref(), identity), checker)
    }
}

/// `[tls]` of a part that listens, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptorSettings {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl AcceptorSettings {
    /// Reads the files; says what is wrong with them.
    pub fn check(self, checker: &mut Checker) -> Option<Arc<Acceptor>> {
        let identity = Identity {
            cert: self.cert,
            key: self.key,
        };
        told(Acceptor::new(identity, self.client_ca), checker)
    }
}

fn told<T>(made: Result<T, TlsError>, checker: &mut Checker) -> Option<Arc<T>> {
    match made {
        Ok(made) => Some(Arc::new(made)),
        Err(error) => {
            checker.fault(error.key().unwrap_or("tls"), &error);
            None
        }
    }
}
