//! Promises that hold when a disk gets full: nothing is half done, and freeing space is enough.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flair_node::api::types::{Aggregated, Pushed, Status};
use flair_testnet::cluster::{Flair, Ran, Start};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use tempfile::tempdir;
use tokio::task::block_in_place;

use crate::people::{PATIENCE, People, publish, train, until};
use crate::phases::Phases;

/// Says to a test that it runs in a child process that may mount disks, and in which folder.
const CHILD: &str = "FLAIR_TEST_DISK";
/// Bytes of ben's disk.
const SIZE: u64 = 192 << 20;
/// Bytes that must be left before anything is begun.
const MARGIN: u64 = 64 << 20;

/// A disk whose size can be changed at once, under whoever writes to it.
struct Disk(PathBuf);

impl Disk {
    fn resize(&self, size: u64) -> rustix::io::Result<()> {
        mount_remount(&self.0, MountFlags::empty(), format!("size={size}").as_str())
    }

    /// Makes it so small that `bytes` are free.
    fn leave(&self, bytes: u64) {
        loop {
            let disk = rustix::fs::statvfs(&self.0).unwrap();
            let used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize;
            match self.resize(used + bytes) {
                // More was written meanwhile.
                Err(Errno::INVAL) => {}
                other => return other.unwrap(),
            }
        }
    }

    fn free(&self) {
        self.resize(SIZE).unwrap();
    }
}

/// Whether a command ended well. Else it says that the disk is full, and nothing else.
fn went(ran: &Ran) -> bool {
    let full = ran.status.code() == Some(7) && ran.stderr.to_lowercase().contains("space");
    assert!(ran.status.success() || full, "{ran:?}");
    !full
}

/// Whether a command found that it had been done already.
fn done(ran: &Ran, words: &str) -> bool {
    ran.status.code() == Some(5) && ran.stderr.contains(words)
}

/// Runs a command whose disk gets full once the node has entered a phase for the n-th time, and frees it afterwards.
async fn squeezed(
    flair: &Flair,
    disk: &Disk,
    phases: &mut Phases,
    (phase, nth): (&str, usize),
    left: u64,
    arguments: &[&str],
) -> Ran {
    phases.clear();
    disk.leave(MARGIN + (1 << 20));
    let running = tokio::spawn({
        let (flair, arguments) =
            (flair.clone(), arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            flair.run(&arguments).await.unwrap()
        }
    });
    block_in_place(|| {
        while phases.entered(phase) < nth && !running.is_finished() {
            std::thread::sleep(Duration::from_micros(50));
        }
        disk.leave(left);
    });
    let ran = running.await.unwrap();
    disk.free();
    ran
}

