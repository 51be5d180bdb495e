//! Promises of the stores.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use flair_node::home::Home;
use flair_node::store::{Batch, GLOBAL, Options, Problem, Store, StoreError};
use flair_tensors::Digest;
use tempfile::tempdir;

/// Bytes that nothing compresses, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// No margin, and no sweep unless asked for.
pub(crate) fn options() -> Options {
    Options { sweep: Duration::from_hours(1), margin: 0, ..Options::default() }
}

pub(crate) async fn open(path: &Path) -> Store {
    Store::open_with(&Home::open(path).unwrap(), options()).await.unwrap()
}

fn repository(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// The file of a blob, where the store keeps it.
fn file(store: &Store, blob: Digest) -> std::path::PathBuf {
    data(store.folder(), blob)
}

fn data(folder: &Path, blob: Digest) -> std::path::PathBuf {
    folder.join("blobs/data").join(format!("{}.data", iroh_blobs::Hash::from(blob.to_bytes()).to_hex()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_there_after_a_restart() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let (a, b) = (repository("a"), repository("b"));
    let operation = |text: &str| (Digest::of(text.as_bytes()), text.as_bytes().to_vec());
    let hold = store.hold();
    let blob = store.add_bytes(&hold, noise(1, 100_000)).await.unwrap();
    let mut batch = Batch::new(a).fact("draft/1", "x").fact("head", "y").refer(blob).sequence(3);
    batch.operations = vec![operation("z"), operation("a"), operation("m")];
    store.publish(batch).await.unwrap();
    let mut batch = Batch::new(a).forget("draft/1").fact("draft/2", "w");
    batch.operations = vec![operation("a"), operation("q")];
    store.publish(batch).await.unwrap();
    store.publish(Batch::new(b).fact("followed", "")).await.unwrap();
    store.publish(Batch::new(GLOBAL).fact("bans", "none")).await.unwrap();
    drop(hold);
    store.close().await;
    drop(store);

    let store = open(folder.path()).await;
    let names: Vec<_> = store.operations(a).await.unwrap().into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(names, [b"z", b"a", b"m", b"q"], "in the order in which they came, each once");
    assert!(store.operations(b).await.unwrap().is_empty());
    let mut both = vec![a, b];
    both.sort();
    assert_eq!(store.repositories().await.unwrap(), both);
    assert_eq!(store.facts(a, "draft/").await.unwrap(), [("draft/2".to_owned(), b"w".to_vec())]);
    assert_eq!(store.fact(a, "head").await.unwrap().unwrap(), b"y");
    assert_eq!(store.fact(b, "head").await.unwrap(), None);
    assert_eq!(store.fact(GLOBAL, "bans").await.unwrap().unwrap(), b"none");
    assert_eq!(store.sequence(a).await.unwrap(), 3);
    assert_eq!(store.read_all(blob, 1 << 20).await.unwrap(), noise(1, 100_000));
    store.sweep().await.unwrap();
    assert!(store.has(blob).await.unwrap());
    assert!(store.missing().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_number_is_used_once_even_if_the_repository_was_removed() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let a = repository("a");
    let batch = |number| Batch::new(a).operation(Digest::of(&[number]), vec![number]).sequence(number.into());
    store.publish(batch(1)).await.unwrap();
    let error = store.publish(batch(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Sequence { given: 1, last: 1, .. }), "{error}");
    store.remove_repository(a).await.unwrap();
    assert!(store.operations(a).await.unwrap().is_empty());
    assert!(store.publish(batch(1)).await.is_err());
    assert!(store.operations(a).await.unwrap().is_empty(), "a refused batch changes nothing");
    store.publish(batch(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_about_a_blob_that_is_not_here_changes_nothing() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let (a, absent) = (repository("a"), Digest::of(b"absent"));
    let error = store.publish(Batch::new(a).fact("k", "v").refer(absent)).await.unwrap_err();
    assert!(matches!(error, StoreError::Absent { blob } if blob == absent), "{error}");
    assert_eq!(store.fact(a, "k").await.unwrap(), None);
    assert_eq!(store.references(a, absent).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_live_as_long_as_someone_refers_to_them() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let (a, b) = (repository("a"), repository("b"));
    let hold = store.hold();
    let mut blobs = Vec::new();
    for (seed, length) in [(1, 10), (2, 20_000), (3, 5 << 20)] {
        blobs.push(store.add_bytes(&hold, noise(seed, length)).await.unwrap());
    }
    store.sweep().await.unwrap();
    for blob in &blobs {
        assert!(store.has(*blob).await.unwrap(), "held");
    }
    for owner in [a, b] {
        let mut batch = Batch::new(owner);
        batch.references = blobs.iter().map(|blob| (*blob, 2)).collect();
        store.publish(batch).await.unwrap();
    }
    drop(hold);
    let mut batch = Batch::new(a);
    batch.references = blobs.iter().map(|blob| (*blob, -1)).collect();
    store.publish(batch).await.unwrap();
    store.remove_repository(b).await.unwrap();
    store.sweep().await.unwrap();
    for blob in &blobs {
        assert!(store.has(*blob).await.unwrap(), "referred to once");
        assert_eq!(store.references(a, *blob).await.unwrap(), 1);
    }
    let mut batch = Batch::new(a);
    batch.references = blobs.iter().map(|blob| (*blob, -5)).collect();
    store.publish(batch).await.unwrap();
    store.sweep().await.unwrap();
    for blob in &blobs {
        assert!(!store.has(*blob).await.unwrap(), "not referred to");
        assert!(!file(&store, *blob).exists());
    }
    // What was swept can be added again, and is on disk again when that is published.
    let hold = store.hold();
    let again = store.add_bytes(&hold, noise(2, 20_000)).await.unwrap();
    assert_eq!(again, blobs[1]);
    store.publish(Batch::new(a).refer(again)).await.unwrap();
    assert_eq!(store.read_at(again, 19_990, 10).await.unwrap(), noise(2, 20_000)[19_990..]);
    assert!(matches!(store.read_at(again, 19_990, 11).await, Err(StoreError::Range { .. })));
    assert!(matches!(store.read_all(again, 19_999).await, Err(StoreError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sweeps_every_100_ms_take_nothing_that_is_in_use() {
    let folder = tempdir().unwrap();
    let home = Home::open(folder.path()).unwrap();
    let sweep = Duration::from_millis(100);
    let store = Store::open_with(&home, Options { sweep, ..options() }).await.unwrap();
    let mut tasks = Vec::new();
    for worker in 0..4_u64 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let repository = repository(&worker.to_string());
            let mut kept = Vec::new();
            for round in 0..50_u64 {
                let hold = store.hold();
                // Some blobs are the same for all workers, and come, go and come again.
                let shared = store.add_bytes(&hold, noise(round % 5, 30_000)).await.unwrap();
                let own = store.add_bytes(&hold, noise(1000 + worker * 100 + round, 40_000)).await.unwrap();
                let tiny = store.add_bytes(&hold, noise(9000 + worker * 100 + round, 100)).await.unwrap();
                store.publish(Batch::new(repository).refer(shared).refer(own).refer(tiny)).await.unwrap();
                drop(hold);
                assert!(store.has(shared).await.unwrap());
                if round % 2 == 0 {
                    store.publish(Batch::new(repository).release(shared).release(own)).await.unwrap();
                } else {
                    kept.extend([shared, own]);
                }
                kept.push(tiny);
            }
            kept
        }));
    }
    let mut kept = Vec::new();
    for task in tasks {
        kept.extend(task.await.unwrap());
    }
    store.sweep().await.unwrap();
    assert_eq!(store.verify().await.unwrap(), []);
    for blob in &kept {
        assert!(store.has(*blob).await.unwrap());
    }
    // Nothing else is left: 5 shared ones of 30 kB at most, and 4 × 25 of 40 kB.
    let files = fs::read_dir(store.folder().join("blobs/data")).unwrap().flatten();
    let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= 4 * 25 * 40_000 + 5 * 30_000, "{bytes} bytes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_or_lost_behind_our_back_is_missing_and_can_come_back() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let a = repository("a");
    let hold = store.hold();
    let mut blobs = Vec::new();
    let mut batch = Batch::new(a);
    for seed in 0..4 {
        let blob = store.add_bytes(&hold, noise(seed, 50_000)).await.unwrap();
        batch = batch.refer(blob);
        blobs.push(blob);
    }
    store.publish(batch).await.unwrap();
    drop(hold);
    store.close().await;
    drop(store);

    let data = |blob| data(&folder.path().join("store"), blob);
    fs::remove_file(data(blobs[0])).unwrap();
    let mut bytes = noise(1, 50_000);
    bytes[31_337] ^= 1;
    fs::write(data(blobs[1]), bytes).unwrap();
    // Written anew but the same: no damage.
    fs::write(data(blobs[2]), noise(2, 50_000)).unwrap();

    let store = open(folder.path()).await;
    let mut missing: Vec<_> =
        store.missing().into_iter().map(|missing| (missing.blob, missing.root, missing.problem)).collect();
    missing.sort_by_key(|(blob, ..)| *blob != blobs[0]);
    assert_eq!(missing, [(blobs[0], blobs[0], Problem::Absent), (blobs[1], blobs[1], Problem::Damaged)]);
    assert!(!store.has(blobs[0]).await.unwrap() && !store.has(blobs[1]).await.unwrap());
    // The blob store must not believe that it has them, or they would not be fetched.
    let api = store.transfers().await.unwrap();
    for blob in &blobs[..2] {
        assert!(!api.blobs().has(iroh_blobs::Hash::from(blob.to_bytes())).await.unwrap());
    }
    let hold = store.hold();
    for seed in 0..2 {
        store.add_bytes(&hold, noise(seed, 50_000)).await.unwrap();
    }
    assert_eq!(store.check().await.unwrap(), []);
    assert!(store.missing().is_empty());
    // Damage that leaves no trace in the file's times is found by reading.
    let path = data(blobs[3]);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let mut damaged = fs::OpenOptions::new().write(true).open(&path).unwrap();
    damaged.write_all(b"xx").unwrap();
    damaged.set_modified(before).unwrap();
    drop(damaged);
    assert_eq!(store.check().await.unwrap(), []);
    assert_eq!(store.verify().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_store_that_ended_is_opened_again() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let hold = store.hold();
    let blob = store.add_bytes(&hold, noise(1, 50_000)).await.unwrap();
    store.publish(Batch::new(repository("a")).refer(blob)).await.unwrap();
    let generation = *store.generation().borrow();
    store.transfers().await.unwrap().shutdown().await.unwrap();
    // One call may see the error, the next does not.
    if store.has(blob).await.is_err() {
        assert!(store.has(blob).await.unwrap());
    }
    assert_eq!(*store.generation().borrow(), generation + 1);
    drop(hold);
    store.sweep().await.unwrap();
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_says_so() {
    let folder = tempdir().unwrap();
    let store = open(folder.path()).await;
    let hold = store.hold();
    store.close().await;
    assert!(matches!(store.add_bytes(&hold, vec![1]).await, Err(StoreError::Closed)));
    assert!(matches!(store.operations(GLOBAL).await, Err(StoreError::Closed)));
    assert!(matches!(store.sweep().await, Err(StoreError::Closed)));
    drop((store, hold));
    // Also a store that nobody closed lets go of its files.
    drop(open(folder.path()).await);
    open(folder.path()).await.close().await;
}
