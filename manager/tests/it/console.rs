//! The console's files, and what every answer says to browsers.

use crate::rig::Rig;

#[tokio::test]
async fn the_console_or_how_to_build_it_is_served() {
    let rig = Rig::start().await;
    for path in ["/", "/topics/web", "/index.html"] {
        let answer = rig.get(path).await;
        assert!(
            answer
                .head
                .contains("content-type: text/html; charset=utf-8"),
            "{}",
            answer.head
        );
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 200 {
            assert!(text.to_lowercase().contains("<!doctype html>"), "{text}");
            assert!(
                answer.head.contains("cache-control: no-cache"),
                "{}",
                answer.head
            );
        } else {
            assert!(
                answer.status == 404 && text.contains("make console"),
                "{text}"
            );
        }
    }
    assert_eq!(rig.get("/assets/gone-1a2b3c.js").await.status, 404);
    assert_eq!(rig.request("POST", "/", "", b"").await.status, 405);
}

#[tokio::test]
async fn browsers_are_told_to_be_careful() {
    let rig = Rig::start().await;
    for path in ["/", "/api/v1/topics", "/api/none", "/metrics"] {
        let answer = rig.get(path).await;
        for header in [
            "content-security-policy: default-src 'self'",
            "x-content-type-options: nosniff",
        ] {
            assert!(answer.head.contains(header), "{path}: {}", answer.head);
        }
    }
}

#[tokio::test]
async fn a_known_file_is_not_sent_again() {
    let rig = Rig::start().await;
    let first = rig.get("/").await;
    if first.status != 200 {
        return; // Not built: nothing to ask for again.
    }
    let tag = first
        .head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .unwrap()
        .to_owned();
    let again = rig
        .request("GET", "/", &format!("if-none-match: {tag}\r\n"), b"")
        .await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    let packed = rig
        .request("GET", "/", "accept-encoding: gzip\r\n", b"")
        .await;
    if packed.head.contains("content-encoding: gzip") {
        assert_eq!(&packed.body[..2], [0x1f, 0x8b]);
    }
}
