//! Who may know what of a repository: the one place that everything asks through which something can leave.
//!
//! A public repository is open to everybody. A private one, as its genesis says for good, is open to the keys that
//! have a role in it, and to nobody else: not its operations, its blobs, or whether it is here. What is refused is
//! answered as what is not here, and both are known from one look into memory: no answer waits for the disk or for
//! an evaluation before the decision.
//!
//! Two questions are kept apart. *Serving* ([`Doors::serves`]) gives away what is here. *Asking* ([`Doors::asks`])
//! tells a peer that this node has, or wants, the repository. While a repository is cloned nobody can tell yet who
//! its readers are: then only the peer that the user named, its host, is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use flair_protocol::graph::Graph;
use flair_protocol::id::{OperationId, RepositoryId};
use flair_protocol::key::PublicKey;
use flair_protocol::policy::Role;
use flair_protocol::state::State;
use flair_protocol::ticket::JoinRequest;

use crate::net::transfer::Access;
use crate::shelf::Held;

/// Who may know of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// Nothing is here yet, not even the genesis that says it.
    #[default]
    Unsaid,
    /// It is public.
    Everybody,
    /// It is private.
    Readers {
        /// Everybody who has a role.
        readers: BTreeSet<PublicKey>,
        /// Everybody whose role was taken away.
        removed: BTreeSet<PublicKey>,
        /// Invites that can be redeemed, with their keys: who holds one may ask to join.
        invites: BTreeMap<OperationId, PublicKey>,
        /// Some of the operations were damaged on disk, and may have said that somebody was removed: until they are
        /// back, members are asked for them, and nobody is given anything.
        damaged: bool,
    },
}

#[derive(Debug, Default)]
struct Door {
    who: Who,
    /// Peers that a clone under way was told to get the repository from.
    hosts: BTreeSet<PublicKey>,
}

impl Door {
    fn serves(&self, peer: PublicKey) -> bool {
        match &self.who {
            Who::Unsaid => self.hosts.contains(&peer),
            Who::Everybody => true,
            Who::Readers { readers, damaged, .. } => !damaged && readers.contains(&peer),
        }
    }

    fn asks(&self, peer: PublicKey) -> bool {
        let asked = || match &self.who {
            Who::Readers { readers, removed, .. } => {
                readers.contains(&peer) || (self.hosts.contains(&peer) && !removed.contains(&peer))
            }
            Who::Unsaid | Who::Everybody => false,
        };
        self.serves(peer) || asked()
    }
}

#[derive(Debug, Default)]
struct Inner {
    doors: BTreeMap<RepositoryId, Door>,
    /// Blobs of published commits, and the repositories that they are of. A draft's are in the same store, and must
    /// not leave.
    blobs: BTreeMap<[u8; 32], BTreeSet<RepositoryId>>,
}

/// The doors of all repositories here; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<RwLock<Inner>>);

impl Doors {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets who may know of a repository. Gives back whom it was open to by name and is not any more; none when
    /// nothing changed.
    pub fn set(&self, repo: RepositoryId, who: Who) -> Option<Vec<PublicKey>> {
        let mut inner = self.write();
        let door = inner.doors.entry(repo).or_default();
        if door.who == who {
            return None;
        }
        let mut known = door.hosts.clone();
        if let Who::Readers { readers, .. } = &door.who {
            known.extend(readers);
        }
        door.who = who;
        Some(known.into_iter().filter(|peer| !door.serves(*peer)).collect())
    }

    /// A clone gets a repository from this peer. Without effect where something of the repository is here: then that
    /// says who may read.
    pub fn host(&self, repo: RepositoryId, peer: PublicKey) {
        let mut inner = self.write();
        let door = inner.doors.entry(repo).or_default();
        if door.who == Who::Unsaid {
            door.hosts.insert(peer);
        }
    }

