//! Messages between nodes: they fit, have one encoding, and are refused when they don't hold.

use flair_protocol::cbor::CborError;
use flair_protocol::id::{Digest, OperationId};
use flair_protocol::key::PublicKey;
use flair_protocol::limits;
use flair_protocol::operation::{Body, Kind, Operation, OperationError};
use flair_protocol::ticket::JoinRequest;
use flair_protocol::wire::{Announcement, Frontier, Joined, PeerAddress, Request, Response, WireError, page};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::people::{Repository, grant, key, note, nowhere};

#[test]
fn an_announcement_with_sixteen_dependencies_and_the_largest_numbers_fits_gossip() {
    let repository = Repository::with_members(1);
    let mut position = repository.graph.position(key(1).public(), u64::MAX);
    position.seq = u64::MAX;
    position.lamport = u64::MAX;
    position.deps = (0..16).map(nowhere).collect();
    position.prev = Some(nowhere(3));
    let kind = Kind::from_number(u16::MAX);
    let operation = Operation::sign(&key(1), position, Body::Unknown(kind, vec![1; limits::BODY])).unwrap();
    let bytes = Announcement::of(&operation).encode().unwrap();
    assert!(bytes.len() <= limits::ANNOUNCEMENT, "{} bytes", bytes.len());
    let read = Announcement::decode(&bytes, repository.id).unwrap();
    assert_eq!((read.id(), read.header()), (operation.id(), operation.header()));
}

#[test]
fn an_announcement_of_another_repository_is_refused() {
    let (here, there) = (Repository::new("here"), Repository::new("there"));
    let bytes = Announcement::of(&there.sign(0, grant(1))).encode().unwrap();
    let refused = Announcement::decode(&bytes, here.id);
    assert!(matches!(refused, Err(WireError::Operation(OperationError::Repository { .. }))), "{refused:?}");
}

#[test]
fn a_forged_announcement_is_refused() {
    let repository = Repository::new("here");
    let bytes = Announcement::of(&repository.sign(0, note(1))).encode().unwrap();
    for place in (0..bytes.len()).step_by(7) {
        let mut forged = bytes.clone();
        forged[place] ^= 1;
        assert!(Announcement::decode(&forged, repository.id).is_err(), "byte {place}");
    }
}

#[test]
fn a_response_with_one_operation_of_another_repository_is_refused_whole() {
    let (here, there) = (Repository::with_members(2), Repository::with_members(2));
    let other = Repository::new("other");
    let frontier = Frontier::of(&here.graph);
    let mut operations = here.operations();
    assert_eq!(here.id, there.id);
    operations.push(other.sign(0, note(1)));
    let bytes = Response::Operations { operations, more: false, frontier }.encode().unwrap();
    let refused = Response::decode(&bytes, here.id);
    assert!(matches!(refused, Err(WireError::Operation(OperationError::Repository { .. }))), "{refused:?}");
}

#[test]
fn pages_of_the_largest_and_of_the_smallest_operations_fit_a_response() {
    let mut repository = Repository::with_members(1);
    for number in 0..20 {
        let body = Body::Unknown(Kind::from_number(0x0177), vec![number; limits::BODY]);
        repository.add(1, body);
    }
    let large: Vec<_> = repository.operations();
    let small: Vec<_> = std::iter::repeat_n(repository.operations()[1].clone(), 4_000).collect();
    for operations in [large, small] {
        let (operations, more) = page(&operations);
        assert!(more && !operations.is_empty());
        let heads: Vec<_> = (0..limits::REQUEST_IDS as u64).map(nowhere).collect();
        let frontier = Frontier { heads, count: u64::MAX, digest: Digest::of(b"") };
        let bytes = Response::Operations { operations, more, frontier }.encode().unwrap();
        assert!(bytes.len() <= limits::RESPONSE, "{} bytes", bytes.len());
    }
}

#[test]
fn a_request_with_256_heads_fits() {
    let mut heads: Vec<_> = (0..limits::REQUEST_IDS as u64).map(nowhere).collect();
    heads.sort_unstable();
    let frontier = Frontier { heads, count: u64::MAX, digest: Digest::of(b"") };
    let blobs = vec!["x".repeat(limits::ADDRESS); limits::ADDRESSES];
    let repository = Repository::new("here");
    let bytes = Request::Hello { frontier, blobs }.encode(repository.id).unwrap();
    assert!(Request::decode(&bytes).is_ok());
}

