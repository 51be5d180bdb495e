//! The walk: one starts a repository, two come by ticket, all train, and all end up with the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use flair_node::api::types::{Aggregated, Cloned, Initialised, Repository, TicketMade, Verified};
use serde::de::DeserializeOwned;

use super::{ContainersError, broken, leads_nowhere, say, until};
use crate::cluster::container::{FOLDER, docker};
use crate::cluster::{Container, Fleet, Kind, Member, Place, Ran};
use crate::demo::{LOCAL, SEED, split};
use crate::digits::{Image, Split};
use crate::trainer::{Network, Training};

/// The working folder, in each node's folder.
const DIGITS: &str = "digits";
/// The model in it.
const MODEL: &str = "model.safetensors";
/// Nodes, and persons who train.
const COUNT: usize = 3;
/// Characters of an id that are shown.
const SHORT: usize = 10;

/// A node, and whoever sits at it.
struct Person {
    member: Member,
    container: Container,
    /// Nobody else has these.
    images: Vec<Image>,
}

/// Where a node stands: head, its model once the node has run the recipe, and the state's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    head: Option<String>,
    model: Option<String>,
    fingerprint: String,
    pending: u64,
}

/// Starts nodes in `dir` and walks; ends them in between, and at last.
pub(super) async fn walk(image: &str, dir: &Path) -> Result<(), ContainersError> {
    let kind = Kind::Containers { image: image.into() };
    let split = split()?;
    let fleet = Fleet::up(&kind, dir, COUNT).await?;
    let persons = people(&fleet, &split).await?;
    let first = begin(&persons).await?;

    // Two of three: the delegate need not wait.
    let [one, two, three] = persons.as_slice() else { return Err(broken("not three nodes")) };
    two.contribute().await?;
    three.contribute().await?;
    until("updates of two persons on node-1", async || {
        // Before the first has come there is nothing to aggregate, which is an error.
        let plan = one.container.flair(&at(DIGITS), &["aggregate", "--flush", "--dry-run", "--json"]).await?;
        let plan: Option<Aggregated> = plan.status.success().then(|| plan.json()).transpose()?;
        Ok(plan.filter(|plan| plan.persons == 2))
    })
    .await?;
    let made: Aggregated = one.json(&["aggregate", "--flush"]).await?;
    say(&format!("node-1 makes aggregate {} of both", short(&made.commit)))?;
    let standing = agree(&persons, &first).await?;
    if standing.head.as_deref() != Some(&made.commit) {
        return Err(broken("the head is not the aggregate that was made"));
    }
    same_files(&persons)?;

    let persons = renew(&kind, dir, fleet, &persons, &split).await?;

    // All three: now the nodes aggregate by themselves.
    for person in &persons {
        person.contribute().await?;
    }
    let standing = agree(&persons, &made.commit).await?;
    say("the nodes aggregate the next three updates by themselves")?;
    same_files(&persons)?;
    for person in &persons {
        let verified: Verified = person.json(&["verify"]).await?;
        if !verified.holds || verified.rows.len() != 2 {
            return Err(broken(format!("{} does not get what is claimed", person.member.name)));
        }
    }
    let shown = |id: &Option<String>| id.as_deref().map_or_else(|| "none".into(), short);
    say(&format!(
        "all: head {}, model {}, fingerprint {}, the same file, both aggregates verified",
        shown(&standing.head),
        shown(&standing.model),
        short(&standing.fingerprint)
    ))?;
    Fleet::open(dir)?.down().await?;
    Ok(())
}

/// Who sits at the nodes; each node must be reached by others and reach nothing else.
async fn people(fleet: &Fleet, split: &Split) -> Result<Vec<Person>, ContainersError> {
    let mut persons = Vec::new();
    for (member, images) in fleet.members().iter().zip(&split.contributors) {
        let (Place::Container(container), Some(ready)) = (&member.place, &member.ready) else {
            return Err(broken(format!("{} is not a container that is ready", member.name)));
        };
        let own = ready.addresses.iter().find(|address| !address.starts_with("/ip4/127."));
        let own = own.ok_or_else(|| broken(format!("{} listens on loopback only", member.name)))?;
        leads_nowhere(container.name()).await?;
        say(&format!("{} {} at {own}", member.name, ready.id))?;
        persons.push(Person { member: member.clone(), container: container.clone(), images: images.clone() });
    }
    Ok(persons)
}

/// Node 1 starts the repository, and the others clone with its ticket. Returns the first commit.
async fn begin(persons: &[Person]) -> Result<String, ContainersError> {
    let Some((one, others)) = persons.split_first() else { return Err(broken("no nodes")) };
    fs::create_dir_all(one.folder()).map_err(ContainersError::io(one.folder().display()))?;
    Network::init(SEED).save(&one.folder().join(MODEL))?;
    // All three make an aggregate due.
    let name = one.member.name.as_str();
    let started: Initialised =
        one.json(&["init", MODEL, "--name", "digits", "--person", name, "--every", "3"]).await?;
    say(&format!("{name} starts repository {}", short(&started.repo)))?;
    let ticket: TicketMade = one.json(&["ticket", "--role", "contributor", "--uses", "2"]).await?;
    for person in others {
        let name = person.member.name.as_str();
        let clone = ["clone", &ticket.ticket, DIGITS, "--person", name, "--json"];
        let cloned: Cloned = person.container.flair(FOLDER, &clone).await?.ok()?.json()?;
        if cloned.role != "contributor" || cloned.repo != started.repo {
            return Err(broken(format!("{name} is {} after cloning", cloned.role)));
        }
        say(&format!("{name} clones with node-1's ticket and is a contributor"))?;
    }
    let mut before = standings(persons).await?;
    let head = before.pop().and_then(|standing| standing.head);
    head.ok_or_else(|| broken("the repository has no first commit"))
}

