//! Promises that hold when a process is killed in the middle of a publish: nothing that was published is lost, and
//! nobody signs two operations with one number.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use flair_node::api::types::{AggregateRequest, Aggregated, Code, Committed, Moved, Problem, Pushed, Status};
use flair_testnet::cluster::{Flair, Ran, Start};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::tempdir;
use tokio::process::Child;
use tokio::task::block_in_place;

use crate::people::{People, publish, train, until};
use crate::phases::Phases;

/// What is random in here follows from it.
const SEED: u64 = 20_260_412;
/// A kill in each place as often as this, at least.
const EACH: u32 = 5;

/// A part of what a process does: from a phase that is entered for the n-th time to the next place.
struct Place {
    name: &'static str,
    phase: &'static str,
    nth: usize,
    /// About how long it takes.
    takes: Duration,
    hits: u32,
}

/// The places of one kind of work in the order of time, and how often each was hit. The first begins with the work.
struct Places {
    list: Vec<Place>,
    random: ChaCha8Rng,
    missed: u32,
}

/// A kill to come: in which place, and how far into it.
struct Strike {
    place: usize,
    after: Duration,
}

impl Places {
    fn new(list: &[(&'static str, &'static str, usize, u64)]) -> Self {
        let list: Vec<Place> = list
            .iter()
            .map(|&(name, phase, nth, micros)| Place {
                name,
                phase,
                nth,
                takes: Duration::from_micros(micros),
                hits: 0,
            })
            .collect();
        let random = ChaCha8Rng::seed_from_u64(SEED + list.len() as u64);
        Self { list, random, missed: 0 }
    }

    fn kills(&self) -> u32 {
        self.list.iter().map(|place| place.hits).sum()
    }

    fn done(&self) -> bool {
        self.list.iter().all(|place| place.hits >= EACH)
    }

    /// One in a place that was hit least.
    fn draw(&mut self) -> Strike {
        let least = self.list.iter().map(|place| place.hits).min().unwrap();
        let places: Vec<usize> = (0..self.list.len()).filter(|at| self.list[*at].hits == least).collect();
        let place = places[self.random.random_range(0..places.len())];
        Strike { place, after: self.list[place].takes.mul_f64(self.random.random()) }
    }

