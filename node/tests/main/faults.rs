//! Promises that hold when the process is killed or the disk is full. Each test runs a part of itself in a child
//! process, which it may kill, watch or give a small disk.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flair_node::home::Home;
use flair_node::store::{Batch, Content, Hold, Options, Source, Store, StoreError};
use flair_tensors::pack::Listed;
use flair_tensors::{DType, Digest, TensorId};
use tempfile::tempdir;

use crate::store::{noise, options};

/// Says to a test that it runs in the child process, and in which folder.
const CHILD: &str = "FLAIR_TEST_CHILD";

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// The command that runs `test` of this program in `folder`.
fn child(test: &str, folder: &Path, wrapper: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, folder);
    command
}

/// One tensor with the weights of a training step.
struct Weights(Vec<u8>);

impl Weights {
    fn new(step: u64) -> Self {
        let start = noise(1, 400_000);
        let weight =
            |bytes: &[u8; 4]| (u32::from_le_bytes(*bytes) as f32 / 4e9 - 0.5) * (1.0 + step as f32 * 1e-4);
        Self(start.as_chunks::<4>().0.iter().flat_map(|bytes| weight(bytes).to_le_bytes()).collect())
    }

    fn listed(&self) -> Listed {
        (TensorId::of(&self.0), DType::F32, self.0.len() as u64)
    }
}

impl Source for Weights {
    fn read(&self, _tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.0[offset as usize..offset as usize + out.len()]);
        Ok(())
    }
}

fn repository() -> Digest {
    Digest::of(b"repository")
}

/// The operation of a step: its number, and what it refers to.
fn operation(step: u64, references: &[Digest]) -> (Digest, Vec<u8>) {
    let mut bytes = step.to_le_bytes().to_vec();
    bytes.extend(references.iter().flat_map(|blob| blob.to_bytes()));
    (Digest::of(&bytes), bytes)
}

/// What step number `step` publishes: a small blob, a large one, and a model as a delta on the one before.
async fn publish(store: &Store, hold: &Hold, step: u64) -> Result<(), StoreError> {
    let small = store.add_bytes(hold, noise(step, 1000)).await?;
    let large = store.add_bytes(hold, noise(step + 1_000_000, 300_000)).await?;
    let base: Vec<Listed> =
        step.checked_sub(1).map(|before| Weights::new(before).listed()).into_iter().collect();
    let weights = Weights::new(step);
    let (_, dtype, length) = weights.listed();
    let content = Content {
        name: "w".into(),
        tensor: None,
        dtype,
        length,
        base: base.first().map(|(tensor, ..)| *tensor),
    };
    let pack = store.write_pack(hold, vec![content], &base, Arc::new(weights)).await?;
    let references = [small, large, pack.root];
    let (id, bytes) = operation(step, &references);
    let mut batch = Batch::new(repository()).operation(id, bytes).sequence(step + 1);
    batch.references = references.iter().map(|blob| (*blob, 1)).collect();
    store.publish(batch).await
}

/// Checks that steps `0..` are all there, in order and whole, and returns how many.
async fn check(store: &Store) -> u64 {
    assert_eq!(store.missing(), []);
    let operations = store.operations(repository()).await.unwrap();
    for (step, (id, bytes)) in (0..).zip(&operations) {
        let blobs: Vec<Digest> =
            bytes[8..].as_chunks::<32>().0.iter().copied().map(Digest::from_bytes).collect();
        assert_eq!(&operation(step, &blobs), &(*id, bytes.clone()));
        assert!(store.read_all(blobs[0], 1 << 20).await.unwrap() == noise(step, 1000));
        assert!(store.read_all(blobs[1], 1 << 20).await.unwrap() == noise(step + 1_000_000, 300_000));
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            let weights = Weights::new(step);
            let mut out = Vec::new();
            store.write_tensors([weights.listed().0], &mut out).unwrap();
            assert!(out == weights.0);
        })
        .await
        .unwrap();
    }
    let count = operations.len() as u64;
    assert_eq!(store.sequence(repository()).await.unwrap(), count);
    count
}

