//! Getting started: init, ticket, join.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flair_protocol::commit::{Commit, Initial};
use flair_protocol::engine::Input;
use flair_protocol::id::{BranchId, OperationId, PackId, RepositoryId};
use flair_protocol::key::{PublicKey, SecretKey};
use flair_protocol::model::Manifest;
use flair_protocol::operation::body::{self, BranchCreate, Genesis, Invite, Publish};
use flair_protocol::operation::{Body, Operation, Position};
use flair_protocol::policy::{Every, Membership, Policy, Visibility};
use flair_protocol::state::State;
use flair_protocol::ticket::{InviteSecret, JoinRequest, Ticket};
use flair_tensors::role::Role;
use libp2p::Multiaddr;
use rustix::rand::{GetRandomFlags, getrandom};

use super::{FOLDER, Service, local, lora, people, policy, rules};
use crate::api::types::{Init, Initialised, Join, Joined, MakeTicket, Problem, RoleCount, TicketMade};
use crate::folder::Folder;
use crate::hub::SEED;
use crate::network::{self, JOIN};
use crate::repository::{Extras, Repository, wall};
use crate::shelf::Held;
use crate::store::Batch;

/// Fact of a repository: the secret of an invite made here.
const INVITE: &str = "invite/";

impl Service {
    /// Starts a repository from a model: genesis, branch, first commit, working folder.
    ///
    /// # Errors
    /// A model that can't be used, a folder that is taken, a full disk.
    pub async fn init(&self, request: Init) -> Result<Initialised, Problem> {
        let root = if request.model.is_dir() {
            request.model.as_path()
        } else {
            request.model.parent().unwrap_or(Path::new("."))
        };
        Folder::vacant(root, false)?;
        body::name(&request.name)?;
        body::branch_name(&request.branch)?;
        if request.private && request.open {
            return Err(policy::not_open());
        }
        let hub = &self.hub;
        // Before anything is stored.
        let mut rules = Policy::standard(hub.me());
        let rule = request.aggregation.as_deref();
        rules.aggregation = rules::aggregation(&rules.aggregation, rule, &request.settings)?;
        let hold = hub.store.hold();
        let (like, files) = local::discover(hub, &hold, &request.model, request.roles).await?;
        let (manifest, model, packed) = local::pack(hub, &hold, &files, &like, None).await?;

        if let Some(every) = request.every {
            rules.aggregation.every = Every::Persons(every);
        }
        if request.open {
            rules.membership = Membership::Open;
        }
        if request.private {
            rules.visibility = Visibility::Private;
        }
        let mut nonce = [0; 16];
        random(&mut nonce)?;
        let genesis = Genesis {
            name: request.name.clone(),
            nonce,
            policy: rules.clone(),
            founder: request.person.clone(),
            forked_from: None,
        };
        let operation = Operation::sign(&hub.key, Position::genesis(wall()), Body::Genesis(genesis))?;
        let repo = RepositoryId::from_digest(operation.id().digest());
        let batch = Batch::new(repo.digest())
            .operation(operation.id().digest(), operation.encode()?)
            .fact(SEED, b"1".as_slice())
            .sequence(1);
        hub.store.publish(batch).await?;
        let repository = hub.load(repo).await?;
        hub.ask(repo, true);
        network::follow(hub, &repository).await;

        let branch = Body::BranchCreate(BranchCreate { name: request.branch.clone(), from: None });
        let branch =
            BranchId::from_digest(hub.publish(&repository, branch, Extras::default()).await?.digest());
        let commit = Commit::Initial(Initial {
            author: hub.me(),
            branch,
            model,
            architecture: manifest.architecture()?,
            bytes: manifest.bytes(),
            message: request.message,
            ext: BTreeMap::new(),
        });
        commit.validate()?;
        let id = commit.id()?;
        let side = manifest.side.iter().map(|side| side.blob).collect();
        let held = Held { model, state: None, pack: PackId::from_digest(packed.root), side, attested: false };
        let sizes = local::sizes(hub, &packed.blobs).await?;
        let pack_bytes = sizes.iter().map(|(_, bytes)| bytes).sum();
        let facts = vec![held.fact(id)?, folder_fact(root)];
        let extras = Extras { facts, refer: held.blobs(), ..Extras::default() };
        hub.doors.publish(repository.id(), &held);
        let publish = Publish { id, commit, pack: held.pack, pack_bytes, result: None };
        hub.publish(&repository, Body::Publish(Box::new(publish)), extras).await?;
        repository.shelf().hold(id, held);
        Folder::create(root, repo, branch, id, model)?;
        Ok(Initialised {
            repo: repo.to_string(),
            name: request.name,
            branch: request.branch,
            commit: id.to_string(),
            model: model.to_string(),
            folder: root.display().to_string(),
            roles: roles(&manifest),
            files: manifest.files.iter().map(|file| file.name.clone()).collect(),
            side: manifest.side.iter().map(|side| side.name.clone()).collect(),
            others: if request.model.is_dir() { files.local.others(root)? } else { Vec::new() },
            policy: policy::words(None, &rules)?.into_iter().chain(lora::words(&manifest)).collect(),
        })
    }