    /// Kills the process when it is time, and notes where it was; false when that time did not come while `waiting`.
    fn strike(&mut self, phases: &mut Phases, pid: u32, mut waiting: impl FnMut() -> bool) -> bool {
        let strike = self.draw();
        let (phase, nth) = (self.list[strike.place].phase, self.list[strike.place].nth);
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        let start = Instant::now();
        while phases.entered(phase) < nth {
            if !waiting() || start.elapsed() > Duration::from_secs(20) {
                self.missed += 1;
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let entered = Instant::now();
        while entered.elapsed() < strike.after {
            std::thread::sleep(Duration::from_micros(20));
        }
        if !waiting() || kill_process(pid, Signal::KILL).is_err() {
            self.missed += 1;
            return false;
        }
        true
    }

    /// Notes where the process was when it was killed.
    fn hit(&mut self, phases: &mut Phases) {
        let hit = self.list.iter_mut().rfind(|place| phases.entered(place.phase) >= place.nth);
        hit.unwrap().hits += 1;
    }

    fn told(&self, what: &str) -> String {
        let hits: Vec<String> =
            self.list.iter().map(|place| format!("{} {}", place.name, place.hits)).collect();
        let (kills, hits) = (self.kills(), hits.join(", "));
        format!("{what}: {kills} kills ({hits}), {} came too late, seed {SEED}", self.missed)
    }
}

/// Whether a command that was started still runs.
fn runs(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

fn answer<T: serde::de::DeserializeOwned>(output: &Output) -> T {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether a command found nothing left to do.
fn nothing(ran: &Ran, words: &str) -> bool {
    ran.status.code() == Some(5) && ran.stderr.contains(words)
}

/// Starts a command that tells its phases, if it does the work itself.
fn start(flair: &Flair, phases: &mut Phases, arguments: &[&str]) -> Child {
    phases.clear();
    let mut command = flair.command(arguments);
    let (name, value) = phases.environment();
    command.env(name, value).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A command's process is killed again and again; the next command goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_commit_or_push_loses_nothing() {
    let top = tempdir().unwrap();
    let mut people = People::start(top.path()).await;
    people.join("ben", &Start::default()).await;
    people.node("ben").stop().await.unwrap();
    let (folder, flair) = (people.folder("ben"), people.flair("ben"));
    let mut phases = Phases::new(top.path(), "ben");
    let mut commits = Places::new(&[
        ("begin", "", 0, 150_000),
        ("blobs", "blobs", 1, 150),
        ("sync", "sync", 1, 3_000),
        ("commit", "commit", 1, 1_000),
        ("done", "done", 1, 5_000),
    ]);
    let mut pushes =
        Places::new(&[("begin", "", 0, 150_000), ("commit", "commit", 1, 1_000), ("done", "done", 1, 5_000)]);
    let mut published: Vec<String> = Vec::new();
    let (mut step, mut resets) = (0, 0);
    while !commits.done() || !pushes.done() {
        step += 1;
        assert!(step < 120, "{}", commits.told("not all places hit"));
        train(&folder, step);
        let message = format!("step {step}");
        let commit = ["commit", "-m", &message, "--examples", "500", "--json"];

        if commits.done() {
            flair.ok(&commit).await.unwrap();
        } else {
            let mut child = start(&people.flair("ben"), &mut phases, &commit);
            let pid = child.id().unwrap();
            commits.strike(&mut phases, pid, || runs(&mut child));
            let output = child.wait_with_output().await.unwrap();
            if !output.status.success() {
                commits.hit(&mut phases);
            }
            let status: Status = flair.json(&["status"]).await.unwrap();
            assert_eq!(status.warnings, [] as [&str; 0]);
            let drafts = status.work.unwrap().drafts;
            assert!(drafts.iter().all(|draft| draft.message == message), "{drafts:?}");
            assert!(!output.status.success() || drafts.len() == 1, "a draft that was told of is gone");
            // Committed again, it is there once.
            let again = flair.run(&commit).await.unwrap();
            match drafts.len() {
                0 => drop(again.ok().unwrap()),
                _ => assert!(nothing(&again, "nothing to commit"), "{again:?}"),
            }
        }

        if pushes.done() {
            published.push(flair.json::<Pushed>(&["push"]).await.unwrap().commit.unwrap());
            continue;
        }
        let mut child = start(&people.flair("ben"), &mut phases, &["push", "--json"]);
        let pid = child.id().unwrap();
        pushes.strike(&mut phases, pid, || runs(&mut child));
        let output = child.wait_with_output().await.unwrap();
        if output.status.success() {
            published.push(answer::<Pushed>(&output).commit.unwrap());
            continue;
        }
        pushes.hit(&mut phases);
        if step.is_multiple_of(3) {
            // Whether it was published or not: these drafts are dropped, and others take their place.
            resets += 1;
            flair.ok(&["reset"]).await.unwrap();
            train(&folder, 1000 + step);
            let _: Committed = flair.json(&["commit", "-m", "instead", "--examples", "500"]).await.unwrap();
            published.push(flair.json::<Pushed>(&["push"]).await.unwrap().commit.unwrap());
            continue;
        }
        let again = flair.run(&["push", "--json"]).await.unwrap();
        if nothing(&again, "nothing to push") {
            // Killed after everything was written: the folder stands on what was published.
            let status: Status = flair.json(&["status"]).await.unwrap();
            published.push(status.work.unwrap().base);
        } else {
            published.push(again.ok().unwrap().json::<Pushed>().unwrap().commit.unwrap());
        }
    }
    println!("{}", commits.told("commit"));
    println!("{}", pushes.told("push"));
    let distinct: BTreeSet<_> = published.iter().collect();
    assert_eq!(distinct.len(), published.len(), "an update was published twice");

    people.node("ben").start(&Start::default()).await.unwrap();
    let operations = people.agree(&["ana", "ben"], &published).await;
    assert_eq!(people.audit(&["ana", "ben"]).await as u64, operations);
    println!("{operations} operations, {} updates, {resets} after a reset", published.len());
}

/// Notes where a person's node was when it was killed, and starts it again.
async fn restart(people: &mut People, name: &str, how: &Start, places: &mut Places, phases: &mut Phases) {
    while people.node(name).is_running() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    places.hit(phases);
    people.node(name).start(how).await.unwrap();
}

/// A node is killed again and again while it gets what another published; started again it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_a_fetch_loses_nothing() {
    let top = tempdir().unwrap();
    let mut people = People::start(top.path()).await;
    let mut phases = Phases::new(top.path(), "ben");
    let how = Start { environment: vec![phases.environment()], ..Start::default() };
    people.join("ben", &how).await;
    let mut places = Places::new(&[
        ("begin", "", 0, 100_000),
        ("operations", "commit", 1, 1_000),
        ("transfer", "done", 1, 30_000),
        ("blobs", "blobs", 1, 150),
        ("sync", "sync", 1, 3_000),
        ("commit", "commit", 2, 1_000),
        ("done", "done", 2, 5_000),
    ]);
    let mut published = Vec::new();
    let mut step = 0;
    while !places.done() {
        step += 1;
        assert!(step < 120, "{}", places.told("not all places hit"));
        phases.clear();
        let pid = people.node("ben").pid().unwrap();
        let pushing = tokio::spawn(publish(people.client("ana"), people.folder("ana"), step));
        let killed = block_in_place(|| places.strike(&mut phases, pid, || true));
        published.push(pushing.await.unwrap());
        if killed {
            restart(&mut people, "ben", &how, &mut places, &mut phases).await;
        }
        let last = published.last().unwrap();
        until("the update is fetched", || people.holds("ben", last)).await;
    }
    println!("{}", places.told("fetch"));
    let operations = people.agree(&["ana", "ben"], &published).await;
    assert_eq!(people.audit(&["ana", "ben"]).await as u64, operations);
}

/// A node is killed while it clones; started again it goes on, and the next command gives the working folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_a_clone_leaves_nothing_in_the_way() {
    let top = tempdir().unwrap();
    let mut people = People::start(top.path()).await;
    let ticket = people.ticket(100).await;
    let mut phases = Phases::new(top.path(), "clones");
    let how = Start { environment: vec![phases.environment()], ..Start::default() };
    let mut places = Places::new(&[
        ("begin", "", 0, 10_000),
        ("operations", "commit", 1, 40_000),
        ("model", "blobs", 1, 300),
        ("folder", "sync", 1, 25_000),
    ]);
    let (mut number, mut finished) = (0, 0);
    while !places.done() {
        number += 1;
        assert!(number < 60, "{}", places.told("clone"));
        let name = &format!("person{number}");
        people.add(name);
        people.node(name).start(&how).await.unwrap();
        let clone = ["clone", &ticket, "work", "--json"];
        let mut child = start(&people.outside(name), &mut phases, &clone);
        let pid = people.node(name).pid().unwrap();
        let killed = block_in_place(|| places.strike(&mut phases, pid, || runs(&mut child)));
        let output = child.wait_with_output().await.unwrap();
        if killed {
            restart(&mut people, name, &how, &mut places, &mut phases).await;
        }
        let cloned = people.outside(name).run(&clone).await.unwrap();
        if nothing(&cloned, "is a working folder already") {
            finished += 1;
            people.flair(name).ok(&["restore"]).await.unwrap();
        } else {
            assert!(!output.status.success(), "what was cloned is gone");
            cloned.ok().unwrap();
        }
        let model = |person: &str| fs::read(people.folder(person).join("model.safetensors")).unwrap();
        train(top.path(), 0);
        assert!(model(name) == fs::read(top.path().join("model.safetensors")).unwrap());
        let status: Status = people.flair(name).json(&["status"]).await.unwrap();
        assert_eq!((status.role.as_str(), status.warnings), ("contributor", Vec::new()));
        people.agree(&["ana", name], &[]).await;
        people.node(name).stop().await.unwrap();
    }
    println!("{}", places.told("clone"));
    println!("{finished} folders were there already");
    let name = &format!("person{number}");
    people.node(name).start(&how).await.unwrap();
    people.agree(&["ana", name], &[]).await;
    people.audit(&["ana", name]).await;
}

/// A node is killed again and again while it aggregates; started again, it or another goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_an_aggregate_loses_nothing() {
    let top = tempdir().unwrap();
    let mut people = People::start(top.path()).await;
    let mut phases = Phases::new(top.path(), "ben");
    let how = Start { environment: vec![phases.environment()], ..Start::default() };
    people.join("ben", &how).await;
    let mut places = Places::new(&[
        ("begin", "", 0, 60_000),
        ("blobs", "blobs", 1, 150),
        ("sync", "sync", 1, 3_000),
        ("commit", "commit", 1, 1_000),
        ("done", "done", 1, 5_000),
    ]);
    let mut published = Vec::new();
    let mut step = 0;
    while !places.done() {
        step += 1;
        assert!(step < 120, "{}", places.told("not all places hit"));
        let update = publish(people.client("ana"), people.folder("ana"), step).await;
        until("the update is fetched", || people.holds("ben", &update)).await;
        published.push(update);
        let pid = people.node("ben").pid().unwrap();
        let mut child = start(&people.flair("ben"), &mut phases, &["aggregate", "--json"]);
        let killed = block_in_place(|| places.strike(&mut phases, pid, || runs(&mut child)));
        let output = child.wait_with_output().await.unwrap();
        if killed {
            restart(&mut people, "ben", &how, &mut places, &mut phases).await;
        }
        let told = output.status.success().then(|| answer::<Aggregated>(&output).commit);
        let request =
            AggregateRequest { place: people.place("ben"), branch: None, dry_run: false, flush: false };
        let answer: Result<Aggregated, Problem> = people.client("ben").post("/v1/aggregate", &request).await;
        let made = match answer {
            Ok(made) => {
                assert!(told.is_none(), "{told:?} was made, and then {}", made.commit);
                made.commit
            }
            Err(problem) if problem.code == Code::Conflict => {
                let status: Status = people.flair("ben").json(&["status"]).await.unwrap();
                status.head.unwrap()
            }
            Err(problem) => panic!("{problem}"),
        };
        assert!(told.is_none_or(|told| told == made));
        until("the aggregate is checked", || people.holds("ana", &made)).await;
        let pulled: Moved = people.flair("ana").json(&["pull"]).await.unwrap();
        assert_eq!(pulled.to, made);
        published.push(made);
    }
    println!("{}", places.told("aggregate"));
    let operations = people.agree(&["ana", "ben"], &published).await;
    assert_eq!(people.audit(&["ana", "ben"]).await as u64, operations);
}
