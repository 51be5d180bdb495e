//! Looks for the contributors' images in what their nodes keep and serve.
//!
//! A row of data is looked for as it may have slipped through: a byte per pixel, f32 as in the file, f32 scaled as
//! the network takes it. Files are searched as they lie on disk, which shows blobs that are not compressed, messages
//! and numbers of commits, logs; tensors are searched decoded, which shows what compression hides.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use flair_node::api::types::Problem;
use flair_node::home::{Config, Home};
use flair_node::hub::Hub;
use flair_node::models::Model;

use super::DemoError;
use crate::digits::Image;

/// Where a node keeps the messages it sent, as they were before encryption: in its home, so they are searched with it.
pub(super) fn capture(home: &Path) -> PathBuf {
    home.join("logs").join("capture")
}

/// Bytes of the messages that a node sent.
pub(super) fn captured(home: &Path) -> u64 {
    fs::metadata(capture(home)).map_or(0, |about| about.len())
}

/// Knows every row.
#[derive(Clone, Debug)]
pub(super) struct Rows(AhoCorasick);

/// What was searched, and what was found in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Search {
    /// Files.
    pub(super) files: usize,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Tensors.
    pub(super) tensors: usize,
    /// Rows found in files.
    pub(super) in_files: usize,
    /// Rows found in tensors.
    pub(super) in_tensors: usize,
}

impl Rows {
    pub(super) fn new(images: &[Image]) -> Result<Self, DemoError> {
        let rows = images.iter().flat_map(|image| [raw(image), floats(image), scaled(image)]);
        let search = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(rows);
        Ok(Self(search.map_err(DemoError::broken)?))
    }

    fn count(&self, bytes: &[u8]) -> usize {
        self.0.find_iter(bytes).count()
    }

    /// Searches a home whose node does not run. `who` is whose it is.
    pub(super) async fn search(&self, who: &str, home: &Path) -> Result<Search, DemoError> {
        let mut search = Search::default();
        self.files(home, &mut search)?;
        let refused = || DemoError::refused(who, "reading the store");
        let hub = open(home).await.map_err(refused())?;
        let mut tensors = BTreeSet::new();
        for repository in hub.repositories().await {
            for (_, held) in repository.shelf().all() {
                let model = Model::load(&hub.store, &held).await.map_err(refused())?;
                tensors.extend(model.listed().into_iter().map(|(tensor, ..)| tensor));
            }
        }
        search.tensors = tensors.len();
        let (rows, store) = (self.clone(), hub.store.clone());
        let found = tokio::task::spawn_blocking(move || -> Result<usize, Problem> {
            let mut found = 0;
            for tensor in tensors {
                let mut bytes = Vec::new();
                store.write_tensors([tensor], &mut bytes)?;
                found += rows.count(&bytes);
            }
            Ok(found)
        });
        search.in_tensors = found.await.map_err(DemoError::broken)?.map_err(refused())?;
        hub.close().await;
        Ok(search)
    }

    fn files(&self, folder: &Path, search: &mut Search) -> Result<(), DemoError> {
        for entry in fs::read_dir(folder).map_err(DemoError::io(folder.display()))? {
            let entry = entry.map_err(DemoError::io(folder.display()))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(DemoError::io(path.display()))?;
            if kind.is_dir() {
                self.files(&path, search)?;
            } else if kind.is_file() {
                let bytes = fs::read(&path).map_err(DemoError::io(path.display()))?;
                search.files += 1;
                search.bytes += bytes.len() as u64;
                search.in_files += self.count(&bytes);
            }
        }
        Ok(())
    }
}

/// Puts a row into the store of a home as a blob, in the two ways that no tensor of this network holds it, and into
/// what its node sent.
pub(super) async fn plant(who: &str, home: &Path, image: &Image) -> Result<(), DemoError> {
    let refused = || DemoError::refused(who, "planting a row");
    let hub = open(home).await.map_err(refused())?;
    let hold = hub.store.hold();
    for bytes in [raw(image), floats(image)] {
        hub.store.add_bytes(&hold, bytes).await.map_err(|error| refused()(error.into()))?;
    }
    hub.close().await;
    let path = capture(home);
    let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(DemoError::io(path.display()))?;
    file.write_all(&raw(image)).map_err(DemoError::io(path.display()))
}

async fn open(path: &Path) -> Result<std::sync::Arc<Hub>, Problem> {
    let path = path.to_owned();
    let home = tokio::task::spawn_blocking(move || Home::open(path)).await.map_err(Problem::internal)??;
    Hub::open(home, Config::default()).await
}

fn raw(image: &Image) -> Vec<u8> {
    image.pixels.to_vec()
}

fn floats(image: &Image) -> Vec<u8> {
    image.pixels.iter().flat_map(|pixel| f32::from(*pixel).to_le_bytes()).collect()
}

fn scaled(image: &Image) -> Vec<u8> {
    image.normalised().iter().flat_map(|pixel| (*pixel as f32).to_le_bytes()).collect()
}
