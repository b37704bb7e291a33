//! Logging in at a broker: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512.
//!
//! SCRAM is RFC 5802 and RFC 7677, as a client without channel binding, as Kafka has it; the broker has
//! to prove that it knows the password, too. Not for: TLS (see [`super::security`]), frames (see
//! [`super::proto`]).

use std::{num::NonZeroU32, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest, hmac,
    pbkdf2::{self, PBKDF2_HMAC_SHA256, PBKDF2_HMAC_SHA512},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use tributary_common::tls::Stream;

use super::{
    bearer, link,
    proto::{self, Said},
};

/// A broker that asks for more rounds is after our CPU; Kafka's default is 4,096.
const MAX_ROUNDS: u32 = 1_000_000;

/// How somebody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Scram256,
    Scram512,
    /// By a token (see [`super::bearer`]).
    Bearer,
}

impl Mechanism {
    /// All of them, for people.
    pub(super) const KNOWN: &'static str = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER";

    /// By its name.
    ///
    /// # Errors
    /// Those that are known.
    pub(super) fn of(name: &str) -> Result<Self, &'static str> {
        match name {
            "PLAIN" => Ok(Self::Plain),
            "SCRAM-SHA-256" => Ok(Self::Scram256),
            "SCRAM-SHA-512" => Ok(Self::Scram512),
            bearer::NAME => Ok(Self::Bearer),
            _other => Err(Self::KNOWN),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram256 => "SCRAM-SHA-256",
            Self::Scram512 => "SCRAM-SHA-512",
            Self::Bearer => bearer::NAME,
        }
    }
}

/// Who logs in.
pub(super) struct Login {
    pub(super) mechanism: Mechanism,
    pub(super) user: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("mechanism", &self.mechanism)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// Logs in over a new connection; how long the broker lets it live, if it says so.
    ///
    /// # Errors
    /// What the broker says, or what it does that it should not.
    pub(super) async fn run(&self, stream: &mut Stream, version: i16) -> Result<Option<Duration>> {
        let name = self.mechanism.name();
        agree(stream, name).await?;
        let refused = || format!("the broker does not let {:?} in by {name}", self.user);
        let scram = match self.mechanism {
            Mechanism::Plain => {
                let token = format!("\0{}\0{}", self.user, self.password);
                let said = say(stream, (token.into(), version)).await;
                return said.map(|said| said.lifetime).with_context(refused);
            }
            Mechanism::Scram256 => Scram::new(self, &SHA_256),
            Mechanism::Scram512 => Scram::new(self, &SHA_512),
            Mechanism::Bearer => bail!("{name} needs a token, and no user"),
        };
        let first = say(stream, (scram.first().into(), version)).await;
        let (last, proof) = scram.last(&first.with_context(refused)?.token)?;
        let end = say(stream, (last.into(), version)).await;
        let end = end.with_context(refused)?;
        proof.check(&end.token)?;
        Ok(end.lifetime)
    }
}

/// Asks for a way to log in.
pub(super) async fn agree(stream: &mut Stream, name: &str) -> Result<()> {
    link::write(stream, &proto::sasl_handshake(name)?).await?;
    proto::sasl_agreed(name, link::read(stream).await?)
}

/// Says a word, and hears the answer.
pub(super) async fn say(stream: &mut Stream, (token, version): (Bytes, i16)) -> Result<Said> {
    link::write(stream, &proto::sasl_token(token, version)?).await?;
    proto::sasl_answer(link::read(stream).await?, version)
}

/// The functions of one kind of SCRAM.
struct Functions {
    derive: &'static pbkdf2::Algorithm,
    sign: &'static hmac::Algorithm,
    digest: &'static digest::Algorithm,
}

static SHA_256: Functions = Functions {
    derive: &PBKDF2_HMAC_SHA256,
    sign: &hmac::HMAC_SHA256,
    digest: &digest::SHA256,
};
static SHA_512: Functions = Functions {
    derive: &PBKDF2_HMAC_SHA512,
    sign: &hmac::HMAC_SHA512,
    digest: &digest::SHA512,
};

/// One conversation.
struct Scram<'a> {
    login: &'a Login,
    functions: &'static Functions,
    nonce: String,
}

/// What the broker has to say at the end.
#[derive(Debug)]
struct Proof(Vec<u8>);

impl<'a> Scram<'a> {
    fn new(login: &'a Login, functions: &'static Functions) -> Self {
        let mut nonce = [0; 24];
        // Only fails where the system has no randomness at all; the broker adds its own part anyway.
        if aws_lc_rs::rand::fill(&mut nonce).is_err() {
            fastrand::fill(&mut nonce);
        }
        let nonce = BASE64_STANDARD.encode(nonce);
        Self {
            login,
            functions,
            nonce,
        }
    }

