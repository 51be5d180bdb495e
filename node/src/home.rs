//! The folder that belongs to one node: key, settings, stores, logs, and the lock that keeps a second owner out.
//!
//! ```text
//! key            the secret key, 32 bytes, mode 0600
//! config.toml    settings, see [`Config`]
//! lock           held by whoever owns the home now, with its process id in it
//! socket         path of the control socket of the node that runs here
//! store/version  version of the layout below store/
//! egress.jsonl   what left this machine, a line each
//! privacy/       what differential privacy was spent in each repository, see [`privacy`](crate::privacy)
//! salt           what hides the data of evaluations, 32 bytes, mode 0600; made when first needed
//! logs/          the node's logs
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcetera::home_dir;
use flair_tensors::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use tempfile::NamedTempFile;
use thiserror::Error;

pub use budget::{Budget, Budgets, Decimal, Limits};
pub use config::{Config, Follow};
pub use verify::{Share, Verify};

mod budget;
mod config;
mod verify;

/// Version of the layout below `store/` that this build reads and writes.
pub const VERSION: u32 = 1;

/// How long to wait for another owner of the home to finish.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts at the lock.
const PAUSE: Duration = Duration::from_millis(25);
/// Longest path of a control socket, in bytes. Linux takes 107, other systems 103.
const SOCKET_PATH: usize = 100;
/// Bytes of the secret key.
const KEY: usize = 32;

/// What can go wrong with a home.
#[derive(Debug, Error)]
pub enum HomeError {
    /// The operating system refused something.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why it was refused.
        source: io::Error,
    },
    /// There is no user's home folder to put ours in.
    #[error("no home folder found for this user: set FLAIR_HOME to a folder of your choice")]
    Homeless,
    /// Another process owns this home.
    #[error("{path} is in use by process {holder}: stop it, or choose another folder with FLAIR_HOME")]
    Held {
        /// The home.
        path: PathBuf,
        /// Process id of the owner, or `unknown`.
        holder: String,
    },
    /// The store was written by a newer Flair.
    #[error(
        "{path} was written by a newer Flair: it has store version {found}, this one knows up to {VERSION}. \
         Install a Flair that knows store version {found}"
    )]
    Newer {
        /// The version file.
        path: PathBuf,
        /// The version found in it.
        found: u32,
    },
    /// The version file holds no version.
    #[error("{path} does not hold a store version: restore it from a backup, or move the home away")]
    Version {
        /// The version file.
        path: PathBuf,
    },
    /// The key file is open to others.
    #[error(
        "{path} can be read by others (mode {mode:o}): run `chmod 600 {path}`, and if others did read it, use a new key"
    )]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key file is not a key.
    #[error(
        "{path} has {length} bytes, a key has {KEY}: restore it from a backup, or move it away to get a new key"
    )]
    KeyLength {
        /// The key file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// The settings cannot be understood.
    #[error("{path}: {reason}")]
    Config {
        /// The settings file.
        path: PathBuf,
        /// What is wrong and where, as the TOML reader says it.
        reason: String,
    },
    /// No place for the control socket.
    #[error(
        "no place for the control socket: {path} {problem}. Set XDG_RUNTIME_DIR to a private folder with a short path"
    )]
    Socket {
        /// The folder or path tried.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// An open home: as long as a clone of this lives, the process owns the folder.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
    /// The kernel frees the lock when the last clone closes the file, also after `kill -9`.
    _lock: Arc<File>,
}

/// What can be seen of a home without owning it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// A home is there.
    pub exists: bool,
    /// A node answers at [`socket`](Self::socket).
    pub running: bool,
    /// The control socket named in the home, whether or not someone answers.
    pub socket: Option<PathBuf>,
    /// Process id of the last owner that wrote one.
    pub holder: Option<u32>,
}

impl Home {
    /// Where the home is: `FLAIR_HOME`, else `.flair` in the user's home folder.
    ///
    /// # Errors
    /// [`HomeError::Homeless`] when neither is known.
    pub fn locate() -> Result<PathBuf, HomeError> {
        match std::env::var_os("FLAIR_HOME").filter(|path| !path.is_empty()) {
            Some(path) => Ok(path.into()),
            None => home_dir().map(|home| home.join(".flair")).map_err(|_| HomeError::Homeless),
        }
    }

