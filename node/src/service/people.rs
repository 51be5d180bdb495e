//! Members: list, grant, revoke.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use flair_protocol::commit::Commit;
use flair_protocol::graph::Graph;
use flair_protocol::id::Digest;
use flair_protocol::key::PersonId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::{Approval, Grant, Revoke};
use flair_protocol::policy::Role;
use flair_protocol::state::State;

use super::local::blocking;
use super::{Service, name_of, views};
use crate::api::types::{self, At, Done, GrantRequest, Member, Problem, RevokeRequest};
use crate::folder::at;
use crate::repository::Extras;

impl Service {
    /// Everybody who has or had a role.
    ///
    /// # Errors
    /// No such repository.
    pub async fn members(&self, request: At) -> Result<Vec<Member>, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let mut updates: BTreeMap<PersonId, u64> = BTreeMap::new();
        for info in state.commits.values() {
            if let Commit::Update(update) = info.commit.as_ref() {
                *updates.entry(update.author).or_default() += 1;
            }
        }
        let mut members: Vec<_> = state.members.iter().collect();
        members
            .sort_by_key(|(person, member)| (std::cmp::Reverse(member.role), member.name.clone(), **person));
        let approvals = repository.graph(|graph| approvals(&state, graph)).await;
        Ok(members
            .into_iter()
            .map(|(person, member)| Member {
                approval: approvals.get(person).cloned(),
                person: person.to_string(),
                name: if member.name.is_empty() { String::new() } else { member.name.clone() },
                role: views::role(&state, *person),
                updates: updates.get(person).copied().unwrap_or(0),
                me: *person == self.hub.me(),
            })
            .collect())
    }

    /// Gives a role.
    ///
    /// # Errors
    /// An unknown role or person, no right to.
    pub async fn grant(&self, request: GrantRequest) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let role = role(&request.role)?;
        let waiting = repository
            .engine(|engine| {
                let named = |join: &&flair_protocol::ticket::JoinRequest| {
                    join.name == request.person || join.person.to_string().ends_with(&request.person)
                };
                engine.joins().filter(named).map(|join| (join.person, join.name.clone())).collect::<Vec<_>>()
            })
            .await;
        let (person, asked) = match (request.person.parse::<PersonId>(), waiting.as_slice()) {
            (Ok(person), _) => {
                (person, waiting.iter().find(|(key, _)| *key == person).map(|(_, name)| name.clone()))
            }
            (Err(_), [(person, name)]) => (*person, Some(name.clone())),
            (Err(_), []) => (find(&state, &request.person)?, None),
            (Err(_), several) => {
                return Err(Problem::invalid(format!(
                    "{} join requests are by `{}`",
                    several.len(),
                    request.person
                ))
                .help("give the key, as `flair status` shows it"));
            }
        };
        let known = state.members.get(&person).map(|member| member.name.clone());
        let name = request.name.or(asked).or(known).unwrap_or_default();
        let document = match request.document {
            Some(path) => Some(blocking(move || hash(&path)).await?),
            None => None,
        };
        let approval = match (request.approval, document) {
            (Some(reference), document) => Some(Approval { reference, document }),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Problem::invalid("a document needs the name of what it approves")
                    .help("give `--approval` too"));
            }
        };
        let body = Body::Grant(Grant { person, role, name: name.clone(), invite: None, approval });
        self.hub.publish(&repository, body, Extras::default()).await?;
        let called = if name.is_empty() { format!("…{}", person.short()) } else { name };
        Ok(Done { words: vec![format!("{called} is a {} now", role.name())] })
    }

    /// Takes a role away, or tells what that would do.
    ///
    /// # Errors
    /// An unknown person, no right to.
    pub async fn revoke(&self, request: RevokeRequest) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let person = find(&state, &request.person)?;
        let name = name_of(&state, person);
        let keep = repository
            .graph(|graph| {
                let last = graph.by_author(person).last().and_then(|(_, places)| places.first().copied());
                last.map(|place| graph.at(place).id()).into_iter().collect::<Vec<_>>()
            })
            .await;
        let updates = |wanted: &str| {
            let mine = state.commits.iter().filter(|(_, info)| info.commit.author() == Some(person));
            mine.filter(|(commit, _)| {
                views::update(&state, **commit, None).is_some_and(|note| note.state == wanted)
            })
            .count()
        };
        let mut words = vec![
            format!("{name} can't publish, aggregate or attest any more."),
            format!(
                "Stays: everything of theirs that is here now, {} updates in the head and {} pending.",
                updates("in-head"),
                updates("pending")
            ),
            "Cut: whatever they signed or sign that this node has not seen yet, on every node.".to_owned(),
            "Their updates in the head are not unlearned by this.".to_owned(),
        ];
        if state.private() {
            words.push(
                "Nodes that know of this give them nothing more, and cut what they are fetching; what they have, they keep."
                    .to_owned(),
            );
            words.push(
                "Invites that were made before end with it: make new tickets, `flair ticket --role …`."
                    .to_owned(),
            );
        }
        if request.dry_run {
            words.push("Nothing was done.".to_owned());
            return Ok(Done { words });
        }
        let body = Body::Revoke(Revoke { person, keep, reason: request.reason });
        self.hub.publish(&repository, body, Extras::default()).await?;
        Ok(Done { words })
    }
}