#[test]
fn lists_beyond_their_bounds_are_refused() {
    let repository = Repository::new("here");
    let many: Vec<_> = (0..=limits::REQUEST_IDS as u64).map(nowhere).collect();
    let mut unsorted = Frontier::of(&Repository::with_members(2).graph);
    unsorted.heads = vec![nowhere(1), nowhere(1)];
    let long = vec![String::new(); limits::ADDRESSES + 1];
    let fine = Frontier::of(&repository.graph);
    for request in [
        Request::Get { ids: many.clone() },
        Request::Want { have: many.clone(), after: None },
        Request::Hello { frontier: unsorted.clone(), blobs: Vec::new() },
        Request::Hello { frontier: fine.clone(), blobs: long.clone() },
        Request::Hello { frontier: fine.clone(), blobs: vec!["x".repeat(limits::ADDRESS + 1)] },
    ] {
        let bytes = request.encode(repository.id).unwrap();
        assert!(matches!(Request::decode(&bytes), Err(WireError::Bounds(_))), "{request:?}");
    }
    let peer = PeerAddress { key: key(1).public(), addresses: Vec::new() };
    let crowd = vec![peer; limits::ADDRESSES + 1];
    let hello = |blobs: &[String], peers: &[PeerAddress]| Response::Hello {
        frontier: fine.clone(),
        blobs: blobs.to_vec(),
        peers: peers.to_vec(),
        joins: Vec::new(),
    };
    for response in [
        hello(&long, &[]),
        hello(&[], &crowd),
        Response::Joined(Joined::Refused("x".repeat(1_000))),
        Response::Operations { operations: Vec::new(), more: false, frontier: unsorted },
    ] {
        let bytes = response.encode().unwrap();
        assert!(matches!(Response::decode(&bytes, repository.id), Err(WireError::Bounds(_))), "{response:?}");
    }
}

#[test]
fn a_join_request_goes_only_where_it_is_meant_to() {
    let (here, there) = (Repository::new("here"), Repository::new("there"));
    let join = JoinRequest::sign(&key(5), here.id, "Ada".into(), None, 1).unwrap();
    let request = Request::Join(Box::new(join));
    assert_eq!(Request::decode(&request.encode(here.id).unwrap()).unwrap(), (here.id, request.clone()));
    let refused = Request::decode(&request.encode(there.id).unwrap());
    assert!(matches!(refused, Err(WireError::Bounds(_))), "{refused:?}");
}

#[test]
fn a_changed_join_request_is_refused() {
    let repository = Repository::new("here");
    let mut join = JoinRequest::sign(&key(5), repository.id, "Ada".into(), None, 1).unwrap();
    join.person = key(6).public();
    let bytes = Request::Join(Box::new(join)).encode(repository.id).unwrap();
    assert!(matches!(Request::decode(&bytes), Err(WireError::Join(_))));
}

#[test]
fn another_version_says_which_and_what_to_do() {
    // [2, …] where this build says [1, …].
    let repository = Repository::new("here");
    let mut bytes = Response::Unknown.encode().unwrap();
    assert_eq!(bytes[1], 1);
    bytes[1] = 2;
    let refused = Response::decode(&bytes, repository.id).unwrap_err();
    assert_eq!(refused, WireError::Version(2));
    assert!(refused.to_string().contains("install the newer version"));
    let mut bytes = Announcement::of(&repository.sign(0, note(1))).encode().unwrap();
    bytes[1] = 2;
    assert_eq!(Announcement::decode(&bytes, repository.id), Err(WireError::Version(2)));
    let mut bytes = Request::Get { ids: Vec::new() }.encode(repository.id).unwrap();
    bytes[1] = 2;
    assert_eq!(Request::decode(&bytes), Err(WireError::Version(2)));
}

#[test]
fn a_length_of_two_to_the_63_is_refused_at_once() {
    let repository = Repository::new("here");
    // An array, text, byte string and map that announce 2^63 elements, alone and where a message has its parts.
    for major in [0x80_u8, 0x60, 0x40, 0xa0] {
        let claim = [&[major | 0x1b][..], &(1_u64 << 63).to_be_bytes()].concat();
        for prefix in [&[][..], &[0x82, 0x01], &[0x83, 0x01]] {
            let bytes = [prefix, &claim].concat();
            assert!(Announcement::decode(&bytes, repository.id).is_err());
            assert!(Request::decode(&bytes).is_err());
            assert!(Response::decode(&bytes, repository.id).is_err());
        }
    }
}