    /// The peer is no different from others any more; whether it was.
    pub fn unhost(&self, repo: RepositoryId, peer: PublicKey) -> bool {
        self.write().doors.get_mut(&repo).is_some_and(|door| door.hosts.remove(&peer))
    }

    /// Whether `peer` may be given what is here of a repository.
    pub fn serves(&self, repo: RepositoryId, peer: PublicKey) -> bool {
        self.read().doors.get(&repo).is_some_and(|door| door.serves(peer))
    }

    /// Whether `peer` may be asked about a repository.
    pub fn asks(&self, repo: RepositoryId, peer: PublicKey) -> bool {
        self.read().doors.get(&repo).is_some_and(|door| door.asks(peer))
    }

    /// Whether a join request by `peer` is taken: from whoever may read, and for themselves from whoever holds an
    /// invite that can be redeemed.
    pub fn may_join(&self, repo: RepositoryId, peer: PublicKey, request: &JoinRequest) -> bool {
        let inner = self.read();
        let Some(door) = inner.doors.get(&repo) else { return false };
        let invited = || match (&door.who, &request.invite) {
            (Who::Readers { invites, damaged: false, .. }, Some(proof)) => {
                let key = invites.get(&proof.invite);
                request.person == peer && key.is_some_and(|key| proof.verify(*key, repo, peer).is_ok())
            }
            _ => false,
        };
        door.serves(peer) || invited()
    }

    /// Whether a repository is known to be public. Only such a one is gossiped about: gossip tells every peer which
    /// topics a node follows, and passes on to whoever follows one.
    pub fn public(&self, repo: RepositoryId) -> bool {
        self.read().doors.get(&repo).is_some_and(|door| door.who == Who::Everybody)
    }

    /// Whether a private repository is here.
    pub fn any_private(&self) -> bool {
        self.read().doors.values().any(|door| matches!(door.who, Who::Readers { .. }))
    }

    /// Lets whoever may read a repository fetch what one of its published commits consists of.
    pub fn publish(&self, repo: RepositoryId, held: &Held) {
        let mut inner = self.write();
        for blob in held.blobs() {
            inner.blobs.entry(blob.to_bytes()).or_default().insert(repo);
        }
    }
}

impl Access for Doors {
    fn may_get(&self, peer: &[u8; 32], hash: &[u8; 32]) -> bool {
        let (inner, peer) = (self.read(), PublicKey::from_bytes(*peer));
        let repos = inner.blobs.get(hash).into_iter().flatten();
        repos.filter_map(|repo| inner.doors.get(repo)).any(|door| door.serves(peer))
    }
}

/// Who may know of a private repository, as its operations say.
pub fn readers(state: &State, graph: &Graph, damaged: bool) -> Who {
    let removed: BTreeSet<PublicKey> =
        state.members.keys().copied().filter(|person| state.role(*person).is_none()).collect();
    // Whoever can't tell what the operations mean can't tell either whose role was taken away.
    if state.needs_level.is_some() {
        return Who::Readers { readers: BTreeSet::new(), removed, invites: BTreeMap::new(), damaged };
    }
    let readers = state.members.keys().copied().filter(|person| state.role(*person).is_some()).collect();
    let open = state.invites.iter().filter(|(id, _)| invite_holds(state, graph, **id));
    let invites = open.map(|(id, invite)| (*id, invite.key)).collect();
    Who::Readers { readers, removed, invites, damaged }
}

/// Whether an invite of a private repository can be redeemed: it was made by somebody who may still, after the last
/// time that anybody was removed. A ticket may be known to whoever was removed, and would let them in again by
/// another key.
pub fn invite_holds(state: &State, graph: &Graph, id: OperationId) -> bool {
    let Some(invite) = state.invites.get(&id) else { return false };
    if invite.left() == 0 || state.role(invite.by) < Some(Role::Maintainer) {
        return false;
    }
    let past = graph.past(graph.place(id));
    let removals = state.members.values().filter_map(|member| member.revoked);
    removals.filter_map(|removal| graph.place(removal)).all(|place| past.get(place).is_some_and(|seen| *seen))
}

