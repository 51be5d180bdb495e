//! Promises of a home.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use flair_node::home::{Home, HomeError};
use tempfile::tempdir;

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("home");
    let first = Home::open(&path).unwrap();
    let error = Home::open_within(&path, Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert!(matches!(error, HomeError::Held { .. }));
    let clone = first.clone();
    drop(first);
    assert!(Home::open_within(&path, Duration::ZERO).is_err(), "a clone still owns it");
    drop(clone);
    Home::open_within(&path, Duration::ZERO).unwrap();
}

#[test]
fn a_second_owner_waits_for_the_first() {
    let folder = tempdir().unwrap();
    let first = Home::open(folder.path()).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| Home::open(folder.path()));
        std::thread::sleep(Duration::from_millis(100));
        drop(first);
        second.join().unwrap().unwrap();
    });
}

#[test]
fn a_home_and_what_is_in_it_is_closed_to_others() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("deep/home");
    let home = Home::open(&path).unwrap();
    home.secret().unwrap();
    home.egress(&"line").unwrap();
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("store"), 0o700);
    assert_eq!(mode("logs"), 0o700);
    assert_eq!(mode("key"), 0o600);
    assert_eq!(mode("egress.jsonl"), 0o600);
}

#[test]
fn a_store_of_a_newer_version_is_refused_with_the_version_needed() {
    let folder = tempdir().unwrap();
    drop(Home::open(folder.path()).unwrap());
    let version = folder.path().join("store/version");
    assert_eq!(fs::read_to_string(&version).unwrap(), "1\n");
    fs::write(&version, "7\n").unwrap();
    let error = Home::open(folder.path()).unwrap_err();
    assert!(matches!(error, HomeError::Newer { found: 7, .. }));
    assert!(error.to_string().contains("Install a Flair that knows store version 7"), "{error}");
    fs::write(&version, "seven").unwrap();
    assert!(matches!(Home::open(folder.path()), Err(HomeError::Version { .. })));
    assert_eq!(fs::read_to_string(&version).unwrap(), "seven", "nothing was changed");
}

#[test]
fn a_key_is_made_once_and_refused_when_it_is_open_to_others_or_cut() {
    let folder = tempdir().unwrap();
    let home = Home::open(folder.path()).unwrap();
    let secret = home.secret().unwrap();
    assert_ne!(secret, [0; 32]);
    assert_eq!(home.secret().unwrap(), secret);
    let key = folder.path().join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = home.secret().unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, [1; 31]).unwrap();
    assert!(matches!(home.secret(), Err(HomeError::KeyLength { length: 31, .. })));
}

#[test]
fn an_unknown_setting_is_named_with_its_file() {
    let folder = tempdir().unwrap();
    let home = Home::open(folder.path()).unwrap();
    assert_eq!(home.config().unwrap(), flair_node::home::Config::default());
    fs::write(folder.path().join("config.toml"), "quota_byte = 3\n").unwrap();
    let text = home.config().unwrap_err().to_string();
    assert!(text.contains("config.toml") && text.contains("quota_byte"), "{text}");
}

#[test]
fn a_cut_line_of_what_left_does_not_swallow_the_next() {
    let folder = tempdir().unwrap();
    let home = Home::open(folder.path()).unwrap();
    home.egress(&("first", 1)).unwrap();
    let path = folder.path().join("egress.jsonl");
    fs::write(&path, "[\"first\",1]\n[\"cu").unwrap();
    home.egress(&("second", 2)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "[\"first\",1]\n[\"cu\n[\"second\",2]\n");
}

#[test]
fn whether_a_node_runs_is_seen_without_owning_the_home() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("home");
    assert!(!Home::peek(&path).exists);
    let home = Home::open(&path).unwrap();
    let socket = home.socket().unwrap();
    assert!(socket.as_os_str().len() <= 100);
    let seen = Home::peek(&path);
    assert_eq!((seen.exists, seen.running, seen.socket.as_deref()), (true, false, Some(&*socket)));
    assert_eq!(seen.holder, Some(std::process::id()));
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(Home::peek(&path).running);
    drop(listener);
    assert!(!Home::peek(&path).running, "a socket that nobody answers is no node");
    // The next node takes the path over.
    let listener = UnixListener::bind(home.socket().unwrap()).unwrap();
    assert!(Home::peek(&path).running);
    drop(listener);
    home.socket().unwrap();
}