#[test]
fn oversized_messages_are_refused_before_they_are_read() {
    let repository = Repository::new("here");
    let refused = |error: WireError| matches!(error, WireError::Cbor(CborError::Size { .. }));
    let bytes = vec![0; limits::RESPONSE + 1];
    assert!(refused(Response::decode(&bytes, repository.id).unwrap_err()));
    assert!(refused(Request::decode(&bytes[..=limits::REQUEST]).unwrap_err()));
    assert!(refused(Announcement::decode(&bytes[..=limits::ANNOUNCEMENT], repository.id).unwrap_err()));
}

fn an_id() -> impl Strategy<Value = OperationId> {
    any::<[u8; 32]>().prop_map(OperationId::from_bytes)
}

fn a_frontier() -> impl Strategy<Value = Frontier> {
    (vec(an_id(), 0..20), any::<u64>(), any::<[u8; 32]>()).prop_map(|(mut heads, count, digest)| {
        heads.sort_unstable();
        heads.dedup();
        Frontier { heads, count, digest: Digest::from_bytes(digest) }
    })
}

fn a_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (a_frontier(), vec("[a-z0-9/.:]{0,40}", 0..5))
            .prop_map(|(frontier, blobs)| Request::Hello { frontier, blobs }),
        (vec(an_id(), 0..20), proptest::option::of(an_id()))
            .prop_map(|(have, after)| Request::Want { have, after }),
        vec(an_id(), 0..20).prop_map(|ids| Request::Get { ids }),
    ]
}

fn a_response() -> impl Strategy<Value = Response> {
    let address = (any::<[u8; 32]>(), vec("[a-z0-9/.:]{0,40}", 0..5))
        .prop_map(|(key, addresses)| PeerAddress { key: PublicKey::from_bytes(key), addresses });
    prop_oneof![
        (a_frontier(), vec("[a-z0-9.:]{0,40}", 0..5), vec(address, 0..5)).prop_map(
            |(frontier, blobs, peers)| Response::Hello { frontier, blobs, peers, joins: Vec::new() }
        ),
        (a_frontier(), any::<bool>(), 0..20_u64).prop_map(|(frontier, more, members)| {
            let operations = Repository::with_members(members).operations();
            Response::Operations { operations, more, frontier }
        }),
        "[a-z ]{0,100}".prop_map(|why| Response::Joined(Joined::Refused(why))),
        Just(Response::Unknown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn requests_have_one_encoding(request in a_request()) {
        let repository = Repository::new("here");
        let bytes = request.encode(repository.id).unwrap();
        prop_assert_eq!(Request::decode(&bytes).unwrap(), (repository.id, request));
    }

    #[test]
    fn responses_have_one_encoding(response in a_response()) {
        let repository = Repository::new("with members");
        let bytes = response.encode().unwrap();
        let read = Response::decode(&bytes, repository.id).unwrap();
        prop_assert_eq!(read.encode().unwrap(), bytes);
        prop_assert_eq!(format!("{read:?}"), format!("{response:?}"));
    }

    #[test]
    fn cut_and_changed_messages_never_panic(
        response in a_response(), request in a_request(), cut in any::<prop::sample::Index>(), flip in any::<u8>()
    ) {
        let repository = Repository::new("with members");
        for mut bytes in [response.encode().unwrap(), request.encode(repository.id).unwrap()] {
            let place = cut.index(bytes.len());
            let cut = &bytes[..place];
            prop_assert!(Request::decode(cut).is_err() && Response::decode(cut, repository.id).is_err());
            bytes[place] ^= flip;
            let _ = (Request::decode(&bytes), Response::decode(&bytes, repository.id));
        }
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..2_000)) {
        let repository = Repository::new("here");
        prop_assert!(Announcement::decode(&bytes, repository.id).is_err());
        prop_assert!(Request::decode(&bytes).is_err());
        prop_assert!(Response::decode(&bytes, repository.id).is_err());
    }
}
