//! The walk: one starts a repository, two come by ticket, all train, and all end up with the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flair_node::api::types::{Aggregated, Cloned, Initialised, Repository, TicketMade, Verified};
use serde::de::DeserializeOwned;

use super::project::{Container, Project};
use super::{ContainersError, say};

/// The working folder in each container.
const FOLDER: &str = "/home/flair/digits";
/// The model in it.
const MODEL: &str = "/home/flair/digits/model.safetensors";
/// How long whatever the nodes do by themselves may take.
const SOON: Duration = Duration::from_mins(1);
/// How often to look whether they have.
const LOOK: Duration = Duration::from_millis(200);
/// Characters of an id that are shown.
const SHORT: usize = 10;

/// Where a node stands: head, its model once the node has run the recipe, and the state's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    head: Option<String>,
    model: Option<String>,
    fingerprint: String,
    pending: u64,
}

/// Builds, starts, and walks; what it leaves running, [`Project::down`] ends.
pub(super) async fn walk(project: &Project) -> Result<(), ContainersError> {
    let begun = Instant::now();
    let bytes = project.build().await?;
    say(&format!("built: {} MB, {} s", bytes / 1_000_000, begun.elapsed().as_secs()))?;
    let mut nodes = project.up().await?;
    for container in &nodes {
        say(&format!("{} {} at {}", container.node, container.ready.id, address(container)?))?;
    }
    let first = begin(&nodes).await?;

    // Two of three: the delegate need not wait.
    let [one, two, three] = nodes.as_slice() else { return Err(broken("not three nodes")) };
    contribute(two, 2).await?;
    contribute(three, 3).await?;
    until("updates of two persons on node-1", async || {
        let ran = flair(one, &["aggregate", "--dry-run", "--flush", "--json"]).await?;
        let plan: Option<Aggregated> = ran.status.success().then(|| ran.json()).transpose()?;
        Ok(plan.filter(|plan| plan.persons == 2))
    })
    .await?;
    let made: Aggregated = json(one, &["aggregate", "--flush"]).await?;
    say(&format!("node-1 makes aggregate {} of both", short(&made.commit)))?;
    let standing = agree(&nodes, &first).await?;
    if standing.head.as_deref() != Some(&made.commit) {
        return Err(broken("the head is not the aggregate that was made"));
    }
    same_files(project, &nodes).await?;

    // What lies in the volume is all that a container needs.
    let renewed = project.renew(two.node).await?;
    if renewed.ready.id != two.ready.id {
        return Err(broken("node-2 came back as somebody else"));
    }
    say("node-2's container is removed, and a new one is the same node")?;
    if let Some(place) = nodes.get_mut(1) {
        *place = renewed;
    }

    // All three: now the nodes aggregate by themselves.
    for (person, container) in (1..).zip(&nodes) {
        contribute(container, person).await?;
    }
    let standing = agree(&nodes, &made.commit).await?;
    say("the nodes aggregate the next three updates by themselves")?;
    same_files(project, &nodes).await?;
    for container in &nodes {
        let verified: Verified = json(container, &["verify"]).await?;
        if !verified.holds || verified.rows.len() != 2 {
            return Err(broken(format!("{} does not get what is claimed", container.node)));
        }
    }
    let shown = |id: &Option<String>| id.as_deref().map_or_else(|| "none".into(), short);
    say(&format!(
        "all: head {}, model {}, fingerprint {}, the same file, both aggregates verified",
        shown(&standing.head),
        shown(&standing.model),
        short(&standing.fingerprint)
    ))
}

/// The address that other containers reach this one at.
fn address(container: &Container) -> Result<&str, ContainersError> {
    let all = &container.ready.addresses;
    let own =
        all.iter().find(|address| !address.starts_with("/ip4/127.") && !address.starts_with("/ip6/::1/"));
    own.map(String::as_str)
        .ok_or_else(|| broken(format!("{} listens on {} only", container.node, all.join(", "))))
}

