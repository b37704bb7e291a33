//! The way of one file to its name, and what became of it.
//!
//! A task for each file, which only waits; the bytes come from the destination's thread. Its answer is
//! always definite: the file has its final name and is whole, or it is not there and never will be.
//! For a call without an answer that takes asking until the place answers again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tributary_common::ids::Name;

use super::{
    Shared, Waiting,
    manifest::{Batches, Manifest},
    names::Names,
    points::{Point, pass},
    store::Store,
};

/// Between two tries to settle a file: at first, at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Why a file ends that the thread gives up.
const GIVEN_UP: &str = "the file was given up, for one before it in its folder failed";

/// What the thread gives to a file.
#[derive(Debug)]
pub(super) enum Piece {
    /// More bytes of it.
    Bytes(Bytes, Waiting),
    /// It is whole; this is its manifest.
    Whole(Vec<u8>),
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// It has its final name.
    Complete,
    /// It is not there, and why.
    Gone(String),
}

/// A file on its way.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) destination: Name,
    pub(super) store: Arc<Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) names: Names,
}

impl Upload {
    /// Brings the file to its end. It gets its name when it is its turn, so that the files of a folder
    /// get theirs in their order.
    pub(super) async fn run(
        self,
        mut pieces: mpsc::Receiver<Piece>,
        turn: oneshot::Receiver<()>,
    ) -> Ending {
        match self.write(&mut pieces, turn).await {
            Ok(()) => Ending::Complete,
            Err(why) => {
                // What is still to come is of no use; it must not be counted as waiting.
                drop(pieces);
                self.settle(why).await
            }
        }
    }

    async fn write(
        &self,
        pieces: &mut mpsc::Receiver<Piece>,
        turn: oneshot::Receiver<()>,
    ) -> Result<(), String> {
        let given_up = || GIVEN_UP.to_owned();
        let (store, names) = (&self.store, &self.names);
        pass(Point::Begun).await;
        store.check_in_time().await?;
        let mut writer = store.create(&names.temporary()).await?;
        pass(Point::Created).await;
        let manifest = loop {
            match pieces.recv().await {
                Some(Piece::Bytes(bytes, waiting)) => {
                    writer.write(bytes).await?;
                    drop(waiting);
                }
                Some(Piece::Whole(manifest)) => break manifest,
                None => return Err(given_up()),
            }
        };
        pass(Point::Written).await;
        writer.close().await?;
        pass(Point::Closed).await;
        store.put(&names.manifest(), manifest).await?;
        pass(Point::Described).await;
        turn.await.map_err(|_dropped| given_up())?;
        store.check_in_time().await?;
        store.rename(&names.temporary(), &names.path()).await?;
        pass(Point::Renamed).await;
        Ok(())
    }

    /// Finds out what became of a file after a failure, however long that takes, and takes away what
    /// it left.
    pub(super) async fn settle(&self, why: String) -> Ending {
        let folder = &self.names.folder;
        if self.shared.begin_trouble(folder, &why) {
            tracing::error!(destination = %self.destination, folder, "a file cannot be written; its batches stay in the spill: {why}");
        }
        let mut wait = AGAIN.0;
        loop {
            match is_complete(&self.store, &self.names).await {
                Ok(true) => return Ending::Complete,
                Ok(false) => return Ending::Gone(why),
                Err(error) => {
                    self.shared.set_trouble(folder, error, None);
                    sleep(wait).await;
                    wait = (wait * 2).min(AGAIN.1);
                }
            }
        }
    }
}

/// Whether a file has its final name; when not it never will have, and nothing of it is left.
///
/// # Errors
/// When that cannot be said now.
async fn is_complete(store: &Store, names: &Names) -> Result<bool, String> {
    // In another place it would not be there, either.
    store.check_in_time().await?;
    // In this order: without the temporary file no rename can be carried out any more.
    store.delete(&names.temporary()).await?;
    if store.length(&names.path()).await?.is_some() {
        return Ok(true);
    }
    store.delete(&names.manifest()).await?;
    Ok(false)
}

/// A file that an earlier life began: the batches that are in it, when it is complete.
///
/// # Errors
/// When that cannot be said now.
pub(super) async fn left_by_earlier_life(
    store: &Store,
    names: &Names,
) -> Result<Option<Vec<Batches>>, String> {
    if !is_complete(store, names).await? {
        return Ok(None);
    }
    let path = names.manifest();
    let unreadable = |why: String| {
        format!(
            "the manifest {path} says which batches are in {}, and cannot be read; put it back, or move both files away to have the batches written again: {why}",
            names.path()
        )
    };
    let bytes = store.get(&path).await.map_err(unreadable)?;
    let batches = Manifest::parse(&bytes).and_then(|manifest| manifest.batches());
    batches.map(Some).map_err(unreadable)
}
