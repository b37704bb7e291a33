//! Requests with lines: what a client sees.

use std::{
    io::Write as _,
    pin::Pin,
    task::{Context, Poll},
};

use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::task::JoinSet;

use super::*;
use crate::{
    destination::memory::Script,
    testing::{Rig, rig},
};

async fn post(rig: &Rig, path: &str, encoding: Option<&str>, body: Vec<u8>) -> (u16, String) {
    let lines = Lines::new(64 << 20);
    let (topic, query) = path.split_once('?').unwrap_or((path, ""));
    let mut request = Request::post(format!("http://bus/v1/lines/x?{query}"));
    if let Some(encoding) = encoding {
        request = request.header(header::CONTENT_ENCODING, encoding);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let answer = lines.answer(&rig.node, topic, request).await;
    let status = answer.status().as_u16();
    let retry = answer.headers().contains_key(header::RETRY_AFTER);
    assert_eq!(retry, matches!(status, 429 | 503), "{status}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        String::from_utf8(body.to_vec()).unwrap().trim().to_owned(),
    )
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn values(rig: &Rig) -> Vec<String> {
    let delivered = rig.sink.delivered();
    let values = delivered
        .into_iter()
        .flat_map(|(_id, _target, values)| values);
    values
        .map(|value| String::from_utf8(value).unwrap())
        .collect()
}

#[tokio::test]
async fn lines_are_delivered_before_the_answer() {
    let check = |encoding: Option<&'static str>, body: Vec<u8>| async move {
        let rig = rig();
        let (status, text) = post(&rig, "web", encoding, body).await;
        assert_eq!((status, text.as_str()), (200, r#"{"bytes":6,"records":3}"#));
        assert_eq!(values(&rig), ["one", "", "two"]);
        assert_eq!(rig.node.budget.used(), 0);
    };
    check(None, b"one\n\ntwo\n".to_vec()).await;
    check(None, b"one\n\ntwo".to_vec()).await;
    check(Some("identity"), b"one\n\ntwo\n".to_vec()).await;
    check(Some("gzip"), gzip(b"one\n\ntwo\n")).await;
    check(
        Some("zstd"),
        zstd::encode_all(&b"one\n\ntwo\n"[..], 1).unwrap(),
    )
    .await;
}

#[tokio::test]
async fn a_large_body_is_cut_into_batches_in_order() {
    let rig = rig();
    let lines: Vec<String> = (0..60_000).map(|number| format!("{number:0>50}")).collect();
    let (status, text) = post(&rig, "web?class=P0", None, lines.join("\n").into_bytes()).await;
    assert_eq!(
        (status, text.as_str()),
        (200, r#"{"bytes":3000000,"records":60000}"#)
    );
    assert_eq!(values(&rig), lines);
    assert!(rig.sink.delivered().len() >= 4);
}

#[tokio::test]
async fn the_longest_line_is_one_mebibyte() {
    let rig = rig();
    let longest = vec![b'x'; 1 << 20];
    let two = [longest.clone(), longest.clone()].join(&b'\n');
    assert_eq!(post(&rig, "web", None, two).await.0, 200);
    assert_eq!(
        values(&rig).iter().map(String::len).collect::<Vec<_>>(),
        [1 << 20, 1 << 20]
    );
    let (status, text) = post(
        &rig,
        "web",
        None,
        [b"a\n".to_vec(), vec![b'x'; (1 << 20) + 1]].concat(),
    )
    .await;
    assert_eq!(
        (status, text.as_str()),
        (400, "line 2 is longer than 1048576 bytes")
    );
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_in_clear_words() {
    let check = |path: &'static str,
                 encoding: Option<&'static str>,
                 body: Vec<u8>,
                 status: u16,
                 part: &'static str| async move {
        let rig = rig();
        let (got, text) = post(&rig, path, encoding, body).await;
        assert!(got == status && text.contains(part), "{path}: {got} {text}");
        assert!(rig.sink.delivered().is_empty());
    };
    let some = || b"x\n".to_vec();
    check("web", None, Vec::new(), 400, "the body has no lines").await;
    check("web", Some("gzip"), some(), 400, "does not decompress").await;
    check("web", Some("zstd"), some(), 400, "does not decompress").await;
    check(
        "web",
        Some("br"),
        some(),
        415,
        "allowed are identity, gzip, zstd",
    )
    .await;
    check("db", None, some(), 404, "no route matches the topic db").await;
    check("a%20b", None, some(), 400, "is not a name").await;
    check(
        "web?class=P9",
        None,
        some(),
        400,
        "allowed are P0, P1, P2, P3",
    )
    .await;
    check("web?clas=P1", None, some(), 400, "allowed is class").await;
    check(
        "web",
        None,
        vec![b'\n'; (16 << 20) + 1],
        413,
        "longer than 16777216 bytes",
    )
    .await;
    // The second half is bad: nothing of the first is delivered.
    let mut torn = gzip(&b"line\n".repeat(100_000));
    torn.truncate(torn.len() / 2);
    check("web", Some("gzip"), torn, 400, "does not decompress").await;
}

#[tokio::test]
async fn a_bomb_is_refused_without_being_unpacked() {
    let lines = b"a line of a bomb\n".repeat(6 << 20);
    let check = |encoding: &'static str, body: Vec<u8>| async move {
        let rig = rig();
        let (status, text) = post(&rig, "web", Some(encoding), body).await;
        assert!(
            status == 413 && text.contains("67108864 bytes once decompressed"),
            "{status} {text}"
        );
        assert_eq!(rig.node.budget.used(), 0);
    };
    check("gzip", gzip(&lines)).await;
    check("zstd", zstd::encode_all(&lines[..], 1).unwrap()).await;
    // One endless line is no way around.
    let rig = rig();
    let endless = zstd::encode_all(&vec![b'x'; 100 << 20][..], 1).unwrap();
    assert_eq!(post(&rig, "web", Some("zstd"), endless).await.0, 413);
}

#[tokio::test]
async fn a_destination_that_is_down_or_refuses_is_told() {
    let rig = rig();
    rig.sink.set_down(Some("kafka-main is down"));
    assert_eq!(
        post(&rig, "web", None, b"x".to_vec()).await,
        (503, "kafka-main is down".into())
    );
    rig.sink.set_down(None);
    rig.sink
        .script([Script::Fail(Failure::Unavailable("gone".into()))]);
    assert_eq!(
        post(&rig, "web", None, b"x".to_vec()).await,
        (503, "gone".into())
    );
    rig.sink.script([Script::Fail(Failure::Rejected(
        RefuseReason::TooLarge,
        "too large".into(),
    ))]);
    assert_eq!(
        post(&rig, "web", None, b"x".to_vec()).await,
        (413, "too large".into())
    );
    rig.stop.cancel();
    assert_eq!(
        post(&rig, "web", None, b"x".to_vec()).await,
        (503, "this node is stopping".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_does_not_end_is_told_and_leaks_nothing() {
    let rig = rig();
    rig.sink.script([Script::Hold]);
    let (status, text) = post(&rig, "web", None, b"x".to_vec()).await;
    assert!(
        status == 503 && text.contains("a repeat may double it"),
        "{status} {text}"
    );
    rig.sink.release();
    while rig.node.in_flight() > 0 || rig.node.budget.used() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(values(&rig), ["x"]);
}

#[tokio::test]
async fn too_many_bodies_are_put_off() {
    let rig = rig();
    let lines = Lines::new(0);
    let all = u32::try_from(MAX_ENCODED_BYTES).unwrap();
    let held = Arc::clone(&lines.bodies)
        .acquire_many_owned(all)
        .await
        .unwrap();
    tokio::time::pause();
    let request = Request::post("http://bus/")
        .body(Full::new(Bytes::from("x")))
        .unwrap();
    let answer = lines.answer(&rig.node, "web", request).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    drop(held);
}

/// A body of which one byte comes, and then nothing.
struct Stalled(bool);

impl Body for Stalled {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match std::mem::replace(&mut self.0, true) {
            true => Poll::Pending,
            false => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x"))))),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_that_stall_keep_the_memory_from_nobody_and_end() {
    let rig = rig();
    let lines = Arc::new(Lines::new(0));
    let mut stalled = JoinSet::new();
    for _body in 0..500 {
        let (lines, node) = (Arc::clone(&lines), Arc::clone(&rig.node));
        let request = Request::post("http://bus/").body(Stalled(false)).unwrap();
        stalled.spawn(async move { lines.answer(&node, "web", request).await.status() });
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let request = Request::post("http://bus/")
        .body(Full::new(Bytes::from("a line")))
        .unwrap();
    let answer = lines.answer(&rig.node, "web", request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let ended = stalled.join_all().await;
    assert_eq!(ended, [StatusCode::REQUEST_TIMEOUT; 500]);
}