    /// Makes a ticket, with an invite when a role is given.
    ///
    /// # Errors
    /// An unknown role, no right to invite.
    pub async fn ticket(&self, request: MakeTicket) -> Result<TicketMade, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let (name, private) = (state.name.clone(), state.private());
        let mut warnings = Vec::new();
        let addresses = match self.hub.network.get() {
            Some(network) => network.public_addresses().await,
            None => Vec::new(),
        };
        if addresses.is_empty() {
            warnings.push(
                "no node is running, so the ticket names no address: start one with `flair-node start` and make the \
                 ticket again"
                    .to_owned(),
            );
        }
        let invite = match &request.role {
            None => None,
            Some(role) => {
                let role = people::role(role)?;
                let mut secret = [0; 32];
                random(&mut secret)?;
                let key = SecretKey::from_bytes(&secret).public();
                let body = Body::Invite(Invite { key, role, uses: request.uses, label: request.label });
                let invite = self.hub.publish(&repository, body, Extras::default()).await?;
                let facts = vec![(format!("{INVITE}{invite}"), secret.to_vec())];
                repository.note(Extras { facts, ..Extras::default() }).await?;
                Some(InviteSecret { invite, secret })
            }
        };
        let uses = invite.is_some().then_some(request.uses);
        let ticket = Ticket {
            version: 1,
            repo: repository.id(),
            name: name.clone(),
            node: self.hub.me(),
            addresses,
            invite,
            private,
        };
        let addresses = ticket.addresses.clone();
        Ok(TicketMade {
            ticket: ticket.encode()?,
            name,
            private,
            role: request.role,
            uses,
            addresses,
            warnings,
        })
    }

    /// Asks to contribute.
    ///
    /// # Errors
    /// No node, a ticket of another repository.
    pub async fn join(&self, request: Join) -> Result<Joined, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let invite = match &request.ticket {
            None => None,
            Some(text) => {
                let ticket = Ticket::decode(text)?;
                if ticket.repo != repository.id() {
                    return Err(Problem::invalid(format!(
                        "the ticket is for another repository, `{}`",
                        ticket.name
                    )));
                }
                Some(ticket.invite.ok_or_else(|| Problem::invalid("the ticket holds no invite"))?)
            }
        };
        self.redeem(&repository, invite.as_ref(), &request.person, Duration::from_secs(request.timeout)).await
    }

    pub(super) async fn redeem(
        &self,
        repository: &Arc<Repository>,
        invite: Option<&InviteSecret>,
        person: &str,
        limit: Duration,
    ) -> Result<Joined, Problem> {
        let me = self.hub.me();
        let state = repository.state().await;
        if let Some(role) = state.role(me) {
            let words = format!("you are a {} already", role.name());
            return Ok(Joined { role: role.name().to_owned(), waiting: false, words });
        }
        self.network()?;
        let known = |state: &State, id: OperationId| state.invites.get(&id).cloned();
        if let Some(invite) = invite {
            match known(&state, invite.invite) {
                Some(info) if info.left() == 0 => {
                    return Err(Problem::denied(format!(
                        "the invite is used up: its uses were {}",
                        info.uses
                    ))
                    .help("ask for a new ticket, or ask to join without an invite: `flair join`"));
                }
                _ => {}
            }
        }
        let join = JoinRequest::sign(&self.hub.key, repository.id(), person.to_owned(), invite, wall())?;
        self.hub.drive(repository, vec![Input::Join(Box::new(join))]).await;
        let granted = self
            .wait(limit, || async {
                let state = repository.state().await;
                state.role(me)
            })
            .await;
        Ok(match granted {
            Some(role) => {
                Joined { role: role.name().to_owned(), waiting: false, words: format!("you are a {} now", role.name()) }
            }
            None => Joined {
                role: "none".to_owned(),
                waiting: true,
                words: "your request waits for a delegate: their node answers invites when it is connected, a person \
                        answers the others (`flair status` shows them)"
                    .to_owned(),
            },
        })
    }

    /// Connects with the first address that answers, and stays connected with it from now on.
    pub(super) async fn dial_any(&self, addresses: &[String], limit: Duration) -> Result<PublicKey, Problem> {
        let mut last = None;
        for text in addresses {
            match self.dial(text, limit).await {
                Ok(peer) => return Ok(peer),
                Err(problem) => last = Some(problem),
            }
        }
        Err(last.unwrap_or_else(|| Problem::invalid("no address given")))
    }

    /// Connects with an address, and stays connected with it from now on.
    pub(super) async fn dial(&self, text: &str, limit: Duration) -> Result<PublicKey, Problem> {
        let network = self.network()?;
        let addr: Multiaddr = text.parse().map_err(|error| {
            Problem::invalid(format!("`{text}` is not a multiaddr: {error}"))
                .help("write it like /ip4/192.168.1.5/tcp/4001/p2p/12D3…")
        })?;
        network.widen(&addr);
        let dialled = tokio::time::timeout(limit, network.net().dial(addr.clone())).await;
        let peer = match dialled {
            Ok(Ok(peer)) => peer,
            Ok(Err(error)) => {
                return Err(Problem::offline(format!("{text} was not reached: {error}"))
                    .help("is the other node running, and is the address right?"));
            }
            Err(_) => {
                return Err(Problem::offline(format!("{text} did not answer within {} s", limit.as_secs()))
                    .help("is the other node running, and is the address right?"));
            }
        };
        if let Err(error) = network.net().join(addr).await {
            tracing::warn!(%error, "the address is not kept");
        }
        self.hub.note(format!("{JOIN}{text}"), Some(Vec::new())).await?;
        Ok(PublicKey::from_bytes(peer))
    }
}

