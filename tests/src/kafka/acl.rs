//! A broker that asks who may do what, and takes rights away and gives them back in a moment.
//!
//! By `CreateAcls` and `DeleteAcls` version 1, request header version 1, as in
//! <https://kafka.apache.org/protocol#The_Messages_CreateAcls>: Kafka's own tool starts a Java machine for it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{
    Extra, Kafka, free_port,
    produce::text,
    secured::{PASSWORD, USER},
};

const CREATE: i16 = 30;
const DELETE: i16 = 31;
const VERSION: i16 = 1;
const TOPIC: i8 = 2;
const LITERAL: i8 = 3;
const ALL: i8 = 2;
const WRITE: i8 = 4;
const DENY: i8 = 2;
const ALLOW: i8 = 3;

impl Kafka {
    /// [`Kafka::start`] with a further door at this port of the loopback interface, of which clients are told
    /// `advertised`: `SASL_PLAINTEXT` with PLAIN, for [`USER`], who may do everything with topics. The plain
    /// door is for who may do anything.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_guarded(folder: &Path, door: u16, advertised: &str) -> Result<Self> {
        let (port, controller) = (free_port()?, free_port()?);
        let own = format!("PLAINTEXT://127.0.0.1:{port}");
        let login = "org.apache.kafka.common.security.plain.PlainLoginModule";
        let lines = [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            "super.users=User:ANONYMOUS".to_owned(),
            format!("listeners={own},DOOR://127.0.0.1:{door},CONTROLLER://127.0.0.1:{controller}"),
            format!("advertised.listeners={own},DOOR://{advertised}"),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,DOOR:SASL_PLAINTEXT"
                .to_owned(),
            "sasl.enabled.mechanisms=PLAIN".to_owned(),
            format!("listener.name.door.plain.sasl.jaas.config={login} required user_{USER}=\"{PASSWORD}\";"),
        ];
        let extra = Extra {
            lines: lines.join("\n") + "\n",
            ..Extra::default()
        };
        let advertised = format!("127.0.0.1:{port}");
        let kafka = Self::start_node(folder, 1, (port, controller), &advertised, &extra)?;
        kafka.acl(CREATE, "*", ALL, ALLOW)?;
        Ok(kafka)
    }

    /// Takes the right to write to a topic from [`USER`], and from nobody else.
    ///
    /// # Errors
    /// When the broker does not answer, or refuses it.
    pub fn deny_writes(&self, topic: &str) -> Result<()> {
        self.acl(CREATE, topic, WRITE, DENY)
    }

    /// The end of [`Kafka::deny_writes`].
    ///
    /// # Errors
    /// As there.
    pub fn allow_writes(&self, topic: &str) -> Result<()> {
        self.acl(DELETE, topic, WRITE, DENY)
    }

    fn acl(&self, key: i16, topic: &str, operation: i8, permission: i8) -> Result<()> {
        let mut body = Vec::new();
        for number in [key, VERSION] {
            body.extend(number.to_be_bytes());
        }
        body.extend(0i32.to_be_bytes()); // correlation
        text(&mut body, "rig")?;
        body.extend(1i32.to_be_bytes()); // of one rule
        body.extend(TOPIC.to_be_bytes());
        text(&mut body, topic)?;
        body.extend(LITERAL.to_be_bytes());
        text(&mut body, &format!("User:{USER}"))?;
        text(&mut body, "*")?; // hosts
        body.extend(operation.to_be_bytes());
        body.extend(permission.to_be_bytes());

        let mut stream = TcpStream::connect(self.bootstrap())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
        stream.write_all(&body)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        stream.read_exact(&mut answer)?;
        // correlation i32 | throttle i32 | rules i32 | error i16 …
        let error = answer.get(12..14);
        ensure!(
            error == Some(&[0, 0]),
            "the broker refuses a rule: {answer:?}"
        );
        Ok(())
    }
}
