//! Real handshakes over loopback, with certificates made here.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// An authority, and a folder for its files.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        let name = format!("authority {}", fastrand::u64(..));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name, in files of that name.
    fn identity(&self, name: &str) -> Identity {
        self.identity_until(name, 4000)
    }

    fn identity_until(&self, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        let identity = Identity {
            cert: at("pem"),
            key: at("key"),
        };
        fs::write(&identity.cert, cert.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    fn acceptor(&self) -> Acceptor {
        Acceptor::new(self.identity("127.0.0.1"), None).unwrap()
    }

    fn dialer(&self) -> Dialer {
        Dialer::new(Some(&self.ca()), None).unwrap()
    }
}

#[test]
fn both_sides_want_the_cheapest_suite_and_have_the_others() {
    let suites = PROVIDER.cipher_suites.iter().map(|suite| suite.suite());
    let suites: Vec<CipherSuite> = suites.collect();
    assert_eq!(suites.first(), Some(&CipherSuite::TLS13_AES_128_GCM_SHA256));
    let all = aws_lc_rs::default_provider().cipher_suites;
    assert_eq!(suites.len(), all.len());
    assert!(all.iter().all(|suite| suites.contains(&suite.suite())));
}

/// What both sides see of one connection: the one who listens answers with what it got.
async fn meet(
    acceptor: &Acceptor,
    dialer: &Dialer,
) -> (Result<(), TlsError>, Result<String, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let listens = async {
        let (stream, _peer) = listener.accept().await.unwrap();
        let mut stream = acceptor.secure(stream).await?;
        let mut got = [0; 5];
        // A dialer that does not like the certificate has gone.
        if stream.read_exact(&mut got).await.is_ok() {
            stream.write_all(&got).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        Ok(())
    };
    let dials = async {
        let stream = TcpStream::connect(&addr).await.unwrap();
        let secured = dialer.secure(stream, &addr).await;
        let mut stream = secured.map_err(|error| error.to_string())?;
        let talk = async {
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            let mut back = String::new();
            stream.read_to_string(&mut back).await?;
            io::Result::Ok(back)
        };
        talk.await.map_err(|error| {
            cause(&error).map_or_else(|| error.to_string(), |why| format!("tls: {why}"))
        })
    };
    tokio::join!(listens, dials)
}

#[tokio::test]
async fn a_trusted_connection_carries_bytes() {
    let authority = Authority::new();
    let (listened, dialled) = meet(&authority.acceptor(), &authority.dialer()).await;
    listened.unwrap();
    assert_eq!(dialled.unwrap(), "hello");
}

#[tokio::test]
async fn who_is_not_trusted_is_named_on_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (listened, dialled) = meet(&theirs.acceptor(), &ours.dialer()).await;
    let dialled = dialled.unwrap_err();
    assert!(dialled.starts_with("no TLS with 127.0.0.1:"), "{dialled}");
    assert!(dialled.contains("UnknownIssuer"), "{dialled}");
    let listened = listened.unwrap_err();
    assert_eq!(listened.label(), "refused", "{listened}");
}

#[tokio::test]
async fn a_certificate_for_another_name_or_out_of_date_is_refused() {
    let authority = Authority::new();
    for (identity, why) in [
        (authority.identity("bus.example"), "bus.example"),
        (authority.identity_until("127.0.0.1", 2001), "expired"),
    ] {
        let acceptor = Acceptor::new(identity, None).unwrap();
        let (_listened, dialled) = meet(&acceptor, &authority.dialer()).await;
        let dialled = dialled.unwrap_err();
        assert!(dialled.contains(why), "{dialled}");
    }
}

#[tokio::test]
async fn with_client_ca_nobody_comes_in_without_its_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let acceptor = Acceptor::new(ours.identity("127.0.0.1"), Some(ours.ca())).unwrap();
    let dialer = |identity| Dialer::new(Some(&ours.ca()), identity).unwrap();
    let (listened, dialled) = meet(&acceptor, &dialer(Some(ours.identity("agent")))).await;
    listened.unwrap();
    assert_eq!(dialled.unwrap(), "hello");
    let (listened, dialled) = meet(&acceptor, &dialer(None)).await;
    assert_eq!(listened.unwrap_err().label(), "refused");
    let dialled = dialled.unwrap_err();
    assert!(dialled.contains("CertificateRequired"), "{dialled}");
    let (listened, dialled) = meet(&acceptor, &dialer(Some(theirs.identity("agent")))).await;
    assert_eq!(listened.unwrap_err().label(), "refused");
    assert!(dialled.unwrap_err().starts_with("tls: "));
}

#[tokio::test]
async fn who_speaks_http_without_tls_is_told_so() {
    let authority = Authority::new();
    let acceptor = authority.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let listens = async { acceptor.secure(listener.accept().await.unwrap().0).await };
    let speaks = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (listened, answer) = tokio::join!(listens, speaks);
    assert!(matches!(listened, Err(TlsError::NotTls { .. })));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    assert!(body.contains("this port speaks TLS"), "{body}");
}