/// Child of the test below. Ben's home, log and working folder are on a disk of their own.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_child() {
    let Some(top) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let disk = Disk(top.join("ben"));
    let mut people = People::start(&top).await;
    let mut phases = Phases::new(&top, "ben");
    let how = Start { environment: vec![phases.environment()], ..Start::default() };
    people.join("ben", &how).await;
    let (flair, folder) = (people.flair("ben"), people.folder("ben"));
    let commit = |step: u32| {
        train(&folder, step);
        [
            "commit".to_owned(),
            "-m".into(),
            format!("step {step}"),
            "--examples".into(),
            "500".into(),
            "--json".into(),
        ]
    };
    let drafts = async || {
        let status: Status = flair.json(&["status"]).await.unwrap();
        status.work.unwrap().drafts.len()
    };
    let mut published = Vec::new();

    // Where less than the margin is left nothing is begun.
    let arguments = commit(1);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    disk.leave(MARGIN / 2);
    assert!(!went(&flair.run(&arguments).await.unwrap()));
    assert_eq!(drafts().await, 0);
    disk.free();
    flair.ok(&arguments).await.unwrap();
    disk.leave(MARGIN / 2);
    assert!(!went(&flair.run(&["push", "--json"]).await.unwrap()));
    assert_eq!(drafts().await, 1);
    disk.free();
    published.push(flair.json::<Pushed>(&["push"]).await.unwrap().commit.unwrap());
    disk.leave(MARGIN / 2);
    let mark = log(&people, "ben").len();
    published.push(publish(people.client("ana"), people.folder("ana"), 2).await);
    until("ben's node says that its disk is full", || async {
        log(&people, "ben")[mark..].contains("not enough space")
    })
    .await;
    assert!(!people.holds("ben", &published[1]).await);
    disk.free();
    until("the update is fetched", || people.holds("ben", &published[1])).await;
    disk.leave(MARGIN / 2);
    assert!(!went(&flair.run(&["aggregate", "--json"]).await.unwrap()));
    disk.free();
    published.push(flair.json::<Aggregated>(&["aggregate"]).await.unwrap().commit);

    // And in the middle of things, wherever that is.
    let mut full = [0; 4];
    let mut step = 2;
    for left in [0, 4 << 10, 64 << 10, 256 << 10] {
        for place in 0..4 {
            step += 1;
            let arguments = commit(step);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let places = [("", 0), ("blobs", 1), ("sync", 1), ("commit", 1)];
            let ran = squeezed(&flair, &disk, &mut phases, places[place], left, &arguments).await;
            if !went(&ran) {
                full[0] += 1;
                let there = drafts().await;
                let again = flair.run(&arguments).await.unwrap();
                assert!(
                    if there == 0 { went(&again) } else { done(&again, "nothing to commit") },
                    "{again:?}"
                );
            }
            assert_eq!(drafts().await, 1);

            let places = [("", 0), ("commit", 1), ("done", 1), ("commit", 2)];
            let mut ran =
                squeezed(&flair, &disk, &mut phases, places[place], left, &["push", "--json"]).await;
            if !went(&ran) {
                full[1] += 1;
                ran = flair.run(&["push", "--json"]).await.unwrap();
            }
            published.push(if done(&ran, "nothing to push") {
                flair.json::<Status>(&["status"]).await.unwrap().work.unwrap().base
            } else {
                ran.ok().unwrap().json::<Pushed>().unwrap().commit.unwrap()
            });

            let places = [("commit", 1), ("blobs", 1), ("sync", 1), ("commit", 2)];
            phases.clear();
            disk.leave(MARGIN + (1 << 20));
            let pushing = tokio::spawn(publish(people.client("ana"), people.folder("ana"), 1000 + step));
            block_in_place(|| {
                let (phase, nth) = places[place];
                let start = Instant::now();
                while phases.entered(phase) < nth {
                    assert!(start.elapsed() < PATIENCE, "no fetch began");
                    std::thread::sleep(Duration::from_micros(50));
                }
                disk.leave(left);
            });
            let update = pushing.await.unwrap();
            // Time to fail; if it does not, the fetch was faster.
            tokio::time::sleep(Duration::from_millis(200)).await;
            full[2] += u32::from(!people.holds("ben", &update).await);
            disk.free();
            until("the update is fetched", || people.holds("ben", &update)).await;
            published.push(update);

            let places = [("", 0), ("blobs", 1), ("sync", 1), ("commit", 1)];
            let mut ran =
                squeezed(&flair, &disk, &mut phases, places[place], left, &["aggregate", "--json"]).await;
            if !went(&ran) {
                full[3] += 1;
                ran = flair.run(&["aggregate", "--json"]).await.unwrap();
            }
            published.push(if done(&ran, "") {
                flair.json::<Status>(&["status"]).await.unwrap().head.unwrap()
            } else {
                ran.ok().unwrap().json::<Aggregated>().unwrap().commit
            });
        }
    }
    println!(
        "{step} steps; the disk got full in {} commits, {} pushes, {} fetches and {} aggregates",
        full[0], full[1], full[2], full[3]
    );
    assert!(people.node("ben").is_running());
    let operations = people.agree(&["ana", "ben"], &published).await;
    assert_eq!(people.audit(&["ana", "ben"]).await as u64, operations);
    std::fs::write(top.join("passed"), "").unwrap();
}

fn log(people: &People, name: &str) -> String {
    std::fs::read_to_string(people.top.join(name).join("log")).unwrap_or_default()
}

#[test]
fn after_space_is_freed_commit_fetch_and_aggregate_go_on() {
    let top = tempdir().unwrap();
    std::fs::create_dir(top.path().join("ben")).unwrap();
    // A namespace of its own for the small disk, which goes with the child.
    let script = format!("mount -t tmpfs -o size={SIZE} none {}/ben && exec \"$@\"", top.path().display());
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::full_disk_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, top.path())
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", said(&output.stdout));
    assert!(output.status.success(), "{}", said(&output.stderr));
    assert!(Path::new(&top.path().join("passed")).exists());
}
