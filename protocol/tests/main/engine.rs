//! The engine: honest peers' sets become equal, only what is on disk counts, and dishonest peers get nowhere.

mod bounds;
mod catching_up;
mod dishonest;
mod disk;
mod joining;
mod private;

use flair_protocol::engine::{Engine, Event, Input, Offence, Output, Peer, RequestId, Token, Verdict};
use flair_protocol::id::{OperationId, RepositoryId};
use flair_protocol::operation::Operation;
use flair_protocol::wire::{Announcement, Request, Response};

/// An engine under test, and the clock around it. Its disk takes everything at once unless told otherwise.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) now: u64,
    pub(crate) disk: Disk,
    tokens: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Works,
    /// Says nothing.
    Slow,
    Full,
}

impl Node {
    pub(crate) fn new(repo: RepositoryId, snapshot: Vec<Operation>) -> Self {
        Self { engine: Engine::new(repo, snapshot, 1).unwrap(), now: 0, disk: Disk::Works, tokens: 0 }
    }

    /// All that the engine wants after this, the disk's part done.
    pub(crate) fn tell(&mut self, input: Input) -> Vec<Output> {
        self.engine.handle(self.now, input);
        let mut outputs = Vec::new();
        while let Some(output) = self.engine.poll() {
            if let Output::Store(operations) = &output {
                let ids = operations.iter().map(Operation::id).collect();
                match self.disk {
                    Disk::Works => self.engine.handle(self.now, Input::Stored { ids }),
                    Disk::Full => self.engine.handle(self.now, Input::StoreFailed { ids }),
                    Disk::Slow => {}
                }
            }
            outputs.push(output);
        }
        outputs
    }

    /// The answer to a request by `peer`.
    pub(crate) fn ask(&mut self, peer: Peer, request: Request) -> Response {
        self.tokens += 1;
        let token = Token(self.tokens);
        let outputs = self.tell(Input::Request { peer, token, request });
        outputs
            .into_iter()
            .find_map(|output| match output {
                Output::Respond { token: answered, response } if answered == token => Some(response),
                _ => None,
            })
            .expect("every request is answered")
    }

    /// Passes an announcement on, as `peer` would.
    pub(crate) fn announce(&mut self, peer: Peer, operation: &Operation) -> (Token, Vec<Output>) {
        self.tokens += 1;
        let token = Token(self.tokens);
        let announcement = Box::new(Announcement::of(operation));
        (token, self.tell(Input::Announcement { peer, token, announcement }))
    }

    pub(crate) fn answer(&mut self, peer: Peer, id: RequestId, response: Response) -> Vec<Output> {
        self.tell(Input::Response { peer, id, response })
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, milliseconds: u64) -> Vec<Output> {
        let until = self.now + milliseconds;
        let mut outputs = Vec::new();
        while let Some(due) = self.engine.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            outputs.extend(self.tell(Input::Tick));
        }
        self.now = until;
        outputs
    }

    pub(crate) fn has(&self, operation: &Operation) -> bool {
        self.engine.graph().contains(operation.id())
    }
}

/// The key of a peer; it signs nothing, so any bytes will do.
pub(crate) fn peer(number: u64) -> Peer {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Peer::from_bytes(bytes)
}

/// The requests to `peer` among `outputs`.
pub(crate) fn requests(outputs: &[Output], peer: Peer) -> Vec<(RequestId, Request)> {
    let to = |output: &Output| match output {
        Output::Request { peer: to, id, request } if *to == peer => Some((*id, request.clone())),
        _ => None,
    };
    outputs.iter().filter_map(to).collect()
}

/// The first request to `peer` that `wanted` picks.
pub(crate) fn request(outputs: &[Output], peer: Peer, wanted: fn(&Request) -> bool) -> RequestId {
    let found = requests(outputs, peer).into_iter().find(|(_, request)| wanted(request));
    found.unwrap_or_else(|| panic!("no such request among {outputs:?}")).0
}

pub(crate) fn is_hello(request: &Request) -> bool {
    matches!(request, Request::Hello { .. })
}

pub(crate) fn is_want(request: &Request) -> bool {
    matches!(request, Request::Want { .. })
}

pub(crate) fn is_get(request: &Request) -> bool {
    matches!(request, Request::Get { .. })
}

pub(crate) fn offences(outputs: &[Output]) -> Vec<Offence> {
    let offence = |output: &Output| match output {
        Output::Penalise { offence, .. } => Some(offence.clone()),
        _ => None,
    };
    outputs.iter().filter_map(offence).collect()
}

pub(crate) fn verdicts(outputs: &[Output]) -> Vec<(Token, Verdict)> {
    let verdict = |output: &Output| match output {
        Output::Verdict { token, verdict } => Some((*token, *verdict)),
        _ => None,
    };
    outputs.iter().filter_map(verdict).collect()
}

pub(crate) fn announced(outputs: &[Output]) -> Vec<OperationId> {
    let announced = |output: &Output| match output {
        Output::Announce(announcement) => Some(announcement.id()),
        _ => None,
    };
    outputs.iter().filter_map(announced).collect()
}

pub(crate) fn events(outputs: &[Output]) -> Vec<Event> {
    let event = |output: &Output| match output {
        Output::Notify(event) => Some(event.clone()),
        _ => None,
    };
    outputs.iter().filter_map(event).collect()
}

/// Connects two nodes and carries every message between them until neither says anything; how many requests.
pub(crate) fn exchange(a: &mut Node, b: &mut Node) -> usize {
    let (peer_a, peer_b) = (peer(1), peer(2));
    let mut for_a = a.tell(Input::Up { peer: peer_b });
    let mut for_b = b.tell(Input::Up { peer: peer_a });
    let mut count = 0;
    while !for_a.is_empty() || !for_b.is_empty() {
        count += requests(&for_a, peer_b).len() + requests(&for_b, peer_a).len();
        let next_a = carry(a, &for_a, b, peer_b, peer_a);
        let next_b = carry(b, &for_b, a, peer_a, peer_b);
        (for_a, for_b) = ([next_a.0, next_b.1].concat(), [next_a.1, next_b.0].concat());
        assert!(offences(&for_a).is_empty() && offences(&for_b).is_empty());
    }
    count
}

/// Carries what `from` said to `to` and back; what each says then.
fn carry(
    from: &mut Node,
    said: &[Output],
    to: &mut Node,
    to_key: Peer,
    from_key: Peer,
) -> (Vec<Output>, Vec<Output>) {
    let (mut next_from, mut next_to) = (Vec::new(), Vec::new());
    for (id, request) in requests(said, to_key) {
        to.tokens += 1;
        let token = Token(to.tokens);
        let outputs = to.tell(Input::Request { peer: from_key, token, request });
        for output in outputs {
            match output {
                Output::Respond { response, .. } => next_from.extend(from.answer(to_key, id, response)),
                other => next_to.push(other),
            }
        }
    }
    (next_from, next_to)
}