    /// Becomes the owner of the home at `path`, and makes it if it is not there.
    ///
    /// Blocks for up to 5 seconds when another process owns it, which is longer than a command takes.
    ///
    /// # Errors
    /// [`HomeError::Held`] with the owner's process id, [`HomeError::Newer`] when a newer Flair wrote it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, HomeError> {
        Self::open_within(path, PATIENCE)
    }

    /// [`open`](Self::open) with another patience.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(path: impl AsRef<Path>, patience: Duration) -> Result<Self, HomeError> {
        let path = std::path::absolute(path.as_ref()).map_err(|source| at(path.as_ref(), source))?;
        private_folder(&path)?;
        let lock = lock(&path, patience)?;
        let home = Self { path, _lock: Arc::new(lock) };
        private_folder(&home.store())?;
        private_folder(&home.logs())?;
        home.check_version()?;
        for folder in [Some(&*home.path), home.path.parent()].into_iter().flatten() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| at(folder, error))?;
        }
        Ok(home)
    }

    /// Looks at a home without owning or changing it.
    pub fn peek(path: impl AsRef<Path>) -> Peek {
        let path = path.as_ref();
        let socket = fs::read_to_string(path.join("socket"))
            .ok()
            .map(|text| PathBuf::from(text.trim_end()))
            .filter(|socket| !socket.as_os_str().is_empty());
        Peek {
            exists: path.join("store").is_dir(),
            running: socket.as_ref().is_some_and(|socket| UnixStream::connect(socket).is_ok()),
            socket,
            holder: holder(&path.join("lock")),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the stores.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// The folder of the logs.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The folder of what differential privacy was spent, made when there is none yet.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn privacy(&self) -> Result<PathBuf, HomeError> {
        let path = self.path.join("privacy");
        private_folder(&path)?;
        File::open(&self.path).and_then(|home| home.sync_all()).map_err(|error| at(&self.path, error))?;
        Ok(path)
    }

    /// The secret key, made from the system's randomness when there is none yet.
    ///
    /// # Errors
    /// [`HomeError::KeyMode`] when others can read the file, [`HomeError::KeyLength`] when it holds no key.
    pub fn secret(&self) -> Result<[u8; KEY], HomeError> {
        secret(&self.path.join("key"))
    }

    /// What hides the data of this person's evaluations, made when there is none yet. It never leaves the home.
    ///
    /// # Errors
    /// As [`secret`](Self::secret).
    pub fn salt(home: &Path) -> Result<[u8; KEY], HomeError> {
        secret(&home.join("salt"))
    }

    /// The settings in `config.toml`, or the defaults when there is no such file.
    ///
    /// # Errors
    /// [`HomeError::Config`] with the place and name of what is not understood.
    pub fn config(&self) -> Result<Config, HomeError> {
        Self::settings(&self.path)
    }

    /// The settings of the home at `path`, without owning or changing it.
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn settings(path: &Path) -> Result<Config, HomeError> {
        let path = path.join("config.toml");
        match fs::read_to_string(&path) {
            Ok(text) => Config::parse(&text)
                .map_err(|reason| HomeError::Config { path, reason: reason.trim_end().to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(at(&path, error)),
        }
    }

    /// Chooses a path for the control socket, removes what an earlier node left there, and records it in the home
    /// for [`peek`](Self::peek).
    ///
    /// The path is short because socket paths are: it lies in `XDG_RUNTIME_DIR` or in a private folder below `/tmp`,
    /// and its name is derived from the home's path.
    ///
    /// # Errors
    /// [`HomeError::Socket`] when there is no private place for it.
    pub fn socket(&self) -> Result<PathBuf, HomeError> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let socket = socket_path(&self.path, runtime.as_deref())?;
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&socket, error)),
            _ => {}
        }
        let mut text = socket.as_os_str().as_encoded_bytes().to_vec();
        text.push(b'\n');
        replace(&self.path.join("socket"), &text)?;
        Ok(socket)
    }

    /// Appends one line to `egress.jsonl` and returns once it is on disk.
    ///
    /// # Errors
    /// [`HomeError::Io`] when it could not be written: then nothing must be sent.
    pub fn egress<T: Serialize>(&self, entry: &T) -> Result<(), HomeError> {
        let path = self.path.join("egress.jsonl");
        let write = || -> io::Result<()> {
            let mut line = Vec::new();
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
            // A crash may have cut the last line short: it must not swallow this one.
            let length = file.metadata()?.len();
            let mut last = [b'\n'];
            if length > 0 {
                file.read_exact_at(&mut last, length - 1)?;
            }
            if last != [b'\n'] {
                line.push(b'\n');
            }
            serde_json::to_writer(&mut line, entry)?;
            line.push(b'\n');
            file.write_all(&line)?;
            file.sync_data()
        };
        write().map_err(|error| at(&path, error))
    }

    fn check_version(&self) -> Result<(), HomeError> {
        let path = self.store().join("version");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim_end().parse::<u32>() {
                Ok(found) if found > VERSION => Err(HomeError::Newer { path, found }),
                Ok(found) if found >= 1 => Ok(()),
                _ => Err(HomeError::Version { path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                replace(&path, format!("{VERSION}\n").as_bytes())
            }
            Err(error) => Err(at(&path, error)),
        }
    }
}

