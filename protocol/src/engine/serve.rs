//! Answering peers. Only the graph is served: what is on disk.

use std::collections::BTreeSet;

use super::Engine;
use super::exchange::{Event, Output, Peer, Token};
use crate::id::OperationId;
use crate::limits;
use crate::wire::{Frontier, Request, Response, page};

impl Engine {
    pub(super) fn request(&mut self, peer: Peer, token: Token, request: Request) {
        let response = match request {
            Request::Hello { frontier, blobs } => {
                let joins = self.lane.newest(peer, limits::HELLO_JOINS);
                let response = Response::Hello {
                    frontier: Frontier::of(self.graph()),
                    blobs: self.blobs.clone(),
                    peers: self.addresses.clone(),
                    joins,
                };
                self.notify(Event::Addresses { peer, blobs, peers: Vec::new() });
                self.consider(peer, frontier, false);
                response
            }
            Request::Want { have, after } => self.lacking(&have, after),
            Request::Get { ids } => self.these(ids),
            Request::Join(join) => Response::Joined(self.join(*join, Some(peer))),
        };
        self.out(Output::Respond { token, response });
    }

    fn lacking(&self, have: &[OperationId], after: Option<OperationId>) -> Response {
        let graph = self.graph();
        let start = after.and_then(|id| graph.place(id)).map_or(0, |place| place + 1);
        let places = graph.lacking(have).into_iter().filter(|place| *place >= start);
        let (operations, more) = page(places.map(|place| graph.at(place)));
        Response::Operations { operations, more, frontier: Frontier::of(graph) }
    }

    fn these(&self, ids: Vec<OperationId>) -> Response {
        let graph = self.graph();
        let places: BTreeSet<_> = ids.into_iter().filter_map(|id| graph.place(id)).collect();
        let (operations, more) = page(places.into_iter().map(|place| graph.at(place)));
        Response::Operations { operations, more, frontier: Frontier::of(graph) }
    }
}