/// Kills one node, ends all, and starts them in new containers: what lies in their folders is all they need.
async fn renew(
    kind: &Kind,
    dir: &Path,
    fleet: Fleet,
    persons: &[Person],
    split: &Split,
) -> Result<Vec<Person>, ContainersError> {
    let killed = persons.get(1).ok_or_else(|| broken("no second node"))?;
    docker(&["kill", killed.container.name()]).await?.ok()?;
    for person in persons {
        if person.member.place.runs().await? == (person.member.name == killed.member.name) {
            return Err(broken(format!("{} is not what its state says", person.member.name)));
        }
    }
    fleet.down().await?;
    if dir.join("nodes.json").exists() {
        return Err(broken("the nodes are ended, and not forgotten"));
    }
    let again = people(&Fleet::up(kind, dir, COUNT).await?, split).await?;
    let ids = |all: &[Person]| -> Vec<_> {
        all.iter().map(|person| person.member.ready.as_ref().map(|ready| ready.id.clone())).collect()
    };
    if ids(&again) != ids(persons) {
        return Err(broken("the nodes came back as somebody else"));
    }
    say("node-2 is killed and the others ended; in new containers all are who they were")?;
    Ok(again)
}

impl Person {
    /// The working folder, seen from here.
    fn folder(&self) -> PathBuf {
        self.member.home.with_file_name(DIGITS)
    }

    /// A round: newest model, training, commit, push.
    async fn contribute(&self) -> Result<(), ContainersError> {
        self.flair(&["pull"]).await?;
        // As a person's own script would: outside, and knowing nothing of Flair.
        let path = self.folder().join(MODEL);
        let mut network = Network::load(&path)?;
        // Another order of images each time, and still the same in every run.
        let seed = LOCAL.seed.wrapping_add_signed(network.num_batches_tracked());
        network.train(&self.images, &Training { seed, ..LOCAL })?;
        network.save(&path)?;
        let epochs = LOCAL.epochs.to_string();
        self.flair(&["commit", "--message", "a round", "--epochs", &epochs]).await?;
        self.flair(&["push"]).await?;
        say(&format!("{} trains and pushes", self.member.name))
    }

    /// Runs `flair` in the working folder, and expects it to end well.
    async fn flair(&self, arguments: &[&str]) -> Result<Ran, ContainersError> {
        Ok(self.container.flair(&at(DIGITS), arguments).await?.ok()?)
    }

    async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, ContainersError> {
        Ok(self.flair(&[arguments, &["--json"]].concat()).await?.json()?)
    }
}

/// Waits until all nodes have run or checked the same head, not `before`, and hold the same operations; then each pulls
/// it.
async fn agree(persons: &[Person], before: &str) -> Result<Standing, ContainersError> {
    let standing = until("one head, model and fingerprint on all nodes", async || {
        let mut standings: BTreeSet<Standing> = standings(persons).await?.into_iter().collect();
        let only = standings.pop_first().filter(|_| standings.is_empty());
        let new = |standing: &Standing| {
            standing.model.is_some() && standing.pending == 0 && standing.head.as_deref() != Some(before)
        };
        Ok(only.filter(new))
    })
    .await?;
    for person in persons {
        person.flair(&["pull"]).await?;
    }
    Ok(standing)
}

async fn standings(persons: &[Person]) -> Result<Vec<Standing>, ContainersError> {
    let mut standings = Vec::new();
    for person in persons {
        let all: Vec<Repository> = person.json(&["list"]).await?;
        let standing = all.into_iter().next().and_then(|repository| {
            let branch = repository.branches.into_iter().next()?;
            let (head, model, pending) = (branch.head, branch.model, branch.pending);
            Some(Standing { head, model, fingerprint: repository.fingerprint, pending })
        });
        standings.push(standing.ok_or_else(|| broken(format!("{} has no branch", person.member.name)))?);
    }
    Ok(standings)
}

/// Compares the models in the working folders byte by byte.
fn same_files(persons: &[Person]) -> Result<(), ContainersError> {
    let mut files = BTreeSet::new();
    for person in persons {
        let path = person.folder().join(MODEL);
        files.insert(fs::read(&path).map_err(ContainersError::io(path.display()))?);
    }
    if files.len() == 1 { Ok(()) } else { Err(broken("the nodes pulled different files")) }
}

/// A folder, seen from the container.
fn at(folder: &str) -> String {
    format!("{FOLDER}/{folder}")
}

fn short(id: &str) -> String {
    id.chars().take(SHORT).collect()
}