pub(super) fn folder_fact(root: &Path) -> (String, Vec<u8>) {
    (format!("{FOLDER}{}", root.display()), Vec::new())
}

fn random(bytes: &mut [u8]) -> Result<(), Problem> {
    match getrandom(&mut *bytes, GetRandomFlags::empty()) {
        Ok(filled) if filled == bytes.len() => Ok(()),
        Ok(_) => Err(Problem::internal("the system gave too little randomness")),
        Err(error) => Err(Problem::internal(format!("the system gave no randomness: {error}"))),
    }
}

/// How the tensors of a model will be treated.
fn roles(manifest: &Manifest) -> Vec<RoleCount> {
    let mut counts: BTreeMap<String, RoleCount> = BTreeMap::new();
    for tensor in manifest.tensors() {
        let word = serde_json::to_value(tensor.role)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default();
        let count = counts.entry(word.clone()).or_insert_with(|| RoleCount {
            role: word,
            tensors: 0,
            elements: 0,
            example: tensor.name.clone(),
            treatment: treatment(tensor.role).to_owned(),
        });
        count.tensors += 1;
        count.elements += tensor.length / tensor.dtype.size() as u64;
    }
    counts.into_values().collect()
}

fn treatment(role: Role) -> &'static str {
    match role {
        Role::Float => "averaged by the aggregation rule",
        Role::BatchNorm => "mean (or the rule's median) of the updates' values, never clipped or scaled",
        Role::Counter => "the largest value",
        Role::Exact => "must stay equal in every update",
        Role::Local => "every site keeps its own; commits have the first one's value",
        Role::LoraA => "A of LoRA pairs: stays as it is now, in every update",
        Role::LoraB => "B of LoRA pairs: averaged by the aggregation rule, so BA is averaged too",
    }
}
