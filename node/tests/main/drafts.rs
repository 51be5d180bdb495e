//! Promises about drafts when a command is cut off between what it writes to the store and to the folder.

use std::fs;

use flair_node::api::types::{LogRequest, ResetRequest};

use crate::together::Person;

impl Person {
    async fn reset(&self) {
        let request = ResetRequest { place: self.place(), drafts: None, hard: false };
        assert_eq!(self.service.reset(request).await.unwrap().undone.len(), 1);
    }

    /// What the folder knows of itself.
    fn known(&self) -> Vec<u8> {
        fs::read(self.folder().join(".flair/folder.json")).unwrap()
    }

    /// The folder as it was before a command that was cut off at its end.
    fn forget(&self, known: &[u8]) {
        fs::write(self.folder().join(".flair/folder.json"), known).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_stays_however_often_its_drafts_are_let_go_of() {
    let ana = Person::offline().await;
    ana.init().await;
    ana.draft(0.25).await;
    let before = ana.known();
    let first = ana.push().await;
    ana.forget(&before);
    assert_eq!(ana.push().await, first, "pushed again, it is the same update");
    ana.forget(&before);
    ana.reset().await;
    ana.forget(&before);
    assert_eq!(ana.push().await, first);

    // What nothing refers to is forgotten when the home is opened.
    let ana = ana.reopen().await;
    ana.draft(0.25).await;
    let second = ana.push().await;
    let ana = ana.reopen().await;
    let request = LogRequest { place: ana.place(), branch: None, limit: 10 };
    let log = ana.service.log(request).await.unwrap();
    for update in [first, second] {
        assert!(log.entries.iter().any(|entry| entry.commit == update), "{update}");
    }
    ana.service.close().await;
}
