//! A home that was copied or restored signs nothing until it knows what it signed before.

use std::path::Path;

use flair_node::api::types::{At, BranchCreateRequest, Code, PeerRequest};
use flair_node::copies;
use flair_node::home::{Config, Home};
use flair_node::service::Service;
use flair_node::store::Store;
use tempfile::TempDir;

use crate::together::{Person, until};

/// Copies a folder, file by file, as a backup does.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &target),
            kind if kind.is_file() => drop(std::fs::copy(entry.path(), target).unwrap()),
            _ => {}
        }
    }
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
}

fn branch(person: &Person, name: &str) -> BranchCreateRequest {
    BranchCreateRequest { place: person.place(), name: name.into(), from: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_home_signs_once_a_peer_told_what_it_signed_before() {
    let config = || Config { aggregate: false, ..Config::default() };
    let ana = Person::online(config()).await;
    ana.init().await;
    let ben = Person::online(config()).await;
    ben.clone_from(&ana.ticket(1).await, "ben").await;
    let backup = TempDir::new().unwrap();
    let Person { service, top } = ana;
    service.close().await;
    drop(service);
    copy(&top.path().join("home"), backup.path());

    // After the backup, ana signs something that ben gets.
    let service = Service::online(Home::open(top.path().join("home")).unwrap(), config()).await.unwrap();
    let ana = Person { service, top };
    ana.service.branch_create(branch(&ana, "after")).await.unwrap();
    let address = ben.service.node_status().await.unwrap().addresses.remove(0);
    let connect = || PeerRequest { connect: Some(address.clone()), lift: None };
    ana.service.peer(connect()).await.unwrap();
    let branches =
        async |person: &Person| person.service.branches(At { place: person.place() }).await.unwrap().len();
    until("ben has the branch", || async { branches(&ben).await == 2 }).await;

    // The disk breaks, and the backup is restored.
    let Person { service, top } = ana;
    service.close().await;
    drop(service);
    std::fs::remove_dir_all(top.path().join("home")).unwrap();
    copy(backup.path(), &top.path().join("home"));
    let service = Service::online(Home::open(top.path().join("home")).unwrap(), config()).await.unwrap();
    let ana = Person { service, top };
    let refused = ana.service.branch_create(branch(&ana, "too early")).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.to_string().contains("restored from a backup"), "{refused}");

    ana.service.peer(connect()).await.unwrap();
    until("ana has heard", || async { branches(&ana).await == 2 }).await;
    until("ana signs", || async { ana.service.branch_create(branch(&ana, "again")).await.is_ok() }).await;
    until("ben has it", || async { branches(&ben).await == 3 }).await;
    let status = ben.service.status(At { place: ben.place() }).await.unwrap();
    assert!(
        !status.warnings.iter().any(|warning| warning.contains("two different")),
        "{:?}",
        status.warnings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_signs_without_a_peer_only_where_its_owner_says_so() {
    let ana = Person::offline().await;
    ana.init().await;
    let Person { service, top } = ana.reopen().await;
    // The same home, opened again, is no copy.
    let ana = Person { service, top };
    ana.service.branch_create(branch(&ana, "fine")).await.unwrap();
    let Person { service, top } = ana;
    service.close().await;
    drop(service);
    let elsewhere = top.path().join("elsewhere");
    copy(&top.path().join("home"), &elsewhere);
    std::fs::remove_dir_all(top.path().join("home")).unwrap();
    std::fs::rename(&elsewhere, top.path().join("home")).unwrap();

    let ana = Person {
        service: Service::offline(Home::open(top.path().join("home")).unwrap()).await.unwrap(),
        top,
    };
    assert!(ana.service.branch_create(branch(&ana, "no")).await.is_err());
    // Not by trying again, nor after another start.
    let ana = ana.reopen().await;
    assert!(ana.service.branch_create(branch(&ana, "no")).await.is_err());
    let Person { service, top } = ana;
    service.close().await;
    drop(service);
    let home = Home::open(top.path().join("home")).unwrap();
    let store = Store::open(&home).await.unwrap();
    assert_eq!(copies::marked(&store).await.unwrap(), 1);
    assert_eq!(copies::trust(&store).await.unwrap(), 1);
    store.close().await;
    drop((store, home));
    let ana = Person {
        service: Service::offline(Home::open(top.path().join("home")).unwrap()).await.unwrap(),
        top,
    };
    ana.service.branch_create(branch(&ana, "yes")).await.unwrap();
}