/// Child of the tests below: publishes steps until it is killed or `FLAIR_TEST_STEPS` are done, and says after each
/// that it could be sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_child() {
    let Some(folder) = child_folder() else { return };
    let steps = std::env::var("FLAIR_TEST_STEPS").map_or(u64::MAX, |steps| steps.parse().unwrap());
    let sweep = Duration::from_millis(20);
    let home = Home::open(folder.join("home")).unwrap();
    let store = Store::open_with(&home, Options { sweep, ..options() }).await.unwrap();
    let mut sent = OpenOptions::new().append(true).create(true).open(folder.join("sent")).unwrap();
    let first = store.operations(repository()).await.unwrap().len() as u64;
    for step in first..first.saturating_add(steps) {
        let hold = store.hold();
        publish(&store, &hold, step).await.unwrap();
        // In one write.
        sent.write_all(format!("{step}\n").as_bytes()).unwrap();
        drop(hold);
    }
    store.close().await;
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Kills the child when it enters `phase`, and says in which it was.
fn kill_in(phase: &str, log: &Path, mut child: Child) -> String {
    let deadline = Instant::now() + Duration::from_mins(1);
    while lines(log).last().is_none_or(|last| last != phase) {
        assert!(Instant::now() < deadline, "the child does not enter {phase}");
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        std::thread::sleep(Duration::from_micros(300));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines(log).pop().unwrap()
}

#[test]
fn a_kill_at_any_instant_loses_nothing_that_was_sent() {
    let folder = tempdir().unwrap();
    let log = folder.path().join("phases");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let phases = ["blobs", "sync", "commit", "done"];
    let mut hits: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0.. {
        let rare = phases.iter().min_by_key(|phase| hits.get(**phase).copied().unwrap_or(0)).unwrap();
        if round >= 50 && hits.get(*rare).copied().unwrap_or(0) >= 5 {
            break;
        }
        assert!(round < 200, "phases hit: {hits:?}");
        fs::write(&log, "").unwrap();
        let child = child("faults::publishing_child", folder.path(), &[])
            .env("FLAIR_PHASE_LOG", &log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        *hits.entry(kill_in(rare, &log, child)).or_default() += 1;
        runtime.block_on(async {
            let home = Home::open(folder.path().join("home")).unwrap();
            let store = Store::open_with(&home, options()).await.unwrap();
            let sent = lines(&folder.path().join("sent")).len() as u64;
            // All of it every tenth time: it takes as long as there is much.
            let kept = if round % 10 == 0 {
                assert_eq!(store.verify().await.unwrap(), []);
                check(&store).await
            } else {
                assert_eq!(store.missing(), []);
                store.operations(repository()).await.unwrap().len() as u64
            };
            assert!(kept >= sent, "{sent} were sent and {kept} kept");
            assert!(kept <= sent + 1, "one at most was kept and not yet sent");
            // What was kept and not sent is sent now.
            let mut file =
                OpenOptions::new().append(true).create(true).open(folder.path().join("sent")).unwrap();
            (sent..kept).for_each(|step| writeln!(file, "{step}").unwrap());
            store.close().await;
        });
    }
    runtime.block_on(async {
        let home = Home::open(folder.path().join("home")).unwrap();
        let store = Store::open_with(&home, options()).await.unwrap();
        store.sweep().await.unwrap();
        let kept = check(&store).await;
        println!("{kept} steps kept, killed in {hits:?}");
        // Nothing is left of what was cut off.
        assert_eq!(fs::read_dir(store.folder().join("incoming")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(store.folder().join("blobs/temp")).unwrap().count(), 0);
    });
}

#[test]
fn data_then_blobs_then_operation_then_send_reach_the_disk_in_this_order() {
    let folder = tempdir().unwrap();
    let trace = folder.path().join("trace");
    let calls = "trace=fsync,fdatasync,write";
    let wrapper = ["strace", "-f", "-y", "-qq", "-e", calls, "-o", trace.to_str().unwrap()];
    let status = child("faults::publishing_child", folder.path(), &wrapper)
        .env("FLAIR_TEST_STEPS", "3")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    // A call that another thread interrupts has two lines: it has ended at the second, which does not say its file.
    let mut pending: BTreeMap<String, String> = BTreeMap::new();
    let mut events = Vec::new();
    for line in lines(&trace) {
        let thread = line.split_whitespace().next().unwrap_or_default().to_owned();
        if line.contains("<unfinished") {
            pending.insert(thread, line);
            continue;
        }
        let call = if line.contains("resumed>") { pending.remove(&thread).unwrap_or_default() } else { line };
        let sync = call.contains("sync(");
        events.push(match () {
            () if sync && (call.contains(".data>") || call.contains(".obao4>")) => "data",
            () if sync && call.contains("/blobs/data>") => "folder",
            () if sync && call.contains("/blobs.db>") => "blobs",
            () if sync && call.contains("/operations.db>") => "operation",
            () if call.contains("write(") && call.contains("/sent>") => "send",
            () => continue,
        });
    }
    let sends: Vec<usize> =
        events.iter().enumerate().filter(|(_, event)| **event == "send").map(|(place, _)| place).collect();
    assert_eq!(sends.len(), 3, "{events:?}");
    let mut start = 0;
    for send in sends {
        let step = &events[start..send];
        let first = |event| step.iter().position(|found| *found == event);
        let last = |event| step.iter().rposition(|found| *found == event);
        let (data, folder) = (last("data").unwrap(), last("folder").unwrap());
        let after =
            |place: usize, event| step[place..].iter().position(|found| *found == event).map(|at| place + at);
        let blobs = after(folder, "blobs").or(last("blobs")).unwrap();
        let operation = last("operation").unwrap();
        assert!(data < folder && folder < operation && blobs < operation, "{step:?}");
        assert!(first("data").unwrap() < operation);
        start = send + 1;
    }
}

/// Child of the test below, on a disk of 96 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_child() {
    let Some(folder) = child_folder() else { return };
    if std::env::var_os("FLAIR_TEST_DISK").is_none() {
        return;
    }
    let filler = folder.join("filler");
    let fill = |leave: u64| {
        let mut file = OpenOptions::new().append(true).create(true).open(&filler).unwrap();
        let disk = rustix::fs::statvfs(&folder).unwrap();
        let mut left = (disk.f_bavail * disk.f_frsize).saturating_sub(leave);
        while left > 0 {
            let length = left.min(1 << 20);
            if file.write_all(&vec![1; length as usize]).is_err() {
                break;
            }
            left -= length;
        }
    };
    let clear = || drop(fs::remove_file(&filler));
    let is_full = |error: &StoreError| matches!(error, StoreError::Full { .. });

    // With a margin nothing is begun that would not fit.
    let home = Home::open(folder.join("home")).unwrap();
    let store = Store::open_with(&home, Options { margin: 64 << 20, ..options() }).await.unwrap();
    let hold = store.hold();
    publish(&store, &hold, 0).await.unwrap();
    fill(60 << 20);
    let error = publish(&store, &hold, 1).await.unwrap_err();
    assert!(is_full(&error), "{error}");
    assert!(error.to_string().contains("Free some space and try again"), "{error}");
    assert_eq!(check(&store).await, 1);
    clear();
    publish(&store, &hold, 1).await.unwrap();
    drop(hold);
    store.close().await;
    drop(store);

    // Without one, the disk fills up in the middle of things.
    let store = Store::open_with(&home, options()).await.unwrap();
    let mut step = 2;
    let mut failures = BTreeMap::new();
    for leave in [0, 4 << 10, 64 << 10, 200 << 10, 400 << 10, 600 << 10, 800 << 10, 1000 << 10, 1 << 20] {
        fill(leave);
        let hold = store.hold();
        let mut number = 0;
        // Blobs inside the database, blobs with files, and operations, until the disk is full.
        let error = loop {
            number += 1;
            let hold = store.hold();
            let small = noise(number << 32 | leave, 10_000);
            let large = noise(number << 33 | leave, 300_000);
            let added = async {
                store.add_bytes(&hold, small.clone()).await?;
                store.publish(Batch::new(repository()).fact(format!("{leave}/{number}"), small)).await?;
                store.add_bytes(&hold, large).await
            };
            if let Err(error) = added.await {
                break error;
            }
            assert!(number < 1000, "the disk does not get full");
        };
        assert!(is_full(&error), "{leave} bytes left: {error}");
        *failures.entry(number).or_insert(0) += 1;
        let error = publish(&store, &hold, step).await.err();
        assert!(error.as_ref().is_none_or(is_full), "{leave} bytes left: {error:?}");
        let done = error.is_none();
        // What is here can still be read, and after freeing space the same store goes on.
        clear();
        if !done {
            publish(&store, &hold, step).await.unwrap();
        }
        step += 1;
        assert_eq!(check(&store).await, step);
        // The facts that were published before the disk was full are there.
        let facts = store.facts(repository(), &format!("{leave}/")).await.unwrap().len() as u64;
        assert!(facts + 1 >= number, "{facts} facts are left of {number}");
        drop(hold);
        store.sweep().await.unwrap();
        assert_eq!(fs::read_dir(store.folder().join("blobs/temp")).unwrap().count(), 0, "leftovers");
    }
    println!("full after {failures:?} rounds");
    assert_eq!(store.verify().await.unwrap(), []);
    store.close().await;
    drop(store);
    let store = Store::open_with(&home, options()).await.unwrap();
    assert_eq!(check(&store).await, step);
    File::create(folder.join("passed")).unwrap();
}

#[test]
fn after_space_is_freed_the_same_store_goes_on() {
    let folder = tempdir().unwrap();
    // A namespace of its own for the small disk, which goes with the child.
    let script = format!(
        "mount -t tmpfs -o size=96m none {0} && \"$@\" && cp {0}/passed {0}.passed",
        folder.path().display()
    );
    let passed = PathBuf::from(format!("{}.passed", folder.path().display()));
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"];
    let output = child("faults::full_disk_child", folder.path(), &wrapper)
        .env("FLAIR_TEST_DISK", "small")
        .output()
        .unwrap();
    let text =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    fs::remove_file(passed).unwrap();
}
