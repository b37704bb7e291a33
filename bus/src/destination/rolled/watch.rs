//! Asks again and again whether the place of the files is there, and says when that changes.
//!
//! Whether it takes files a folder's own file finds out.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;
use tributary_common::ids::Name;

use super::{Shared, lock, store::Store};

/// How often it is asked whether it is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Its answer may take so long.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// Does so until its runtime ends.
pub(super) async fn watch(name: Name, store: Arc<Store>, shared: Arc<Shared>) {
    let mut first = true;
    loop {
        let found = store.check(LOOK_LIMIT).await.err();
        shared.other.store(store.is_other(), Ordering::Relaxed);
        let before = std::mem::replace(&mut *lock(&shared.absent), found.clone());
        match (&found, before) {
            (None, Some(_)) => tracing::info!(destination = %name, "{} is there", store.noun()),
            (Some(why), before) if first || before.is_none() => {
                tracing::error!(destination = %name, "the destination is down: {why}");
            }
            (Some(_) | None, _) => {}
        }
        first = false;
        let up = if found.is_none() { 1.0 } else { 0.0 };
        metrics::gauge!("tributary_bus_destination_up_count", "destination" => name.to_string())
            .set(up);
        sleep(LOOK_EVERY).await;
    }
}