#[cfg(test)]
mod tests {
    use flair_protocol::id::{Digest, ModelId, PackId};
    use flair_protocol::key::SecretKey;
    use flair_protocol::operation::body::{Genesis, Grant, Invite, Revoke};
    use flair_protocol::operation::{Body, Operation, Position};
    use flair_protocol::policy::{Policy, Visibility};
    use flair_protocol::ticket::InviteSecret;

    use super::*;

    fn key(number: u8) -> SecretKey {
        SecretKey::from_bytes(&[number; 32])
    }

    fn person(number: u8) -> PublicKey {
        key(number).public()
    }

    /// A repository whose delegate is person 1.
    fn genesis(visibility: Visibility) -> Graph {
        let mut policy = Policy::standard(person(1));
        policy.visibility = visibility;
        let (name, founder) = ("digits".to_owned(), String::new());
        let body = Body::Genesis(Genesis { name, nonce: [0; 16], policy, founder, forked_from: None });
        let operation = Operation::sign(&key(1), Position::genesis(0), body).unwrap();
        let mut graph = Graph::new(RepositoryId::from_digest(operation.id().digest()));
        graph.insert(operation).unwrap();
        graph
    }

    fn say(graph: &mut Graph, body: Body) -> OperationId {
        let operation = Operation::sign(&key(1), graph.position(person(1), 0), body).unwrap();
        let id = operation.id();
        graph.insert(operation).unwrap();
        id
    }

    fn grant(number: u8) -> Body {
        let (person, role, name) = (person(number), Role::Reader, String::new());
        Body::Grant(Grant { person, role, name, invite: None, approval: None })
    }

    fn revoke(number: u8) -> Body {
        Body::Revoke(Revoke { person: person(number), keep: Vec::new(), reason: "left".into() })
    }

    fn invite(number: u8) -> Body {
        let (key, role, label) = (person(number), Role::Reader, String::new());
        Body::Invite(Invite { key, role, uses: 1, label })
    }

    fn now(graph: &Graph) -> Who {
        readers(&State::evaluate(graph), graph, false)
    }

    fn held(number: u8) -> Held {
        let digest = |part: u8| Digest::of(&[number, part]);
        let (model, pack) = (ModelId::from_digest(digest(1)), PackId::from_digest(digest(2)));
        Held { model, state: None, pack, side: vec![digest(3)], attested: false }
    }

    fn ask(graph: &Graph, who: u8, secret: Option<(u8, OperationId)>) -> JoinRequest {
        let secret = secret.map(|(key, invite)| InviteSecret { invite, secret: [key; 32] });
        JoinRequest::sign(&key(who), graph.repo(), String::new(), secret.as_ref(), 0).unwrap()
    }

    #[test]
    fn a_private_repository_is_open_to_who_has_a_role_and_to_nobody_else() {
        let (doors, mut graph) = (Doors::default(), genesis(Visibility::Private));
        let repo = graph.repo();
        assert!(!doors.serves(repo, person(1)) && !doors.asks(repo, person(1)), "nothing is known of it");
        say(&mut graph, grant(2));
        assert_eq!(doors.set(repo, now(&graph)), Some(Vec::new()));
        assert_eq!([1, 2, 3].map(|number| doors.serves(repo, person(number))), [true, true, false]);
        assert_eq!([1, 2, 3].map(|number| doors.asks(repo, person(number))), [true, true, false]);
        assert!(!doors.public(repo) && doors.any_private());
        assert_eq!(doors.set(repo, now(&graph)), None, "nothing changed");
        say(&mut graph, revoke(2));
        assert_eq!(doors.set(repo, now(&graph)), Some(vec![person(2)]));
        assert!(!doors.serves(repo, person(2)) && !doors.asks(repo, person(2)));
    }

