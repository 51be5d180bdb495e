//! Keys, a repository and signed operations for tests about the wire and the engine.

use flair_protocol::graph::Graph;
use flair_protocol::id::{Digest, OperationId, RepositoryId};
use flair_protocol::key::SecretKey;
use flair_protocol::operation::body::{Genesis, Grant};
use flair_protocol::operation::{Body, Kind, Operation, Position};
use flair_protocol::policy::{Policy, Role, Visibility};

/// The key of somebody.
pub(crate) fn key(number: u64) -> SecretKey {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&secret)
}

/// A body that nobody evaluates: small, and different for every number.
pub(crate) fn note(number: u64) -> Body {
    Body::Unknown(Kind::from_number(0x0177), number.to_le_bytes().to_vec())
}

/// The id of an operation that does not exist.
pub(crate) fn nowhere(number: u64) -> OperationId {
    OperationId::from_digest(Digest::of(&number.to_le_bytes()))
}

/// A repository whose delegate is person 0.
pub(crate) struct Repository {
    pub(crate) id: RepositoryId,
    pub(crate) graph: Graph,
    notes: u64,
}

impl Repository {
    /// Just the genesis.
    pub(crate) fn new(name: &str) -> Self {
        Self::of(name, false)
    }

    /// Just the genesis, of a private repository or a public one.
    pub(crate) fn of(name: &str, private: bool) -> Self {
        let mut policy = Policy::standard(key(0).public());
        if private {
            policy.visibility = Visibility::Private;
        }
        let body = Body::Genesis(Genesis {
            name: name.into(),
            nonce: [0; 16],
            policy,
            founder: String::new(),
            forked_from: None,
        });
        let genesis = Operation::sign(&key(0), Position::genesis(0), body).unwrap();
        let id = RepositoryId::from_digest(genesis.id().digest());
        let mut graph = Graph::new(id);
        graph.insert(genesis).unwrap();
        Self { id, graph, notes: 0 }
    }

    /// The genesis, and grants for persons 1 to `members`.
    pub(crate) fn with_members(members: u64) -> Self {
        let mut this = Self::new("with members");
        for member in 1..=members {
            this.add(0, grant(member));
        }
        this
    }

    /// Signed by `person` upon everything here, without adding it.
    pub(crate) fn sign(&self, person: u64, body: Body) -> Operation {
        let position = self.graph.position(key(person).public(), 0);
        Operation::sign(&key(person), position, body).unwrap()
    }

    /// Signed and added.
    pub(crate) fn add(&mut self, person: u64, body: Body) -> Operation {
        let operation = self.sign(person, body);
        self.graph.insert(operation.clone()).unwrap();
        operation
    }

    /// A note, signed and added.
    pub(crate) fn note(&mut self, person: u64) -> Operation {
        self.notes += 1;
        self.add(person, note(self.notes))
    }

    /// Everything here.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.graph.iter().cloned().collect()
    }
}

/// Makes `person` a contributor.
pub(crate) fn grant(person: u64) -> Body {
    let person = key(person).public();
    Body::Grant(Grant { person, role: Role::Contributor, name: String::new(), invite: None, approval: None })
}
