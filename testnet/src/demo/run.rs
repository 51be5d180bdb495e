//! The demo from start to end: come together, train, settle, check.

use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::contributor::{Contributor, Fault, Progress};
use super::leak::{Rows, captured, plant};
use super::start::start;
use super::watch::{LOOK, Standing, Watch, standings, updates};
use super::{AGGREGATES, DemoError, SEED, WHOLE, WITHIN, say, short};
use crate::cluster::{Node, Programs};
use crate::digits::{self, Image, Split};
use crate::trainer::{Network, TrainerError};

/// What happens to whom: contributor, fault, and aggregates before it.
const FAULTS: [(usize, Fault, usize); 2] = [(1, Fault::Killed, 4), (3, Fault::CutOff, 9)];
/// How long training may take.
const TRAINING: Duration = Duration::from_secs(150);
/// How long the nodes may take to agree after that.
const AGREE: Duration = Duration::from_mins(1);
/// How long nothing may change before the nodes count as settled.
const QUIET: Duration = Duration::from_secs(3);

/// Runs the demo with its nodes' homes and folders below `dir`.
///
/// # Errors
/// When it can't be run, or something that it promises does not hold.
pub async fn run(programs: &Programs, dir: &Path) -> Result<(), DemoError> {
    let begun = Instant::now();
    let split = super::split()?;
    let images: Vec<String> = split.contributors.iter().map(|images| images.len().to_string()).collect();
    say(&format!("images: {} by contributor, {} held out", images.join(", "), split.held_out.len()))?;
    let baseline = {
        let split = split.clone();
        tokio::task::spawn_blocking(move || baseline(&split))
    };

    let (contributors, repo) = start(programs, dir, &split).await?;
    let nodes: Vec<&Node> = contributors.iter().map(|contributor| &contributor.node).collect();
    let mut watch = Watch::new(&nodes, &repo, dir, split.held_out.clone()).await?;
    let contributors = train(contributors, &mut watch).await?;
    let nodes: Vec<&Node> = contributors.iter().map(|contributor| &contributor.node).collect();
    let standings = settle(&nodes, &mut watch).await?;
    table(&nodes, &standings)?;

    let mut failed = Vec::new();
    failed.extend(agreement(&standings));
    failed.extend(accounted(&contributors).await?);
    let (alone, pooled) = baseline.await.map_err(DemoError::broken)??;
    failed.extend(accuracy(watch.accuracy(), pooled, &alone)?);
    failed.extend(leaked(contributors, &split).await?);
    say(&format!("\n{} s", begun.elapsed().as_secs()))?;
    if failed.is_empty() {
        return say("everything holds");
    }
    Err(DemoError::Failed(failed))
}

/// Accuracy of the same network trained to the end on each contributor's images alone, and on all together.
fn baseline(split: &Split) -> Result<(Vec<f64>, f64), TrainerError> {
    let whole = |images: &[Image]| {
        let mut network = Network::init(SEED);
        network.train(images, &WHOLE)?;
        Ok(network.accuracy(&split.held_out))
    };
    let alone = split.contributors.iter().map(|images| whole(images)).collect::<Result<_, TrainerError>>()?;
    Ok((alone, whole(&split.pooled())?))
}

/// Lets everybody train until there are enough aggregates.
async fn train(contributors: Vec<Contributor>, watch: &mut Watch) -> Result<Vec<Contributor>, DemoError> {
    let (sender, receiver) = watch::channel(Progress::default());
    let mut tasks = JoinSet::new();
    for (index, contributor) in contributors.into_iter().enumerate() {
        let fault = FAULTS.iter().find(|(who, ..)| *who == index).map(|(_, fault, after)| (*fault, *after));
        let receiver = receiver.clone();
        tasks.spawn(async move { (index, contributor.contribute(fault, receiver).await) });
    }
    let begun = Instant::now();
    let mut back = Vec::new();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            task = tasks.join_next() => match task {
                Some(task) => {
                    let (index, contributor) = task.map_err(DemoError::broken)?;
                    back.push((index, contributor?));
                }
                None => break,
            },
            _ = tick.tick() => {
                let aggregates = watch.look().await?;
                sender.send_replace(Progress { aggregates, done: aggregates >= AGGREGATES });
            }
        }
        if begun.elapsed() > TRAINING {
            let what = format!("{AGGREGATES} aggregates did not come about");
            return Err(DemoError::Slow { what, seconds: TRAINING.as_secs() });
        }
    }
    back.sort_by_key(|(index, _)| *index);
    Ok(back.into_iter().map(|(_, contributor)| contributor).collect())
}

