//! Live events.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::rig::{PATIENCE, Rig, agent, fact, report};

/// A subscriber.
struct Page {
    stream: TcpStream,
    text: String,
}

impl Page {
    async fn open(rig: &Rig, path: &str) -> Self {
        let mut stream = rig.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self {
            stream,
            text: String::new(),
        }
    }

    /// The next event's name and data; none at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let line = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap()
                        .to_owned()
                };
                let next = (
                    line("event: "),
                    serde_json::from_str(&line("data: ")).unwrap(),
                );
                self.text = rest.to_owned();
                return Some(next);
            }
            let mut buffer = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            if read == 0 {
                return None;
            }
            self.text
                .push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }
}

#[tokio::test]
async fn a_page_hears_the_list_at_once_and_when_it_changes() {
    let rig = Rig::start().await;
    let mut page = Page::open(&rig, "/api/v1/live?range=1h").await;
    let (name, list) = page.next().await.unwrap();
    assert_eq!((name.as_str(), &list["topics"]), ("topics", &json!([])));
    let mut told = report(&agent(), 5, 1);
    told["facts"] = json!([fact("read", 1, &[10]), fact("delivered", 1, &[10])]);
    rig.tell(&told).await;
    loop {
        let (_, list) = page.next().await.unwrap();
        if list["topics"] != json!([]) {
            assert_eq!(list["topics"][0]["counts"]["delivered"], 10);
            let asked = rig.page("/api/v1/topics?range=1h").await;
            // Rates are of this moment.
            let lists = [list, asked].map(|mut list| {
                list["topics"][0]["rates"].take();
                list["topics"].take()
            });
            assert_eq!(lists[0], lists[1]);
            break;
        }
    }
}

#[tokio::test]
async fn a_stop_ends_the_events_and_the_manager() {
    let mut rig = Rig::start().await;
    let mut page = Page::open(&rig, "/api/v1/live").await;
    page.next().await.unwrap();
    rig.stop().await;
    while page.next().await.is_some() {}
    // The last chunk: the stream was ended, not cut off when the grace was over.
    assert!(page.text.ends_with("0\r\n\r\n"), "{:?}", page.text);
}

#[tokio::test]
async fn too_many_pages_are_refused() {
    let rig = Rig::start().await;
    let mut pages = Vec::new();
    for _ in 0..256 {
        pages.push(Page::open(&rig, "/api/v1/live").await);
    }
    for page in &mut pages {
        page.next().await.unwrap();
    }
    let answer = rig.get("/api/v1/live").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"));
    assert!(answer.head.contains("retry-after: 1"));
    drop(pages);
}
