//! A broker with further doors: SASL, TLS, both. What the rig itself does goes by the plain one.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{Extra, Kafka, free_port, tools};
use crate::{certs::Authority, kerberos::Kdc};

/// Who may log in by SCRAM, and by PLAIN.
pub const USER: &str = "alice";
/// The password.
pub const PASSWORD: &str = "alice-pw=1";

/// Where the further doors are, as `host:port`.
#[derive(Debug)]
pub struct Doors {
    /// `SASL_PLAINTEXT` with SCRAM-SHA-256 (good for [`RELOGIN_MS`]) and SCRAM-SHA-512.
    pub scram: String,
    /// `SASL_SSL` with PLAIN.
    pub plain: String,
    /// `SSL`, for who shows a certificate.
    pub tls: String,
    /// `SASL_PLAINTEXT` with OAUTHBEARER: unsigned tokens are good, for [`RELOGIN_MS`].
    pub bearer: String,
}

/// Who comes by a token, or by SCRAM-SHA-256, has to log in again after this.
pub const RELOGIN_MS: u32 = 2_000;

/// A token that nobody signed, for [`USER`], which ends so many seconds from now.
///
/// # Errors
/// When the clock stands before 1970.
pub fn token(seconds: i64) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let end = i64::try_from(now)? + seconds;
    let part = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
    let head = part("{\"alg\":\"none\"}".to_owned());
    let claims = format!("{{\"sub\":{USER:?},\"iat\":{},\"exp\":{end}}}", end - 3_600);
    Ok(format!("{head}.{}.", part(claims)))
}

impl Kafka {
    /// [`Kafka::start`] with further doors; the authority signs the broker's certificate, and those of
    /// who comes by the door with TLS.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_secured(folder: &Path, authority: &Authority) -> Result<(Self, Doors)> {
        fs::create_dir_all(folder)?;
        let keystore = keystore(folder, authority, Authority::sign)?;

        let (port, controller) = (free_port()?, free_port()?);
        let door = || anyhow::Ok(format!("127.0.0.1:{}", free_port()?));
        let doors = Doors {
            scram: door()?,
            plain: door()?,
            tls: door()?,
            bearer: door()?,
        };
        let Doors {
            scram,
            plain,
            tls,
            bearer,
        } = &doors;
        let open = format!(
            "PLAINTEXT://127.0.0.1:{port},SCRAM://{scram},PLAINTLS://{plain},TLS://{tls},BEARER://{bearer}"
        );
        let login = "org.apache.kafka.common.security";
        let lines = [
            format!("listeners={open},CONTROLLER://127.0.0.1:{controller}"),
            format!("advertised.listeners={open}"),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,\
             SCRAM:SASL_PLAINTEXT,PLAINTLS:SASL_SSL,TLS:SSL,BEARER:SASL_PLAINTEXT"
                .to_owned(),
            "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER".to_owned(),
            "listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512".to_owned(),
            format!(
                "listener.name.scram.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;"
            ),
            format!(
                "listener.name.scram.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;"
            ),
            format!("listener.name.scram.scram-sha-256.connections.max.reauth.ms={RELOGIN_MS}"),
            "listener.name.plaintls.sasl.enabled.mechanisms=PLAIN".to_owned(),
            format!(
                "listener.name.plaintls.plain.sasl.jaas.config={login}.plain.PlainLoginModule \
                 required user_{USER}=\"{PASSWORD}\";"
            ),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", keystore.display()),
            "listener.name.tls.ssl.client.auth=required".to_owned(),
            "listener.name.tls.ssl.truststore.type=PEM".to_owned(),
            format!(
                "listener.name.tls.ssl.truststore.location={}",
                authority.ca().display()
            ),
        ];
        let user = |kind: &str| format!("{kind}=[name={USER},password={PASSWORD}]");
        let extra = Extra {
            lines: lines.join("\n") + "\n" + &for_tokens(),
            format: vec![
                "--add-scram".to_owned(),
                user("SCRAM-SHA-256"),
                "--add-scram".to_owned(),
                user("SCRAM-SHA-512"),
            ],
            flags: String::new(),
        };
        let advertised = format!("127.0.0.1:{port}");
        let kafka = Self::start_node(folder, 1, (port, controller), &advertised, &extra)?;
        Ok((kafka, doors))
    }
}