/// Waits until the nodes agree and nothing changes any more, or until it is plain that they do not.
async fn settle(nodes: &[&Node], watch: &mut Watch) -> Result<Vec<Standing>, DemoError> {
    let begun = Instant::now();
    let mut last = standings(nodes).await?;
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        watch.look().await?;
        let now = standings(nodes).await?;
        if now != last || agreement(&now).is_some() {
            since = Instant::now();
        }
        last = now;
        if since.elapsed() > QUIET || begun.elapsed() > AGREE {
            return Ok(last);
        }
    }
}

fn table(nodes: &[&Node], standings: &[Standing]) -> Result<(), DemoError> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["node", "head", "model", "fingerprint", "pending"]);
    for (node, standing) in nodes.iter().zip(standings) {
        table.add_row([
            node.name(),
            standing.head.as_deref().unwrap_or("none"),
            standing.model.as_deref().unwrap_or("not run"),
            &standing.fingerprint,
            &standing.pending.to_string(),
        ]);
    }
    say(&format!("\n{table}"))
}

/// Why the nodes do not agree, if they do not.
fn agreement(standings: &[Standing]) -> Option<String> {
    let first = standings.first()?;
    let same = standings.iter().all(|standing| standing == first);
    (!same || first.model.is_none()).then(|| "the nodes do not agree on head, model and fingerprint".into())
}

/// Looks for every published update on every node.
async fn accounted(contributors: &[Contributor]) -> Result<Vec<String>, DemoError> {
    let mut failed = Vec::new();
    let (mut in_head, mut pending) = (0, 0);
    for (index, contributor) in contributors.iter().enumerate() {
        let states = updates(&contributor.node, contributor.place()).await?;
        for commit in contributors.iter().flat_map(|contributor| &contributor.pushed) {
            match states.get(commit).map(String::as_str) {
                Some("in-head") => in_head += usize::from(index == 0),
                Some("pending") => pending += usize::from(index == 0),
                other => failed.push(format!(
                    "on {}'s node update {} is {}",
                    contributor.node.name(),
                    short(commit),
                    other.unwrap_or("not known")
                )),
            }
        }
    }
    let published: usize = contributors.iter().map(|contributor| contributor.pushed.len()).sum();
    say(&format!("\n{published} updates published: {in_head} in the head, {pending} pending"))?;
    Ok(failed)
}

fn accuracy(shared: f64, pooled: f64, alone: &[f64]) -> Result<Option<String>, DemoError> {
    let alone: Vec<String> = alone.iter().map(|accuracy| format!("{accuracy:.3}")).collect();
    say(&format!("accuracy: shared {shared:.3}, pooled {pooled:.3}, alone {}", alone.join(", ")))?;
    Ok((shared < pooled - WITHIN)
        .then(|| format!("the shared model's accuracy {shared:.3} is too far below pooled {pooled:.3}")))
}

/// Stops the nodes and searches their homes for data; then plants a row and expects to find it.
async fn leaked(contributors: Vec<Contributor>, split: &Split) -> Result<Vec<String>, DemoError> {
    let mut failed = Vec::new();
    let mut contributors = contributors;
    for contributor in &mut contributors {
        contributor.node.stop().await?;
    }
    let images = digits::all()?;
    let rows = Rows::new(&images)?;
    for contributor in &contributors {
        let who = contributor.node.name();
        let search = rows.search(who, contributor.node.home()).await?;
        let found = search.in_files + search.in_tensors;
        let sent = captured(contributor.node.home());
        say(&format!(
            "{who}'s home: {} files ({} KiB, {} KiB of them messages sent) and {} tensors hold {found} rows of data",
            search.files,
            search.bytes / 1_024,
            sent / 1_024,
            search.tensors
        ))?;
        if found > 0 || search.tensors == 0 || sent == 0 {
            failed.push(format!("{found} rows of data in {} tensors and files of {who}", search.tensors));
        }
    }

    // The control: what would have been found, had it been there.
    let (Some(last), Some(image)) =
        (contributors.last_mut(), split.contributors.last().and_then(|i| i.first()))
    else {
        return Err(DemoError::broken("nobody to plant a row with"));
    };
    let (who, home) = (last.node.name().to_owned(), last.node.home().to_owned());
    let path = last.model();
    let mut network = Network::load(&path)?;
    for (_, _, values) in network.tensors_mut().into_iter().take(1) {
        for (value, pixel) in values.iter_mut().zip(image.normalised()) {
            *value = pixel;
        }
    }
    network.save(&path)?;
    last.publish_offline().await?;
    plant(&who, &home, image).await?;
    let search = rows.search(&who, &home).await?;
    say(&format!(
        "control: with a row planted in {who}'s home, {} found in files and {} in tensors",
        search.in_files, search.in_tensors
    ))?;
    if search.in_files < 3 || search.in_tensors < 1 {
        failed.push("a planted row is not found, so the search proves nothing".into());
    }
    Ok(failed)
}
