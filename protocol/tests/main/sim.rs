//! Sets become equal whatever happens, over many seeds.
//!
//! `FLAIR_SCHEDULES=10 cargo test -p flair-protocol --test main sim` runs ten times as many.

use std::sync::atomic::{AtomicU64, Ordering};

use flair_protocol::sim::{Failure, Options, Report, run};

/// Runs `count` seeds from `first` on all cores until one fails; all reports, or the first failure by seed.
fn schedules(first: u64, count: u64, options: Options) -> Result<Vec<Report>, Failure> {
    let times = std::env::var("FLAIR_SCHEDULES").ok().and_then(|times| times.parse().ok());
    let count = count * times.unwrap_or(1);
    let next = AtomicU64::new(first);
    let worker = || {
        let mut results = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return results;
            }
            let result = run(seed, options);
            if result.is_err() {
                // Whoever runs a lower seed still finishes it.
                next.store(first + count, Ordering::Relaxed);
            }
            results.push((seed, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    results.sort_by_key(|(seed, _)| *seed);
    results.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn a_thousand_schedules_end_in_equal_sets() {
    let reports = match schedules(0, 1_200, Options::default()) {
        Ok(reports) => reports,
        Err(failure) => panic!("{failure}"),
    };
    let sum = |field: fn(&Report) -> usize| reports.iter().map(field).sum::<usize>();
    let slowest = reports.iter().map(|report| report.settled).max();
    println!(
        "{} operations, {} aggregates, {} crashes, {} partitions, {} full disks, {} messages lost, settled within {slowest:?} ms",
        sum(|report| report.operations),
        sum(|report| report.aggregates),
        sum(|report| report.crashes),
        sum(|report| report.partitions),
        sum(|report| report.full),
        sum(|report| report.lost),
    );
    assert!(sum(|report| report.aggregates) > 1_000);
    // The worlds were as rough as they are meant to be.
    assert!(sum(|report| report.crashes) > 3_000 && sum(|report| report.full) > 1_000);
    assert!(sum(|report| report.partitions) > 3_000 && sum(|report| report.lost) > 10_000);
}

#[test]
fn without_the_wait_for_the_disk_a_thousand_schedules_fail() {
    let options = Options { wait_for_stored: false, ..Options::default() };
    let failure =
        schedules(0, 1_000, options).expect_err("nothing noticed that nodes forget what they signed");
    println!("{failure}");
}

#[test]
fn a_failing_seed_fails_again_the_same_way() {
    let options = Options { wait_for_stored: false, ..Options::default() };
    let failure = schedules(0, 100, options).expect_err("100 seeds are enough to fail one");
    assert_eq!(run(failure.seed, options), Err(failure));
    assert_eq!(run(1, Options::default()), run(1, Options::default()));
}

#[test]
fn sets_become_equal_through_the_encoding_too() {
    let options = Options { nodes: 3, steps: 40, wire: true, ..Options::default() };
    if let Err(failure) = schedules(1_000_000, 40, options) {
        panic!("{failure}");
    }
}

#[test]
fn many_nodes_end_in_equal_sets() {
    let options = Options { nodes: 12, steps: 80, ..Options::default() };
    if let Err(failure) = schedules(2_000_000, 20, options) {
        panic!("{failure}");
    }
}

#[test]
fn honest_nodes_end_in_equal_sets_among_liars_and_never_blame_one_another() {
    let options = Options { nodes: 3, steps: 30, liars: 2, ..Options::default() };
    match schedules(3_000_000, 200, options) {
        Ok(reports) => assert!(reports.iter().map(|report| report.lies).sum::<usize>() > 10_000),
        Err(failure) => panic!("{failure}"),
    }
}