impl Kafka {
    /// Who may log in by SCRAM, from now on with this password.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn set_password(&self, user: &str, password: &str) -> Result<()> {
        let bootstrap = self.bootstrap();
        let credentials = format!("SCRAM-SHA-256=[password={password}]");
        let who = ["--entity-type", "users", "--entity-name", user];
        let mut args = vec!["--bootstrap-server", &bootstrap, "--alter"];
        args.extend(["--add-config", &credentials]);
        args.extend(who);
        tools::run(self.folder(), "kafka.admin.ConfigCommand", &args).map(drop)
    }

    /// The broker of [`Kafka::start_secured`] has a certificate that ended from its next start on, or a good
    /// one again.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn certify(&self, authority: &Authority, ended: bool) -> Result<()> {
        let sign = if ended {
            Authority::sign_ended
        } else {
            Authority::sign
        };
        keystore(self.folder(), authority, sign).map(drop)
    }
}

/// Writes what a broker shows to its clients.
fn keystore(
    folder: &Path,
    authority: &Authority,
    sign: impl Fn(&Authority, &str, &Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let (cert, key) = (folder.join("broker.pem"), folder.join("broker.key"));
    sign(authority, "127.0.0.1", &cert, &key)?;
    let all = [fs::read(key)?, fs::read(cert)?, fs::read(authority.ca())?];
    let keystore = folder.join("keystore.pem");
    fs::write(&keystore, all.concat())?;
    Ok(keystore)
}

impl Kafka {
    /// [`Kafka::start`] with a further door (the address that is given) for who has a ticket of this realm.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_with_kerberos(folder: &Path, kdc: &Kdc) -> Result<(Self, String)> {
        let principal = "kafka/127.0.0.1";
        let keytab = kdc.keytab(principal)?;
        let (port, controller) = (free_port()?, free_port()?);
        let door = format!("127.0.0.1:{}", free_port()?);
        let open = format!("PLAINTEXT://127.0.0.1:{port},TICKET://{door}");
        let lines = [
            format!("listeners={open},CONTROLLER://127.0.0.1:{controller}"),
            format!("advertised.listeners={open}"),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TICKET:SASL_PLAINTEXT"
                .to_owned(),
            "listener.name.ticket.sasl.enabled.mechanisms=GSSAPI".to_owned(),
            "listener.name.ticket.sasl.kerberos.service.name=kafka".to_owned(),
            format!(
                "listener.name.ticket.gssapi.sasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule \
                 required useKeyTab=true storeKey=true keyTab=\"{}\" principal=\"{principal}@{}\";",
                keytab.display(),
                crate::kerberos::REALM
            ),
        ];
        let extra = Extra {
            lines: lines.join("\n") + "\n",
            format: Vec::new(),
            flags: format!("-Djava.security.krb5.conf={}\n", kdc.config().display()),
        };
        let advertised = format!("127.0.0.1:{port}");
        let kafka = Self::start_node(folder, 1, (port, controller), &advertised, &extra)?;
        Ok((kafka, door))
    }
}

/// What the door with OAUTHBEARER is.
fn for_tokens() -> String {
    let login = "org.apache.kafka.common.security.oauthbearer";
    let door = "listener.name.bearer";
    let lines = [
        format!("{door}.sasl.enabled.mechanisms=OAUTHBEARER"),
        format!(
            "{door}.oauthbearer.sasl.jaas.config={login}.OAuthBearerLoginModule \
             required unsecuredLoginStringClaim_sub=\"{USER}\";"
        ),
        format!(
            "{door}.oauthbearer.sasl.server.callback.handler.class={login}.\
             internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        ),
        format!("{door}.oauthbearer.connections.max.reauth.ms={RELOGIN_MS}"),
    ];
    lines.join("\n") + "\n"
}