    /// Our first message without its prefix.
    fn bare(&self) -> String {
        let user = self.login.user.replace('=', "=3D").replace(',', "=2C");
        format!("n={user},r={}", self.nonce)
    }

    fn first(&self) -> String {
        format!("n,,{}", self.bare())
    }

    /// Our last message, and the proof that is to follow it.
    fn last(&self, said: &[u8]) -> Result<(String, Proof)> {
        let said = std::str::from_utf8(said).context("the broker's challenge is no text")?;
        let part = |name: &str| {
            let mut parts = said.split(',');
            parts
                .find_map(|part| part.strip_prefix(name))
                .with_context(|| format!("the broker's challenge has no {name}"))
        };
        let nonce = part("r=")?;
        ensure!(
            nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce),
            "the broker's challenge belongs to another conversation"
        );
        let salt = BASE64_STANDARD.decode(part("s=")?);
        let salt = salt.context("the broker's salt is no base64")?;
        let rounds: u32 = part("i=")?
            .parse()
            .context("the broker's rounds are no number")?;
        let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= MAX_ROUNDS);
        let rounds = rounds.context("the broker asks for 0 rounds, or for over a million")?;

        let Functions {
            derive,
            sign,
            digest,
        } = *self.functions;
        let mut salted = vec![0; digest.output_len()];
        pbkdf2::derive(
            *derive,
            rounds,
            &salt,
            self.login.password.as_bytes(),
            &mut salted,
        );
        let keyed = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(*sign, key), text);
        let client = keyed(&salted, b"Client Key");
        let stored = digest::digest(digest, client.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let all = format!("{},{said},{without_proof}", self.bare());
        let signature = keyed(stored.as_ref(), all.as_bytes());
        let both = client.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = both.map(|(key, signature)| key ^ signature).collect();
        let server = keyed(&salted, b"Server Key");
        let expected = keyed(server.as_ref(), all.as_bytes());
        let last = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
        Ok((last, Proof(expected.as_ref().to_vec())))
    }
}

impl Proof {
    fn check(&self, said: &[u8]) -> Result<()> {
        let said = std::str::from_utf8(said).context("the broker's proof is no text")?;
        if let Some(why) = said.strip_prefix("e=") {
            bail!("the broker says {why:?}");
        }
        let proof = said.split(',').find_map(|part| part.strip_prefix("v="));
        let proof = proof.context("the broker proves nothing")?;
        let proof = BASE64_STANDARD
            .decode(proof)
            .context("the broker's proof is no base64")?;
        let equal = verify_slices_are_equal(&proof, &self.0).is_ok();
        ensure!(equal, "the broker does not know the password: is it ours?");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conversation of RFC 7677.
    fn known(login: &Login) -> Scram<'_> {
        Scram {
            login,
            functions: &SHA_256,
            nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(),
        }
    }

    fn user() -> Login {
        Login {
            mechanism: Mechanism::Scram256,
            user: "user".to_owned(),
            password: "pencil".to_owned(),
        }
    }

    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_conversation_is_that_of_the_standard() {
        let login = user();
        let scram = known(&login);
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, proof) = scram.last(CHALLENGE.as_bytes()).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        proof
            .check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
            .unwrap();
        let other = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=";
        assert!(proof.check(other).is_err());
        assert!(proof.check(b"v=").is_err() && proof.check(b"").is_err());
        let error = proof.check(b"e=invalid-proof").unwrap_err().to_string();
        assert!(error.contains("invalid-proof"), "{error}");
    }

    #[test]
    fn a_challenge_that_is_none_ends_the_conversation() {
        let login = user();
        for (from, to) in [
            ("r=rOpr", "r=xOpr"),
            ("i=4096", "i=0"),
            ("i=4096", "i=2000000"),
            ("i=4096", "i=x"),
            ("s=W22Z", "s=!!!!"),
            (",i=4096", ""),
            ("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", ""),
        ] {
            let challenge = CHALLENGE.replace(from, to);
            assert!(
                known(&login).last(challenge.as_bytes()).is_err(),
                "{challenge}"
            );
        }
    }

    #[test]
    fn names_are_escaped_and_nonces_differ() {
        let login = Login {
            user: "a=b,c".to_owned(),
            ..user()
        };
        let (one, other) = (Scram::new(&login, &SHA_512), Scram::new(&login, &SHA_512));
        assert!(one.first().starts_with("n,,n=a=3Db=2Cc,r="));
        assert_ne!(one.nonce, other.nonce);
    }
}