    #[test]
    fn nobody_is_served_while_operations_are_damaged_on_disk_and_members_are_asked_for_them() {
        let (doors, mut graph) = (Doors::default(), genesis(Visibility::Private));
        let repo = graph.repo();
        let invite = say(&mut graph, invite(9));
        doors.set(repo, readers(&State::evaluate(&graph), &graph, true));
        assert!(
            !doors.serves(repo, person(1)) && doors.asks(repo, person(1)) && !doors.asks(repo, person(3))
        );
        assert!(!doors.may_join(repo, person(3), &ask(&graph, 3, Some((9, invite)))));
        doors.set(repo, now(&graph));
        assert!(doors.serves(repo, person(1)));
    }

    #[test]
    fn a_blob_goes_to_whoever_may_read_one_of_its_repositories() {
        let doors = Doors::default();
        let (private, public) = (genesis(Visibility::Private), genesis(Visibility::Public));
        doors.set(private.repo(), now(&private));
        doors.set(public.repo(), Who::Everybody);
        for (graph, model) in [(&private, 1), (&private, 2), (&public, 2)] {
            doors.publish(graph.repo(), &held(model));
        }
        let may = |who: u8, model: u8| {
            let blobs = held(model).blobs();
            let answers: Vec<bool> =
                blobs.iter().map(|blob| doors.may_get(person(who).as_bytes(), &blob.to_bytes())).collect();
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
            answers[0]
        };
        assert_eq!([may(1, 1), may(3, 1), may(1, 2), may(3, 2)], [true, false, true, true]);
        assert_eq!([may(1, 3), may(3, 3)], [false, false], "nobody published it");
    }

    #[test]
    fn the_host_of_a_clone_is_asked_but_served_only_once_it_is_known_to_be_a_reader() {
        let (doors, mut graph) = (Doors::default(), genesis(Visibility::Private));
        let repo = graph.repo();
        doors.host(repo, person(2));
        assert!(doors.serves(repo, person(2)) && !doors.serves(repo, person(1)), "there is nothing to give");
        doors.set(repo, now(&graph));
        assert!(doors.asks(repo, person(2)) && !doors.serves(repo, person(2)));
        doors.host(repo, person(3));
        assert!(!doors.asks(repo, person(3)), "what is here says who may know");
        say(&mut graph, grant(2));
        say(&mut graph, revoke(2));
        doors.set(repo, now(&graph));
        assert!(!doors.asks(repo, person(2)));
    }

    #[test]
    fn who_holds_an_invite_may_ask_to_join_for_themselves() {
        let (doors, mut graph) = (Doors::default(), genesis(Visibility::Private));
        let repo = graph.repo();
        let open = say(&mut graph, invite(9));
        doors.set(repo, now(&graph));
        let may = |peer: u8, request: &JoinRequest| doors.may_join(repo, person(peer), request);
        assert!(may(3, &ask(&graph, 3, Some((9, open)))));
        assert!(!may(4, &ask(&graph, 3, Some((9, open)))), "somebody else's request");
        assert!(!may(3, &ask(&graph, 3, Some((8, open)))), "the wrong secret");
        assert!(!may(3, &ask(&graph, 3, None)));
        assert!(may(1, &ask(&graph, 3, None)), "passed on by a member");
    }

    #[test]
    fn invites_that_a_removed_reader_may_know_of_can_not_be_redeemed() {
        let mut graph = genesis(Visibility::Private);
        let old = say(&mut graph, invite(8));
        say(&mut graph, grant(2));
        let invites = |graph: &Graph| match now(graph) {
            Who::Readers { invites, .. } => invites.into_keys().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(invites(&graph), [old]);
        say(&mut graph, revoke(2));
        assert_eq!(invites(&graph), []);
        let new = say(&mut graph, invite(9));
        assert_eq!(invites(&graph), [new]);
    }
}