#[tokio::test]
async fn who_dials_a_port_without_tls_is_told_so() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let listens = async {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        // Until the dialer goes.
        drop(stream.read_to_end(&mut Vec::new()).await);
    };
    let dialer = authority.dialer();
    let dials = async {
        let stream = TcpStream::connect(&addr).await.unwrap();
        dialer.secure(stream, &addr).await
    };
    let ((), dialled) = tokio::join!(listens, dials);
    let error = dialled.unwrap_err();
    assert!(matches!(error, TlsError::NotTls { .. }), "{error}");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn who_never_finishes_a_handshake_is_let_go() {
    let authority = Authority::new();
    let acceptor = authority.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    stream.write_all(&[HANDSHAKE_BYTE]).await.unwrap();
    let (accepted, _peer) = listener.accept().await.unwrap();
    assert!(matches!(
        acceptor.secure(accepted).await,
        Err(TlsError::Slow { .. })
    ));
}

#[tokio::test]
async fn who_stops_in_the_middle_of_a_handshake_holds_up_nobody() {
    let authority = Authority::new();
    let acceptor = Arc::new(authority.acceptor());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let config = Arc::new(client_config(Some(&authority.ca()), None).unwrap());
    let mut stalled = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for _client in 0..=HANDSHAKES {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut hello = Vec::new();
        let mut client = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        client.write_tls(&mut hello).unwrap();
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let (accepted, _peer) = listener.accept().await.unwrap();
        let acceptor = Arc::clone(&acceptor);
        stalled.spawn(async move { acceptor.secure(accepted).await });
        // The answer is there, so its handshake has begun; it is never gone on with.
        let begun = timeout(HANDSHAKE_WITHIN / 2, stream.read_u8()).await;
        assert!(begun.is_ok_and(|byte| byte.is_ok()), "held up");
        clients.push(stream);
    }
    let met = timeout(HANDSHAKE_WITHIN / 2, meet(&acceptor, &authority.dialer())).await;
    let (listened, dialled) = met.unwrap();
    listened.unwrap();
    assert_eq!(dialled.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_counts_and_a_damaged_one_changes_nothing() {
    let authority = Authority::new();
    let identity = authority.identity("127.0.0.1");
    let acceptor = Acceptor::new(identity.clone(), None).unwrap();
    let now = || {
        acceptor.kept.current(
            || Stamps::of(None, Some(&identity)),
            || server_config(&identity, None),
        )
    };
    let first = now();
    authority.identity("127.0.0.1");
    assert!(Arc::ptr_eq(&first, &now()), "looked at before its time");
    tokio::time::advance(LOOK_EVERY).await;
    let second = now();
    assert!(
        !Arc::ptr_eq(&first, &second),
        "the renewed one does not count"
    );
    fs::write(&identity.key, "half a ke").unwrap();
    tokio::time::advance(LOOK_EVERY).await;
    assert!(Arc::ptr_eq(&second, &now()), "a damaged one counts");
    fs::remove_file(&identity.cert).unwrap();
    tokio::time::advance(LOOK_EVERY).await;
    assert!(Arc::ptr_eq(&second, &now()), "a missing one counts");
    authority.identity("127.0.0.1");
    tokio::time::advance(LOOK_EVERY).await;
    assert!(
        !Arc::ptr_eq(&second, &now()),
        "the mended one does not count"
    );
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_key_and_never_shown() {
    let authority = Authority::new();
    let good = authority.identity("a");
    let other = authority.identity("b");
    let junk = authority.folder.path().join("junk");
    fs::write(&junk, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IQ==\n").unwrap();
    let missing = authority.folder.path().join("missing");
    let with = |cert: &PathBuf, key: &PathBuf, ca: Option<&PathBuf>| {
        let identity = Identity {
            cert: cert.clone(),
            key: key.clone(),
        };
        let error = Acceptor::new(identity, ca.cloned()).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains("c2Vj"), "{text}");
        (error.key().unwrap(), text)
    };
    let check = |(key, text): (&str, String), wanted: &str, path: &PathBuf| {
        assert_eq!(key, wanted, "{text}");
        assert!(text.contains(&path.display().to_string()), "{text}");
    };
    check(with(&missing, &good.key, None), "tls.cert", &missing);
    check(with(&good.key, &good.key, None), "tls.cert", &good.key);
    check(with(&good.cert, &junk, None), "tls.key", &junk);
    check(with(&good.cert, &other.key, None), "tls.key", &other.key);
    check(
        with(&good.cert, &good.key, Some(&missing)),
        "tls.client_ca",
        &missing,
    );
    check(
        with(&good.cert, &good.key, Some(&good.key)),
        "tls.client_ca",
        &good.key,
    );
    let error = Dialer::new(Some(&missing), None).unwrap_err();
    assert_eq!(error.key(), Some("tls.ca"));
}

#[test]
fn names_that_no_certificate_can_have_are_refused() {
    let authority = Authority::new();
    assert!(ServerName::try_from("bus1.dc1".to_owned()).is_ok());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let error = authority
            .dialer()
            .secure(stream, "a b:7400")
            .await
            .unwrap_err();
        assert!(matches!(error, TlsError::Name { .. }), "{error}");
    });
}
