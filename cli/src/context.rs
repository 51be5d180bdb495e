//! What every command needs: where it is, whom it asks, how it prints.

use std::path::{Path, PathBuf};

use flair_node::api::Client;
use flair_node::api::types::{At, Done, Place, Problem};
use flair_node::home::Home;
use flair_node::service::Service;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::progress::Progress;

/// Where a command runs and how it prints.
pub(crate) struct Context {
    pub(crate) home: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) repo: Option<String>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    client: Option<Client>,
    service: Option<Service>,
}

impl Context {
    /// From the global arguments; asks nobody yet.
    pub(crate) fn new(arguments: &crate::args::Arguments) -> Result<Self, Problem> {
        let current = std::env::current_dir()
            .map_err(|error| Problem::invalid(format!("the current folder can't be read: {error}")))?;
        let folder =
            arguments.directory.as_ref().map_or_else(|| current.clone(), |below| current.join(below));
        if !folder.is_dir() {
            return Err(Problem::missing(format!("{} is not a folder", folder.display())));
        }
        let home = match arguments.home.as_ref().filter(|home| !home.as_os_str().is_empty()) {
            Some(home) => current.join(home),
            None => Home::locate()?,
        };
        Ok(Self {
            home,
            folder,
            repo: arguments.repo.clone(),
            json: arguments.json,
            quiet: arguments.quiet,
            verbose: arguments.verbose,
            client: None,
            service: None,
        })
    }

    /// The repository that a request is about.
    pub(crate) fn place(&self) -> Place {
        Place { folder: Some(self.folder.clone()), repo: self.repo.clone() }
    }

    /// The same, for requests that say nothing else.
    pub(crate) fn at(&self) -> At {
        At { place: self.place() }
    }

    /// A path as it was typed, made absolute.
    pub(crate) fn absolute(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Asks for a list without arguments.
    pub(crate) async fn get<R: DeserializeOwned>(&mut self, path: &str) -> Result<R, Problem> {
        self.client().await?.get(path).await
    }

    /// Makes a request, and shows how it gets on meanwhile.
    pub(crate) async fn post<T, R>(&mut self, path: &str, request: &T) -> Result<R, Problem>
    where
        T: Serialize + Sync,
        R: DeserializeOwned,
    {
        let client = self.client().await?;
        let progress = Progress::start(&client, self).await;
        let answer = client.post(path, request).await;
        progress.finish().await;
        answer
    }

    async fn client(&mut self) -> Result<Client, Problem> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let (client, service) = Client::open(&self.home).await?;
        self.service = service;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Closes the home, if the command opened it by itself; the next request opens it again.
    pub(crate) async fn release(&mut self) {
        if let Some(service) = self.service.take() {
            self.client = None;
            service.close().await;
        }
    }

    /// Prints an answer: as JSON, or in words.
    pub(crate) fn print<R: Serialize>(
        &self,
        answer: &R,
        words: impl FnOnce(&R) -> String,
    ) -> Result<(), Problem> {
        if self.json {
            let text = serde_json::to_string_pretty(answer).map_err(Problem::internal)?;
            return say(&text);
        }
        if self.quiet {
            return Ok(());
        }
        say(words(answer).trim_end())
    }

    /// Prints what was done.
    pub(crate) fn done(&self, done: &Done) -> Result<(), Problem> {
        self.print(done, |done| done.words.join("\n"))
    }
}

/// Writes text to standard output, whose reader may have gone (`flair log | head`).
pub(crate) fn say(text: &str) -> Result<(), Problem> {
    use std::io::Write as _;
    if text.is_empty() {
        return Ok(());
    }
    match writeln!(anstream::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Problem::internal(error)),
        _ => Ok(()),
    }
}

/// Writes what is only for people to standard error.
pub(crate) fn note(text: &str) {
    #[allow(clippy::print_stderr)] // This is where the command speaks.
    if !text.is_empty() {
        anstream::eprintln!("{text}");
    }
}
