//! Tickets and join requests.

use flair_protocol::id::{Digest, OperationId, RepositoryId};
use flair_protocol::key::KeyError;
use flair_protocol::limits;
use flair_protocol::ticket::{InviteProof, InviteSecret, JoinError, JoinRequest, Ticket, TicketError};
use proptest::prelude::*;

use crate::world::*;

fn repo(number: u8) -> RepositoryId {
    RepositoryId::from_digest(Digest::of(&[number]))
}

fn secret() -> InviteSecret {
    InviteSecret { invite: OperationId::from_digest(Digest::of(b"invite")), secret: [200; 32] }
}

fn ticket() -> Ticket {
    Ticket {
        private: false,
        version: 1,
        repo: repo(1),
        name: "digits".into(),
        node: person(1),
        addresses: vec!["/ip4/127.0.0.1/tcp/4001".into()],
        invite: Some(secret()),
    }
}

#[test]
fn a_ticket_comes_back_whole_also_with_white_space_around_it() {
    let text = ticket().encode().unwrap();
    assert!(text.starts_with("flair") && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    assert_eq!(Ticket::decode(&format!("  {text}\n")), Ok(ticket()));
}

#[test]
fn a_cut_or_mistyped_ticket_is_refused_and_says_so() {
    let text = ticket().encode().unwrap();
    for length in 5..text.len() {
        let error = Ticket::decode(&text[..length]).unwrap_err();
        assert_eq!(error, TicketError::Damaged, "{length}");
    }
    for at in 5..text.len() {
        let other = if &text[at..=at] == "a" { "b" } else { "a" };
        let typo = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        assert_eq!(Ticket::decode(&typo), Err(TicketError::Damaged), "{at}");
    }
    assert_eq!(Ticket::decode("https://example.org"), Err(TicketError::Prefix));
    let long = format!("flair{}", "a".repeat(limits::TICKET));
    assert_eq!(Ticket::decode(&long), Err(TicketError::Long));
}

#[test]
fn a_ticket_of_another_version_or_with_too_much_in_it_is_refused() {
    let newer = Ticket { version: 2, ..ticket() }.encode().unwrap();
    assert!(matches!(Ticket::decode(&newer), Err(TicketError::Content(why)) if why.contains("version 2")));
    let many = Ticket { addresses: vec![String::new(); limits::ADDRESSES + 1], ..ticket() };
    assert!(matches!(Ticket::decode(&many.encode().unwrap()), Err(TicketError::Content(_))));
    let odd = Ticket { name: "\u{1b}[2J".into(), ..ticket() };
    assert!(matches!(Ticket::decode(&odd.encode().unwrap()), Err(TicketError::Content(_))));
}

#[test]
fn a_join_request_holds_for_its_signer_and_repository_only() {
    let request = JoinRequest::sign(&key(2), repo(1), "Ada".into(), Some(&secret()), 5).unwrap();
    let back = JoinRequest::decode(&request.encode().unwrap()).unwrap();
    assert_eq!(back, request);
    for forged in [
        JoinRequest { person: person(3), ..request.clone() },
        JoinRequest { repo: repo(2), ..request.clone() },
        JoinRequest { name: "Eve".into(), ..request.clone() },
        JoinRequest { invite: None, ..request.clone() },
        JoinRequest { time: 6, ..request.clone() },
    ] {
        let error = JoinRequest::decode(&forged.encode().unwrap()).unwrap_err();
        assert!(matches!(error, JoinError::Key(KeyError::Signature(_))), "{error}");
    }
}

#[test]
fn an_invites_proof_holds_for_one_person_and_repository_only() {
    let proof = InviteProof::sign(&secret(), repo(1), person(2));
    let invite = person(200);
    assert!(proof.verify(invite, repo(1), person(2)).is_ok());
    assert!(proof.verify(invite, repo(1), person(3)).is_err());
    assert!(proof.verify(invite, repo(2), person(2)).is_err());
    assert!(proof.verify(person(1), repo(1), person(2)).is_err());
}

proptest! {
    #[test]
    fn any_text_is_refused_without_panic(text in ".{0,200}", rest in "[a-z2-7]{0,200}") {
        prop_assert!(Ticket::decode(&text).is_err());
        let forged = format!("flair{rest}");
        prop_assert!(Ticket::decode(&forged).is_err());
    }

    #[test]
    fn any_bytes_are_no_join_request(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(JoinRequest::decode(&bytes).is_err());
    }
}