/// What allows people to take part, by the last grant of each; delegates keep what they were granted before.
pub(super) fn approvals(state: &State, graph: &Graph) -> BTreeMap<PersonId, types::Approval> {
    let mut grants: Vec<_> = graph
        .iter()
        .filter_map(|operation| match operation.body() {
            Body::Grant(grant) if state.is_effective(operation.id()) => Some((operation, grant)),
            _ => None,
        })
        .collect();
    grants.sort_unstable_by_key(|(operation, _)| operation.order());
    let mut approvals = BTreeMap::new();
    for (operation, grant) in grants {
        approvals.remove(&grant.person);
        if let Some(Approval { reference, document }) = grant.approval.clone() {
            let document = document.map(|document| document.to_string());
            let by = name_of(state, operation.author());
            approvals.insert(grant.person, types::Approval { reference, document, by });
        }
    }
    approvals
}

/// BLAKE3 of a file, as `b3sum` gives it.
fn hash(path: &Path) -> Result<Digest, Problem> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .map_err(|error| at(path, error))?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// The role that a word names.
pub(super) fn role(text: &str) -> Result<Role, Problem> {
    match text {
        "maintainer" => Ok(Role::Maintainer),
        "contributor" => Ok(Role::Contributor),
        "verifier" => Ok(Role::Verifier),
        "reader" => Ok(Role::Reader),
        "delegate" => Err(Problem::invalid("delegates are named by the policy, not by a grant")
            .help("`flair policy propose --add-delegate NAME --threshold K`")),
        other => Err(Problem::invalid(format!("`{other}` is not a role"))
            .help("the roles are maintainer, contributor, verifier and reader")),
    }
}

/// A person by key, by an unambiguous end of a member's key, or by a member's name.
pub(super) fn find(state: &State, text: &str) -> Result<PersonId, Problem> {
    if let Ok(person) = text.parse() {
        return Ok(person);
    }
    let named = |(person, member): &(&PersonId, &flair_protocol::state::Member)| {
        let key = person.to_string();
        member.name == text || key == text || (text.len() >= 4 && key.ends_with(text.trim_start_matches('…')))
    };
    let found: Vec<PersonId> = state.members.iter().filter(named).map(|(person, _)| *person).collect();
    match found.as_slice() {
        [person] => Ok(*person),
        [] => {
            Err(Problem::missing(format!("no member `{text}`"))
                .help("`flair member list` shows who there is"))
        }
        several => {
            Err(Problem::invalid(format!("`{text}` is {} members", several.len())).help("give the key"))
        }
    }
}