/// Reads 32 secret bytes, or makes them where there is no such file.
fn secret(path: &Path) -> Result<[u8; KEY], HomeError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make_secret(path),
        Err(error) => return Err(at(path, error)),
    };
    let about = file.metadata().map_err(|error| at(path, error))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::KeyMode { path: path.to_owned(), mode });
    }
    if about.len() != KEY as u64 {
        return Err(HomeError::KeyLength { path: path.to_owned(), length: about.len() });
    }
    let mut secret = [0; KEY];
    file.read_exact(&mut secret).map_err(|error| at(path, error))?;
    Ok(secret)
}

/// 32 bytes from the system's random source.
///
/// # Errors
/// When it gives none.
pub(crate) fn random() -> Result<[u8; KEY], HomeError> {
    let mut secret = [0; KEY];
    let filled = getrandom(&mut secret, GetRandomFlags::empty())
        .map_err(|error| at(Path::new("the system's randomness"), error.into()))?;
    if filled != KEY {
        return Err(at(Path::new("the system's randomness"), io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(secret)
}

fn make_secret(path: &Path) -> Result<[u8; KEY], HomeError> {
    let secret = random()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        // Named temporary files have mode 0600 from the start.
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(&secret)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| at(path, error))?;
    Ok(secret)
}

/// Puts `source` together with the path it is about.
fn at(path: &Path, source: io::Error) -> HomeError {
    HomeError::Io { path: path.to_owned(), source }
}

/// Makes a folder that only its owner may enter, and its parents; leaves one that is there as it is.
fn private_folder(path: &Path) -> Result<(), HomeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| at(path, error))
}

/// Takes the lock of the home and writes our process id into it.
fn lock(home: &Path, patience: Duration) -> Result<File, HomeError> {
    let path = home.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| at(&path, error))?;
    let deadline = Instant::now() + patience;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => {
                let holder = holder(&path).map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                return Err(HomeError::Held { path: home.to_owned(), holder });
            }
            Err(error) => return Err(at(&path, error.into())),
        }
    }
    let mut write = || -> io::Result<()> {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())
    };
    // The process id only serves the text of an error: a full disk must not keep the owner out.
    if let Err(error) = write() {
        tracing::debug!(%error, path = %path.display(), "process id not written");
    }
    Ok(file)
}

fn holder(lock: &Path) -> Option<u32> {
    fs::read_to_string(lock).ok()?.trim_end().parse().ok()
}

/// Replaces a small file as a whole: a crash leaves the old or the new content.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), HomeError> {
    let write = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| at(path, error))
}

/// A path of at most [`SOCKET_PATH`] bytes, in a folder that only this user may enter.
fn socket_path(home: &Path, runtime: Option<&Path>) -> Result<PathBuf, HomeError> {
    let name = Digest::of(home.as_os_str().as_encoded_bytes()).short();
    if let Some(runtime) = runtime.filter(|folder| folder.is_absolute()) {
        let socket = runtime.join(format!("flair-{name}.sock"));
        if socket.as_os_str().len() <= SOCKET_PATH && private(runtime).is_ok() {
            return Ok(socket);
        }
    }
    let user = rustix::process::getuid().as_raw();
    let folder = PathBuf::from(format!("/tmp/flair-{user}-{name}"));
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&folder, error)),
        _ => {}
    }
    match private(&folder) {
        Ok(()) => Ok(folder.join("node.sock")),
        Err(problem) => Err(HomeError::Socket { path: folder, problem }),
    }
}

/// Whether `folder` is ours alone. Anyone can make a folder in `/tmp` before we do, or a link to elsewhere.
fn private(folder: &Path) -> Result<(), &'static str> {
    let about = fs::symlink_metadata(folder).map_err(|_| "cannot be looked at")?;
    if !about.is_dir() {
        Err("is not a folder")
    } else if about.uid() != rustix::process::getuid().as_raw() {
        Err("belongs to another user")
    } else if about.permissions().mode() & 0o077 != 0 {
        Err("can be entered by other users")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_home_gets_a_short_socket() {
        let home = Path::new("/").join("deep/".repeat(60));
        let socket = socket_path(&home, Some(&home)).unwrap();
        assert!(socket.as_os_str().len() <= SOCKET_PATH, "{}", socket.display());
        assert_ne!(socket, socket_path(Path::new("/other"), None).unwrap());
    }

    #[test]
    fn a_socket_folder_open_to_others_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(private(folder.path()), Err("can be entered by other users"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/root", &link).unwrap();
        assert_eq!(private(&link), Err("is not a folder"));
    }
}
