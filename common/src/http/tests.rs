//! The client against servers that answer well, badly, or not at all.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

/// A server that gives each connection to `talk`.
async fn server<F>(talk: impl Fn(TcpStream) -> F + Send + 'static) -> (String, JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener: TcpListener = net::listen("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut talks = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            talks.spawn(talk(stream));
        }
    });
    (url, tasks)
}

/// Reads one request, up to the end of its body `end`.
async fn read_request(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut piece = [0; 4096];
        let got = stream.read(&mut piece).await.unwrap();
        if got == 0 {
            break;
        }
        text.push_str(std::str::from_utf8(&piece[..got]).unwrap());
    }
    text
}

/// Answers every request with its own text.
async fn echo(mut stream: TcpStream) {
    let port = stream.peer_addr().unwrap().port();
    loop {
        let request = read_request(&mut stream, "}").await;
        if request.is_empty() {
            return;
        }
        let body = format!("{port}\n{request}");
        let head = format!(
            "HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_post_carries_its_body_and_token_and_keeps_its_connection() {
    let (url, _server) = server(echo).await;
    let mut client = Client::new(&format!("{url}/base/"), Some("hunter2"), None).unwrap();
    let mut ports = Vec::new();
    for _ in 0..3 {
        let (status, body) = client
            .post_json("/x?y=1", b"{\"a\":1}".to_vec(), LIMIT)
            .await
            .unwrap();
        assert_eq!(status, StatusCode::CREATED);
        let text = String::from_utf8(body.to_vec()).unwrap();
        let (port, request) = text.split_once('\n').unwrap();
        assert!(
            request.starts_with("POST /base/x?y=1 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains("authorization: Bearer hunter2\r\n"),
            "{request}"
        );
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        assert!(request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
        ports.push(port.to_owned());
    }
    ports.dedup();
    assert_eq!(ports.len(), 1, "one connection is used again");
    assert!(!format!("{client:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    let (url, _server) = server(|mut stream| async move {
        read_request(&mut stream, "\r\n\r\n").await;
        // Says nothing about closing, and closes.
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
    })
    .await;
    let mut client = Client::new(&url, None, None).unwrap();
    for _ in 0..5 {
        let (status, body) = client.get("/", LIMIT).await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"ok"[..]));
        // The end of the connection may be seen before or after the next call begins.
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_a_timeout_of_the_whole_call() {
    let (url, _server) = server(|mut stream| async move {
        read_request(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nha")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let error = get(&url, None, LIMIT).await.unwrap_err().to_string();
    assert_eq!(error, format!("{url} did not answer within 5s"));
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let (url, _server) = server(|mut stream| async move {
        read_request(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
    })
    .await;
    let error = get(&url, None, LIMIT).await.unwrap_err();
    assert!(matches!(error, HttpError::TooLong { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_http_is_an_error_with_the_url() {
    let (url, _server) = server(|mut stream| async move {
        read_request(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
    })
    .await;
    let error = get(&url, None, LIMIT).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("the connection to {url} failed: ")),
        "{error}"
    );
}

#[test]
fn urls_that_cannot_be_used_say_why() {
    for (url, why) in [
        ("https://", ""),
        ("ftp://m", "expected is http://host:port/path"),
        ("m:7500", "expected is http://host:port/path"),
        ("/x", "expected is http://host:port/path"),
        ("http://", ""),
        ("", ""),
    ] {
        let error = Client::new(url, None, None).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{url:?} cannot be used: ")),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
    }
    let error = Client::new("http://m", Some("a\nb"), None)
        .unwrap_err()
        .to_string();
    assert!(
        !error.contains('a') || error.starts_with("the token holds"),
        "{error}"
    );
}
