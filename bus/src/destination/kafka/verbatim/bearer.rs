//! OAUTHBEARER (RFC 7628, as Kafka has it): the token that a broker is shown, from a file that somebody
//! else keeps fresh.
//!
//! The file is read for each connection, and for librdkafka whenever it wants a new one, so that a
//! renewed token counts by itself. What the token says of itself (a JWT's subject and end) is only
//! believed for when to read it again. Not for: getting tokens, other ways to log in (see
//! [`super::sasl`]).

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use rdkafka::client::OAuthToken;
use serde::Deserialize;
use tributary_common::{disk, tls::Stream};

use super::sasl;

/// The name that brokers know.
pub(super) const NAME: &str = "OAUTHBEARER";
/// A token that does not say when it ends is read again after this.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(in super::super) struct Bearer {
    file: PathBuf,
}

/// What a token says of itself.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

impl Bearer {
    /// Tokens from a file, which is read once to see that it is there.
    ///
    /// # Errors
    /// When it cannot be read, or is empty.
    pub(super) fn from_file(file: PathBuf) -> Result<Self, disk::DiskError> {
        disk::read_secret(&file)?;
        Ok(Self { file })
    }

    /// Logs in over a new connection; how long the broker lets it live, if it says so.
    ///
    /// # Errors
    /// What the broker says; never the token.
    pub(super) async fn run(&self, stream: &mut Stream, version: i16) -> Result<Option<Duration>> {
        // Small, and read when a connection is made: nobody waits long for it.
        let token = disk::read_secret(&self.file)?;
        sasl::agree(stream, NAME).await?;
        let refused = || {
            format!(
                "the broker does not let the token of {} in",
                self.file.display()
            )
        };
        let first = format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}");
        let said = sasl::say(stream, (first.into(), version))
            .await
            .with_context(refused)?;
        if said.token.is_empty() {
            return Ok(said.lifetime);
        }
        // It says what is wrong, and says that it failed when it hears that we know.
        let why = String::from_utf8_lossy(&said.token).into_owned();
        let end = sasl::say(stream, (Bytes::from_static(b"\x01"), version)).await;
        let end = end
            .err()
            .map_or_else(String::new, |error| format!(" ({error:#})"));
        bail!("{}: authentication failed: {why}{end}", refused())
    }

    /// The token as librdkafka wants it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(in super::super) fn for_librdkafka(&self) -> Result<OAuthToken> {
        let token = disk::read_secret(&self.file)?;
        let Claims { sub, exp } = claims(&token);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let end_ms = match exp {
            #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
            Some(seconds) => (seconds * 1000.0) as i64,
            None => i64::try_from((now + READ_AGAIN_AFTER).as_millis()).unwrap_or(i64::MAX),
        };
        Ok(OAuthToken {
            token,
            principal_name: sub.unwrap_or_else(|| "tributary".to_owned()),
            lifetime_ms: end_ms,
        })
    }
}

/// What a JWT says; nothing of one that is none.
fn claims(token: &str) -> Claims {
    let middle = token.split('.').nth(1).unwrap_or_default();
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(middle).unwrap_or_default();
    serde_json::from_slice(&decoded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_anew_and_says_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let error = Bearer::from_file(file.clone()).unwrap_err().to_string();
        assert!(error.contains("token"), "{error}");
        let payload = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"bus","exp":2000000000,"x":[]}"#);
        std::fs::write(&file, format!("e30.{payload}.\n")).unwrap();
        let bearer = Bearer::from_file(file.clone()).unwrap();
        let token = bearer.for_librdkafka().unwrap();
        assert_eq!(
            (token.principal_name.as_str(), token.lifetime_ms),
            ("bus", 2_000_000_000_000)
        );
        assert_eq!(token.token, format!("e30.{payload}."));
        std::fs::write(&file, "opaque").unwrap();
        let token = bearer.for_librdkafka().unwrap();
        assert_eq!(
            (token.token.as_str(), token.principal_name.as_str()),
            ("opaque", "tributary")
        );
        assert!(!format!("{bearer:?}").contains("opaque"));
    }
}
