//! What the options say of TLS and of who logs in, in librdkafka's words, and what of it is known here.
//!
//! Not for: the conversation (see [`super::sasl`]).

use std::{collections::BTreeMap, path::PathBuf};

use tributary_common::{
    disk::DiskError,
    tls::{Dialer, Identity, TlsError},
};

use super::{
    bearer::{self, Bearer},
    sasl::{Login, Mechanism},
};

/// How connections to the brokers are secured.
#[derive(Debug, Default)]
pub(crate) struct Security {
    /// TLS, and whom it trusts.
    pub(super) tls: Option<Dialer>,
    /// Who logs in.
    pub(super) login: Option<Login>,
    /// Whose token is shown.
    pub(super) bearer: Option<Bearer>,
}

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    /// Only librdkafka knows it.
    #[error("{key:?} = {value:?} is only for producer = \"rdkafka\"; verbatim has {known}")]
    Unknown {
        /// The option.
        key: String,
        /// Its value; never a secret.
        value: String,
        /// What is known.
        known: &'static str,
    },
    /// It is of no use alone.
    #[error("{0:?} is missing")]
    Missing(&'static str),
    /// A file cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A token's file cannot be used.
    #[error("{TOKEN:?}: {0}")]
    Token(#[from] DiskError),
}

const PROTOCOL: &str = "security.protocol";
const MECHANISM: &str = "sasl.mechanism";
/// librdkafka knows both.
const MECHANISMS: &str = "sasl.mechanisms";
const USER: &str = "sasl.username";
const PASSWORD: &str = "sasl.password";
/// Not librdkafka's, which gets its tokens from here.
pub(crate) const TOKEN: &str = "sasl.oauthbearer.token.file";
const CA: &str = "ssl.ca.location";
const CERT: &str = "ssl.certificate.location";
const KEY: &str = "ssl.key.location";

/// Whether an option is of security at all.
pub(crate) fn is_of_security(key: &str) -> bool {
    ["security.", "sasl.", "ssl.", "enable.sasl.", "enable.ssl."]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

/// What in the options only librdkafka can do, if anything.
pub(crate) fn beyond(options: &BTreeMap<String, String>) -> Option<SecurityError> {
    let sasl = options.get(PROTOCOL).and_then(|text| protocol(text).ok());
    let named = [MECHANISM, MECHANISMS]
        .iter()
        .any(|key| options.contains_key(*key));
    if sasl.is_some_and(|(_tls, sasl)| sasl) && !named {
        return Some(SecurityError::Unknown {
            key: MECHANISM.to_owned(),
            // What librdkafka takes when nobody says.
            value: "GSSAPI".to_owned(),
            known: Mechanism::KNOWN,
        });
    }
    options.iter().find_map(|(key, value)| {
        let known = match key.as_str() {
            PROTOCOL => protocol(value).map(drop).err()?,
            MECHANISM | MECHANISMS => Mechanism::of(value).map(drop).err()?,
            USER | PASSWORD | TOKEN | CA | CERT | KEY => return None,
            other if is_of_security(other) => {
                return Some(SecurityError::Unknown {
                    key: key.clone(),
                    // Whatever it is, it may be a secret.
                    value: "…".to_owned(),
                    known: "security.protocol, sasl.mechanism, sasl.username, sasl.password, \
                            sasl.oauthbearer.token.file, \
                            ssl.ca.location, ssl.certificate.location, ssl.key.location",
                });
            }
            _other => return None,
        };
        Some(SecurityError::Unknown {
            key: key.clone(),
            value: value.clone(),
            known,
        })
    })
}

/// Whether there is TLS, and SASL.
fn protocol(text: &str) -> Result<(bool, bool), &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "plaintext" => Ok((false, false)),
        "ssl" => Ok((true, false)),
        "sasl_plaintext" => Ok((false, true)),
        "sasl_ssl" => Ok((true, true)),
        _other => Err("PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
    }
}

fn mechanism(options: &BTreeMap<String, String>) -> &str {
    let named = options.get(MECHANISM).or_else(|| options.get(MECHANISMS));
    named.map_or("", String::as_str)
}

/// Whose tokens are shown, where somebody logs in by them.
///
/// # Errors
/// When nobody says where they are, or they cannot be read.
pub(in super::super) fn bearer(
    options: &BTreeMap<String, String>,
) -> Result<Option<Bearer>, SecurityError> {
    let sasl = options.get(PROTOCOL).and_then(|text| protocol(text).ok());
    let wanted = sasl.is_some_and(|(_tls, sasl)| sasl) && mechanism(options) == bearer::NAME;
    match (wanted, options.get(TOKEN)) {
        (false, _) => Ok(None),
        (true, None) => Err(SecurityError::Missing(TOKEN)),
        (true, Some(file)) => Ok(Some(Bearer::from_file(file.into())?)),
    }
}

impl Security {
    /// Reads what the options name.
    ///
    /// # Errors
    /// [`SecurityError`].
    pub(crate) fn of(options: &BTreeMap<String, String>) -> Result<Self, SecurityError> {
        if let Some(error) = beyond(options) {
            return Err(error);
        }
        let get = |key: &str| options.get(key);
        let (tls, sasl) =
            get(PROTOCOL).map_or((false, false), |text| protocol(text).unwrap_or_default());
        let tls = tls.then(|| {
            let identity = match (get(CERT), get(KEY)) {
                (Some(cert), Some(key)) => Some(Identity {
                    cert: cert.into(),
                    key: key.into(),
                }),
                (None, None) => None,
                (Some(_), None) => return Err(SecurityError::Missing(KEY)),
                (None, Some(_)) => return Err(SecurityError::Missing(CERT)),
            };
            let ca = get(CA).map(PathBuf::from);
            Ok(Dialer::new(ca.as_deref(), identity)?)
        });
        let bearer = bearer(options)?;
        let login = (sasl && bearer.is_none()).then(|| {
            let mechanism = mechanism(options);
            Ok::<_, SecurityError>(Login {
                // `beyond` has looked at it.
                mechanism: Mechanism::of(mechanism).unwrap_or(Mechanism::Plain),
                user: get(USER).ok_or(SecurityError::Missing(USER))?.clone(),
                password: get(PASSWORD)
                    .ok_or(SecurityError::Missing(PASSWORD))?
                    .clone(),
            })
        });
        Ok(Self {
            tls: tls.transpose()?,
            login: login.transpose()?,
            bearer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn error(pairs: &[(&str, &str)]) -> String {
        Security::of(&options(pairs)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_known_is_taken_and_nothing_else_of_security_is() {
        let plain = Security::of(&options(&[("linger.ms", "3"), (PROTOCOL, "Plaintext")])).unwrap();
        assert!(plain.tls.is_none() && plain.login.is_none());
        let login = [
            (PROTOCOL, "SASL_PLAINTEXT"),
            (MECHANISM, "SCRAM-SHA-512"),
            (USER, "u"),
            (PASSWORD, "p"),
        ];
        let login = Security::of(&options(&login)).unwrap().login.unwrap();
        assert_eq!(
            (login.user.as_str(), login.mechanism),
            ("u", Mechanism::Scram512)
        );
        assert!(!format!("{login:?}").contains("\"p\""), "{login:?}");
        let kerberos = error(&[(PROTOCOL, "SASL_PLAINTEXT"), (MECHANISM, "GSSAPI")]);
        assert!(
            kerberos.contains("GSSAPI") && kerberos.contains("rdkafka"),
            "{kerberos}"
        );
        let bearer = [(PROTOCOL, "SASL_SSL"), (MECHANISM, "OAUTHBEARER")];
        let none = error(&bearer);
        assert!(none.contains(TOKEN), "{none}");
        let nowhere = error(&[bearer[0], bearer[1], (TOKEN, "/nowhere/token")]);
        assert!(nowhere.contains("/nowhere/token"), "{nowhere}");
        let secret = error(&[("ssl.key.password", "hunter2")]);
        assert!(
            secret.contains("ssl.key.password") && !secret.contains("hunter2"),
            "{secret}"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let of = |pairs: &[(&str, &str)], wanted: &str| {
            let error = error(pairs);
            assert!(error.contains(wanted), "{error}");
        };
        of(&[(PROTOCOL, "SSL"), (CA, "/nowhere/ca")], "/nowhere/ca");
        let user = [
            (PROTOCOL, "SASL_PLAINTEXT"),
            (MECHANISMS, "PLAIN"),
            (USER, "u"),
        ];
        of(&user, PASSWORD);
        of(&user[..2], USER);
        of(&user[..1], "GSSAPI");
        of(&[(PROTOCOL, "SSL"), (CERT, "/nowhere/cert")], KEY);
    }
}