/// Node 1 starts the repository, and the others clone with its ticket. Returns the first commit.
async fn begin(nodes: &[Container]) -> Result<String, ContainersError> {
    let Some((one, others)) = nodes.split_first() else { return Err(broken("no nodes")) };
    one.run("flair-testnet", &["train", MODEL]).await?.ok()?;
    // All three make an aggregate due.
    let init = ["init", MODEL, "--name", "digits", "--person", one.node, "--every", "3", "--json"];
    let started: Initialised = one.run("flair", &init).await?.ok()?.json()?;
    say(&format!("node-1 starts repository {}", short(&started.repo)))?;
    let ticket: TicketMade = json(one, &["ticket", "--role", "contributor", "--uses", "2"]).await?;
    for container in others {
        let clone = ["clone", &ticket.ticket, FOLDER, "--person", container.node, "--json"];
        let cloned: Cloned = container.run("flair", &clone).await?.ok()?.json()?;
        if cloned.role != "contributor" || cloned.repo != started.repo {
            return Err(broken(format!("{} is {} after cloning", container.node, cloned.role)));
        }
        say(&format!("{} clones with node-1's ticket and is a contributor", container.node))?;
    }
    let mut before = standings(nodes).await?;
    let head = before.pop().and_then(|standing| standing.head);
    head.ok_or_else(|| broken("the repository has no first commit"))
}

/// A person's round: newest model, training, commit, push.
async fn contribute(container: &Container, person: u8) -> Result<(), ContainersError> {
    flair(container, &["pull"]).await?.ok()?;
    let trained =
        container.run("flair-testnet", &["train", MODEL, "--person", &person.to_string()]).await?.ok()?;
    flair(container, &["commit", "--message", "a round", "--epochs", "5"]).await?.ok()?;
    flair(container, &["push"]).await?.ok()?;
    say(&format!("{} trains and pushes: {}", container.node, trained.stdout.trim()))
}

/// Waits until all nodes have run or checked the same head, not `before`, and hold the same operations; then each pulls
/// it.
async fn agree(nodes: &[Container], before: &str) -> Result<Standing, ContainersError> {
    let standing = until("one head, model and fingerprint on all nodes", async || {
        let mut standings: BTreeSet<Standing> = standings(nodes).await?.into_iter().collect();
        let only = standings.pop_first().filter(|_| standings.is_empty());
        let new = |standing: &Standing| {
            standing.model.is_some() && standing.pending == 0 && standing.head.as_deref() != Some(before)
        };
        Ok(only.filter(new))
    })
    .await?;
    for container in nodes {
        flair(container, &["pull"]).await?.ok()?;
    }
    Ok(standing)
}

async fn standings(nodes: &[Container]) -> Result<Vec<Standing>, ContainersError> {
    let mut standings = Vec::new();
    for container in nodes {
        let all: Vec<Repository> = container.run("flair", &["list", "--json"]).await?.ok()?.json()?;
        let standing = all.into_iter().next().and_then(|repository| {
            let branch = repository.branches.into_iter().next()?;
            let (head, model, pending) = (branch.head, branch.model, branch.pending);
            Some(Standing { head, model, fingerprint: repository.fingerprint, pending })
        });
        standings.push(standing.ok_or_else(|| broken(format!("{} has no branch", container.node)))?);
    }
    Ok(standings)
}

/// Compares the models in the working folders byte by byte.
async fn same_files(project: &Project, nodes: &[Container]) -> Result<(), ContainersError> {
    let mut files = BTreeSet::new();
    for container in nodes {
        let path = project.folder().join(format!("{}.safetensors", container.node));
        container.take(MODEL, &path).await?;
        files.insert(std::fs::read(&path).map_err(ContainersError::io(path.display()))?);
    }
    if files.len() == 1 { Ok(()) } else { Err(broken("the nodes pulled different files")) }
}

/// Runs `flair` in the working folder.
async fn flair(container: &Container, arguments: &[&str]) -> Result<crate::cluster::Ran, ContainersError> {
    container.run("flair", &[&["-C", FOLDER], arguments].concat()).await
}

async fn json<T: DeserializeOwned>(container: &Container, arguments: &[&str]) -> Result<T, ContainersError> {
    Ok(flair(container, &[arguments, &["--json"]].concat()).await?.ok()?.json()?)
}

/// Looks again and again until there is something.
async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, ContainersError>,
) -> Result<T, ContainersError> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if begun.elapsed() > SOON {
            return Err(ContainersError::Slow { what: what.into(), seconds: SOON.as_secs() });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn broken(what: impl Into<String>) -> ContainersError {
    ContainersError::Failed(what.into())
}

fn short(id: &str) -> String {
    id.chars().take(SHORT).collect()
}
