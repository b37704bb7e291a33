//! A broker with further doors: SASL, TLS, both. What the rig itself does goes by the plain one.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Extra, Kafka, free_port};
use crate::certs::Authority;

/// Who may log in by SCRAM, and by PLAIN.
pub const USER: &str = "alice";
/// The password.
pub const PASSWORD: &str = "alice-pw=1";

/// Where the further doors are, as `host:port`.
#[derive(Debug)]
pub struct Doors {
    /// `SASL_PLAINTEXT` with SCRAM-SHA-256 and SCRAM-SHA-512.
    pub scram: String,
    /// `SASL_SSL` with PLAIN.
    pub plain: String,
    /// `SSL`, for who shows a certificate.
    pub tls: String,
}

impl Kafka {
    /// [`Kafka::start`] with further doors; the authority signs the broker's certificate, and those of
    /// who comes by the door with TLS.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_secured(folder: &Path, authority: &Authority) -> Result<(Self, Doors)> {
        fs::create_dir_all(folder)?;
        let (cert, key) = (folder.join("broker.pem"), folder.join("broker.key"));
        authority.sign("127.0.0.1", &cert, &key)?;
        let all = [fs::read(key)?, fs::read(cert)?, fs::read(authority.ca())?];
        let keystore = folder.join("keystore.pem");
        fs::write(&keystore, all.concat())?;

        let (port, controller) = (free_port()?, free_port()?);
        let door = || anyhow::Ok(format!("127.0.0.1:{}", free_port()?));
        let doors = Doors {
            scram: door()?,
            plain: door()?,
            tls: door()?,
        };
        let Doors { scram, plain, tls } = &doors;
        let open =
            format!("PLAINTEXT://127.0.0.1:{port},SCRAM://{scram},PLAINTLS://{plain},TLS://{tls}");
        let login = "org.apache.kafka.common.security";
        let lines = [
            format!("listeners={open},CONTROLLER://127.0.0.1:{controller}"),
            format!("advertised.listeners={open}"),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,\
             SCRAM:SASL_PLAINTEXT,PLAINTLS:SASL_SSL,TLS:SSL"
                .to_owned(),
            "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN".to_owned(),
            "listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512".to_owned(),
            format!(
                "listener.name.scram.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;"
            ),
            format!(
                "listener.name.scram.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;"
            ),
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
            lines: lines.join("\n") + "\n",
            format: vec![
                "--add-scram".to_owned(),
                user("SCRAM-SHA-256"),
                "--add-scram".to_owned(),
                user("SCRAM-SHA-512"),
            ],
        };
        let advertised = format!("127.0.0.1:{port}");
        let kafka = Self::start_node(folder, 1, (port, controller), &advertised, &extra)?;
        Ok((kafka, doors))
    }
}
